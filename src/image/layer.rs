//! One layer on its way from blob to tree: digested as it lies, decompressed, digested again, unpacked, in one pass.

use super::digest::{Digest, Hashing};
use super::error::Error;
use super::source::{Compression, compression, unsupported_compression};
use super::tarball::{Reader, Stream};
use super::unpack::{self, Unpacked, read_error};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Where a layer goes.
pub(super) struct Target<'a> {
    /// An empty directory.
    pub root: BorrowedFd<'a>,
    /// Roots of the layers below, top first.
    pub lower: &'a [OwnedFd],
}

/// What came through.
pub(super) struct Passed {
    pub unpacked: Unpacked,
    /// Of the tar, decompressed.
    pub diff_id: Digest,
}

/// Reads a layer to its end and unpacks it when there is a target. `blob` is what the file itself must be; `end_required` whether the
/// tar must be closed properly, for want of a digest.
///
/// # Errors
/// A wrong digest of the file goes before whatever else the damage led to.
pub(super) fn pass(
    input: impl Read,
    blob: Option<&Digest>,
    target: Option<Target<'_>>,
    end_required: bool,
) -> Result<Passed, Error> {
    let mut raw = Hashing::new(input);
    let result = decompressed(&mut raw, target, end_required);
    let (found, _) = raw.finish().map_err(|e| read_error(&e))?;
    if let Some(expected) = blob
        && *expected != found
    {
        return Err(Error::Digest {
            what: "blob".to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        });
    }
    result
}

fn decompressed(raw: &mut impl Read, target: Option<Target<'_>>, end_required: bool) -> Result<Passed, Error> {
    let mut head = Vec::new();
    raw.by_ref().take(6).read_to_end(&mut head).map_err(|e| read_error(&e))?;
    let kind = compression(&head);
    let whole = BufReader::with_capacity(1 << 16, Cursor::new(head).chain(raw));
    match kind {
        Compression::None => tar(whole, target, end_required),
        Compression::Gzip => {
            tar(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(whole)), target, end_required)
        }
        Compression::Other(name) => Err(unsupported_compression(name)),
    }
}

fn tar(plain: impl BufRead, target: Option<Target<'_>>, end_required: bool) -> Result<Passed, Error> {
    let mut archive = Reader::new(Stream(Hashing::new(plain)), end_required);
    let unpacked = match target {
        Some(target) => unpack::unpack(&mut archive, target.root, target.lower)?,
        None => Unpacked::default(),
    };
    let (diff_id, _) = archive.into_inner().0.finish().map_err(|e: io::Error| read_error(&e))?;
    Ok(Passed { unpacked, diff_id })
}
