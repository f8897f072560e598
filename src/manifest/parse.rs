//! Bytes to pods: YAML or JSON, strict about fields, types, keys, size and depth.
//!
//! Both forms are first read into one tree ([`tree`]), which refuses double keys and deep nesting while it is built; from there one typed reader
//! finds wrong types and unknown fields, so YAML and JSON give the same answers in the same words.

mod tree;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::fmt;

/// Largest manifest in bytes. A caller reads at most one byte more than this and hands over what it got.
pub const MAX_BYTES: usize = 4 << 20;

/// Deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 64;

/// Why a manifest could not be read; shown as `FILE: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the caller called the input, e.g. `demo.yaml`.
    pub source: String,
    /// Which rule was broken.
    pub kind: ErrorKind,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// More than [`MAX_BYTES`].
    TooLarge,
    /// More than [`MAX_DEPTH`] lists and maps in each other.
    TooDeep,
    /// Not UTF-8 from this byte on.
    NotUtf8 {
        /// Bytes before it.
        offset: usize,
    },
    /// Neither YAML nor JSON, or beyond what the parser is allowed to expand.
    Syntax {
        /// The parser's words, with line and column.
        message: String,
    },
    /// No document in it.
    Empty,
    /// A whole object that is not a pod.
    Kind {
        /// Where: empty, `document 2` or `items[3]`.
        place: String,
        /// What it is instead, or what is missing.
        message: String,
    },
    /// A field with the wrong type, unknown, or missing.
    Field {
        /// Name of the pod, empty when it has none.
        pod: String,
        /// e.g. `spec.containers[0].image`.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        match &self.kind {
            ErrorKind::TooLarge => write!(f, "manifest is too large; at most {} MiB are read", MAX_BYTES >> 20),
            ErrorKind::TooDeep => {
                write!(f, "nested too deep; at most {MAX_DEPTH} lists and maps may stand in each other")
            }
            ErrorKind::NotUtf8 { offset } => write!(f, "not UTF-8 text, from byte {offset} on"),
            ErrorKind::Syntax { message } => f.write_str(message),
            ErrorKind::Empty => f.write_str("no pod in it"),
            ErrorKind::Kind { place, message } if place.is_empty() => f.write_str(message),
            ErrorKind::Kind { place, message } => write!(f, "{place}: {message}"),
            ErrorKind::Field { pod, path, message } if pod.is_empty() => write!(f, "{path}: {message}"),
            ErrorKind::Field { pod, path, message } => write!(f, "pod {}: {path}: {message}", pod.escape_debug()),
        }
    }
}

impl std::error::Error for Error {}

/// Reads every pod of a manifest: one or more documents, each a `Pod` or a `List` (`PodList`) of pods.
///
/// # Errors
/// The first one met, naming `source` and, where it is known, pod and field.
pub fn parse(bytes: &[u8], source: &str) -> Result<Vec<Pod>, Error> {
    match parse_list(bytes, source)? {
        found if found.is_empty() => Err(Error { source: source.to_owned(), kind: ErrorKind::Empty }),
        found => Ok(found),
    }
}

/// As [`parse`], for who wants no pods when he says so: a `List` without items is an answer, an empty text is none.
///
/// # Errors
/// As [`parse`].
pub fn parse_list(bytes: &[u8], source: &str) -> Result<Vec<Pod>, Error> {
    pods(bytes).map_err(|kind| Error { source: source.to_owned(), kind })
}

fn pods(bytes: &[u8]) -> Result<Vec<Pod>, ErrorKind> {
    if bytes.len() > MAX_BYTES {
        return Err(ErrorKind::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|e| ErrorKind::NotUtf8 { offset: e.valid_up_to() })?;
    let documents = tree::documents(text)?;
    if documents.is_empty() {
        return Err(ErrorKind::Empty);
    }
    let many = documents.len() > 1;
    let mut found = Vec::new();
    for (i, document) in documents.into_iter().enumerate() {
        let place = if many { format!("document {}", i + 1) } else { String::new() };
        read_document(document, &place, &mut found)?;
    }
    Ok(found)
}

fn read_document(document: Value, place: &str, found: &mut Vec<Pod>) -> Result<(), ErrorKind> {
    let mut object = object_of(document, place)?;
    let kind = text_of(&object, "kind", place)?;
    let api_version = text_of(&object, "apiVersion", place)?;
    match (kind.as_str(), api_version.as_str()) {
        ("Pod", "v1") => found.push(read_pod(object, "")?),
        ("List" | "PodList", "v1") => {
            let items = object.remove("items").unwrap_or_default();
            if let Some(key) = object.keys().find(|k| !matches!(k.as_str(), "kind" | "apiVersion" | "metadata")) {
                let mut path = String::new();
                join(&mut path, key);
                return Err(unknown_field("", &path));
            }
            let Value::Array(items) = items else {
                return Err(kind_error(place, format!("items of the {kind} must be a list")));
            };
            for (i, item) in items.into_iter().enumerate() {
                let path = format!("items[{i}]");
                let place = if place.is_empty() { path.clone() } else { format!("{place}: {path}") };
                let mut item = object_of(item, &place)?;
                if kind == "PodList" {
                    // A server leaves both out of the items of a typed list.
                    item.entry("kind").or_insert_with(|| "Pod".into());
                    item.entry("apiVersion").or_insert_with(|| "v1".into());
                }
                match (text_of(&item, "kind", &place)?.as_str(), text_of(&item, "apiVersion", &place)?.as_str()) {
                    ("Pod", "v1") => found.push(read_pod(item, &path)?),
                    (kind, api_version) => return Err(unsupported_kind(&place, kind, api_version)),
                }
            }
        }
        (kind, api_version) => return Err(unsupported_kind(place, kind, api_version)),
    }
    Ok(())
}

fn kind_error(place: &str, message: String) -> ErrorKind {
    ErrorKind::Kind { place: place.to_owned(), message }
}

fn unsupported_kind(place: &str, kind: &str, api_version: &str) -> ErrorKind {
    let (kind, api_version) = (kind.escape_debug(), api_version.escape_debug());
    kind_error(
        place,
        format!("kind {kind} of apiVersion {api_version} is not supported; only Pod of v1, or a List of them"),
    )
}

fn object_of(value: Value, place: &str) -> Result<Map<String, Value>, ErrorKind> {
    match value {
        Value::Object(map) => Ok(map),
        _ => {
            Err(kind_error(place, "not an object; expected a Pod with apiVersion, kind, metadata and spec".to_owned()))
        }
    }
}

fn text_of(object: &Map<String, Value>, key: &str, place: &str) -> Result<String, ErrorKind> {
    match object.get(key) {
        Some(Value::String(s)) => Ok(s.clone()),
        None | Some(Value::Null) => {
            let wanted = if key == "kind" { "Pod" } else { "v1" };
            Err(kind_error(place, format!("{key}: required; a pod has `{key}: {wanted}`")))
        }
        Some(_) => Err(kind_error(place, format!("{key}: must be a string"))),
    }
}

fn unknown_field(pod: &str, path: &str) -> ErrorKind {
    let path = path.escape_debug().to_string();
    ErrorKind::Field {
        pod: pod.to_owned(),
        path,
        message: "unknown field; check its spelling and indentation".to_owned(),
    }
}

/// The typed reader. `base` is where the pod stands in a list.
fn read_pod(mut object: Map<String, Value>, base: &str) -> Result<Pod, ErrorKind> {
    // What a server has reported is no wish: like an API server on create, we don't read it.
    object.remove("status");
    let pod_name =
        object.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str).unwrap_or_default().to_owned();
    let unknown = RefCell::new(None);
    let mut on_unknown = |path: serde_ignored::Path<'_>| {
        unknown.borrow_mut().get_or_insert_with(|| ignored_path(&path, base));
    };
    let mut track = serde_path_to_error::Track::new();
    let read: Result<Pod, serde_json::Error> = serde_ignored::deserialize(
        serde_path_to_error::Deserializer::new(Value::Object(object), &mut track),
        &mut on_unknown,
    );
    let read = read.map_err(|e| {
        let path = error_path(&track.path(), base);
        // Paths end where the typed reader stood; the root has none.
        let path = if path.is_empty() { "manifest".to_owned() } else { path };
        ErrorKind::Field { pod: pod_name.clone(), path, message: e.to_string() }
    })?;
    match unknown.into_inner() {
        Some(path) => Err(unknown_field(&pod_name, &path)),
        None => Ok(read),
    }
}

fn join(path: &mut String, key: &str) {
    if key.is_empty() || key.contains(['.', '[', ']']) || key.escape_debug().any(|c| c == '\\') {
        path.push_str(&format!("[{key:?}]"));
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    }
}

fn ignored_path(path: &serde_ignored::Path<'_>, base: &str) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => base.to_owned(),
        Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent, base)),
        Path::Map { parent, key } => {
            let mut text = ignored_path(parent, base);
            join(&mut text, key);
            text
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_path(parent, base)
        }
    }
}

fn error_path(path: &serde_path_to_error::Path, base: &str) -> String {
    use serde_path_to_error::Segment;
    let mut text = base.to_owned();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } => join(&mut text, key),
            Segment::Enum { variant } => join(&mut text, variant),
            Segment::Unknown => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: demo\nspec:\n  containers:\n  - name: web\n    image: busybox\n";

    fn message(text: &str) -> String {
        parse(text.as_bytes(), "demo.yaml").expect_err("must be refused").to_string()
    }

    #[test]
    fn yaml_and_json_give_the_same_pod() {
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"demo"},"spec":{"containers":[{"name":"web","image":"busybox"}]}}"#;
        let from_yaml = parse(DEMO.as_bytes(), "a").expect("yaml");
        assert_eq!(from_yaml, parse(json.as_bytes(), "a").expect("json"));
        assert_eq!(from_yaml[0].metadata.name.as_deref(), Some("demo"));
    }

    #[test]
    fn several_documents_and_lists_are_read_in_order() {
        let two = format!("---\n{DEMO}---\n# nothing\n---\n{}---\n", DEMO.replace("demo", "second"));
        let names: Vec<_> = parse(two.as_bytes(), "a").expect("two").into_iter().map(|p| p.metadata.name).collect();
        assert_eq!(names, [Some("demo".to_owned()), Some("second".to_owned())]);
        let list = r#"{"kind":"List","apiVersion":"v1","metadata":{},"items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}]}"#;
        assert_eq!(parse(list.as_bytes(), "a").expect("list").len(), 1);
        let typed =
            r#"{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}"#;
        assert_eq!(parse(typed.as_bytes(), "a").expect("pod list").len(), 2);
        let none = r#"{"kind":"List","apiVersion":"v1","items":[]}"#;
        assert_eq!(parse_list(none.as_bytes(), "a"), Ok(Vec::new()));
        assert_eq!(parse(none.as_bytes(), "a").expect_err("no pod").kind, ErrorKind::Empty);
        for nothing in ["", "---\n", "# nothing\n"] {
            assert_eq!(parse_list(nothing.as_bytes(), "a").expect_err("no list").kind, ErrorKind::Empty, "{nothing:?}");
        }
        let stream = r#"{"apiVersion":"v1","kind":"Pod"} {"apiVersion":"v1","kind":"Pod"}"#;
        assert_eq!(parse(stream.as_bytes(), "a").expect("stream").len(), 2);
    }

    #[test]
    fn unknown_fields_are_refused_with_their_path() {
        let text = DEMO.replace("image:", "imagee:");
        assert_eq!(
            message(&text),
            "demo.yaml: pod demo: spec.containers[0].imagee: unknown field; check its spelling and indentation"
        );
        assert!(message(&DEMO.replace("spec:", "extra: 1\nspec:")).contains("pod demo: extra: unknown field"));
        let list = "kind: List\napiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {nam: x}\n";
        assert!(message(list).contains("items[0].metadata.nam: unknown field"), "{}", message(list));
    }

    #[test]
    fn wrong_types_are_refused_with_their_path() {
        let text = DEMO.replace("busybox", "[a]");
        let m = message(&text);
        assert!(m.starts_with("demo.yaml: pod demo: spec.containers[0].image: invalid type: sequence"), "{m}");
        let m = message(&DEMO.replace("busybox", "1.10"));
        assert!(m.starts_with("demo.yaml: pod demo: spec.containers[0].image: invalid type: floating point"), "{m}");
        let m = message(&DEMO.replace("image: busybox", "image: b\n    tty: maybe"));
        assert!(m.starts_with("demo.yaml: pod demo: spec.containers[0].tty: invalid type: string"), "{m}");
        let m = message(&DEMO.replace("image: busybox", "image: b\n    ports: [{containerPort: http}]"));
        assert!(m.starts_with("demo.yaml: pod demo: spec.containers[0].ports[0].containerPort: invalid type"), "{m}");
    }

    #[test]
    fn quantities_and_int_or_string_keep_their_text() {
        let text = DEMO.replace(
            "image: busybox",
            "image: b\n    resources:\n      limits: {cpu: 1, memory: 64Mi}\n      requests: {cpu: 0.5, memory: 1e6}\n    readinessProbe:\n      httpGet: {port: web}",
        );
        let pod = parse(text.as_bytes(), "a").expect("parses").remove(0);
        let c = &pod.spec.expect("spec").containers[0];
        let r = c.resources.clone().expect("resources");
        assert_eq!(r.limits.as_ref().expect("limits")["cpu"].0, "1");
        assert_eq!(r.limits.as_ref().expect("limits")["memory"].0, "64Mi");
        assert_eq!(r.requests.as_ref().expect("requests")["cpu"].0, "0.5");
        assert_eq!(
            crate::manifest::quantity(&r.requests.expect("requests")["memory"].0).expect("q").value(),
            Some(1_000_000)
        );
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        assert_eq!(
            message("apiVersion: apps/v1\nkind: Deployment\n"),
            "demo.yaml: kind Deployment of apiVersion apps/v1 is not supported; only Pod of v1, or a List of them"
        );
        let m = message(&format!("{DEMO}---\napiVersion: v1\nkind: Service\n"));
        assert!(m.starts_with("demo.yaml: document 2: kind Service of apiVersion v1 is not supported"), "{m}");
        assert!(message("kind: Pod\n").contains("apiVersion: required"));
        assert!(message("apiVersion: v1\n").contains("kind: required"));
        assert!(message("- a\n").contains("not an object"));
        assert!(message("").contains("no pod in it"));
        assert!(message("# only a comment\n").contains("no pod in it"));
        assert!(message("apiVersion: v1\nkind: List\nitems: []\n").contains("no pod in it"));
    }

    #[test]
    fn double_keys_are_refused_in_yaml_and_json() {
        let m = message(&DEMO.replace("image: busybox", "image: a\n    image: b"));
        assert!(m.contains("duplicate") && m.contains("image") && m.contains("line 9"), "{m}");
        let m = message(r#"{"apiVersion":"v1","kind":"Pod","kind":"Pod"}"#);
        assert!(m.contains("duplicate") && m.contains("kind"), "{m}");
    }

    #[test]
    fn size_depth_and_alias_bombs_are_refused() {
        let large = vec![b' '; MAX_BYTES + 1];
        assert_eq!(parse(&large, "x").expect_err("large").kind, ErrorKind::TooLarge);
        for deep in [
            "[".repeat(10_000),
            "{\"a\":".repeat(10_000),
            "- ".repeat(10_000),
            format!("a: {}", "[".repeat(10_000)),
            format!("a: {}", "{a: ".repeat(10_000)),
            format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000)),
            (0..10_000).map(|i| format!("{}a:\n", " ".repeat(i % 200))).collect::<String>(),
            (0..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>(),
        ] {
            let kind = parse(deep.as_bytes(), "x").expect_err("deep").kind;
            assert!(
                kind == ErrorKind::TooDeep || matches!(kind, ErrorKind::Syntax { .. }),
                "{kind:?} for {}",
                &deep[..20]
            );
        }
        assert_eq!(parse("[".repeat(10_000).as_bytes(), "x").expect_err("deep").kind, ErrorKind::TooDeep);
        assert_eq!(parse("{\"a\":".repeat(10_000).as_bytes(), "x").expect_err("deep").kind, ErrorKind::TooDeep);
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(matches!(parse(bomb.as_bytes(), "x").expect_err("bomb").kind, ErrorKind::Syntax { .. }));
    }

    #[test]
    fn broken_text_is_refused_with_its_place() {
        for text in [
            "a: b: c\n",
            "{\"apiVersion\": \"v1\", ",
            "a: [1\n",
            "a: 'x\n",
            "a:\n\t- x: 1\n",
            "a: *nope\n",
            "kind: !foo Pod\n",
        ] {
            let m = message(text);
            println!("{m}");
            assert!(m.starts_with("demo.yaml: ") && m.contains("line ") && !m.contains('\n'), "{text:?}: {m}");
        }
        assert_eq!(parse(b"a: \xff", "x").expect_err("utf8").kind, ErrorKind::NotUtf8 { offset: 3 });
    }

    #[test]
    fn what_only_a_server_writes_is_not_read() {
        let text = format!("{DEMO}status:\n  phase: Running\n  somethingNew: 1\n")
            .replace("name: demo", "name: demo\n  creationTimestamp: null");
        assert!(parse(text.as_bytes(), "x").expect("status").remove(0).status.is_none());
    }
}
