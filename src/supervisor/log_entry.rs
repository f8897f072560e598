//! Entries of a container's log as they are read.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::log::MAX_PIECE;

/// One entry of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it was written, as it stands in the file; empty for an entry that is not in CRI form.
    pub time: &'a [u8],
    /// It came from standard error.
    pub stderr: bool,
    /// The output's line ends here.
    pub full: bool,
    /// What the container wrote, without the end of line.
    pub text: &'a [u8],
}

impl Entry<'_> {
    /// Reads one line without its `\n`. What is not in CRI form (a damaged disk, a foreign file) is text of its own.
    pub fn parse(line: &[u8]) -> Entry<'_> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        if let (Some(time), Some(stream @ (b"stdout" | b"stderr")), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            let full = match tag.split(|byte| *byte == b':').next() {
                Some(b"F") => Some(true),
                Some(b"P") => Some(false),
                _ => None,
            };
            if let Some(full) = full {
                return Entry { time, stderr: stream == b"stderr", full, text };
            }
        }
        Entry { time: b"", stderr: false, full: true, text: line }
    }

    /// The time, when there is one.
    pub fn timestamp(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.time).ok()?.parse().ok()
    }
}

/// So much of the end of a log is looked at: an entry of the greatest length, and as much again.
const WINDOW: usize = 2 * MAX_PIECE + 4096;

/// The end of what an instance has written, across a rotation: at most so many lines and so many bytes; what has not reached the log is missing. A
/// log that is not there is empty.
///
/// # Errors
/// The file system's.
pub fn tail(dir: &Path, attempt: u32, lines: usize, bytes: usize) -> io::Result<Vec<u8>> {
    let (mut found, mut whole) = end_of(&dir.join(format!("{attempt}.log")), WINDOW)?;
    if whole && found.len() < WINDOW {
        let (mut older, of_file) = end_of(&dir.join(format!("{attempt}.log.1")), WINDOW - found.len())?;
        whole = of_file;
        older.append(&mut found);
        found = older;
    }
    let mut entries = found.strip_suffix(b"\n").unwrap_or(&found).split(|byte| *byte == b'\n');
    if !whole {
        // Its beginning is not there.
        entries.next();
    }
    let mut last: VecDeque<Vec<u8>> = VecDeque::new();
    let mut open = false;
    for entry in entries.filter(|line| !line.is_empty()).map(Entry::parse) {
        if !open {
            last.push_back(Vec::new());
        }
        if let Some(line) = last.back_mut() {
            line.extend_from_slice(entry.text);
            line.extend(entry.full.then_some(b'\n'));
        }
        open = !entry.full;
        if last.len() > lines {
            last.pop_front();
        }
    }
    let mut output: Vec<u8> = last.into_iter().flatten().collect();
    output.drain(..output.len().saturating_sub(bytes));
    Ok(output)
}

/// The last bytes of a file, and whether that is all of it.
fn end_of(path: &PathBuf, room: usize) -> io::Result<(Vec<u8>, bool)> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), true)),
        other => other?,
    };
    let length = file.metadata()?.len();
    let from = length.saturating_sub(room as u64);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(room)];
    file.read_exact_at(&mut bytes, from)?;
    Ok((bytes, from == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("husk-log-tail-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("make a directory");
        for (file, content) in files {
            std::fs::write(dir.join(file), content).expect("write");
        }
        dir
    }

    fn line(tag: &str, text: &str) -> String {
        format!("2026-01-02T03:04:05.000000006Z stderr {tag} {text}\n")
    }

    fn told(dir: &Path, lines: usize, bytes: usize) -> String {
        String::from_utf8(tail(dir, 0, lines, bytes).expect("read")).expect("text")
    }

    #[test]
    fn the_last_lines_are_those_of_both_files() {
        let old = line("F", "one") + &line("F", "two");
        let new = line("P", "thr") + &line("F", "ee") + &line("P", "no end");
        let dir = log("files", &[("0.log.1", &old), ("0.log", &new)]);
        assert_eq!(told(&dir, 80, 2048), "one\ntwo\nthree\nno end");
        assert_eq!(told(&dir, 2, 2048), "three\nno end");
        assert_eq!(told(&dir, 80, 8), "e\nno end");
        assert_eq!(tail(&dir, 7, 80, 2048).expect("nothing is there"), b"");
        std::fs::remove_dir_all(dir).expect("clean up");
    }

    #[test]
    fn of_a_long_log_the_end_alone_is_read() {
        let many: String = (0..10_000).map(|n| line("F", &format!("line {n}"))).collect();
        let dir = log("long", &[("0.log", &many), ("0.log.1", "never looked at\n")]);
        let said = told(&dir, 80, 2048);
        assert!(said.starts_with("line 9920\n") && said.ends_with("line 9999\n"), "{said}");
        let wide = line("P", &"x".repeat(MAX_PIECE)) + &line("P", &"y".repeat(MAX_PIECE)) + &line("F", "z");
        std::fs::write(dir.join("0.log"), wide).expect("write");
        assert_eq!(told(&dir, 80, 5), "yyyz\n");
        std::fs::remove_dir_all(dir).expect("clean up");
    }
}
