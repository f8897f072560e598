//! Where manifests come from, and what one look there gives.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

use super::fnv;
use crate::manifest;
use crate::state::record::Source;

/// A directory or a URL, as the user gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Absolute, without `.` and `..`; links are followed anew at every look.
    Directory(PathBuf),
    /// `http://` or `https://`.
    Url(String),
}

impl Place {
    /// Reads a word of the command line.
    ///
    /// # Errors
    /// A sentence: a URL of another kind, or with a password in it, or a path that cannot be made absolute.
    pub fn of_word(word: &str) -> Result<Place, String> {
        if let Some((scheme, rest)) = word.split_once("://") {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            return match scheme.to_ascii_lowercase().as_str() {
                _ if host.is_empty() => Err(format!("{word:?} names no host")),
                // It would stand in records and messages.
                _ if host.contains('@') => Err(format!("{scheme}://…@…: a user or password in a URL is not supported")),
                "http" | "https" if word.parse::<ureq::http::Uri>().is_ok() => Ok(Place::Url(word.to_owned())),
                "http" | "https" => Err(format!("{word:?} is no URL")),
                _ => Err(format!("{word:?}: only http:// and https:// are read; a directory is given by its path")),
            };
        }
        let wrong = |why: String| format!("{word:?}: {why}");
        if word.is_empty() || word.chars().any(char::is_control) {
            return Err(wrong("is no path of a directory".into()));
        }
        let full = std::path::absolute(word).map_err(|e| wrong(husk_oci::errno::io_text(&e)))?;
        let mut clean = PathBuf::from("/");
        for part in full.components() {
            match part {
                std::path::Component::Normal(part) => clean.push(part),
                // By its name, as `cd` does: what a link points to may change.
                std::path::Component::ParentDir => drop(clean.pop()),
                _ => {}
            }
        }
        Ok(Place::Directory(clean))
    }

    /// What the source is called, in records and messages.
    pub fn text(&self) -> String {
        match self {
            Place::Directory(path) => path.to_string_lossy().into_owned(),
            Place::Url(url) => url.clone(),
        }
    }

    /// A number that stands for the source.
    pub fn number(&self) -> u64 {
        // The high half; any would do.
        (fnv(&[self.text().as_bytes()]) >> 64) as u64
    }
}

/// A pod that a source wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// With its defaults, and valid. Its uid is the manifest's, if that has one.
    pub pod: Pod,
    /// The uid that a new pod gets: the manifest's, or one made from content, file and host.
    pub uid: String,
    /// Where it stands.
    pub source: Source,
}

impl Wanted {
    /// Namespace and name.
    pub fn key(&self) -> Key {
        let meta = &self.pod.metadata;
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

/// Namespace and name of a pod.
pub type Key = (String, String);

/// What a look at a source found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Every pod of every file that can be read, by the files' names.
    pub wanted: Vec<Wanted>,
    /// Files that are there and tell nothing: what is wrong with each, or `None` while it is being written. Their pods stay as they are.
    pub unread: BTreeMap<String, Option<String>>,
    /// The file system; `None` with a URL.
    pub device: Option<u64>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

/// The pods of one text.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// The source.
    pub place: &'a str,
    /// The file in it.
    pub file: Option<&'a str>,
    /// `st_dev` of the file.
    pub device: Option<u64>,
    /// What holds for all sources.
    pub of: &'a Setting,
}

/// What a manifest leaves open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Of pods that name none.
    pub namespace: String,
    /// The host's name.
    pub host: String,
    /// As if all manifests said `hostNetwork: true`.
    pub host_network: bool,
}

impl Reader<'_> {
    /// Reads, defaults and checks all pods of a manifest; a list without items is an answer.
    ///
    /// # Errors
    /// Everything that is wrong with the first pod that is not valid, as one sentence.
    pub fn read(&self, bytes: &[u8]) -> Result<Vec<Wanted>, String> {
        let path = self.file.map_or_else(|| self.place.to_owned(), |file| format!("{}/{file}", self.place));
        let mut found: Vec<Wanted> = Vec::new();
        for mut pod in manifest::parse_list(bytes, &path).map_err(|e| e.to_string())? {
            pod.metadata.namespace.get_or_insert_with(|| self.of.namespace.clone());
            // Before defaults, so that a husk with other ones sees no change.
            let content = serde_json::to_vec(&pod).map_err(|e| format!("{path}: {e}"))?;
            if self.of.host_network
                && let Some(spec) = &mut pod.spec
            {
                spec.host_network = Some(true);
            }
            manifest::default(&mut pod);
            manifest::validate(&pod).map_err(|errors| {
                let all: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
                format!("{path}: pod {}: {}", errors.pod, all.join("; "))
            })?;
            let uid = pod.metadata.uid.clone().unwrap_or_else(|| match self.file {
                Some(_) => hex(fnv(&[&content, b"host:", self.of.host.as_bytes(), b"file:", path.as_bytes()])),
                None => hex(fnv(&[&content, b"url:", path.as_bytes()])),
            });
            let source = Source {
                place: self.place.to_owned(),
                file: self.file.map(str::to_owned),
                device: self.device,
                hash: hex(fnv(&[&content])),
            };
            let wanted = Wanted { pod, uid, source };
            if found.iter().any(|other| other.key() == wanted.key()) {
                let (namespace, name) = wanted.key();
                return Err(format!("{path}: pod {namespace}/{name}: metadata.name: stands in two documents"));
            }
            found.push(wanted);
        }
        Ok(found)
    }
}

fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: Option<&str>, host: &str, text: &str) -> Result<Vec<Wanted>, String> {
        let of = Setting { namespace: "default".into(), host: host.into(), host_network: false };
        Reader { place: "/m", file, device: Some(1), of: &of }.read(text.as_bytes())
    }

    const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: x}]}}";

    #[test]
    fn places_are_told_apart_and_made_plain() {
        let directory = |word: &str| Place::of_word(word).expect(word);
        assert_eq!(directory("/a/./b/../c/"), Place::Directory("/a/c".into()));
        assert!(matches!(directory("pods"), Place::Directory(path) if path.is_absolute()));
        assert_eq!(directory("https://h/x?y=1").text(), "https://h/x?y=1");
        assert_ne!(directory("/a").number(), directory("/b").number());
        for (word, says) in [
            ("ftp://h/x", "only http:// and https://"),
            ("http://u:secret@h/", "user or password"),
            ("http:///x", "names no host"),
            ("http://a b/", "is no URL"),
            ("", "no path"),
            ("a\nb", "no path"),
        ] {
            let said = Place::of_word(word).expect_err(word);
            assert!(said.contains(says) && !said.contains("secret"), "{word}: {said}");
        }
    }

    #[test]
    fn a_uid_follows_from_content_file_and_host() {
        let of = |text: &str, file, host| read(file, host, text).expect("valid").remove(0);
        let first = of(POD, Some("a.yaml"), "h");
        assert_eq!(first, of(&POD.replace(": ", ":  "), Some("a.yaml"), "h"));
        assert_eq!(first.uid.len(), 32);
        let others = [
            of(POD, Some("b.yaml"), "h"),
            of(POD, Some("a.yaml"), "other"),
            of(POD, None, "h"),
            of(&POD.replace("image: x", "image: other"), Some("a.yaml"), "h"),
        ];
        assert!(others.iter().all(|other| other.uid != first.uid));
        assert_eq!(others[0].source.hash, first.source.hash);
        assert_eq!(of(&POD.replace("name: a}", "name: a, uid: mine}"), Some("a.yaml"), "h").uid, "mine");
    }

    #[test]
    fn a_list_may_be_empty_and_a_text_may_not() {
        let read = |text: &str| read(Some("a.yaml"), "h", text);
        assert_eq!(read("{kind: List, apiVersion: v1, items: []}"), Ok(vec![]));
        assert_eq!(read(""), Err("/m/a.yaml: no pod in it".into()));
        assert_eq!(read(&format!("{POD}\n---\n{}", POD.replace("name: a", "name: b"))).map(|all| all.len()), Ok(2));
        let said = read(&format!("{POD}\n---\n{POD}")).expect_err("twice");
        assert!(said.contains("pod default/a: metadata.name: stands in two documents"), "{said}");
        let said = read(&POD.replace("image: x", "image: x, tty: 1")).expect_err("a wrong type");
        assert!(said.starts_with("/m/a.yaml: pod a: spec.containers[0].tty"), "{said}");
    }
}
