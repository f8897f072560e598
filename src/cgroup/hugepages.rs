//! Huge pages: which sizes there are, and how the kernel's files call them.

use super::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

/// The sizes of huge pages that this host has, bytes, ascending; read once. None without huge pages in the kernel.
///
/// # Errors
/// The kernel does not let us look.
pub fn host_sizes() -> Result<&'static [u64], Error> {
    static SIZES: OnceLock<Vec<u64>> = OnceLock::new();
    if let Some(sizes) = SIZES.get() {
        return Ok(sizes);
    }
    let sizes = read_sizes(Path::new("/sys/kernel/mm/hugepages"))?;
    Ok(SIZES.get_or_init(|| sizes))
}

fn read_sizes(dir: &Path) -> Result<Vec<u64>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::kernel("list", dir, &e)),
    };
    let mut sizes = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::kernel("list", dir, &e))?.file_name();
        let kib = name.to_str().and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok());
        sizes.extend(kib.and_then(|n| n.checked_mul(1024)));
    }
    sizes.sort_unstable();
    Ok(sizes)
}

/// A size as the cgroup files and CRI write it: `64KB`, `2MB`, `1GB`.
pub fn size_name(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{}GB", b >> 30),
        b if b >= 1 << 20 => format!("{}MB", b >> 20),
        b => format!("{}KB", b >> 10),
    }
}

/// The size that [`size_name`] calls `name`.
pub fn size_of_name(name: &str) -> Option<u64> {
    let (number, shift) = [("KB", 10), ("MB", 20), ("GB", 30)]
        .iter()
        .find_map(|(unit, shift)| Some((name.strip_suffix(unit)?.parse::<u64>().ok()?, *shift)))?;
    let bytes = number.checked_mul(1 << shift)?;
    (size_name(bytes) == name).then_some(bytes)
}

/// In records the sizes stand by their names: numbers as keys do not survive every way that JSON takes.
pub(super) mod by_name {
    use super::*;

    type Sizes = Option<BTreeMap<u64, u64>>;

    pub(in super::super) fn serialize<S: Serializer>(sizes: &Sizes, to: S) -> Result<S::Ok, S::Error> {
        let named = |all: &BTreeMap<u64, u64>| all.iter().map(|(size, n)| (size_name(*size), *n)).collect();
        sizes.as_ref().map(named).map(|all: BTreeMap<String, u64>| all).serialize(to)
    }

    pub(in super::super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Sizes, D::Error> {
        let Some(named) = Option::<BTreeMap<String, u64>>::deserialize(from)? else { return Ok(None) };
        let size = |name: &str| {
            let wrong = || serde::de::Error::custom(format_args!("{name:?} is no size of huge pages"));
            size_of_name(name).ok_or_else(wrong)
        };
        named.iter().map(|(name, n)| Ok((size(name)?, *n))).collect::<Result<_, _>>().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_names_of_the_kernel() {
        for (bytes, name) in [(64 << 10, "64KB"), (2 << 20, "2MB"), (1 << 30, "1GB"), (16 << 30, "16GB")] {
            assert_eq!(size_name(bytes), name);
            assert_eq!(size_of_name(name), Some(bytes));
        }
        for bad in ["", "MB", "2", "2Mi", "2048KB", "02MB", "+2MB", "-2MB", "99999999999999999999GB"] {
            assert_eq!(size_of_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_of_a_host_are_sorted_and_strangers_passed_over() {
        let dir = std::env::temp_dir().join(format!("husk-hugepages-{}", std::process::id()));
        for name in ["hugepages-1048576kB", "hugepages-2048kB", "other"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        assert_eq!(read_sizes(&dir).unwrap(), [2 << 20, 1 << 30]);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(read_sizes(&dir).unwrap().is_empty());
    }
}
