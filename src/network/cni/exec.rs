//! One plugin, executed: its configuration in, its output out, and never longer than it may take.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use husk_oci::errno::{Sys, io_text};
use husk_oci::sys::{fd, process};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::error::{Failure, printable};
use super::result;

/// The most that is read of a plugin's standard output.
pub const OUTPUT_LIMIT: usize = 1 << 20;
/// The most that is kept of its standard error; the rest is read and forgotten.
const SAID_LIMIT: usize = 4096;
/// Where plugins find the programs that they call, such as iptables.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes a plugin and returns what it printed. It gets `environment`, a `PATH`, and nothing else of ours; it is started in `/`, outside of every pod.
/// Blocks until it has ended, or has been killed at `deadline` with its process group.
///
/// # Errors
/// It could not be started, was killed, or failed; an error of the specification among them.
pub fn run(
    program: &Path,
    environment: &[(&str, String)],
    input: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, Failure> {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.current_dir("/").process_group(0);
    let since = Instant::now();
    let child = loop {
        match command.spawn() {
            // Somebody is just writing the program: an upgrade of the plugins.
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => break other.map_err(|e| Failure::Start { path: program.to_owned(), why: io_text(&e) })?,
        }
    };
    let mut running = Running(child);
    let mut output = Output::default();
    let status = match running.converse(input, deadline, &mut output) {
        Ok(status) => status,
        Err(End::Late) => return Err(Failure::TimedOut { after: since.elapsed() }),
        Err(End::TooMuch) => return Err(Failure::TooMuch { limit: OUTPUT_LIMIT }),
        Err(End::Host(what)) => return Err(Failure::Host { what }),
    };
    if status.success() {
        return Ok(output.stdout);
    }
    Err(result::parse_error(&output.stdout).unwrap_or_else(|| {
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        // A Go panic begins with what matters, a shell script ends with it: show the beginning.
        Failure::Died { how: how(status), said: printable(said, 300) }
    }))
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("was killed by {signal}"),
            Err(_) => format!("was killed by signal {number}"),
        },
        (None, None) => "ended".into(),
    }
}

#[derive(Debug, Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

enum End {
    Late,
    TooMuch,
    Host(String),
}

/// A plugin that runs; it is killed with its process group and reaped when this is dropped before its end.
struct Running(Child);

impl Running {
    fn converse(&mut self, mut input: &[u8], deadline: Instant, output: &mut Output) -> Result<ExitStatus, End> {
        let host = |doing: &str, e: Errno| End::Host(format!("{doing}: {}", Sys(e)));
        let io = |doing: &str, e: std::io::Error| End::Host(format!("{doing}: {}", io_text(&e)));
        let pid = i32::try_from(self.0.id()).unwrap_or(-1);
        let pidfd = process::pidfd_open(pid).map_err(|e| host("open a pidfd", e))?;
        let missing = || End::Host("a child without its pipes".into());
        let mut stdin = Some(self.0.stdin.take().ok_or_else(missing)?);
        let mut stdout = Some(self.0.stdout.take().ok_or_else(missing)?);
        let mut stderr = Some(self.0.stderr.take().ok_or_else(missing)?);
        for pipe in
            [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)]
        {
            let Some(pipe) = pipe else { continue };
            fd::set_nonblocking(pipe, true).map_err(|e| host("make a pipe non-blocking", e))?;
        }
        loop {
            let left = deadline.checked_duration_since(Instant::now()).ok_or(End::Late)?;
            let mut watched = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            if let Some(pipe) = &stdin {
                watched.push(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
            }
            watched.extend(stdout.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
            watched.extend(stderr.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
            match poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(host("wait for a plugin", e)),
            }
            let ended = watched[0].any().unwrap_or(false);
            if let Some(pipe) = &mut stdin {
                match pipe.write(input) {
                    Ok(n) => input = &input[n..],
                    // It need not read it.
                    Err(e) if e.kind() == ErrorKind::BrokenPipe => input = &[],
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(e) => return Err(io("write a plugin's configuration", e)),
                }
            }
            if input.is_empty() {
                stdin = None;
            }
            if read(&mut stdout, deadline, |some| {
                output.stdout.extend_from_slice(some);
                output.stdout.len() <= OUTPUT_LIMIT
            })
            .map_err(|e| io("read a plugin's output", e))?
            {
                return Err(End::TooMuch);
            }
            read(&mut stderr, deadline, |some| {
                let room = SAID_LIMIT - output.stderr.len();
                output.stderr.extend_from_slice(&some[..some.len().min(room)]);
                true
            })
            .map_err(|e| io("read a plugin's output", e))?;
            if ended {
                // What it has left in the background may hold its pipes for ever; what the plugin itself has written was read just now.
                return self.0.wait().map_err(|e| io("wait for a plugin", e));
            }
        }
    }
}

/// Reads all that is there, until `take` has had enough (then it is true) or the deadline has passed: somebody may write as fast as we read.
fn read(pipe: &mut Option<impl Read>, deadline: Instant, mut take: impl FnMut(&[u8]) -> bool) -> std::io::Result<bool> {
    let mut some = [0; 16 << 10];
    while let Some(open) = pipe {
        match open.read(&mut some) {
            Ok(0) => *pipe = None,
            Ok(n) if !take(&some[..n]) => return Ok(true),
            Ok(_) if Instant::now() > deadline => break,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a child that was not waited for has its pid still: nobody else is hit.
        if let Ok(None) = self.0.try_wait() {
            if let Ok(pid) = i32::try_from(self.0.id()) {
                // It is gone when it died this instant.
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            // A child that cannot be waited for was reaped by somebody else.
            let _ = self.0.wait();
        }
    }
}

/// Kills and reaps everything that was started by us or by what we started, whatever process group or session it has made for itself. For a process that
/// is a subreaper and has no other children.
pub fn end_strays(deadline: Instant) {
    let list = format!("/proc/self/task/{}/children", process::getpid());
    loop {
        // Those that are dead already, first.
        while let Ok(Some(_)) = process::wait(process::Target::All, true, false) {}
        let children = std::fs::read_to_string(&list).unwrap_or_default();
        let mut pids = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).peekable();
        if pids.peek().is_none() || Instant::now() > deadline {
            return;
        }
        for pid in pids {
            // A child of ours that nobody has waited for: the pid is its own.
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, patience: Duration) -> Result<String, Failure> {
        // The input is the script, so that it is read by the program as plugins read theirs.
        let deadline = Instant::now() + patience;
        let environment = [("CNI_COMMAND", "ADD".to_owned())];
        run(Path::new("/bin/sh"), &environment, script.as_bytes(), deadline)
            .map(|out| String::from_utf8_lossy(&out).into_owned())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_plugin_has_a_clean_environment() {
        let out = sh("env; pwd; exit 0", LONG).unwrap();
        let mut lines: Vec<&str> = out.lines().filter(|l| !l.starts_with("_=") && !l.starts_with("PWD=")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["/", "CNI_COMMAND=ADD", &format!("PATH={PATH}")].map(str::to_owned));
    }

    #[test]
    fn its_end_counts_not_that_of_what_it_left_behind() {
        let since = Instant::now();
        assert_eq!(
            sh("sleep 30 & echo $!; exit 0", LONG).map(|pid| {
                let _ = nix::sys::signal::kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL);
            }),
            Ok(())
        );
        assert!(since.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_hanging_plugin_is_killed_with_its_children() {
        let since = Instant::now();
        let note = std::env::temp_dir().join(format!("husk-cni-child-{}", std::process::id()));
        let script = format!("sleep 3217 & echo $! > {}; sleep 3217", note.display());
        let failure = sh(&script, Duration::from_millis(500)).unwrap_err();
        assert!(matches!(failure, Failure::TimedOut { .. }), "{failure:?}");
        assert!(since.elapsed() < Duration::from_secs(20));
        let child: i32 = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
        std::fs::remove_file(&note).unwrap();
        // Dead, though somebody may have to reap it still.
        let deadline = Instant::now() + LONG;
        while std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "a child of the plugin lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn endless_output_is_cut_and_endless_chatter_is_not_kept() {
        assert_eq!(sh("exec cat /dev/zero", LONG), Err(Failure::TooMuch { limit: OUTPUT_LIMIT }));
        let said = sh("head -c 100000 /dev/zero >&2; echo done; exit 0", LONG);
        assert_eq!(said.as_deref(), Ok("done\n"));
        assert!(matches!(sh("exec cat /dev/zero >&2", Duration::from_millis(200)), Err(Failure::TimedOut { .. })));
    }

    #[test]
    fn failures_tell_how_and_what_was_said() {
        assert_eq!(sh("exit 3", LONG), Err(Failure::Died { how: "exited with 3".into(), said: String::new() }));
        assert_eq!(
            sh("echo oh no >&2; kill -SEGV $$", LONG),
            Err(Failure::Died { how: "was killed by SIGSEGV".into(), said: "oh no".into() })
        );
        let reported = sh(r#"echo '{"code":100,"msg":"m","details":"d"}'; exit 1"#, LONG);
        assert_eq!(reported, Err(Failure::Reported { code: 100, msg: "m".into(), details: "d".into() }));
        let missing = run(Path::new("/nonexistent/x"), &[], b"", Instant::now() + LONG);
        assert!(matches!(missing, Err(Failure::Start { .. })));
    }

    #[test]
    fn a_large_configuration_reaches_a_plugin_that_reads_it_and_one_that_does_not() {
        let input = vec![b' '; 600 << 10];
        let deadline = Instant::now() + LONG;
        assert_eq!(run(Path::new("/bin/cat"), &[], &input, deadline).unwrap().len(), input.len());
        assert_eq!(run(Path::new("/bin/true"), &[], &input, deadline).unwrap(), b"");
    }
}
