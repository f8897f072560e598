//! What is kept about pods in networks of others: below `--root`, for an address is taken until it is given back, also across a reboot.
//!
//! ```text
//! <root>/cni/                      locked (flock) by whoever adds a pod, together; or by who collects, alone
//! <root>/cni/<id>/                 locked (flock) by whoever calls plugins for the pod
//!                 attachment.json  how they are called; written before the first one is
//! ```

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, Lock, LockMode, Roots, read, replace};

/// Version of the file.
const VERSION: u32 = 1;
/// Its name.
const FILE: &str = "attachment.json";
/// How often somebody else's lock is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    attachment: &'a T,
}

#[derive(Deserialize)]
struct Read<T> {
    attachment: T,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The place of one pod, which nobody else touches meanwhile.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    lock: Lock,
}

impl Roots {
    fn attachments(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// The pods of which something is kept.
    ///
    /// # Errors
    /// The file system's.
    pub fn attached(&self) -> Result<Vec<String>, Error> {
        let dir = self.attachments();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("read directory", &dir, &e)),
        };
        let names = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut ids: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Whether something is kept about a pod.
    pub fn has_attachment(&self, id: &str) -> bool {
        self.attachments().join(id).exists()
    }

    /// Locks all places together: shared by whoever adds a pod, exclusive for who must see all there are. `None` when others have it still at `deadline`.
    ///
    /// # Errors
    /// The file system's.
    pub fn lock_attachments(&self, mode: LockMode, deadline: Instant) -> Result<Option<Lock>, Error> {
        super::make_private(&self.attachments())?;
        loop {
            if let Some(lock) = Lock::attempt(&self.attachments(), mode)? {
                return Ok(Some(lock));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Makes a pod's place, or takes the one that is there, and waits until nobody else has it; `None` when somebody has it still at `deadline`.
    ///
    /// # Errors
    /// The file system's.
    pub fn make_attachment_place(&self, id: &str, deadline: Instant) -> Result<Option<Place>, Error> {
        let dir = self.attachments().join(id);
        loop {
            super::make_private(&self.attachments())?;
            super::make_private(&dir)?;
            match self.attachment_place(id, deadline)? {
                // Whoever had it has removed it.
                None if Instant::now() < deadline => {}
                other => return Ok(other),
            }
        }
    }

    /// A pod's place, once nobody else has it. `None` when there is none, or somebody has it still at `deadline`.
    ///
    /// # Errors
    /// The file system's.
    pub fn attachment_place(&self, id: &str, deadline: Instant) -> Result<Option<Place>, Error> {
        use std::os::unix::fs::MetadataExt;
        let dir = self.attachments().join(id);
        loop {
            let lock = match Lock::attempt(&dir, LockMode::Exclusive) {
                Ok(lock) => lock,
                Err(_) if !dir.exists() => return Ok(None),
                Err(e) => return Err(e),
            };
            if let Some(lock) = lock {
                // It may have been removed, and made anew, since it was opened.
                let held = nix::sys::stat::fstat(lock.as_fd()).map_err(|e| Error::sys("look at", &dir, e))?;
                match std::fs::symlink_metadata(&dir) {
                    Ok(meta) if (meta.dev(), meta.ino()) == (held.st_dev, held.st_ino) => {
                        return Ok(Some(Place { dir, lock }));
                    }
                    _ => continue,
                }
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Place {
    /// What is kept; `None`: nothing yet.
    ///
    /// # Errors
    /// It cannot be read, or is of another version.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let path = self.dir.join(FILE);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let unreadable = |e: serde_json::Error| Error::Unreadable { path: path.clone(), why: e.to_string() };
        match serde_json::from_slice::<Versioned>(&bytes).map_err(unreadable)?.version {
            VERSION => Ok(Some(serde_json::from_slice::<Read<T>>(&bytes).map_err(unreadable)?.attachment)),
            found => Err(Error::Unreadable {
                path,
                why: format!("it has version {found}, this husk knows {VERSION}; use the husk that wrote it"),
            }),
        }
    }

    /// Keeps something, on the disk when this returns.
    ///
    /// # Errors
    /// The file system's; what was kept before is kept still.
    pub fn write<T: Serialize>(&self, attachment: &T) -> Result<(), Error> {
        let text = serde_json::to_vec(&Written { version: VERSION, attachment });
        let text = text.map_err(|e| Error::Unreadable { path: self.dir.join(FILE), why: e.to_string() })?;
        replace(&self.dir, self.lock.as_fd(), FILE, &text)
    }

    /// Keeps nothing any more.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(self) -> Result<(), Error> {
        for name in [FILE, ".attachment.json.new"] {
            match std::fs::remove_file(self.dir.join(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &self.dir.join(name), &e));
                }
                _ => {}
            }
        }
        std::fs::remove_dir(&self.dir).map_err(|e| Error::io("remove", &self.dir, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_callers_at_a_time_and_keeps_what_was_written() {
        let dir = std::env::temp_dir().join(format!("husk-attachments-{}", std::process::id()));
        let roots = Roots { root: dir.clone(), state: dir.join("state") };
        let now = Instant::now();
        assert!(roots.attached().unwrap().is_empty());
        assert!(roots.attachment_place("a", now).unwrap().is_none());
        let place = roots.make_attachment_place("a", now).unwrap().unwrap();
        assert_eq!(place.read::<u32>().unwrap(), None);
        place.write(&7u32).unwrap();
        assert!(roots.attachment_place("a", Instant::now()).unwrap().is_none(), "two have one place");
        drop(place);
        let place = roots.attachment_place("a", now).unwrap().unwrap();
        assert_eq!(place.read::<u32>().unwrap(), Some(7));
        assert_eq!(roots.attached().unwrap(), ["a"]);
        std::fs::write(place.dir.join(FILE), r#"{"version":9,"attachment":1}"#).unwrap();
        assert!(place.read::<u32>().unwrap_err().to_string().contains("version 9"));
        place.remove().unwrap();
        assert!(roots.attached().unwrap().is_empty());
        let shared = roots.lock_attachments(LockMode::Shared, now).unwrap();
        assert!(shared.is_some() && roots.lock_attachments(LockMode::Exclusive, now).unwrap().is_none());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
