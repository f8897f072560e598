//! The keys that detach from a container: looked for in what is typed, and held back while they may be meant.

/// A sequence of keys; empty: none detaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

/// What podman and docker have.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

impl Keys {
    /// Reads `ctrl-p,ctrl-q`: keys with commas between them, each a character or `ctrl-` with a letter or one of `@[\]^_`. Empty: no keys.
    ///
    /// # Errors
    /// A sentence about the key that is none.
    pub fn parse(text: &str) -> Result<Keys, String> {
        if text.is_empty() {
            return Ok(Keys(Vec::new()));
        }
        text.split(',').map(key).collect::<Result<_, _>>().map(Keys)
    }
}

fn key(word: &str) -> Result<u8, String> {
    let wrong = || format!("{word:?} is no key; one character, or ctrl- and a letter or one of @ [ \\ ] ^ _");
    match (word.strip_prefix("ctrl-"), word.as_bytes()) {
        (Some(rest), _) => match rest.as_bytes() {
            [letter @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'['..=b'_')] => Ok(letter.to_ascii_uppercase() & 0x1f),
            _ => Err(wrong()),
        },
        (None, [byte @ b' '..=b'~']) => Ok(*byte),
        _ => Err(wrong()),
    }
}

/// Looks for the keys in what passes.
#[derive(Debug)]
pub struct Watcher {
    keys: Vec<u8>,
    /// How many of them were typed last.
    met: usize,
}

impl Watcher {
    /// Nothing was typed yet.
    pub fn new(keys: Keys) -> Watcher {
        Watcher { keys: keys.0, met: 0 }
    }

    /// What of `typed`, and of keys held back before, is to be passed on; and whether the keys have come. What follows them is dropped.
    pub fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len() + self.met);
        for byte in typed {
            // The longest beginning of the keys that the bytes held back and this one end with.
            while self.met > 0 && self.keys[self.met] != *byte {
                let shorter =
                    (0..self.met).rev().find(|n| self.keys[..*n] == self.keys[self.met - n..self.met]).unwrap_or(0);
                out.extend_from_slice(&self.keys[..self.met - shorter]);
                self.met = shorter;
            }
            if self.keys.get(self.met) != Some(byte) {
                out.push(*byte);
                continue;
            }
            self.met += 1;
            if self.met == self.keys.len() {
                self.met = 0;
                return (out, true);
            }
        }
        (out, false)
    }

    /// What is still held back, at the end of what is typed.
    pub fn rest(&mut self) -> Vec<u8> {
        self.keys[..std::mem::take(&mut self.met)].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut watcher = Watcher::new(Keys::parse(keys).unwrap());
        let mut all = Vec::new();
        for piece in pieces {
            let (out, detached) = watcher.pass(piece);
            all.extend(out);
            if detached {
                return (all, true);
            }
        }
        all.extend(watcher.rest());
        (all, false)
    }

    #[test]
    fn keys_are_read_as_podman_reads_them() {
        assert_eq!(Keys::parse(DEFAULT), Ok(Keys(vec![0x10, 0x11])));
        assert_eq!(Keys::parse("ctrl-@,ctrl-],ctrl-_,x"), Ok(Keys(vec![0, 0x1d, 0x1f, b'x'])));
        assert_eq!(Keys::parse(""), Ok(Keys(Vec::new())));
        for wrong in ["ctrl-", "ctrl-1", "ctrl-pq", "xy", "a,,b", "ä", "ctrl-p,"] {
            assert!(Keys::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_typed_passes_unchanged_but_for_the_keys() {
        assert_eq!(pass(DEFAULT, &[b"ls\r"]), (b"ls\r".to_vec(), false));
        assert_eq!(pass(DEFAULT, &[b"a\x10", b"\x11b"]), (b"a".to_vec(), true));
        assert_eq!(pass(DEFAULT, &[b"a\x10b\x11"]), (b"a\x10b\x11".to_vec(), false));
        assert_eq!(pass(DEFAULT, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(pass(DEFAULT, &[b"\x10"]), (b"\x10".to_vec(), false));
        assert_eq!(pass("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
        assert_eq!(pass("a,a,b", &[b"aa", b"ab"]), (b"a".to_vec(), true));
        assert_eq!(pass("a,b,a,b,c", &[b"ababab", b"c"]), (b"ab".to_vec(), true));
    }
}
