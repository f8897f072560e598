//! Reads a container's log: CRI lines in `<n>.log`, older ones in `<n>.log.1` (the youngest) to `<n>.log.4` (the oldest).
//!
//! A line is `TIME STREAM TAG TEXT`; the tag `F` ends a line of the container's output, `P` continues in the stream's next entry.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::supervisor::log::FILES;
pub use crate::supervisor::log_entry::Entry;

/// The log of one instance of a container, read from its oldest entry on.
pub struct LogReader {
    /// The file that is written to; the others have a number behind its name.
    path: PathBuf,
    /// Oldest first; the last is, or was, the one that is written to.
    files: VecDeque<OpenFile>,
    /// Bytes of an entry whose end was not written yet.
    partial: Vec<u8>,
    /// Files were rotated away that may not have been read.
    fell_behind: bool,
}

struct OpenFile {
    reader: BufReader<File>,
    id: (u64, u64),
}

impl LogReader {
    /// Opens all that is there; a container that has written nothing has nothing.
    ///
    /// # Errors
    /// A file cannot be opened, for another reason than that it is not there.
    pub fn open(directory: &Path, attempt: u32) -> Result<LogReader, Error> {
        LogReader::of_file(directory.join(format!("{attempt}.log")))
    }

    /// Opens the log that is written to `path`.
    ///
    /// # Errors
    /// As [`LogReader::open`].
    pub fn of_file(path: PathBuf) -> Result<LogReader, Error> {
        let mut reader = LogReader { path, files: VecDeque::new(), partial: Vec::new(), fell_behind: false };
        reader.files = reader.newer_than(None)?;
        Ok(reader)
    }

    /// Whether, since this was last asked, the log was rotated so often that output may have been lost to this reader.
    pub fn fell_behind(&mut self) -> bool {
        std::mem::take(&mut self.fell_behind)
    }

    /// Whether this instance has, or had, a log.
    pub fn exists(directory: &Path, attempt: u32) -> bool {
        directory.join(format!("{attempt}.log")).exists()
    }

    /// The files that are younger than `known`, oldest first; all of them when it is not among them.
    fn newer_than(&mut self, known: Option<(u64, u64)>) -> Result<VecDeque<OpenFile>, Error> {
        let mut files: VecDeque<OpenFile> = VecDeque::new();
        let mut met = known.is_none();
        // From the youngest to the oldest: one that is renamed meanwhile is met twice, none is missed.
        for number in 0..FILES {
            let path = self.path(number);
            let file = match File::open(&path) {
                Ok(file) => file,
                // The writer is between two of its renames, or was killed there.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed("open", &path, &e)),
            };
            let metadata = file.metadata().map_err(|e| failed("look at", &path, &e))?;
            let id = (metadata.dev(), metadata.ino());
            if Some(id) == known {
                met = true;
                break;
            }
            if files.iter().all(|other| other.id != id) {
                files.push_front(OpenFile { reader: BufReader::with_capacity(64 * 1024, file), id });
            }
        }
        self.fell_behind |= !met && !files.is_empty();
        Ok(files)
    }

    fn path(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        if number > 0 {
            path.push(format!(".{number}"));
        }
        path.into()
    }

    /// Hands every entry that is there to `each`, across all rotations so far. Called again, it goes on where it stopped.
    ///
    /// # Errors
    /// Those of reading, and those of `each`.
    pub fn read(&mut self, mut each: impl FnMut(Entry<'_>) -> Result<(), Error>) -> Result<(), Error> {
        loop {
            if self.files.is_empty() {
                self.files = self.newer_than(None)?;
            }
            while let Some(file) = self.files.front_mut() {
                drain(file, &mut self.partial, &mut each).map_err(|e| match e {
                    Failure::Read(e) => failed("read", &self.path, &e),
                    Failure::Sink(e) => e,
                })?;
                if self.files.len() == 1 {
                    break;
                }
                // A younger file exists, so nothing will be added to this one.
                self.files.pop_front();
            }
            let Some(last) = self.files.back().map(|file| file.id) else { return Ok(()) };
            let newer = self.newer_than(Some(last))?;
            if newer.is_empty() {
                return Ok(());
            }
            self.files.extend(newer);
        }
    }

    /// Hands over what is left of an entry whose writer was killed in the middle of it.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn finish(&mut self, mut each: impl FnMut(Entry<'_>) -> Result<(), Error>) -> Result<(), Error> {
        if self.partial.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.partial);
        each(Entry { full: false, ..Entry::parse(&line) })
    }

    /// Skips to the last `lines` lines of output among those entries that `wanted` lets through.
    ///
    /// # Errors
    /// Those of reading.
    pub fn skip_to_tail(&mut self, lines: usize, wanted: impl Fn(&Entry<'_>) -> bool) -> Result<(), Error> {
        // Where the last lines begin: file, offset.
        let mut starts: VecDeque<(usize, u64)> = VecDeque::new();
        let mut in_line = [false; 2];
        let mut end = 0;
        for (index, file) in self.files.iter_mut().enumerate() {
            let mut offset = 0;
            let mut line = Vec::new();
            loop {
                line.clear();
                let length = file.reader.read_until(b'\n', &mut line).map_err(|e| failed("read", &self.path, &e))?;
                if length == 0 || line.last() != Some(&b'\n') {
                    break;
                }
                let entry = Entry::parse(&line[..length - 1]);
                let continues = std::mem::replace(&mut in_line[usize::from(entry.stderr)], !entry.full);
                if !continues && wanted(&entry) {
                    if lines > 0 && starts.len() == lines {
                        starts.pop_front();
                    }
                    if lines > 0 {
                        starts.push_back((index, offset));
                    }
                }
                offset += length as u64;
            }
            end = offset;
        }
        // Without a line to show: to the end of what is there.
        let (first, offset) = starts.front().copied().unwrap_or((self.files.len().saturating_sub(1), end));
        self.files.drain(..first);
        for (index, file) in self.files.iter_mut().enumerate() {
            let to = if index == 0 { offset } else { 0 };
            file.reader.seek(SeekFrom::Start(to)).map_err(|e| failed("read", &self.path, &e))?;
        }
        Ok(())
    }
}

enum Failure {
    Read(std::io::Error),
    Sink(Error),
}

fn drain(
    file: &mut OpenFile,
    partial: &mut Vec<u8>,
    each: &mut impl FnMut(Entry<'_>) -> Result<(), Error>,
) -> Result<(), Failure> {
    loop {
        if file.reader.read_until(b'\n', partial).map_err(Failure::Read)? == 0 {
            return Ok(());
        }
        if partial.last() == Some(&b'\n') {
            each(Entry::parse(&partial[..partial.len() - 1])).map_err(Failure::Sink)?;
            partial.clear();
        }
    }
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("{doing} log {}: {}", path.display(), husk_oci::errno::io_text(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A directory of logs that is removed at the end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("husk-log-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("make a directory");
            Dir(path)
        }

        fn write(&self, file: &str, numbers: std::ops::Range<u32>) {
            let path = self.0.join(file);
            let mut file = File::options().create(true).append(true).open(path).expect("open");
            for number in numbers {
                writeln!(file, "2026-01-01T00:00:{number:02}.000000001Z stdout F line {number}").expect("write");
            }
        }

        fn rename(&self, from: &str, to: &str) {
            std::fs::rename(self.0.join(from), self.0.join(to)).expect("rename");
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("clean up");
        }
    }

    fn lines(reader: &mut LogReader) -> Vec<String> {
        let mut lines = Vec::new();
        reader
            .read(|entry| {
                lines.push(String::from_utf8_lossy(entry.text).into_owned());
                Ok(())
            })
            .expect("read");
        lines
    }

    fn numbered(numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|number| format!("line {number}")).collect()
    }

    #[test]
    fn entries_are_taken_apart_and_foreign_lines_kept() {
        let entry = Entry::parse(b"2026-01-01T00:00:00.5Z stderr P a  b\xff\r");
        assert_eq!((entry.time, entry.stderr, entry.full), (b"2026-01-01T00:00:00.5Z".as_slice(), true, false));
        assert_eq!(entry.text, b"a  b\xff\r");
        assert!(entry.timestamp().is_some());
        assert_eq!(Entry::parse(b"2026-01-01T00:00:00Z stdout F ").text, b"");
        for foreign in [b"".as_slice(), b"hello", b"a stdout X text", b"a stdin F text"] {
            let entry = Entry::parse(foreign);
            assert_eq!((entry.text, entry.full), (foreign, true));
        }
    }

    #[test]
    fn rotated_files_are_read_from_the_oldest() {
        let dir = Dir::new("oldest");
        dir.write("0.log.2", 0..3);
        dir.write("0.log.1", 3..5);
        dir.write("0.log", 5..6);
        dir.write("1.log", 50..51);
        assert_eq!(lines(&mut LogReader::open(&dir.0, 0).expect("open")), numbered(0..6));
    }

    #[test]
    fn following_goes_on_across_rotations() {
        let dir = Dir::new("follow");
        let mut reader = LogReader::open(&dir.0, 0).expect("open");
        assert_eq!(lines(&mut reader), numbered(0..0));
        dir.write("0.log", 0..2);
        assert_eq!(lines(&mut reader), numbered(0..2));
        // Something is added, then two rotations happen before the reader looks again.
        dir.write("0.log", 2..3);
        dir.rename("0.log", "0.log.1");
        dir.write("0.log", 3..4);
        dir.rename("0.log.1", "0.log.2");
        dir.rename("0.log", "0.log.1");
        assert_eq!(lines(&mut reader), numbered(2..4));
        dir.write("0.log", 4..6);
        assert_eq!(lines(&mut reader), numbered(4..6));
        assert!(!reader.fell_behind());
        // The file that was read last is rotated out of existence.
        std::fs::remove_file(dir.0.join("0.log")).expect("remove");
        dir.write("0.log.1x", 0..1);
        std::fs::remove_file(dir.0.join("0.log.1")).expect("remove");
        std::fs::remove_file(dir.0.join("0.log.2")).expect("remove");
        dir.write("0.log", 6..7);
        assert_eq!(lines(&mut reader), numbered(6..7));
        assert!(reader.fell_behind() && !reader.fell_behind());
    }

    #[test]
    fn a_number_that_is_missing_among_the_old_files_is_no_end() {
        let dir = Dir::new("missing");
        dir.write("0.log.3", 0..1);
        dir.write("0.log.1", 1..2);
        assert_eq!(lines(&mut LogReader::open(&dir.0, 0).expect("open")), numbered(0..2));
    }

    #[test]
    fn half_an_entry_is_kept_until_its_end_comes() {
        let dir = Dir::new("half");
        let path = dir.0.join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F ab").expect("write");
        let mut reader = LogReader::open(&dir.0, 0).expect("open");
        assert_eq!(lines(&mut reader), Vec::<String>::new());
        File::options().append(true).open(&path).expect("open").write_all(b"cd\n2026").expect("write");
        assert_eq!(lines(&mut reader), ["abcd"]);
        let mut rest = Vec::new();
        reader
            .finish(|entry| {
                rest.extend_from_slice(entry.text);
                Ok(())
            })
            .expect("finish");
        assert_eq!(rest, b"2026");
    }

    #[test]
    fn tail_counts_lines_of_output_across_files() {
        let dir = Dir::new("tail");
        dir.write("0.log.1", 0..4);
        std::fs::write(
            dir.0.join("0.log"),
            "2026-01-01T00:00:04Z stdout P li\n2026-01-01T00:00:04Z stdout P ne\n2026-01-01T00:00:04Z stdout F  4\n",
        )
        .expect("write");
        let tail = |lines_wanted: usize| {
            let mut reader = LogReader::open(&dir.0, 0).expect("open");
            reader.skip_to_tail(lines_wanted, |_| true).expect("skip");
            lines(&mut reader).concat()
        };
        assert_eq!(tail(0), "");
        assert_eq!(tail(1), "line 4");
        assert_eq!(tail(2), "line 3line 4");
        assert_eq!(tail(5), "line 0line 1line 2line 3line 4");
        assert_eq!(tail(99), "line 0line 1line 2line 3line 4");
    }
}
