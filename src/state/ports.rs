//! Claims to ports of the host that no socket can hold: ranges of `<state>/ports`, locked by whoever has the port.

use std::fs::OpenOptions;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::{Error, Roots};

/// What one port has of the file: half for IPv4 addresses by their number, half for IPv6 addresses by a digest.
const PORT_BITS: u32 = 40;
const HALF: i64 = 1 << (PORT_BITS - 1);

/// First byte and length: a claim to all addresses overlaps that to any.
fn range(port: u16, ip: Option<IpAddr>) -> (i64, i64) {
    let start = i64::from(port) << PORT_BITS;
    match ip {
        None => (start, 1 << PORT_BITS),
        Some(IpAddr::V4(ip)) => (start + i64::from(u32::from(ip)), 1),
        Some(IpAddr::V6(ip)) => {
            let digest = ip
                .octets()
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
            (start + HALF + (digest >> 32) as i64, 1)
        }
    }
}

impl Roots {
    /// Claims a port of one address of the host, or of all: for as long as a copy of the fd is open anywhere, nobody else of this instance can. `None`: it is
    /// claimed. Does not wait.
    ///
    /// # Errors
    /// The file cannot be opened or locked.
    pub fn claim_port(&self, port: u16, ip: Option<IpAddr>) -> Result<Option<OwnedFd>, Error> {
        let path = self.state.join("ports");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(|e| Error::io("open", &path, &e))?;
        let (start, length) = range(port, ip);
        let wanted = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: start,
            l_len: length,
            l_pid: 0,
        };
        // The lock is the open file's, which keeper gets, not this process's.
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&wanted)) {
            Ok(_) => Ok(Some(file.into())),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(Error::io("lock", &path, &errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_claimed_once_and_its_addresses_one_by_one() {
        let state = std::env::temp_dir().join(format!("husk-ports-{}", std::process::id()));
        std::fs::create_dir_all(&state).unwrap();
        let roots = Roots { root: state.clone(), state: state.clone() };
        let claim = |port, ip: &str| roots.claim_port(port, ip.parse().ok()).unwrap();
        let (one, other) = (claim(80, "192.0.2.1").unwrap(), claim(80, "2001:db8::1").unwrap());
        assert!(claim(80, "192.0.2.1").is_none() && claim(80, "2001:db8::1").is_none() && claim(80, "").is_none());
        let more = [claim(80, "192.0.2.2"), claim(79, ""), claim(81, ""), claim(65535, "")];
        assert!(more.iter().all(Option::is_some));
        let copy = one.try_clone().unwrap();
        drop(one);
        assert!(claim(80, "192.0.2.1").is_none(), "a copy holds it");
        drop((copy, other, more));
        assert!(claim(80, "").is_some());
        std::fs::remove_dir_all(&state).unwrap();
    }

    #[test]
    fn ranges_of_different_ports_do_not_meet() {
        let all = range(7, None);
        for ip in ["0.0.0.1", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            let (start, length) = range(7, ip.parse().ok());
            assert!(start >= all.0 && start + length <= all.0 + all.1, "{ip}");
        }
        assert_eq!(range(8, None).0, all.0 + all.1);
        assert!(range(u16::MAX, None).0.checked_add(1 << PORT_BITS).is_some());
    }
}
