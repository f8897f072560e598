//! `husk cri`: CRI in JSON, as a dialogue or as a single call.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use clap::Args;
use husk_oci::errno::io_text;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::value::RawValue;

use super::out::Out;
use super::{Context, Error, NetworkOption};
use crate::cri::dispatch::{self, Asked, Refusal};
use crate::cri::messages::ContainerEventResponse;
use crate::cri::rpc::{self, Limits};
use crate::cri::service::Events;
use crate::cri::{HostService, RuntimeService, host, json};
use crate::network;

/// Speak CRI in JSON over standard input and output.
#[derive(Debug, Args)]
#[command(
    long_about = "Speak CRI in JSON over standard input and output.\n\nWithout a method: JSON-RPC 2.0, one object a line, until the end of \
                  the input. With a method: one request from standard input, its response on standard output; an empty input is {}.",
    after_help = "Example:\n  husk cri Version </dev/null\n  echo '{\"image\": {\"image\": \"busybox\"}}' | husk cri ImageStatus\n  \
                  echo '{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"ListPodSandbox\"}' | husk cri"
)]
pub struct Cri {
    /// RPC to call once: Version, ListImages, …
    #[arg(value_name = "METHOD", conflicts_with = "list")]
    method: Option<String>,
    /// Print the methods there are
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    network: NetworkOption,
}

impl Cri {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let settings = context.settings(&self.network)?;
        if settings.network.mode == network::Mode::Host {
            return Err(Error::usage(
                "the client says which pods have the host's network; --network none, bridge or cni for the others",
            ));
        }
        let service = HostService::new(context.roots.clone(), settings);
        match self.method {
            _ if self.list => list(),
            Some(method) => call(&service, &method),
            None => dialogue(&service),
        }
    }
}

fn list() -> Result<(), Error> {
    let mut out = Out::new();
    dispatch::METHODS.iter().filter(|method| host::METHODS.contains(method)).try_for_each(|method| out.line(method))?;
    out.flush()
}

/// One request, one response.
fn call(service: &HostService, method: &str) -> Result<(), Error> {
    let limit = Limits::DEFAULT.line;
    let mut text = String::new();
    let read = io::stdin().lock().take(limit as u64 + 1).read_to_string(&mut text);
    read.map_err(|e| Error::failed(format!("read the request: {}", io_text(&e))))?;
    if text.len() > limit {
        return Err(Error::failed(format!("INVALID_ARGUMENT: the request has more than {limit} bytes")));
    }
    if json::too_deep(text.as_bytes()) {
        let depth = json::MAX_DEPTH;
        return Err(Error::failed(format!("INVALID_ARGUMENT: more than {depth} lists and objects in one another")));
    }
    let request: &RawValue = match text.trim_ascii() {
        "" => RawValue::NULL,
        text => serde_json::from_str(text).map_err(|e| Error::failed(format!("INVALID_ARGUMENT: not JSON: {e}")))?,
    };
    match dispatch::understand(service, method, "request", request) {
        Ok(Asked::Call(call)) => {
            let response = call.run(service)?;
            let value: serde_json::Value = serde_json::from_str(response.get())?;
            let mut out = Out::new();
            out.raw(serde_json::to_string_pretty(&value)?.as_bytes())?;
            out.raw(b"\n")?;
            out.flush()
        }
        Ok(Asked::Events(request)) => events(service, request),
        Err(Refusal::Method(status)) => Err(Error::usage(status.message)),
        Err(Refusal::Params(status)) => Err(Error::failed(status.to_string())),
    }
}

/// Prints events, one a line, until nobody reads them.
fn events(service: &HostService, request: crate::cri::messages::GetEventsRequest) -> Result<(), Error> {
    let mut lines = Lines { out: Out::new(), result: Ok(()), stdout: own(io::stdout())? };
    service.container_events(request, &mut lines)?;
    lines.result
}

struct Lines {
    out: Out,
    result: Result<(), Error>,
    stdout: File,
}

impl Events for Lines {
    fn begin(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn send(&mut self, event: ContainerEventResponse) -> ControlFlow<()> {
        let line = json::encode(&event).map_err(Error::failed);
        self.result =
            line.and_then(|line| self.out.raw(format!("{line}\n").as_bytes())).and_then(|()| self.out.flush());
        if self.result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// A pipe or socket that nobody reads any more hangs up by itself.
    fn over(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}

/// JSON-RPC until the end of standard input.
fn dialogue(service: &HostService) -> Result<(), Error> {
    // The keepers of the pods that it starts are its children, and may end before it.
    husk_oci::sys::process::leave_no_zombies();
    let input = Input { stdin: own(io::stdin())?, stdout: own(io::stdout())? };
    // Not through `std::io::stdout`, which would keep the rest of a line that could not be written.
    rpc::serve(service, BufReader::with_capacity(64 * 1024, input), own(io::stdout())?, &Limits::DEFAULT)
        .map_err(|e| Error::failed(format!("the dialogue ended early: {}", io_text(&e))))
}

/// The same open file under an fd of our own.
fn own(stream: impl AsFd) -> Result<File, Error> {
    let copy = stream.as_fd().try_clone_to_owned();
    copy.map(File::from).map_err(|e| Error::failed(format!("open standard input and output: {}", io_text(&e))))
}

/// Standard input for as long as somebody reads standard output.
struct Input {
    stdin: File,
    stdout: File,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        loop {
            let mut fds = [
                PollFd::new(self.stdin.as_fd(), PollFlags::POLLIN),
                // Asks for nothing: a reader that went away is told all the same.
                PollFd::new(self.stdout.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [stdin, stdout] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            if stdout.intersects(gone) {
                return Err(Errno::EPIPE.into());
            }
            if !stdin.is_empty() {
                return self.stdin.read(buffer);
            }
        }
    }
}
