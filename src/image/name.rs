//! Image names.
//!
//! The rule: a name is kept as it was written, with `:latest` added when it has neither tag nor digest. Two names are the same image
//! name when they are equal after `docker.io/` was put before names whose first part is not a registry (no `.`, no `:`, not
//! `localhost`) and `library/` before single words of `docker.io`. So `busybox`, `busybox:latest` and
//! `docker.io/library/busybox:latest` name one image; `husk.example/busybox:1` names another.

use super::digest::Digest;
use super::error::Error;

/// A checked image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// As written, without tag and digest.
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// Of kind `Name`, with what is wrong.
    pub fn parse(text: &str) -> Result<Name, Error> {
        let bad = |why| Error::Name { name: text.to_string(), why };
        if text.is_empty() {
            return Err(bad("empty"));
        }
        if text.len() > 4096 || text.chars().any(|c| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
            return Err(bad("only ASCII letters, digits and . _ - / : @ are allowed"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(Digest::parse(digest).map_err(|_| bad("what follows @ must be sha256: and 64 hex digits"))?),
            ),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it belongs to the registry's port.
        let (repository, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let first_ok = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
            let rest_ok = tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
            if !first_ok || !rest_ok || tag.len() > 128 {
                return Err(bad("the tag must be 1 to 128 letters, digits, . _ - and not begin with . or -"));
            }
        }
        if repository.is_empty() || repository.len() > 255 {
            return Err(bad("the part before the tag must be 1 to 255 characters"));
        }
        let mut parts = repository.split('/').peekable();
        if let Some(first) = parts.peek().copied()
            && repository.contains('/')
            && is_registry(first)
        {
            parts.next();
            if !valid_registry(first) {
                return Err(bad("the registry before the first / must be a host name, with a port or without"));
            }
        }
        for part in parts {
            if part.bytes().any(|b| b.is_ascii_uppercase()) {
                return Err(bad("letters before the tag must be lower case"));
            }
            if !valid_component(part) {
                return Err(bad(
                    "each part between slashes must be letters and digits, joined by single . or _ or by - or __",
                ));
            }
        }
        Ok(Name { repository: repository.to_string(), tag: tag.map(str::to_string), digest })
    }

    /// As written, with `:latest` when it has neither tag nor digest.
    pub fn display(&self) -> String {
        let mut text = self.repository.clone();
        match (&self.tag, &self.digest) {
            (Some(tag), _) => {
                text.push(':');
                text.push_str(tag);
            }
            (None, None) => text.push_str(":latest"),
            (None, Some(_)) => {}
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }

    /// The digest after `@`.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same name without `@sha256:…`.
    pub fn without_digest(&self) -> Name {
        Name { digest: None, ..self.clone() }
    }

    /// The repository with registry and `library/`, for comparing.
    pub fn canonical_repository(&self) -> String {
        let (registry, path) = match self.repository.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => ("docker.io", self.repository.as_str()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        if registry == "docker.io" && !path.contains('/') {
            format!("docker.io/library/{path}")
        } else {
            format!("{registry}/{path}")
        }
    }

    /// Whether both name the same repository and tag.
    pub fn same(&self, other: &Name) -> bool {
        let tag = |n: &Name| n.tag.clone().unwrap_or_else(|| "latest".to_string());
        self.canonical_repository() == other.canonical_repository() && tag(self) == tag(other)
    }

    /// Last part of the repository: what people remember.
    fn short(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or_default()
    }
}

fn is_registry(first: &str) -> bool {
    first.contains('.') || first.contains(':') || first == "localhost"
}

fn valid_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
    let host_ok = host.split('.').all(|label| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    host_ok && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|n| n > 0) && p.bytes().all(|b| b.is_ascii_digit()))
}

fn valid_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|b| word(*b)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    bytes
        .split(|b| word(*b))
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

/// Up to three of `names` that resemble what was asked for: same last part, or at most two letters apart.
pub(super) fn near(asked: &str, names: &[String]) -> Vec<String> {
    let Ok(asked) = Name::parse(asked) else { return Vec::new() };
    let mut found: Vec<(usize, &String)> = names
        .iter()
        .filter_map(|n| {
            let name = Name::parse(n).ok()?;
            let distance = distance(asked.short(), name.short());
            (distance <= 2 && distance < asked.short().len()).then_some((distance, n))
        })
        .collect();
    found.sort();
    found.into_iter().take(3).map(|(_, n)| n.clone()).collect()
}

/// Letters to insert, remove or change to get from one to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_names_are_the_same_name() {
        let same = |a: &str, b: &str| Name::parse(a).unwrap().same(&Name::parse(b).unwrap());
        assert!(same("busybox", "docker.io/library/busybox:latest"));
        assert!(same("busybox:1", "index.docker.io/library/busybox:1"));
        assert!(same("me/app", "docker.io/me/app:latest"));
        assert!(!same("busybox", "busybox:1"));
        assert!(!same("busybox", "localhost/busybox"));
        assert!(!same("husk.example/busybox", "busybox"));
        assert_eq!(Name::parse("localhost:5000/a/b").unwrap().display(), "localhost:5000/a/b:latest");
    }

    #[test]
    fn nonsense_is_not_a_name() {
        let long = "a".repeat(300);
        for bad in [
            "",
            ":",
            ":tag",
            "a:",
            "a::b",
            "/a",
            "a/",
            "a//b",
            "A",
            "a/B",
            "a b",
            "a\n",
            "a\x1b[2J",
            "../a",
            "a/../b",
            "a/./b",
            "-a",
            "a-",
            "a:-x",
            "a:.x",
            "a@",
            "a@sha256:00",
            "a@@",
            "a:x@y",
            "é",
            "a___b",
            "a..b",
            "a.com:0/x",
            "a.com:99999/x",
            "a.com:+5/x",
            ".com/x",
            &long,
        ] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a.b/c", "a-b__c.d", "a---b", "localhost/x", "r.example:5000/x/y:T_1.2-3", "0", "sha256"] {
            assert!(Name::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbours() {
        let names = ["busybox:latest", "husk.example/busybox:1", "nginx:latest"].map(String::from).to_vec();
        assert_eq!(near("busibox", &names), ["busybox:latest", "husk.example/busybox:1"]);
        assert!(near("zzz", &names).is_empty());
    }
}
