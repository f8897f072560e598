//! A client's end of the control socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use husk_oci::sys::fd;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::{Request, Response};

/// The largest packet either side sends.
pub const PACKET_LIMIT: usize = 128 << 10;

/// Name of the socket in the pod's directory.
pub const SOCKET_NAME: &str = "control.sock";

/// How long a supervisor may be away (keeper starts it again within a second) before that is an error.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long to wait before it is asked again.
const RETRY: Duration = Duration::from_millis(1);

/// A connection to a pod's supervisor; it blocks.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    /// Connects. While a supervisor is being started again the connection waits in the socket's queue, which keeper holds open.
    ///
    /// # Errors
    /// ENOENT or ECONNREFUSED when there is no supervisor (yet).
    pub fn connect(pod_dir: &Path) -> io::Result<Client> {
        let dir = std::fs::File::open(pod_dir)?;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &address(dir.as_fd())?)?;
        Ok(Client(socket))
    }

    /// Sends a request and the fds that belong to it.
    ///
    /// # Errors
    /// The request is too large (EMSGSIZE), or the supervisor is gone.
    pub fn send(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = serde_json::to_vec(request)?;
        if packet.len() > PACKET_LIMIT {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        fd::send(self.0.as_fd(), &packet, fds)?;
        Ok(())
    }

    /// Asks, and waits for the first answer. A supervisor that dies before it has answered is asked again when its successor is there: no request
    /// is harmed by being asked twice, and an exec without an answer has run nothing. `lives` tells whether there will be a successor.
    ///
    /// # Errors
    /// The pod came to its end, no supervisor answers within [`PATIENCE`], or it does not speak our language.
    pub fn ask(
        pod_dir: &Path,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        lives: impl Fn() -> bool,
    ) -> io::Result<(Client, Response, Vec<OwnedFd>)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let attempt = Client::connect(pod_dir).and_then(|mut client| {
                client.send(request, fds)?;
                let (response, fds) = client.receive()?;
                Ok((client, response, fds))
            });
            match attempt {
                Err(e) if is_absence(&e) && Instant::now() < deadline && lives() => std::thread::sleep(RETRY),
                other => return other,
            }
        }
    }

    /// Asks and does not wait for an answer: for what is answered late. A supervisor that is away is waited for as by [`Client::ask`].
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn reach(pod_dir: &Path, request: &Request, lives: impl Fn() -> bool) -> io::Result<Client> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let attempt = Client::connect(pod_dir).and_then(|mut client| client.send(request, &[]).map(|()| client));
            match attempt {
                Err(e) if is_absence(&e) && Instant::now() < deadline && lives() => std::thread::sleep(RETRY),
                other => return other,
            }
        }
    }

    /// As [`Client::ask`] for what is answered soon: a supervisor that has not answered within `patience` is of no use.
    ///
    /// # Errors
    /// As [`Client::ask`]; `TimedOut`.
    pub fn ask_within(
        pod_dir: &Path,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        lives: impl Fn() -> bool,
        patience: Duration,
    ) -> io::Result<Response> {
        let deadline = Instant::now() + patience;
        loop {
            let attempt = Client::connect(pod_dir).and_then(|mut client| {
                client.send(request, fds)?;
                let mut ready = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
                match fd::poll(&mut ready, Some(deadline.saturating_duration_since(Instant::now())))? {
                    0 => Err(io::ErrorKind::TimedOut.into()),
                    _ => Ok(client.receive()?.0),
                }
            });
            match attempt {
                Err(e) if is_absence(&e) && Instant::now() < deadline && lives() => std::thread::sleep(RETRY),
                other => return other,
            }
        }
    }

    /// Waits for an answer and the fds that came with it.
    ///
    /// # Errors
    /// The supervisor died (`UnexpectedEof`), or it does not speak our language.
    pub fn receive(&mut self) -> io::Result<(Response, Vec<OwnedFd>)> {
        let mut buffer = vec![0u8; PACKET_LIMIT];
        let got = fd::recv(self.0.as_fd(), &mut buffer, false)?;
        if got.len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&buffer[..got.len])?, got.fds.into_iter().flatten().collect()))
    }
}

/// Nobody answered, as opposed to a wrong answer.
fn is_absence(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(e.kind(), UnexpectedEof | ConnectionReset | ConnectionRefused | BrokenPipe | NotFound)
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The socket's address through an fd of its directory: `sun_path` ends at 108 bytes, `--state` does not.
pub(crate) fn address(dir: BorrowedFd<'_>) -> nix::Result<UnixAddr> {
    UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd()).as_str())
}
