//! `memgov_watch` and `struct memgov_notice` of memgov.h.

use std::ffi::{c_char, c_int};
use std::os::fd::{AsFd as _, AsRawFd as _};

use memgov_client::{Kind, Watch as Client};

use crate::{EINVAL, Handle, fill, room};

/// `struct memgov_notice`. Fields are only ever added behind, and only what the caller has room for is written.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "memgov.h says what they are")]
pub struct Notice {
    pub size: u64,
    pub kind: u64,
    pub id: u64,
    pub usage_bytes: u64,
    pub line_bytes: u64,
    pub missed: u64,
    pub action: [c_char; 24],
    pub group: [c_char; 256],
}

/// What the first version had: no caller has less.
const LEAST: u64 = size_of::<Notice>() as u64;

/// `memgov_watch`.
#[derive(Debug)]
pub struct Watch {
    client: Client,
}

fn number(kind: Kind) -> u64 {
    match kind {
        Kind::Warning => 1,
        Kind::Over => 2,
        Kind::Relieved => 3,
        Kind::OutOfMemory => 4,
        Kind::Missed => 5,
        _ => 6,
    }
}

/// Text with its NUL, cut between two characters where it is too long.
pub(crate) fn copy<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in out.iter_mut().zip(text.bytes().take(end)) {
        *to = from.cast_signed();
    }
    out
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`; `out` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_watch_new(handle: *mut Handle, out: *mut *mut Watch) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let (Some(handle), Some(out)) = (unsafe { handle.as_mut() }, unsafe { out.as_mut() }) else {
        return -EINVAL;
    };
    *out = std::ptr::null_mut();
    let watch = handle.memgov().watch();
    match handle.result(watch) {
        Ok(client) => {
            *out = Box::into_raw(Box::new(Watch { client }));
            0
        }
        Err(errno) => errno,
    }
}

/// See memgov.h.
///
/// # Safety
/// `watch` is NULL or from [`memgov_watch_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_watch_fd(watch: *const Watch) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    unsafe { watch.as_ref() }.map_or(-EINVAL, |watch| watch.client.as_fd().as_raw_fd())
}

/// See memgov.h.
///
/// # Safety
/// `watch` is NULL or from [`memgov_watch_new`]; `out` is NULL or may be written as far as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_watch_take(watch: *mut Watch, out: *mut Notice) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let (Some(watch), Some(size)) = (unsafe { watch.as_mut() }, unsafe { room(out, LEAST) }) else {
        return -EINVAL;
    };
    match watch.client.try_next() {
        Ok(None) => 0,
        Ok(Some(notice)) => {
            let notice = Notice {
                size,
                kind: number(notice.kind),
                id: notice.id,
                usage_bytes: notice.usage_bytes.unwrap_or(u64::MAX),
                line_bytes: notice.line_bytes.unwrap_or(u64::MAX),
                missed: notice.missed,
                action: copy(&notice.action),
                group: copy(notice.group.as_deref().unwrap_or_default()),
            };
            // SAFETY: the caller has room for what it says.
            unsafe { fill(out, &notice, size) };
            1
        }
        Err(error) => -error.errno(),
    }
}

/// See memgov.h.
///
/// # Safety
/// `watch` is NULL or from [`memgov_watch_new`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_watch_free(watch: *mut Watch) {
    if !watch.is_null() {
        // SAFETY: it came from Box::into_raw and is given back once, as the caller promises.
        drop(unsafe { Box::from_raw(watch) });
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn long_paths_are_cut_between_characters() {
        let text: [c_char; 4] = copy("aaé");
        assert_eq!(text, [97, 97, 0, 0]);
        let text: [c_char; 5] = copy("aaé");
        assert_eq!(text.map(c_char::cast_unsigned), [97, 97, 0xc3, 0xa9, 0]);
    }

    #[test]
    fn the_layout_is_the_headers() {
        assert_eq!(size_of::<Notice>(), 6 * 8 + 24 + 256);
        assert_eq!(offset_of!(Notice, action), 48);
        assert_eq!(offset_of!(Notice, group), 72);
    }
}
