//! Carries bytes between our standard streams and those of a command in a container, until it has ended.
//!
//! One loop does the output, the terminal's size, signals and the end, since each of them has an fd. Input has a thread of its own: reading
//! standard input may last for ever, and so may writing to a command that does not read. The thread ends with the process.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use husk_oci::errno::{Sys, io_text};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::terminal::{self, RawMode};
use super::{Error, exec};
use crate::control::Response;
use crate::control::client::Client;

/// How a command ended for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code (128 + signal included).
    Exited(i32),
    /// We were asked to end by this signal.
    Signal(i32),
}

/// Our ends of the command's standard streams.
pub struct Streams {
    outputs: Vec<Output>,
    /// The terminal, for its size.
    master: Option<OwnedFd>,
}

/// One way from the command to us.
struct Output {
    from: OwnedFd,
    /// Standard error instead of standard output.
    stderr: bool,
    /// Read and not yet written.
    pending: Vec<u8>,
    /// Nothing will come any more.
    ended: bool,
}

/// A pipe that poll(2) calls writable takes this much without blocking. `pipe(7)`, PIPE_BUF
const PIECE: usize = 4096;

impl Output {
    fn new(from: OwnedFd, stderr: bool) -> Output {
        Output { from, stderr, pending: Vec::new(), ended: false }
    }

    /// Reads once, after poll(2) said that it won't block.
    fn read(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 16 * 1024];
        match nix::unistd::read(&self.from, &mut buffer) {
            // EIO is how a terminal tells that its last user has gone.
            Ok(0) | Err(Errno::EIO) => self.ended = true,
            Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(e) => return Err(Error::failed(format!("read the command's output: {}", Sys(e)))),
        }
        Ok(())
    }

    /// Writes one piece, after poll(2) said that it won't block.
    fn write(&mut self) -> Result<(), Error> {
        let piece = &self.pending[..self.pending.len().min(PIECE)];
        let written = match self.stderr {
            true => nix::unistd::write(std::io::stderr(), piece),
            false => nix::unistd::write(std::io::stdout(), piece),
        };
        match written {
            Ok(length) => drop(self.pending.drain(..length)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::EPIPE) => return Err(Error::ClosedOutput),
            Err(e) => return Err(Error::failed(format!("write the command's output: {}", Sys(e)))),
        }
        Ok(())
    }
}

impl Streams {
    /// Three pipes: ours, and the command's ends in the order stdin, stdout, stderr. Without `stdin` the command reads end of file at once.
    ///
    /// # Errors
    /// No more fds.
    pub fn pipes(stdin: bool) -> Result<(Streams, Vec<OwnedFd>), Error> {
        let pipe = || std::io::pipe().map_err(|e| Error::failed(format!("make a pipe: {}", io_text(&e))));
        let (their_in, our_in) = pipe()?;
        let (our_out, their_out) = pipe()?;
        let (our_err, their_err) = pipe()?;
        if stdin {
            pump_input(File::from(OwnedFd::from(our_in)), None);
        }
        let outputs = vec![Output::new(our_out.into(), false), Output::new(our_err.into(), true)];
        Ok((Streams { outputs, master: None }, vec![their_in.into(), their_out.into(), their_err.into()]))
    }

    /// The master of the command's terminal.
    ///
    /// # Errors
    /// No more fds.
    pub fn terminal(master: OwnedFd, stdin: bool) -> Result<Streams, Error> {
        let again =
            || master.try_clone().map_err(|e| Error::failed(format!("copy the fd of the terminal: {}", io_text(&e))));
        if stdin {
            // ^D on the terminal is what end of file on a pipe is.
            pump_input(File::from(again()?), Some(0x04));
        }
        Ok(Streams { outputs: vec![Output::new(again()?, false)], master: Some(master) })
    }
}

/// Copies standard input until its end, then writes `last` and closes.
fn pump_input(mut to: File, last: Option<u8>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                // A command that closed its input, or has ended, wants no more: not our user's failure.
                Ok(length) => {
                    if to.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    super::out::say(format!("read standard input: {}; the command gets end of file", io_text(&e)));
                    break;
                }
            }
        }
        if let Some(last) = last {
            // As above.
            let _ = to.write_all(&[last]);
        }
    });
}

/// Blocks the signals that matter to a terminal and gives the fd that they are read from.
///
/// # Errors
/// No more fds.
pub fn signals() -> Result<SignalFd, Error> {
    let set: SigSet =
        [Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]
            .into_iter()
            .collect();
    let failed = |e| Error::failed(format!("prepare for signals: {}", Sys(e)));
    set.thread_block().map_err(failed)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)
}

/// Relays until the command has ended and all that it had written was passed on. What a background child of it writes later is not waited for.
///
/// # Errors
/// The connection to the supervisor broke, or our own standard streams did.
pub fn run(
    client: &mut Client,
    mut streams: Streams,
    signals: Option<&SignalFd>,
    raw: Option<&RawMode>,
) -> Result<Ended, Error> {
    let mut exited = None;
    loop {
        if let Some(code) = exited {
            // Whatever the command wrote is in the pipes by now.
            finish(&mut streams.outputs)?;
            return Ok(Ended::Exited(code));
        }
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let mut fds = Vec::with_capacity(4);
        fds.push(PollFd::new(client.as_fd(), PollFlags::POLLIN));
        if let Some(signals) = signals {
            fds.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        }
        let first = fds.len();
        let busy: Vec<usize> = (0..streams.outputs.len())
            .filter(|index| !streams.outputs[*index].ended || !streams.outputs[*index].pending.is_empty())
            .collect();
        for index in &busy {
            let output = &streams.outputs[*index];
            fds.push(match (output.pending.is_empty(), output.stderr) {
                (true, _) => PollFd::new(output.from.as_fd(), PollFlags::POLLIN),
                (false, true) => PollFd::new(stderr.as_fd(), PollFlags::POLLOUT),
                (false, false) => PollFd::new(stdout.as_fd(), PollFlags::POLLOUT),
            });
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::failed(format!("wait for the command: {}", Sys(e)))),
        }
        let fired: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|flags| !flags.is_empty())).collect();
        drop(fds);
        for (index, fired) in busy.into_iter().zip(&fired[first..]) {
            let output = &mut streams.outputs[index];
            match (fired, output.pending.is_empty()) {
                (false, _) => {}
                (true, true) => output.read()?,
                (true, false) => output.write()?,
            }
        }
        if let Some(signals) = signals
            && let Some(number) = handle_signals(signals, streams.master.as_ref(), raw)?
        {
            return Ok(Ended::Signal(number));
        }
        if fired[0] {
            let (response, _) = client
                .receive()
                .map_err(|e| Error::failed(format!("lost the supervisor while the command ran: {}", io_text(&e))))?;
            exited = Some(match response {
                Response::Exited { exit_code, .. } => exit_code,
                // Said again by the successor of a supervisor that died.
                Response::Started => continue,
                Response::Error { message, .. } => return Err(Error::failed(message)),
                other => return Err(exec::unexpected(&other)),
            });
        }
    }
}

/// Reads what signals have come: the number of one that asks us to end. A new size of our terminal goes to `master`.
///
/// # Errors
/// The terminal went away.
pub fn handle_signals(
    signals: &SignalFd,
    master: Option<&OwnedFd>,
    raw: Option<&RawMode>,
) -> Result<Option<i32>, Error> {
    loop {
        let info = match signals.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) => return Ok(None),
            Err(e) => return Err(Error::failed(format!("read signals: {}", Sys(e)))),
        };
        let number = info.ssi_signo as i32;
        match Signal::try_from(number) {
            Ok(Signal::SIGWINCH) => resize(master)?,
            Ok(Signal::SIGCONT) => {
                if let Some(raw) = raw {
                    raw.resume()?;
                }
                resize(master)?;
            }
            _ => return Ok(Some(number)),
        }
    }
}

fn resize(master: Option<&OwnedFd>) -> Result<(), Error> {
    if let (Some(master), Some((rows, columns))) = (master, terminal::size()) {
        husk_oci::sys::term::set_size(master.as_fd(), rows, columns)
            .map_err(|e| Error::failed(format!("set the size of the command's terminal: {}", Sys(e))))?;
    }
    Ok(())
}

/// More than a pipe holds: what is read beyond it was written after the command's end.
const PIPE_BYTES: usize = 1 << 20;

/// Passes on what is in the pipes, and no more than that.
fn finish(outputs: &mut [Output]) -> Result<(), Error> {
    for output in outputs {
        let mut left = PIPE_BYTES;
        loop {
            while !output.pending.is_empty() {
                output.write()?;
            }
            if output.ended || left == 0 || !readable(output.from.as_fd())? {
                break;
            }
            output.read()?;
            left = left.saturating_sub(output.pending.len());
        }
    }
    Ok(())
}

fn readable(fd: BorrowedFd<'_>) -> Result<bool, Error> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(number) => Ok(number > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(e) => Err(Error::failed(format!("look for the command's output: {}", Sys(e)))),
    }
}
