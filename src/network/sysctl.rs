//! Network settings of the kernel, of whichever namespace this thread is in.

use std::fs;

use nix::errno::Errno;

use super::Error;

fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}

/// Does this kernel have IPv6?
pub fn has_ipv6() -> bool {
    fs::exists(path("ipv6/conf/all/forwarding")).unwrap_or(false)
}

/// What a setting is; `None` when there is none of this name.
pub fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|text| text.trim().to_owned())
}

/// Changes a setting if it is another one. So a `/proc/sys` that cannot be written to is fine where nothing has to be written.
///
/// # Errors
/// The kernel's.
pub fn set(name: &str, value: &str) -> Result<(), Error> {
    if get(name).as_deref() == Some(value) {
        return Ok(());
    }
    fs::write(path(name), value).map_err(|e| match husk_oci::errno::Sys::from(&e).0 {
        Errno::EROFS => Error::refused(format!(
            "set net/{name} to {value}: /proc/sys is read-only here; set it from outside, or use --network none or host"
        )),
        errno => Error::sys(format_args!("set net/{name} to {value}"), errno),
    })
}

/// The settings without which the host passes nothing on.
pub const FORWARDING: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

/// Makes the host pass packets on between its interfaces, as a bridge with routed addresses needs.
///
/// # Errors
/// The kernel's.
pub fn forward(ipv4: bool, ipv6: bool) -> Result<(), Error> {
    if ipv4 {
        set(FORWARDING[0], "1")?;
    }
    if ipv6 && get(FORWARDING[1]).as_deref() != Some("1") {
        // A host that forwards takes no router's word any more, unless it is told to: it would lose the routes that it has by it.
        for entry in fs::read_dir(path("ipv6/conf")).into_iter().flatten().flatten() {
            let interface = entry.file_name();
            let Some(interface) = interface.to_str().filter(|name| !matches!(*name, "all" | "lo")) else { continue };
            let name = format!("ipv6/conf/{interface}/accept_ra");
            if get(&name).as_deref() == Some("1") {
                set(&name, "2")?;
            }
        }
        set(FORWARDING[1], "1")?;
    }
    Ok(())
}

/// What a namespace on the bridge has to be told before it has an interface: to believe nothing of what others tell it about routes
/// (CVE-2020-10749), and to have addresses at once.
pub fn of_pod() -> &'static [(&'static str, &'static str)] {
    if has_ipv6() {
        &[("net.ipv6.conf.default.accept_ra", "0"), ("net.ipv6.conf.default.accept_dad", "0")]
    } else {
        &[]
    }
}
