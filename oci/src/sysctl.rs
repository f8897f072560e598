//! Kernel parameters that belong to a namespace.

/// The path below `/proc/sys` of a parameter that belongs to the network, IPC or UTS namespace.
///
/// # Errors
/// A sentence for a name that is none, or one that would change the whole host.
pub(crate) fn path(name: &str) -> Result<String, String> {
    let good = |part: &str| {
        !part.is_empty()
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    // `net/ipv4/conf/eth0.1/forwarding` has slashes for separators and may have dots within a part; `net.ipv4.ip_forward` has dots.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if !path.split('/').all(|part| good(part) && part != ".") {
        return Err("not the name of a kernel parameter".into());
    }
    let ipc = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let own = path.starts_with("net/")
        || path.starts_with("fs/mqueue/")
        || path.strip_prefix("kernel/").is_some_and(|k| ipc.contains(&k) || k == "hostname" || k == "domainname");
    if own { Ok(path) } else { Err("does not belong to a namespace, it would change the whole host".into()) }
}

/// A value that can't smuggle in a second one.
pub(crate) fn value(value: &str) -> Result<(), String> {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        Err("a control character in the value".into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_below_proc_sys() {
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding").unwrap(), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("kernel.shm_rmid_forced").unwrap(), "kernel/shm_rmid_forced");
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for name in [
            "kernel.core_pattern",
            "net/../kernel/core_pattern",
            "",
            "net..x",
            "/net/x",
            "net/./x",
            "vm.swappiness",
            "net/a b",
        ] {
            assert!(path(name).is_err(), "{name}");
        }
        assert!(value("1\nkernel.core_pattern=x").is_err());
        assert!(value("4096\t87380 6291456").is_ok());
    }
}
