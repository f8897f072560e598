//! What a service manager is told: `sd_notify(3)`, by hand.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The way to the service manager, if one has started us.
#[derive(Debug)]
pub struct Notify(Option<(UnixDatagram, SocketAddr)>);

impl Notify {
    /// Follows `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// It is set, and is no address.
    pub fn from_environment() -> Result<Notify, String> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Notify(None));
        };
        let bytes = name.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(rest) => SocketAddr::from_abstract_name(rest),
            None => SocketAddr::from_pathname(&name),
        };
        let both = address.and_then(|address| Ok((UnixDatagram::unbound()?, address)));
        both.map(|both| Notify(Some(both)))
            .map_err(|e| format!("NOTIFY_SOCKET={}: {}", name.to_string_lossy(), husk_oci::errno::io_text(&e)))
    }

    /// Sends assignments, one a line: `READY=1`. A manager that does not listen is nobody to tell.
    pub fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.0 {
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}
