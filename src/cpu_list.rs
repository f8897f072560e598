//! Lists of CPUs or memory nodes as the kernel writes them: `0-3,8,10-11` (`cpuset(7)`, "List format").

use std::collections::BTreeSet;

/// No kernel has more CPUs than this, so that a list of a few bytes cannot ask for gigabytes.
const MAX: u32 = 1 << 16;

/// The numbers of a list.
///
/// # Errors
/// The end of a sentence that begins with the text.
pub fn parse(text: &str) -> Result<BTreeSet<u32>, String> {
    let number = |s: &str| {
        let plain = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| s.parse::<u32>().ok()).flatten().filter(|n| *n < MAX)
    };
    if text.is_empty() {
        return Err("names none; write a list such as 0-3,8".to_owned());
    }
    let mut all = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => all.extend(first..=last),
            _ => return Err("is no list of numbers below 65536, such as 0-3,8".to_owned()),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        for (text, want) in [("0", vec![0]), ("0-2", vec![0, 1, 2]), ("8,0-1,1", vec![0, 1, 8]), ("7-7", vec![7])] {
            assert_eq!(parse(text).expect(text).into_iter().collect::<Vec<_>>(), want, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", " ", "0 ", "0,", ",0", "-1", "1-", "3-1", "a", "0-1-2", "+1", "65536", "0-4294967296", "0\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
