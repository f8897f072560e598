//! The command line without a real pod: usage, bad input, and what the commands make of a pod that only stands in the records, with a
//! supervisor that the test plays itself.

mod bad_input;
mod changes;
mod contrib;
mod exec;
mod explain;
mod fake;
mod logs;
mod show;
mod usage;
mod wait;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Two roots of our own, and the built binary.
struct Husk {
    directory: PathBuf,
}

/// What a call said.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    #[track_caller]
    fn is(&self, code: i32) -> &Said {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Failed with one line on standard error that holds all of `words`, and printed nothing.
    #[track_caller]
    fn refused(&self, code: i32, words: &[&str]) -> &Said {
        self.is(code);
        assert_eq!(self.stdout, "");
        assert!(self.stderr.starts_with("husk: "), "{:?}", self.stderr);
        assert!(self.stderr.len() < 2000, "{} bytes of message: {:?}", self.stderr.len(), &self.stderr[..200]);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {:?}", self.stderr);
        }
        self
    }
}

impl Husk {
    fn new(name: &str) -> Husk {
        let directory = std::env::temp_dir().join(format!("husk-cli-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("make a directory");
        Husk { directory }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_husk"));
        command
            .env_remove("HUSK_ROOT")
            .env_remove("HUSK_STATE")
            .arg("--root")
            .arg(self.directory.join("root"))
            .arg("--state")
            .arg(self.directory.join("state"))
            .stdin(Stdio::null());
        command
    }

    fn call(&self, args: &[&str]) -> Said {
        self.command().args(args).output().expect("start husk").into()
    }

    fn feed(&self, args: &[&str], input: &[u8]) -> Said {
        let mut child = self
            .command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start husk");
        // husk may stop reading: that is one of the things under test.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        child.wait_with_output().expect("wait").into()
    }

    /// Every file below both roots, with what would tell a change.
    fn files(&self) -> BTreeMap<PathBuf, (u64, u32, i64)> {
        let mut files = BTreeMap::new();
        let mut todo = vec![self.directory.join("root"), self.directory.join("state")];
        while let Some(path) = todo.pop() {
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                todo.extend(std::fs::read_dir(&path).expect("read").map(|entry| entry.expect("an entry").path()));
            }
            let size = if metadata.is_dir() { 0 } else { metadata.size() };
            files.insert(path, (size, metadata.mode(), metadata.nlink() as i64));
        }
        files
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.directory.join(name);
        std::fs::write(&path, content).expect("write");
        path.to_str().expect("a plain path").into()
    }
}

impl Drop for Husk {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).expect("clean up");
    }
}
