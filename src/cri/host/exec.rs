//! ExecSync: a command in a container, its output kept, its time limited.

use std::io::Read;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use husk_oci::errno::io_text;

use crate::cri::messages::*;
use crate::cri::status::{Code, Status};
use crate::runtime::driven;
use crate::state::Roots;

/// How much of each stream is answered; what comes beyond is read and dropped, as by the other runtimes.
const STREAM_LIMIT: usize = 16 << 20;

/// How long output is waited for after the command's end: something that it left behind may hold the pipes open for ever.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn sync(roots: &Roots, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
    if request.cmd.is_empty() {
        return Err(Status::invalid_argument("cmd: must be there"));
    }
    let seconds = u64::try_from(request.timeout)
        .map_err(|_| Status::invalid_argument(format!("timeout: {}: must not be negative", request.timeout)))?;
    let io = |doing: &str, e: &std::io::Error| Status::internal(format!("{doing}: {}", io_text(e)));
    let null = std::fs::File::open("/dev/null").map_err(|e| io("open /dev/null", &e))?;
    let pipe = || std::io::pipe().map_err(|e| io("make a pipe", &e));
    let ((out, their_out), (err, their_err)) = (pipe()?, pipe()?);
    let timeout_ms = (seconds > 0).then(|| seconds.saturating_mul(1000));
    let fds = [null.as_fd(), their_out.as_fd(), their_err.as_fd()];
    let exec = driven::exec(roots, &request.container_id, request.cmd, timeout_ms, fds)?;
    drop((their_out, their_err));
    let (out, err) = (collect(out), collect(err));
    let ended = exec.wait()?;
    if ended.timed_out {
        let sentence = format!("the command ran longer than {seconds} s and was killed, with all that it had started");
        return Err(Status::new(Code::DeadlineExceeded, sentence));
    }
    Ok(ExecSyncResponse { stdout: finish(&out), stderr: finish(&err), exit_code: ended.exit_code })
}

/// Reads in the background; every piece goes through the channel, so that what came in time is not lost to what never ends.
fn collect(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut total = 0;
        loop {
            let mut piece = vec![0; 64 << 10];
            match from.read(&mut piece) {
                Ok(0) => return,
                Ok(n) if total < STREAM_LIMIT => {
                    piece.truncate(n.min(STREAM_LIMIT - total));
                    total += piece.len();
                    if tell.send(piece).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    told
}

fn finish(pieces: &Receiver<Vec<u8>>) -> Vec<u8> {
    let mut all = Vec::new();
    let deadline = std::time::Instant::now() + DRAIN_PATIENCE;
    while let Ok(piece) = pieces.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())) {
        all.extend_from_slice(&piece);
    }
    all
}
