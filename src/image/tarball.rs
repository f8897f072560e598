//! Reads tar archives that a stranger made: headers, long names, pax records and sparse maps, every one of them bounded.
//!
//! Understood: v7, ustar, GNU and pax archives with GNU sparse files (old, 0.1 and 1.0). Field layout comes from the `tar` crate;
//! numbers and pax records are read here, strictly, so that no two readers can see two archives in one file.

use super::error::printable;
use std::io::{self, Read};

const BLOCK: usize = 512;
/// Bytes of one pax header or one GNU long name.
const MAX_SPECIAL: u64 = 1 << 20;
/// Pieces of one sparse file.
const MAX_SPARSE: usize = 100_000;
/// Entries of one archive: each costs kernel memory, and some of ours.
const MAX_ENTRIES: u64 = 5_000_000;

/// Why an archive cannot be read on.
#[derive(Debug)]
pub enum TarError {
    /// The reader below failed.
    Read(io::Error),
    /// The archive ends in the middle.
    Early,
    /// It says something that is refused; a sentence.
    Refused(String),
}

impl From<io::Error> for TarError {
    fn from(e: io::Error) -> TarError {
        if e.kind() == io::ErrorKind::UnexpectedEof { TarError::Early } else { TarError::Read(e) }
    }
}

fn refused(why: impl Into<String>) -> TarError {
    TarError::Refused(why.into())
}

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, with data.
    File,
    /// Another name for the file `link`.
    HardLink,
    /// A symbolic link that says `link`.
    Symlink,
    /// A directory.
    Dir,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// One entry. Everything in it is as the archive says: nothing is checked against anything but the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name, without NUL; may be empty, absolute or climb.
    pub name: Vec<u8>,
    /// Link target for the two kinds of link.
    pub link: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Length of the file, holes included.
    pub size: u64,
    /// Device number.
    pub device: (u32, u32),
    /// `SCHILY.xattr.` records: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file: where the stored bytes belong, ascending, as offset and length.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// What an extended header says about the entry after it.
#[derive(Default)]
struct Extension {
    pax: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_version: (Option<u64>, Option<u64>),
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_map: Option<Vec<(u64, u64)>>,
}

/// Reads one archive from front to back.
pub struct Reader<R> {
    input: R,
    /// Bytes of the current entry's data that were not read yet, and the padding after them.
    left: u64,
    padding: u64,
    position: u64,
    entries: u64,
    end_required: bool,
}

/// A reader that can pass over bytes without looking at them.
pub trait Skip: Read {
    /// Passes over exactly `n` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` when there are fewer.
    fn skip(&mut self, n: u64) -> io::Result<()>;
}

/// Passes over bytes by reading them, as a stream must.
pub struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Skip for Stream<R> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.0).take(n), &mut io::sink())?;
        if passed == n { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<R: Skip> Reader<R> {
    /// `end_required`: whether the archive must close with a block of zeros, as it must when no digest vouches for its length.
    pub fn new(input: R, end_required: bool) -> Reader<R> {
        Reader { input, left: 0, padding: 0, position: 0, entries: 0, end_required }
    }

    /// Offset of the next byte in the archive.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes to the next entry, past what was not read of this one.
    ///
    /// # Errors
    /// See [`TarError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extension = Extension::default();
        loop {
            self.pass()?;
            let Some(block) = self.header()? else {
                if extension.pax || extension.path.is_some() || extension.link.is_some() {
                    return Err(TarError::Early);
                }
                return Ok(None);
            };
            let header = tar::Header::from_byte_slice(&block);
            let old = header.as_old();
            match old.linkflag[0] {
                b'x' => {
                    if extension.pax {
                        return Err(refused("two extended headers for one entry"));
                    }
                    let text = self.special(number(&old.size, "size")?)?;
                    parse_pax(&text, &mut extension)?;
                }
                b'g' => {
                    let mut global = Extension::default();
                    let text = self.special(number(&old.size, "size")?)?;
                    parse_pax(&text, &mut global)?;
                    let harmless = global.path.is_none()
                        && global.link.is_none()
                        && global.size.is_none()
                        && global.uid.is_none()
                        && global.gid.is_none()
                        && global.mtime.is_none()
                        && global.xattrs.is_empty()
                        && global.sparse_version == (None, None)
                        && global.sparse_map.is_none();
                    if !harmless {
                        return Err(refused(
                            "a global extended header that changes the entries after it is not supported",
                        ));
                    }
                }
                b'L' | b'K' => {
                    let mut text = self.special(number(&old.size, "size")?)?;
                    if let Some(end) = text.iter().position(|b| *b == 0) {
                        text.truncate(end);
                    }
                    let slot = if old.linkflag[0] == b'L' { &mut extension.path } else { &mut extension.link };
                    if slot.replace(text).is_some() {
                        return Err(refused("two long names for one entry"));
                    }
                }
                b'V' => self.begin_data(number(&old.size, "size")?)?,
                _ => return self.entry(&block, extension).map(Some),
            }
        }
    }

    /// Reads stored bytes of the current entry; 0 at their end.
    pub fn read_data(&mut self, buf: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = loop {
            match self.input.read(&mut buf[..want]) {
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        };
        if n == 0 {
            return Err(TarError::Early);
        }
        self.left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }

    /// Gives the reader below back.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn entry(&mut self, block: &[u8; BLOCK], mut extension: Extension) -> Result<Entry, TarError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(refused(format!("more than {MAX_ENTRIES} entries")));
        }
        let header = tar::Header::from_byte_slice(block);
        let old = header.as_old();
        let sparse_pax = extension.sparse_map.is_some() || extension.sparse_version != (None, None);
        let name = match extension.sparse_name.take().filter(|_| sparse_pax).or(extension.path.take()) {
            Some(name) => name,
            None => header_name(header),
        };
        let link = extension.link.take().unwrap_or_else(|| until_nul(&old.linkname).to_vec());
        if name.contains(&0) || link.contains(&0) {
            return Err(refused(format!("entry {}: a name with a NUL character", printable(&name))));
        }
        let stored = match extension.size {
            Some(size) => size,
            None => number(&old.size, "size")?,
        };
        let kind = match old.linkflag[0] {
            // Before ustar a directory was a file whose name ends so.
            0 | b'0' if name.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                let flag = printable(&[other]);
                return Err(refused(format!("entry {}: unknown entry type {flag}", printable(&name))));
            }
        };
        let device = match kind {
            Kind::Char | Kind::Block => device(header)?,
            _ => (0, 0),
        };
        let mode = (number(&old.mode, "mode")? & 0o7777) as u32;
        let uid = extension.uid.map_or_else(|| number(&old.uid, "owner"), Ok)?;
        let gid = extension.gid.map_or_else(|| number(&old.gid, "group"), Ok)?;
        let mtime = extension.mtime.map_or_else(|| signed(&old.mtime, "time").map(|s| (s, 0)), Ok)?;
        let mut entry =
            Entry { name, link, kind, mode, uid, gid, mtime, size: 0, device, xattrs: extension.xattrs, sparse: None };
        if kind != Kind::File {
            // Nothing but files has data; directories may carry a size as a hint.
            return Ok(entry);
        }
        entry.size = stored;
        if old.linkflag[0] == b'S' {
            let (map, size) = self.old_sparse(header)?;
            self.begin_data(stored)?;
            entry.size = size;
            entry.sparse = Some(map);
        } else if sparse_pax {
            entry.size = extension.sparse_size.ok_or_else(|| refused("a sparse file without its size"))?;
            self.begin_data(stored)?;
            entry.sparse = Some(match (extension.sparse_version, extension.sparse_map) {
                ((Some(1), Some(0)), None) => self.sparse_map_in_data()?,
                ((None | Some(0), _), Some(map)) => map,
                _ => {
                    return Err(refused(format!(
                        "entry {}: this kind of sparse file is not supported",
                        printable(&entry.name)
                    )));
                }
            });
        } else {
            self.begin_data(stored)?;
        }
        if let Some(map) = &entry.sparse {
            check_sparse(map, entry.size, self.left)
                .map_err(|why| refused(format!("entry {}: {why}", printable(&entry.name))))?;
        }
        Ok(entry)
    }

    /// Four pieces in the header, then blocks of 21 while each says that there are more.
    fn old_sparse(&mut self, header: &tar::Header) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let gnu = header.as_gnu().ok_or_else(|| refused("a sparse file in an archive that is not GNU's"))?;
        let mut map = Vec::new();
        let mut add = |pieces: &[tar::GnuSparseHeader]| -> Result<(), TarError> {
            for piece in pieces.iter().filter(|p| p.offset[0] != 0 && p.numbytes[0] != 0) {
                map.push((number(&piece.offset, "sparse offset")?, number(&piece.numbytes, "sparse length")?));
            }
            if map.len() > MAX_SPARSE { Err(refused("a sparse file with too many pieces")) } else { Ok(()) }
        };
        add(&gnu.sparse)?;
        let mut more = gnu.isextended[0] == 1;
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.exactly(block.as_mut_bytes())?;
            add(&block.sparse)?;
            more = block.is_extended();
        }
        Ok((map, number(&gnu.realsize, "size")?))
    }

    /// Version 1.0: decimal numbers, one a line, before the data; padded to a block.
    fn sparse_map_in_data(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut block = [0u8; BLOCK];
        let mut at = BLOCK;
        let mut read_number = |reader: &mut Self| -> Result<u64, TarError> {
            let mut digits = Vec::new();
            loop {
                if at == BLOCK {
                    if reader.left < BLOCK as u64 {
                        return Err(refused("a sparse map that is longer than its file"));
                    }
                    reader.exactly(&mut block)?;
                    reader.left -= BLOCK as u64;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return decimal(&digits).ok_or_else(|| refused("a sparse map that is not numbers")),
                    b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                    _ => return Err(refused("a sparse map that is not numbers")),
                }
            }
        };
        let count = read_number(self)?;
        if count > MAX_SPARSE as u64 {
            return Err(refused("a sparse file with too many pieces"));
        }
        (0..count).map(|_| Ok((read_number(self)?, read_number(self)?))).collect()
    }

    fn begin_data(&mut self, size: u64) -> Result<(), TarError> {
        if size > i64::MAX as u64 - BLOCK as u64 {
            return Err(refused("a size that no file can have"));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// Past the rest of the current entry.
    fn pass(&mut self) -> Result<(), TarError> {
        let rest = self.left + self.padding;
        self.input.skip(rest)?;
        self.position += rest;
        self.left = 0;
        self.padding = 0;
        Ok(())
    }

    /// The next header block; none at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0u8; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.input.read(&mut block[got..]) {
                Ok(0) if got == 0 && !self.end_required => return Ok(None),
                Ok(0) => return Err(TarError::Early),
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.position += BLOCK as u64;
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let old = tar::Header::from_byte_slice(&block).as_old();
        let expected = number(&old.cksum, "checksum").ok();
        // The sum is taken with the field itself as blanks; some old programs summed signed bytes.
        let others = block[..148].iter().chain(&block[156..]);
        let unsigned: u64 = others.clone().map(|b| u64::from(*b)).sum::<u64>() + 8 * 32;
        let signed: i64 = others.map(|b| i64::from(b.cast_signed())).sum::<i64>() + 8 * 32;
        if expected.is_none_or(|sum| sum != unsigned && i64::try_from(sum) != Ok(signed)) {
            return Err(refused(format!("not a tar header at byte {}", self.position - BLOCK as u64)));
        }
        Ok(Some(block))
    }

    /// The data of an extended header or long name, whole.
    fn special(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_SPECIAL {
            return Err(refused(format!(
                "an extended header or name of {size} bytes; at most {MAX_SPECIAL} are accepted"
            )));
        }
        self.begin_data(size)?;
        let mut text = vec![0; size as usize];
        self.exactly(&mut text)?;
        self.left = 0;
        Ok(text)
    }

    fn exactly(&mut self, buf: &mut [u8]) -> Result<(), TarError> {
        self.input.read_exact(buf)?;
        self.position += buf.len() as u64;
        Ok(())
    }
}

fn check_sparse(map: &[(u64, u64)], size: u64, stored: u64) -> Result<(), &'static str> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for (offset, length) in map {
        if *offset < end {
            return Err("a sparse map whose pieces overlap");
        }
        end = offset.checked_add(*length).filter(|e| *e <= size).ok_or("a sparse map that leaves its file")?;
        sum += length;
    }
    if sum == stored && size <= i64::MAX as u64 { Ok(()) } else { Err("a sparse map that does not fit its data") }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.iter().position(|b| *b == 0).map_or(field, |end| &field[..end])
}

fn header_name(header: &tar::Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|u| until_nul(&u.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

fn device(header: &tar::Header) -> Result<(u32, u32), TarError> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(u), _) => (u.dev_major, u.dev_minor),
        (_, Some(g)) => (g.dev_major, g.dev_minor),
        _ => return Ok((0, 0)),
    };
    let narrow = |field: &[u8; 8]| {
        u32::try_from(number(field, "device number")?).map_err(|_| refused("a device number out of range"))
    };
    Ok((narrow(&major)?, narrow(&minor)?))
}

/// A header's number: octal text, or big-endian binary when the first bit is set.
fn signed(field: &[u8], what: &str) -> Result<i64, TarError> {
    let bad = || refused(format!("a header whose {what} is not a number"));
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value = if negative { -1i128 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = if i == 0 && !negative { byte & 0x7f } else { *byte };
            value = value.checked_mul(256).ok_or_else(bad)? + i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad());
    }
    let start = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let digits: &[u8] = field[start..].split(|b| *b == 0 || *b == b' ').next().unwrap_or_default();
    digits.iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8).and_then(|v| v.checked_add(i64::from(byte - b'0'))).ok_or_else(bad),
        _ => Err(bad()),
    })
}

fn number(field: &[u8], what: &str) -> Result<u64, TarError> {
    u64::try_from(signed(field, what)?).map_err(|_| refused(format!("a header whose {what} is negative")))
}

fn decimal(text: &[u8]) -> Option<u64> {
    let ok = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    ok.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// Seconds with a fraction, perhaps negative.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (seconds, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let seconds = i64::try_from(decimal(seconds.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

/// Records of the form `LENGTH KEY=VALUE\n`.
fn parse_pax(mut text: &[u8], out: &mut Extension) -> Result<(), TarError> {
    out.pax = true;
    let bad = || refused("an extended header that is not a list of records");
    while !text.is_empty() {
        let space = text.iter().take(8).position(|b| *b == b' ').ok_or_else(bad)?;
        let length = decimal(&text[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &text[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        pax_record(&record[..equals], &record[equals + 1..], out)?;
        text = &text[length..];
    }
    Ok(())
}

fn pax_record(key: &[u8], value: &[u8], out: &mut Extension) -> Result<(), TarError> {
    let bad = || refused(format!("an extended header whose {} is {}", printable(key), printable(value)));
    let number = || decimal(value).map(Some).ok_or_else(bad);
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        out.xattrs.push((name.to_vec(), value.to_vec()));
        return Ok(());
    }
    if value.is_empty() {
        // An empty value takes the record back.
        match key {
            b"path" => out.path = None,
            b"linkpath" => out.link = None,
            b"size" => out.size = None,
            b"uid" => out.uid = None,
            b"gid" => out.gid = None,
            b"mtime" => out.mtime = None,
            _ if key.starts_with(b"GNU.sparse.") => return Err(bad()),
            _ => {}
        }
        return Ok(());
    }
    match key {
        b"path" => out.path = Some(value.to_vec()),
        b"linkpath" => out.link = Some(value.to_vec()),
        b"size" => out.size = number()?,
        b"uid" => out.uid = number()?,
        b"gid" => out.gid = number()?,
        b"mtime" => out.mtime = Some(parse_time(value).ok_or_else(bad)?),
        b"GNU.sparse.major" => out.sparse_version.0 = number()?,
        b"GNU.sparse.minor" => out.sparse_version.1 = number()?,
        b"GNU.sparse.name" => out.sparse_name = Some(value.to_vec()),
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => out.sparse_size = number()?,
        b"GNU.sparse.numblocks" => {
            number()?;
        }
        b"GNU.sparse.map" => {
            let numbers: Vec<u64> = value.split(|b| *b == b',').map(decimal).collect::<Option<_>>().ok_or_else(bad)?;
            let (pairs, rest) = numbers.as_chunks::<2>();
            if !rest.is_empty() || pairs.len() > MAX_SPARSE {
                return Err(bad());
            }
            out.sparse_map = Some(pairs.iter().map(|[offset, length]| (*offset, *length)).collect());
        }
        _ if key.starts_with(b"GNU.sparse.") => {
            return Err(refused("a sparse file in GNU format 0.0 is not supported"));
        }
        // Times of access, names of owners, comments: nothing that is kept.
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut reader = Reader::new(Stream(bytes), true);
        let mut out = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut data = Vec::new();
            let mut buf = [0; 100];
            loop {
                match reader.read_data(&mut buf)? {
                    0 => break,
                    n => data.extend_from_slice(&buf[..n]),
                }
            }
            out.push((entry, data));
        }
        Ok(out)
    }

    fn build(f: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        f(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header
    }

    #[test]
    fn names_longer_than_a_header_come_through() {
        let long = "d/".repeat(120) + "f";
        let bytes = build(|b| b.append_data(&mut file(3), &long, &b"abc"[..]).unwrap());
        let got = all(&bytes).unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].0.name, long.as_bytes());
        assert_eq!(got[0].1, b"abc");
        assert_eq!(got[0].0.mtime, (7, 0));
    }

    #[test]
    fn an_archive_cut_anywhere_ends_early() {
        let bytes = build(|b| {
            b.append_pax_extensions([("path", &b"long"[..])]).unwrap();
            b.append_data(&mut file(600), "a", &[1u8; 600][..]).unwrap();
        });
        for cut in 0..bytes.len() - 1024 {
            assert!(matches!(all(&bytes[..cut]), Err(TarError::Early)), "cut at {cut}");
        }
        assert_eq!(all(&bytes).unwrap().len(), 1);
    }

    #[test]
    fn pax_records_override_the_header_and_are_bounded() {
        let bytes = build(|b| {
            let records: [(&str, &[u8]); 5] = [
                ("path", b"from/pax"),
                ("uid", b"70000"),
                ("mtime", b"-1.25"),
                ("SCHILY.xattr.user.x", b"a\0b=c\n"),
                ("comment", b"nothing"),
            ];
            b.append_pax_extensions(records).unwrap();
            b.append_data(&mut file(0), "header", &b""[..]).unwrap();
        });
        let (entry, _) = all(&bytes).unwrap().remove(0);
        assert_eq!(entry.name, b"from/pax");
        assert_eq!(entry.uid, 70000);
        assert_eq!(entry.mtime, (-2, 750_000_000));
        assert_eq!(entry.xattrs, [(b"user.x".to_vec(), b"a\0b=c\n".to_vec())]);
        for records in
            [&b"5 a=b\n"[..], b"6 a=b\nx", b"99 a=b\n", b"a=b\n", b" a=b\n", b"0 \n", b"4 a\n", b"16 uid=-1\n"]
        {
            assert!(parse_pax(records, &mut Extension::default()).is_err(), "{}", printable(records));
        }
        let mut header = file(1 << 40);
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_cksum();
        assert!(matches!(all(header.as_bytes()), Err(TarError::Refused(_))));
    }

    #[test]
    fn numbers_are_read_strictly() {
        assert_eq!(signed(b"0000644\0", "x").unwrap(), 0o644);
        assert_eq!(signed(b"  644 \0\0", "x").unwrap(), 0o644);
        assert_eq!(signed(b"\0\0\0\0\0\0\0\0", "x").unwrap(), 0);
        assert_eq!(signed(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "x").unwrap(), 0xffff_ffff);
        assert_eq!(signed(&[0xff; 12], "x").unwrap(), -1);
        assert_eq!(signed(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], "x").unwrap(), -2);
        assert!(signed(&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "x").is_err());
        assert!(signed(b"00008\0\0\0", "x").is_err());
        assert!(signed(b"-1\0\0\0\0\0\0", "x").is_err());
        assert!(number(&[0xff; 8], "x").is_err());
    }

    #[test]
    fn sparse_maps_must_fit_their_file() {
        assert!(check_sparse(&[(0, 5), (10, 5)], 20, 10).is_ok());
        assert!(check_sparse(&[], 1 << 40, 0).is_ok());
        assert!(check_sparse(&[(0, 5), (4, 5)], 20, 10).is_err());
        assert!(check_sparse(&[(0, 5)], 20, 6).is_err());
        assert!(check_sparse(&[(18, 5)], 20, 5).is_err());
        assert!(check_sparse(&[(u64::MAX, 2)], u64::MAX, 2).is_err());
    }
}
