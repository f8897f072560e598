//! Kubernetes' rules for names. Each check answers with the end of a sentence that begins with the name.

type Check = Result<(), String>;

fn alnum(b: u8, upper: bool) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || (upper && b.is_ascii_uppercase())
}

fn bounded(s: &str, max: usize) -> Check {
    if s.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if s.len() > max { Err(format!("must be no more than {max} characters")) } else { Ok(()) }
}

/// One part between dots.
fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    let end = |b: Option<&u8>| b.is_some_and(|b| alnum(*b, false));
    end(b.first()) && end(b.last()) && b.iter().all(|b| alnum(*b, false) || *b == b'-')
}

/// DNS-1123 label: containers, volumes, namespaces, hostnames.
pub fn dns_label(s: &str) -> Check {
    bounded(s, 63)?;
    if is_label(s) {
        return Ok(());
    }
    Err("must consist of lower-case letters, digits and '-', and begin and end with a letter or digit".to_owned())
}

/// DNS-1123 subdomain: pods.
pub fn dns_subdomain(s: &str) -> Check {
    bounded(s, 253)?;
    if s.split('.').all(is_label) {
        return Ok(());
    }
    Err("must consist of lower-case letters, digits, '-' and '.', and begin and end with a letter or digit".to_owned())
}

fn name_part(s: &str) -> Check {
    bounded(s, 63)?;
    let b = s.as_bytes();
    let end = |b: Option<&u8>| b.is_some_and(|b| alnum(*b, true));
    if end(b.first()) && end(b.last()) && b.iter().all(|b| alnum(*b, true) || matches!(b, b'-' | b'_' | b'.')) {
        return Ok(());
    }
    Err("must consist of letters, digits, '-', '_' and '.', and begin and end with a letter or digit".to_owned())
}

/// `[prefix/]name`: keys of labels and annotations.
pub fn qualified(s: &str) -> Check {
    match s.split_once('/') {
        None => name_part(s),
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|e| format!("has a prefix before '/' that {e}"))?;
            name_part(name).map_err(|e| format!("has a name after '/' that {e}"))
        }
    }
}

/// Value of a label; may be empty.
pub fn label_value(s: &str) -> Check {
    if s.is_empty() { Ok(()) } else { name_part(s) }
}

/// Name of a port: at least one letter, no two `-` side by side.
pub fn port_name(s: &str) -> Check {
    bounded(s, 15)?;
    if is_label(s) && s.bytes().any(|b| b.is_ascii_lowercase()) && !s.contains("--") {
        return Ok(());
    }
    Err("must consist of lower-case letters, digits and single '-', hold a letter, and begin and end with a letter or digit"
        .to_owned())
}

/// Name of an environment variable: printable ASCII without `=`.
pub fn env_name(s: &str) -> Check {
    if s.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if s.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Ok(());
    }
    Err("must consist of printable ASCII characters other than '='".to_owned())
}

/// Identity of a pod, which also names files and cgroups.
pub fn uid(s: &str) -> Check {
    bounded(s, 63)?;
    if is_label(s) {
        return Ok(());
    }
    Err("must consist of lower-case letters, digits and '-', such as a UUID, or be left out".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_follow_dns_1123() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert!(dns_label(good).is_ok() && dns_subdomain(good).is_ok() && uid(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "a\n", "a\0", "é", "..", "/", &"a".repeat(64)] {
            assert!(dns_label(bad).is_err() && uid(bad).is_err(), "{bad:?}");
        }
        assert!(dns_label("a.b").is_err() && dns_subdomain("a.b").is_ok());
        for bad in ["a..b", ".a", "a.", "a.-b", &"a".repeat(254)] {
            assert!(dns_subdomain(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn qualified_names_may_have_a_prefix() {
        for good in ["app", "App_1.x", "example.com/App", "a/b"] {
            assert!(qualified(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "Example.com/a", "-a", "a-", "a b", "a\n", &"a".repeat(64)] {
            assert!(qualified(bad).is_err(), "{bad:?}");
        }
        assert!(label_value("").is_ok() && label_value("V_1").is_ok() && label_value("a/b").is_err());
    }

    #[test]
    fn ports_and_variables_have_rules_of_their_own() {
        assert!(port_name("http-1").is_ok());
        for bad in ["", "1", "a--b", "-a", "A", &"a".repeat(16)] {
            assert!(port_name(bad).is_err(), "{bad:?}");
        }
        for good in ["A", "a.b-c", "A B", "1"] {
            assert!(env_name(good).is_ok(), "{good}");
        }
        for bad in ["", "A=B", "A\n", "A\0", "é"] {
            assert!(env_name(bad).is_err(), "{bad:?}");
        }
    }
}
