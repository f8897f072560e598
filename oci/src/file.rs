//! Files of the kernel, read at once.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The whole content of a file that does not tell its size, as those of the kernel do not (`/proc`, cgroups). Each read makes such a file anew, so
/// there should be one: `room` is more than the bytes expected, and costs nothing but memory when it is too much.
///
/// # Errors
/// The kernel's.
pub fn read(path: &Path, room: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(room);
    // Without the limit std would ask for size and position first.
    File::open(path)?.take(u64::MAX).read_to_end(&mut content)?;
    Ok(content)
}

/// As [`read`], of text.
///
/// # Errors
/// The kernel's; `InvalidData` for what is not UTF-8.
pub fn read_text(path: &Path, room: usize) -> io::Result<String> {
    String::from_utf8(read(path, room)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
