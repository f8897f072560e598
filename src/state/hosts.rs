//! What pods of this instance are called and where they are: one file, from which the hosts files of all of them are made.
//!
//! ```text
//! <state>/hosts/               locked (flock) by whoever changes it, or a hosts file after it
//!               table.json     pods with addresses, in the order of their coming
//! ```

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, Lock, LockMode, Roots, make_private, read_record, replace_record};

const FILE: &str = "table.json";
const DRAFT: &str = ".table.json.new";
/// How often somebody else's lock is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

#[derive(Serialize, Deserialize)]
struct Table<T> {
    version: u32,
    pods: Vec<(String, T)>,
}

/// The table, which nobody else changes meanwhile.
#[derive(Debug)]
pub struct Hosts {
    dir: PathBuf,
    lock: Lock,
}

impl Roots {
    /// Locks the table; `None` when somebody has it still at `deadline`.
    ///
    /// # Errors
    /// The file system's.
    pub fn hosts(&self, deadline: Instant) -> Result<Option<Hosts>, Error> {
        let dir = self.state.join("hosts");
        make_private(&dir)?;
        loop {
            if let Some(lock) = Lock::attempt(&dir, LockMode::Exclusive)? {
                return Ok(Some(Hosts { dir, lock }));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Somebody is changing the table, or was killed while he did.
    pub fn hosts_in_work(&self) -> bool {
        self.state.join("hosts").join(DRAFT).exists()
    }

    /// The table as it is now, for who changes nothing. One that cannot be read is empty: it is made anew from the records.
    pub fn known_hosts<T: DeserializeOwned>(&self) -> Vec<(String, T)> {
        match read_record::<Table<T>>(&self.state.join("hosts").join(FILE)) {
            Ok(Some(table)) => table.pods,
            Ok(None) | Err(_) => Vec::new(),
        }
    }
}

impl Hosts {
    /// Replaces the table; an empty one is none.
    ///
    /// # Errors
    /// The file system's.
    pub fn write<T: Serialize>(&self, pods: Vec<(String, T)>) -> Result<(), Error> {
        if pods.is_empty() {
            // And what somebody left who was killed while he wrote it.
            return [FILE, DRAFT].map(|name| self.dir.join(name)).iter().try_for_each(
                |path| match std::fs::remove_file(path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, &e)),
                    _ => Ok(()),
                },
            );
        }
        let table = Table { version: super::record::VERSION, pods };
        replace_record(&self.dir, self.lock.as_fd(), FILE, &table)
    }
}
