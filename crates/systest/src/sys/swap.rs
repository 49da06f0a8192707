//! Swapping: a device begins and ends to be swap of the whole machine.

use std::ffi::CStr;

use super::{Errno, check};

/// `swapon(2)`.
pub fn on(device: &CStr) -> Result<(), Errno> {
    // SAFETY: the path ends with a NUL; no memory of this program is touched.
    check(libc::c_long::from(unsafe { libc::swapon(device.as_ptr(), 0) }))
}

/// `swapoff(2)`: what is on it comes back into memory first.
pub fn off(device: &CStr) -> Result<(), Errno> {
    // SAFETY: as above.
    check(libc::c_long::from(unsafe { libc::swapoff(device.as_ptr()) }))
}
