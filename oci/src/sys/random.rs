//! Random bytes from the kernel, without a descriptor: crates that look for a `getrandom(2)` of the C library at run time do not find it in a
//! static program, and then open a device.

use super::{Errno, Result};

/// `N` random bytes, at most 256. Waits only where the kernel has not gathered any yet, early in the boot. `getrandom(2)`
///
/// # Errors
/// ENOSYS before Linux 3.17.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    // Fewer than that come whole, and no signal interrupts the call.
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    // SAFETY: the kernel writes at most N bytes, into an array of N that is ours.
    Errno::result(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike() {
        assert_ne!(bytes::<16>().unwrap(), bytes::<16>().unwrap());
    }
}
