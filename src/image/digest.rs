//! SHA-256 digests in OCI's notation, and a reader that computes one on the way.

use super::error::{Error, printable};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read};

/// `sha256:` and 64 lower-case hex digits, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// Checks a digest that a stranger wrote.
    ///
    /// # Errors
    /// Of kind `Unsupported` for another algorithm, `Content` for anything that is not a digest.
    pub fn parse(text: &str) -> Result<Digest, Error> {
        match text.split_once(':') {
            Some(("sha256", hex)) if is_hex64(hex) => Ok(Digest(text.to_string())),
            Some((algorithm @ ("sha384" | "sha512" | "blake3"), _)) => {
                Err(Error::unsupported(format!("digest {algorithm}:… is not supported; only sha256 is")))
            }
            _ => Err(Error::content(format!("{} is not a digest", printable(text.as_bytes())))),
        }
    }

    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::finish(Sha256::new_with_prefix(bytes))
    }

    fn finish(hash: Sha256) -> Digest {
        use fmt::Write as _;
        let mut text = String::from("sha256:");
        for byte in hash.finalize() {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
        }
        Digest(text)
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// With the algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the text is 64 lower-case hex digits.
pub(super) fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Hashes and counts everything that is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Reads to the end, then tells the digest and the length of everything.
    pub fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest::finish(self.hash), self.bytes))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_sha256_is_a_digest() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::parse(empty).unwrap(), Digest::of(b""));
        for bad in [
            "",
            "sha256:",
            "sha256:e3b0",
            &empty.to_uppercase(),
            &format!("{empty}0"),
            "md5:00",
            "sha256:../../../../etc/passwd",
        ] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
        let sha512 = Digest::parse(&format!("sha512:{}", "0".repeat(128))).unwrap_err();
        assert_eq!(sha512.kind(), crate::image::Kind::Unsupported);
    }
}
