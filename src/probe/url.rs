//! Addresses of things on the web, as far as a probe needs them: where to connect, what to ask for, and where a `Location` leads (RFC 3986).

use std::fmt::{self, Write};

/// `http://host:port/path?query` or the same of https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// https.
    pub tls: bool,
    /// In lower case, an IPv6 address without brackets.
    pub host: String,
    /// The scheme's own unless it is said.
    pub port: u16,
    /// Path and query as they are sent: beginning with `/`, nothing in them that a request line cannot hold.
    pub path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Url {
    /// `host:port`, for the `Host` header.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Where a `Location` of an answer from here leads, without its fragment. Dots in a path of its own are resolved.
    ///
    /// # Errors
    /// It is no address, or one of another scheme.
    pub fn join(&self, location: &str) -> Result<Url, String> {
        let location = location.split('#').next().unwrap_or_default();
        if let Some((tls, rest)) = absolute(location)? {
            return Url::of(tls, rest, location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Url::of(self.tls, rest, location);
        }
        let own = self.path.split('?').next().unwrap_or_default();
        let path = match location.chars().next() {
            None => self.path.clone(),
            Some('/') => location.to_owned(),
            Some('?') => format!("{own}{location}"),
            Some(_) => {
                let dir = own.rsplit_once('/').map_or("", |(dir, _)| dir);
                format!("{dir}/{location}")
            }
        };
        Ok(Url { path: without_dots(&encode(&path)), ..self.clone() })
    }

    fn of(tls: bool, rest: &str, whole: &str) -> Result<Url, String> {
        let wrong = |what: &str| format!("{whole:?}: {what}");
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // Who is named there is nobody's business here.
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let (host, port) = match place.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(|| wrong("a bracket is open"))?;
                let port = if after.is_empty() { Some("") } else { after.strip_prefix(':') };
                (host, port.ok_or_else(|| wrong("no port follows the address"))?)
            }
            None => place.split_once(':').unwrap_or((place, "")),
        };
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("no host"));
        }
        let port = match port {
            "" => {
                if tls {
                    443
                } else {
                    80
                }
            }
            port => match port.parse() {
                Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
                _ => return Err(wrong("no port")),
            },
        };
        Ok(Url { tls, host: host.to_ascii_lowercase(), port, path: without_dots(&encode(path)) })
    }
}

/// Whether a `Location` names its scheme, and so does not speak of the server that has sent it.
pub fn is_absolute(location: &str) -> bool {
    matches!(absolute(location), Ok(Some(_)))
}

/// Whether it is https, and what follows `//`; `None`: it is relative.
fn absolute(location: &str) -> Result<Option<(bool, &str)>, String> {
    let Some((scheme, rest)) = location.split_once(':') else { return Ok(None) };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    if !is_scheme {
        return Ok(None);
    }
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(format!("{location:?}: neither http nor https")),
    };
    match rest.strip_prefix("//") {
        Some(rest) => Ok(Some((tls, rest))),
        None => Err(format!("{location:?}: no host")),
    }
}

/// A path with its query as a request line can hold it: what may not stand there is percent-encoded, what is encoded stays; a fragment is dropped. It begins with `/`.
pub fn encode(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => escape(&mut out, byte),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => escape(&mut out, byte),
        }
    }
    out
}

fn escape(out: &mut String, byte: u8) {
    // Writing to memory does not fail.
    let _ = write!(out, "%{byte:02X}");
}

/// RFC 3986, 5.2.4, for a path that begins with `/`; the query stays.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            part => kept.push(part),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        Url { tls: false, host: "10.0.0.1".into(), port: 8080, path: "/a/b?q=1".into() }
    }

    #[test]
    fn locations_lead_where_rfc_3986_says() {
        for (location, leads) in [
            ("/x", "http://10.0.0.1:8080/x"),
            ("x", "http://10.0.0.1:8080/a/x"),
            ("./x", "http://10.0.0.1:8080/a/x"),
            ("../x/..", "http://10.0.0.1:8080/"),
            ("../../../x", "http://10.0.0.1:8080/x"),
            ("?z", "http://10.0.0.1:8080/a/b?z"),
            ("", "http://10.0.0.1:8080/a/b?q=1"),
            ("#f", "http://10.0.0.1:8080/a/b?q=1"),
            ("//other", "http://other:80/"),
            ("https://10.0.0.1", "https://10.0.0.1:443/"),
            ("HTTP://User:pw@Other:81?y#z", "http://other:81/?y"),
            ("http://[FD00::1]/p", "http://[fd00::1]:80/p"),
            ("http://[::1]:8443/", "http://[::1]:8443/"),
            ("/a b/\u{e9}", "http://10.0.0.1:8080/a%20b/%C3%A9"),
            ("/a/%2e%2E/x", "http://10.0.0.1:8080/a/%2e%2E/x"),
            ("x:y", "err"),
            ("ftp://10.0.0.1/", "err"),
            ("mailto:a@b", "err"),
            ("http:/x", "err"),
            ("http://", "err"),
            ("http://:80/", "err"),
            ("http://h:/", "http://h:80/"),
            ("http://h:0/", "err"),
            ("http://h:65536/", "err"),
            ("http://h:+80/", "err"),
            ("http://[::1/", "err"),
            ("http://[::1]x/", "err"),
            ("http://h\u{7f}/", "err"),
        ] {
            let joined = base().join(location).map_or("err".to_owned(), |url| url.to_string());
            assert_eq!(joined, leads, "{location:?}");
        }
    }

    #[test]
    fn whatever_a_location_is_a_request_line_can_hold_it() {
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut location = String::new();
            for _ in 0..state % 13 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                location.push(b"/.?#:@[]%ah1\r\n\0 \xff"[(state >> 33) as usize % 17] as char);
            }
            state = state.wrapping_add(1);
            let Ok(url) = base().join(&location) else { continue };
            assert!(url.path.starts_with('/') && url.path.bytes().all(|b| (0x21..0x7f).contains(&b)), "{location:?}");
            assert!(!url.host.is_empty() && url.port > 0, "{location:?}");
            assert!(!url.path.split('?').next().is_some_and(|p| p.split('/').any(|part| part == "..")), "{location:?}");
        }
    }

    #[test]
    fn a_path_is_sent_as_it_was_written_where_it_can() {
        assert_eq!(encode(""), "/");
        assert_eq!(encode("healthz?a=b&c=%20#top"), "/healthz?a=b&c=%20");
        assert_eq!(encode("/x y<\u{1}>"), "/x%20y%3C%01%3E");
    }
}
