//! `struct memgov_job` of memgov.h: what a group is worth, and what is kept for what helps it.

use std::ffi::{c_char, c_int};

use memgov_client::{Job as Client, JobKey, JobWords};

use crate::{EINVAL, Handle, fill, room, text};

/// `struct memgov_job`. Fields are only ever added behind, and only what the caller has room for is written.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "memgov.h says what they are")]
pub struct Job {
    pub size: u64,
    pub priority: i64,
    pub reservation_bytes: u64,
    pub oom_reserve_bytes: u64,
    pub set: u64,
}

/// What the first version had: no caller has less.
const LEAST: u64 = size_of::<Job>() as u64;

/// The bits of `enum memgov_job_word`.
const KEYS: [(u32, JobKey); 3] =
    [(1 << 0, JobKey::Priority), (1 << 1, JobKey::Reservation), (1 << 2, JobKey::OomReserve)];

fn bits(keys: &[JobKey]) -> u32 {
    KEYS.iter().filter(|(_, key)| keys.contains(key)).fold(0, |bits, (bit, _)| bits | bit)
}

/// `None`: one of them is none.
fn keys(bits: u32) -> Option<Vec<JobKey>> {
    let keys: Vec<JobKey> = KEYS.iter().filter(|(bit, _)| bits & bit != 0).map(|&(_, key)| key).collect();
    (self::bits(&keys) == bits).then_some(keys)
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`; `group` is NULL or a string; `out` is NULL or may be written as far as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_get_job(handle: *mut Handle, group: *const c_char, out: *mut Job) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let (Some(handle), Some(size)) = (unsafe { handle.as_mut() }, unsafe { room(out, LEAST) }) else {
        return -EINVAL;
    };
    // SAFETY: the caller's promise.
    let Some(group) = (unsafe { text(group) }) else { return handle.no_group() };
    let got = handle.memgov().job(group);
    match handle.result(got) {
        Ok(got) => {
            let Client { priority, reservation_bytes, oom_reserve_bytes, set, .. } = got;
            let job = Job {
                size,
                priority: priority.map_or(i64::MIN, i64::from),
                reservation_bytes: reservation_bytes.unwrap_or(u64::MAX),
                oom_reserve_bytes,
                set: bits(&set).into(),
            };
            // SAFETY: the caller has room for what it says.
            unsafe { fill(out, &job, size) };
            0
        }
        Err(errno) => errno,
    }
}

/// Says something of a group.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`; `group` is NULL or a string.
unsafe fn say(handle: *mut Handle, group: *const c_char, words: &JobWords) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let Some(handle) = (unsafe { handle.as_mut() }) else { return -EINVAL };
    // SAFETY: the caller's promise.
    let Some(group) = (unsafe { text(group) }) else { return handle.no_group() };
    let said = handle.memgov().set_job(group, words);
    handle.result(said).map_or_else(|errno| errno, |_| 0)
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`; `group` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_set_priority(
    handle: *mut Handle,
    group: *const c_char,
    priority: i32,
) -> c_int {
    let words = JobWords { priority: Some(priority), ..JobWords::default() };
    // SAFETY: the caller's promise.
    unsafe { say(handle, group, &words) }
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`; `group` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_set_reservation(
    handle: *mut Handle,
    group: *const c_char,
    bytes: u64,
) -> c_int {
    let words = JobWords { reservation_bytes: Some(bytes), ..JobWords::default() };
    // SAFETY: the caller's promise.
    unsafe { say(handle, group, &words) }
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`; `group` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_set_oom_reserve(
    handle: *mut Handle,
    group: *const c_char,
    bytes: u64,
) -> c_int {
    let words = JobWords { oom_reserve_bytes: Some(bytes), ..JobWords::default() };
    // SAFETY: the caller's promise.
    unsafe { say(handle, group, &words) }
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from `memgov_new`; `group` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_clear_job(handle: *mut Handle, group: *const c_char, words: u32) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let Some(handle) = (unsafe { handle.as_mut() }) else { return -EINVAL };
    // SAFETY: the caller's promise.
    let Some(group) = (unsafe { text(group) }) else { return handle.no_group() };
    let Some(keys) = keys(words) else {
        return handle.refuse(c"unknown word: 1 priority, 2 reservation, 4 oom-reserve, 0 all of them");
    };
    let cleared = handle.memgov().clear_job(group, &keys);
    handle.result(cleared).map_or_else(|errno| errno, |_| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_round() {
        for words in 0..8 {
            assert_eq!(keys(words).map(|keys| bits(&keys)), Some(words));
        }
        assert_eq!(keys(8), None);
        assert_eq!(size_of::<Job>(), 40);
    }
}
