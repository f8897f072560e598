//! What a service manager is told: `sd_notify(3)`, by hand.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// How long a manager may take to make room for what it must hear.
const PATIENCE: Duration = Duration::from_secs(5);

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
        let both = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not hold pods up.
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        both.map(|both| Notify(Some(both)))
            .map_err(|e| format!("NOTIFY_SOCKET={}: {}", name.to_string_lossy(), husk_oci::errno::io_text(&e)))
    }

    /// Sends assignments, one a line: `STATUS=…`. False when the manager is too slow to take it now; one that does not listen is nobody to tell.
    pub fn send(&self, state: &str) -> bool {
        let Some((socket, address)) = &self.0 else { return true };
        let sent = socket.send_to_addr(state.as_bytes(), address);
        !sent.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// The same for what it must not miss: waits a while.
    pub fn insist(&self, state: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.send(state) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
