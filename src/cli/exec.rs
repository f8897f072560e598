//! `husk exec`: a process in a running container, its standard streams relayed, its exit code ours.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use clap::Args;

use super::relay::{self, Streams};
use super::terminal::{self, RawMode};
use super::{Context, Error};
use crate::control::client::Client;
use crate::control::{Request, Response};

/// Run a command in a container.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk exec -it demo -c server -- sh\n\n\
    Exit code: the command's, 128 + the signal that ended it, 125 when husk failed, 126 when the\n\
    command cannot be executed, 127 when there is no such command")]
pub struct Exec {
    /// The pod, as NAME or pod/NAME
    pod: String,
    /// The container; without it, the first one
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments, behind --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What a failure of our own ends with.
const OURS: u8 = 125;

impl Exec {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        match self.relay(context) {
            Ok(0) => Ok(()),
            Ok(code) => Err(Error::Exit { code }),
            Err(error @ (Error::Usage { .. } | Error::ClosedOutput)) => Err(error),
            Err(error) => {
                error.messages().iter().for_each(super::out::say);
                Err(Error::Exit { code: OURS })
            }
        }
    }

    fn relay(self, context: &Context) -> Result<u8, Error> {
        let entry = context.find(&self.pod)?;
        let request = Request::Exec {
            container: self.container,
            argv: self.command,
            tty: self.tty,
            size: if self.tty { terminal::size() } else { None },
            timeout_ms: None,
        };
        let pod = entry.record.name();
        if !entry.live {
            return Err(Error::failed(format!("pod {pod}: exec: it does not run any more")));
        }
        // What the connection's end means depends on what has become of the pod meanwhile.
        let broken = |doing: &str, e: &std::io::Error| {
            let lives = context.roots.is_live(&entry.id);
            Error::failed(if lives {
                format!("pod {pod}: {doing} its supervisor: {}", husk_oci::errno::io_text(e))
            } else {
                format!("pod {pod}: exec: it does not run any more")
            })
        };
        // From here on signals are read, not delivered: before raw mode, so that none falls in between.
        let signals = if self.tty { Some(relay::signals()?) } else { None };
        let (pipes, theirs) = match self.tty {
            true => (None, Vec::new()),
            false => Streams::pipes(self.stdin).map(|(ours, theirs)| (Some(ours), theirs))?,
        };
        let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let dir = context.roots.pod_dir(&entry.id);
        let asked = Client::ask(&dir, &request, &fds, || context.roots.is_live(&entry.id));
        let (mut client, response, fds) = asked.map_err(|e| broken("speak with", &e))?;
        drop(theirs);
        let streams = match (response, pipes, fds.into_iter().next()) {
            (Response::Started, Some(pipes), _) => pipes,
            (Response::Started, None, Some(master)) => Streams::terminal(master, self.stdin)?,
            (Response::Error { exit_code, message, .. }, ..) => {
                super::out::say(message);
                return Ok(u8::try_from(exit_code).unwrap_or(OURS));
            }
            (other, ..) => return Err(unexpected(&other)),
        };
        let raw = if self.tty && self.stdin && std::io::stdin().is_terminal() { Some(RawMode::enter()?) } else { None };
        let ended = relay::run(&mut client, streams, signals.as_ref(), raw.as_ref());
        drop(raw);
        let ended = ended.map_err(|error| match error {
            Error::Failed { message } => Error::failed(format!("pod {pod}: exec: {message}")),
            other => other,
        });
        match ended? {
            relay::Ended::Exited(code) => Ok(u8::try_from(code).unwrap_or(OURS)),
            relay::Ended::Signal(number) => Ok(128u8.saturating_add(u8::try_from(number).unwrap_or(127))),
        }
    }
}

/// The supervisor speaks, but not our language.
pub fn unexpected(response: &Response) -> Error {
    Error::failed(format!("exec: the pod's supervisor answered {response:?}, which does not belong here"))
}
