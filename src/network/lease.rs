//! Who has which address: `<root>/network/leases/<number>` is a symbolic link to the pod's id.
//!
//! Making a link is one step that fails when there is one already: no lock, nothing half-made, and two pods never have one number.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Error;

/// The leases of an instance.
#[derive(Clone, Debug)]
pub struct Leases(PathBuf);

/// The smallest number that a pod can have; 0 is the range itself, 1 the bridge.
const FIRST: u32 = 2;
/// More pods no bridge has room for (`BR_PORT_BITS` allows 1024 ports), so more numbers are never needed at once.
const LARGEST: u32 = u32::MAX >> 8;

impl Leases {
    /// Those below this directory, which is made when the first one is given out.
    pub fn new(network_dir: &Path) -> Leases {
        Leases(network_dir.join("leases"))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.0.join(number.to_string())
    }

    fn holder(&self, number: u32) -> Option<String> {
        std::fs::read_link(self.path(number)).ok()?.into_os_string().into_string().ok()
    }

    /// A number for a pod, below `size - 1`. The search begins at a place that follows from the id: so a pod that is run again most often has
    /// the address that it had, and an address that was given back is not given out at once.
    ///
    /// # Errors
    /// All are taken, or the file system refuses.
    pub fn take(&self, id: &str, size: u64) -> Result<u32, Error> {
        std::fs::create_dir_all(&self.0).map_err(|e| Error::io(format_args!("create {}", self.0.display()), &e))?;
        // The last address of a range is that of all.
        let end = u32::try_from(size.saturating_sub(1)).unwrap_or(u32::MAX).min(LARGEST);
        let count = end.saturating_sub(FIRST);
        let start = super::hash(id.as_bytes()) % u64::from(count.max(1));
        for step in 0..u64::from(count) {
            let number = FIRST + u32::try_from((start + step) % u64::from(count)).unwrap_or(0);
            match std::os::unix::fs::symlink(id, self.path(number)) {
                Ok(()) => return Ok(number),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    // Of a try of ours that was killed before it was written down.
                    if self.holder(number).as_deref() == Some(id) {
                        return Ok(number);
                    }
                }
                Err(e) => return Err(Error::io(format_args!("lease an address in {}", self.0.display()), &e)),
            }
        }
        Err(Error::refused(format!(
            "no address is left: all {count} of the range are taken; husk gc frees those of pods that are gone, and network.ipv4 in the \
             configuration makes room"
        )))
    }

    /// Gives a number back, if the pod has it.
    ///
    /// # Errors
    /// The file system's.
    pub fn release(&self, id: &str, number: u32) -> Result<(), Error> {
        if self.holder(number).as_deref() != Some(id) {
            return Ok(());
        }
        match std::fs::remove_file(self.path(number)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::io(format_args!("give back {}", self.path(number).display()), &e))
            }
            _ => Ok(()),
        }
    }

    /// All that are given out: numbers and ids.
    ///
    /// # Errors
    /// The file system's.
    pub fn all(&self) -> Result<Vec<(u32, String)>, Error> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(format_args!("read {}", self.0.display()), &e)),
        };
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(numbers.filter_map(|number| Some((number, self.holder(number)?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("husk-lease-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn numbers_are_given_out_once_until_none_is_left() {
        let dir = Dir::new("once");
        let leases = Leases::new(&dir.0);
        let mut numbers: Vec<u32> = (0..5).map(|i| leases.take(&format!("pod{i}"), 8).unwrap()).collect();
        let said = leases.take("another", 8).unwrap_err().to_string();
        assert!(said.contains("all 5"), "{said}");
        let taken = numbers[3];
        leases.release("pod0", taken).unwrap();
        assert_eq!(leases.all().unwrap().len(), 5, "only its holder gives it back");
        leases.release("pod3", taken).unwrap();
        leases.release("pod3", taken).unwrap();
        assert_eq!(leases.take("another", 8).unwrap(), taken);
        numbers.sort_unstable();
        assert_eq!(numbers, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_same_pod_has_the_same_number() {
        let dir = Dir::new("same");
        let leases = Leases::new(&dir.0);
        let number = leases.take("a", 1 << 16).unwrap();
        assert_eq!(leases.take("a", 1 << 16).unwrap(), number);
        leases.release("a", number).unwrap();
        assert_eq!(leases.take("a", 1 << 16).unwrap(), number);
        assert_eq!(leases.all().unwrap(), [(number, "a".to_owned())]);
    }
}
