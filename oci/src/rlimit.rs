//! Resource limits: from the spec's names to the kernel's numbers.

use oci_spec::runtime::PosixRlimitType as T;

/// The kernel's number of a limit.
pub(crate) fn number(kind: T) -> u32 {
    #[allow(clippy::unnecessary_cast, reason = "the constants' type differs between libcs")]
    let n = match kind {
        T::RlimitCpu => libc::RLIMIT_CPU as u32,
        T::RlimitFsize => libc::RLIMIT_FSIZE as u32,
        T::RlimitData => libc::RLIMIT_DATA as u32,
        T::RlimitStack => libc::RLIMIT_STACK as u32,
        T::RlimitCore => libc::RLIMIT_CORE as u32,
        T::RlimitRss => libc::RLIMIT_RSS as u32,
        T::RlimitNproc => libc::RLIMIT_NPROC as u32,
        T::RlimitNofile => libc::RLIMIT_NOFILE as u32,
        T::RlimitMemlock => libc::RLIMIT_MEMLOCK as u32,
        T::RlimitAs => libc::RLIMIT_AS as u32,
        T::RlimitLocks => libc::RLIMIT_LOCKS as u32,
        T::RlimitSigpending => libc::RLIMIT_SIGPENDING as u32,
        T::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE as u32,
        T::RlimitNice => libc::RLIMIT_NICE as u32,
        T::RlimitRtprio => libc::RLIMIT_RTPRIO as u32,
        T::RlimitRttime => libc::RLIMIT_RTTIME as u32,
    };
    n
}
