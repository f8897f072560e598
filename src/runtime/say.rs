//! What the supervisor has to say, to the end of `supervisor.log`.

use std::io::Write;

/// One line with the time. `level` is `error`, `warn` or `info`. What cannot be written (the disk is full) is lost: whoever speaks has more
/// important things to do, and `eprintln` would panic.
pub fn say(level: &str, text: impl std::fmt::Display) {
    // In one piece, so that lines of keeper's do not fall in between.
    let line = format!("{} {level}: {text}\n", jiff::Timestamp::now());
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}
