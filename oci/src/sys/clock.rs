//! Clocks as nanoseconds. `clock_gettime(2)`

use std::time::Duration;

/// Time since boot, suspended time included: what deadlines on disk are measured in (with the boot id beside them).
pub fn boottime() -> Duration {
    read(libc::CLOCK_BOOTTIME)
}

/// Time since boot without suspended time.
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

/// Time since 1970 UTC.
pub fn realtime() -> Duration {
    read(libc::CLOCK_REALTIME)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a struct timespec that outlives the call. The three clocks above always exist, so it can't fail.
    unsafe { libc::clock_gettime(clock, &raw mut t) };
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec as u32)
}
