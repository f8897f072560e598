//! The control socket's server side: one task a connection, which turns a packet into a [`Command`] for the pod's loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use husk_oci::sys::fd;
use husk_oci::sys::socket::accept;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, bind, getsockopt, listen, socket, sockopt::PeerCredentials,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::watch::watch;
use crate::control::client::{PACKET_LIMIT, SOCKET_NAME, address};
use crate::control::{Refusal, Request, Response};
use crate::runtime::say::say;

/// One request and the way back to who asked.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub request: Request,
    /// fds that came with it.
    pub fds: Vec<OwnedFd>,
    /// Answers; dropped after the last one, which ends the connection.
    pub reply: Reply,
    /// The connection itself, for keeper to hold.
    pub connection: OwnedFd,
}

/// The way back to a client: an answer and the fd that goes with it.
pub type Reply = mpsc::UnboundedSender<(Response, Option<OwnedFd>)>;

/// Makes the socket in the pod's directory and listens. A file that an earlier supervisor left is replaced.
///
/// # Errors
/// The file system's.
pub fn bind_socket(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    match nix::unistd::unlinkat(dir, SOCKET_NAME, nix::unistd::UnlinkatFlags::NoRemoveDir) {
        Err(nix::errno::Errno::ENOENT) | Ok(()) => {}
        Err(e) => return Err(e.into()),
    }
    bind(socket.as_raw_fd(), &address(dir)?)?;
    listen(&socket, Backlog::new(128)?)?;
    Ok(socket)
}

/// Accepts connections for ever.
pub async fn serve(listener: OwnedFd, commands: mpsc::UnboundedSender<Command>) -> io::Result<()> {
    let listener = watch(listener)?;
    loop {
        let mut guard = listener.readable().await?;
        match accept(listener.as_fd()) {
            Ok(connection) => {
                tokio::task::spawn_local(converse(connection, commands.clone()));
            }
            Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNABORTED) => {}
            Err(nix::errno::Errno::EMFILE | nix::errno::Errno::ENFILE) => {
                say("warn", "accept: too many open files, continuing later");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

async fn converse(connection: OwnedFd, commands: mpsc::UnboundedSender<Command>) {
    // A client that goes away in the middle is its own affair: a line for each would let the log grow without bound.
    let _ = try_converse(connection, commands).await;
}

async fn try_converse(connection: OwnedFd, commands: mpsc::UnboundedSender<Command>) -> io::Result<()> {
    // The directory is root's alone; this is for a socket that somebody passed on.
    if getsockopt(&connection, PeerCredentials)?.uid() != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let connection = watch(connection)?;
    let Some((packet, fds)) = receive(&connection).await? else { return Ok(()) };
    let (reply, answers) = mpsc::unbounded_channel();
    match serde_json::from_slice::<Request>(&packet) {
        Ok(request) => {
            let copy = connection.get_ref().try_clone()?;
            if commands.send(Command { request, fds, reply, connection: copy }).is_err() {
                return Ok(());
            }
        }
        Err(e) => {
            let message = format!("request not understood: {e}; client and supervisor may be of different versions");
            drop(reply.send((Response::refused(Refusal::InvalidArgument, message), None)));
            drop(reply);
        }
    }
    pass_on(&connection, answers).await
}

type Answers = mpsc::UnboundedReceiver<(Response, Option<OwnedFd>)>;

/// Until the last answer is given, or the client has gone: it has nothing more to say, so what can be read is its end.
async fn pass_on(connection: &AsyncFd<OwnedFd>, mut answers: Answers) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            answer = answers.recv() => match answer {
                Some((response, fd)) => send(connection, &response, fd).await?,
                None => return Ok(()),
            },
            gone = ended(connection) => return gone,
        }
    }
}

async fn ended(connection: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut guard = connection.readable().await?;
        match fd::recv(connection.as_fd(), &mut [0], true) {
            Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
            // It may have left an answer unread.
            Ok(_) | Err(nix::errno::Errno::ECONNRESET) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The way back to the client of a connection that keeper held for us.
///
/// # Errors
/// It cannot be watched.
pub fn resume(connection: OwnedFd) -> io::Result<Reply> {
    fd::set_nonblocking(connection.as_fd(), true)?;
    let connection = watch(connection)?;
    let (reply, answers) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        if let Err(e) = pass_on(&connection, answers).await {
            eprintln!("info: control connection ended: {e}");
        }
    });
    Ok(reply)
}

/// Sends without a turn of the event loop: what is known is said before anything forgets it. False when the client cannot take it now.
///
/// # Errors
/// The client is gone.
pub fn send_now(connection: BorrowedFd<'_>, response: &Response, extra: Option<&OwnedFd>) -> io::Result<bool> {
    let packet = serde_json::to_vec(response)?;
    let fds: Vec<BorrowedFd<'_>> = extra.iter().map(|fd| fd.as_fd()).collect();
    match fd::send(connection, &packet, &fds) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

async fn receive(connection: &AsyncFd<OwnedFd>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    loop {
        let mut guard = connection.readable().await?;
        let mut buffer = vec![0u8; PACKET_LIMIT + 1];
        match fd::recv(connection.as_fd(), &mut buffer, true) {
            Ok(got) if got.len == 0 => return Ok(None),
            Ok(got) if got.truncated || got.len > PACKET_LIMIT => {
                return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
            }
            Ok(got) => {
                buffer.truncate(got.len);
                return Ok(Some((buffer, got.fds.into_iter().flatten().collect())));
            }
            Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
            Err(e) => return Err(e.into()),
        }
    }
}

async fn send(connection: &AsyncFd<OwnedFd>, response: &Response, extra: Option<OwnedFd>) -> io::Result<()> {
    let attempt = || send_now(connection.as_fd(), response, extra.as_ref());
    // At once, without a turn of the event loop: the last answer of a pod's life has no other chance.
    let mut sent = attempt()?;
    while !sent {
        let mut guard = connection.writable().await?;
        sent = attempt()?;
        if !sent {
            guard.clear_ready();
        }
    }
    Ok(())
}
