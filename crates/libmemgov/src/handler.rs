//! `memgov_handler` and `struct memgov_shortage` of memgov.h.

use std::ffi::{c_char, c_int};
use std::mem::offset_of;
use std::os::fd::{AsFd as _, AsRawFd as _};

use memgov_client::Handler as Client;

use crate::watch::copy;
use crate::{EINVAL, Handle, fill, room, text};

/// `struct memgov_shortage`. Fields are only ever added behind, and only what the caller has room for is written.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "memgov.h says what they are")]
pub struct Shortage {
    pub size: u64,
    pub number: u64,
    pub meter_bytes: u64,
    pub line_bytes: u64,
    pub usage_bytes: u64,
    pub limit_bytes: u64,
    pub left_ns: u64,
    pub meter: [c_char; 24],
    pub group: [c_char; 256],
    pub oom_reserve_bytes: u64,
}

/// What the first version had: no caller has less.
const LEAST: u64 = offset_of!(Shortage, oom_reserve_bytes) as u64;

/// `memgov_handler`.
#[derive(Debug)]
pub struct Handler {
    client: Client,
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`; `group` is NULL or a string; `out` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_handler_new(
    handle: *mut Handle,
    group: *const c_char,
    out: *mut *mut Handler,
) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let (Some(handle), Some(out)) = (unsafe { handle.as_mut() }, unsafe { out.as_mut() }) else {
        return -EINVAL;
    };
    *out = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    let Some(group) = (unsafe { text(group) }) else { return handle.no_group() };
    let handler = handle.memgov().handler(group);
    match handle.result(handler) {
        Ok(client) => {
            *out = Box::into_raw(Box::new(Handler { client }));
            0
        }
        Err(errno) => errno,
    }
}

/// See memgov.h.
///
/// # Safety
/// `handler` is NULL or from [`memgov_handler_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_handler_fd(handler: *const Handler) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    unsafe { handler.as_ref() }.map_or(-EINVAL, |handler| handler.client.as_fd().as_raw_fd())
}

/// See memgov.h.
///
/// # Safety
/// `handler` is NULL or from [`memgov_handler_new`]; `out` is NULL or may be written as far as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_handler_take(handler: *mut Handler, out: *mut Shortage) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let (Some(handler), Some(size)) = (unsafe { handler.as_mut() }, unsafe { room(out, LEAST) }) else {
        return -EINVAL;
    };
    match handler.client.try_next() {
        Ok(None) => 0,
        Ok(Some(told)) => {
            let shortage = Shortage {
                size,
                number: told.number,
                meter_bytes: told.meter_bytes,
                line_bytes: told.line_bytes,
                usage_bytes: told.usage_bytes.unwrap_or(u64::MAX),
                limit_bytes: told.limit_bytes.unwrap_or(u64::MAX),
                left_ns: u64::try_from(told.left.as_nanos()).unwrap_or(u64::MAX),
                meter: copy(&told.meter),
                group: copy(&told.group),
                oom_reserve_bytes: told.oom_reserve_bytes.unwrap_or(u64::MAX),
            };
            // SAFETY: the caller has room for what it says.
            unsafe { fill(out, &shortage, size) };
            1
        }
        Err(error) => -error.errno(),
    }
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_handled(handle: *mut Handle, number: u64) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let Some(handle) = (unsafe { handle.as_mut() }) else { return -EINVAL };
    let done = handle.memgov().handled(number);
    handle.result(done).map_or_else(|errno| errno, |()| 0)
}

/// See memgov.h.
///
/// # Safety
/// `handler` is NULL or from [`memgov_handler_new`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_handler_free(handler: *mut Handler) {
    if !handler.is_null() {
        // SAFETY: it came from Box::into_raw and is given back once, as the caller promises.
        drop(unsafe { Box::from_raw(handler) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_headers() {
        assert_eq!(LEAST, 7 * 8 + 24 + 256);
        assert_eq!(size_of::<Shortage>(), 7 * 8 + 24 + 256 + 8);
    }
}
