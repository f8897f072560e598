//! What stands in `/etc/cni/net.d`: one file that ends in `.conflist` (a list of plugins) or in `.conf` or `.json` (a single one, which is a list of one).
//!
//! Values that are meant for a plugin are never interpreted: they reach it with the bytes that the file has (a number of thirty digits too).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::printable;
use super::{Error, Version};

/// The largest file that is read.
const FILE_LIMIT: u64 = 1 << 20;
/// The most plugins that a list may have.
const PLUGIN_LIMIT: usize = 64;
/// The longest name of a network.
const NAME_LIMIT: usize = 253;

/// An object whose values are kept as they were written.
pub type Object = BTreeMap<String, Box<RawValue>>;

/// A network: plugins that are called one after another.
#[derive(Clone, Debug)]
pub struct NetworkList {
    /// Its name.
    pub name: String,
    /// The version that every plugin is called with.
    pub version: Version,
    /// CHECK must not be called.
    pub disable_check: bool,
    /// GC must not be called.
    pub disable_gc: bool,
    /// At least one.
    pub plugins: Vec<Plugin>,
}

/// One plugin of a network.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// `type`: the name of its program.
    pub program: String,
    /// What it wants to be told about a pod.
    pub capabilities: BTreeSet<String>,
    /// Its object, without what is set for each call.
    pub config: Object,
}

/// `true`, or the same as a string: the specification has had both.
#[derive(Clone, Copy, Debug, Default)]
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Flag, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Bool(bool),
            Text(String),
        }
        match Either::deserialize(from) {
            Ok(Either::Bool(on)) => Ok(Flag(on)),
            Ok(Either::Text(text)) if text == "true" || text == "false" => Ok(Flag(text == "true")),
            _ => Err(serde::de::Error::custom("must be true or false")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    name: Option<String>,
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    disable_check: Flag,
    #[serde(default, rename = "disableGC")]
    disable_gc: Flag,
    #[serde(default)]
    load_only_inlined_plugins: Flag,
    #[serde(default)]
    plugins: Vec<Object>,
}

/// The network that pods are attached to: the first file by name, as every runtime takes it, or the first whose network has the `wanted` name.
///
/// # Errors
/// There is none, or it cannot be used. A broken file is an error, never a reason to take the next: pods would come into another network.
pub fn load(dir: &Path, wanted: Option<&str>) -> Result<NetworkList, Error> {
    for path in files(dir, &["conflist", "conf", "json"])? {
        let bytes = read(&path)?;
        let source = path.display().to_string();
        let (list, only_inlined) = match path.extension() {
            Some(ending) if ending == "conflist" => parse_list(&bytes, &source)?,
            _ => (parse_single(&bytes, &source)?, true),
        };
        if wanted.is_none_or(|name| name == list.name) {
            return with_folder(list, only_inlined, dir, &source);
        }
    }
    Err(Error::NoNetwork { dir: dir.to_owned(), wanted: wanted.map(str::to_owned) })
}

/// Files of a directory with one of these endings, by name. One that is not there has none.
fn files(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read directory", dir, &e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io("read directory", dir, &e))?.path();
        let ending = path.extension().and_then(|e| e.to_str());
        if ending.is_some_and(|e| endings.contains(&e)) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let reading = |e: &std::io::Error| Error::io("read", path, e);
    // A FIFO must not hold us.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file: File = opened.map_err(|e| reading(&e))?;
    let wrong = |what: String| Error::Config { source: path.display().to_string(), field: String::new(), what };
    if !file.metadata().map_err(|e| reading(&e))?.is_file() {
        return Err(wrong("it is no regular file".into()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|e| reading(&e))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(wrong(format!("it has more than {} KiB", FILE_LIMIT >> 10)));
    }
    Ok(bytes)
}

/// Plugins that other packages have added in a directory of the network's name, as libcni 1.3 reads them.
fn with_folder(mut list: NetworkList, only_inlined: bool, dir: &Path, source: &str) -> Result<NetworkList, Error> {
    if !only_inlined {
        for path in files(&dir.join(&list.name), &["conf"])? {
            let source = path.display().to_string();
            list.plugins.push(plugin(object(&read(&path)?, &source)?, &source, "")?);
        }
    }
    let wrong = |what: String| Error::Config { source: source.to_owned(), field: "plugins".into(), what };
    match list.plugins.len() {
        0 => Err(wrong("must have at least one plugin".into())),
        n if n > PLUGIN_LIMIT => Err(wrong(format!("{n} plugins, at most {PLUGIN_LIMIT} are called"))),
        _ => Ok(list),
    }
}

/// A network out of a `.conflist`, and whether it wants no plugins from elsewhere. It may have none.
fn parse_list(bytes: &[u8], source: &str) -> Result<(NetworkList, bool), Error> {
    let list: List = typed(bytes, source, "")?;
    let (name, version) = head(&list, source)?;
    let numbered = list.plugins.into_iter().enumerate();
    let plugins = numbered.map(|(index, object)| plugin(object, source, &format!("plugins[{index}].")));
    let plugins = plugins.collect::<Result<_, _>>()?;
    let (disable_check, disable_gc) = (list.disable_check.0, list.disable_gc.0);
    Ok((NetworkList { name, version, disable_check, disable_gc, plugins }, list.load_only_inlined_plugins.0))
}

/// A network out of the bytes of a `.conflist`; `source` is what messages call it.
///
/// # Errors
/// It cannot be used; the message names the field.
pub fn list(bytes: &[u8], source: &str) -> Result<NetworkList, Error> {
    let (list, _) = parse_list(bytes, source)?;
    with_folder(list, true, Path::new(""), source)
}

/// A network out of the bytes of a `.conf` or `.json`.
///
/// # Errors
/// It cannot be used; the message names the field.
pub fn parse_single(bytes: &[u8], source: &str) -> Result<NetworkList, Error> {
    let config = object(bytes, source)?;
    if config.contains_key("plugins") && !config.contains_key("type") {
        let what = "a list of plugins belongs into a file that ends in .conflist".into();
        return Err(Error::Config { source: source.into(), field: "plugins".into(), what });
    }
    let mut outer: List = typed(bytes, source, "")?;
    outer.plugins = Vec::new();
    let (name, version) = head(&outer, source)?;
    let plugins = vec![plugin(config, source, "")?];
    Ok(NetworkList { name, version, disable_check: false, disable_gc: false, plugins })
}

fn head(list: &List, source: &str) -> Result<(String, Version), Error> {
    let wrong = |field: &str, what: String| Error::Config { source: source.to_owned(), field: field.into(), what };
    let name = list.name.as_deref().ok_or_else(|| wrong("name", "must be there".into()))?;
    if !is_name(name) || name.len() > NAME_LIMIT {
        let what = format!(
            "{} is no network's name: letters, digits, '_', '.' and '-', the first a letter or digit",
            quoted(name)
        );
        return Err(wrong("name", what));
    }
    // The newest that the network and husk both know.
    let offered = list.cni_versions.iter().chain(&list.cni_version);
    if let Some(version) = offered.clone().filter_map(|v| Version::of_name(v)).max() {
        return Ok((name.to_owned(), version));
    }
    let known = Version::ALL.map(Version::name).join(", ");
    let found: Vec<String> = offered.map(|v| quoted(v)).collect();
    Err(wrong(
        "cniVersion",
        match found.is_empty() {
            true => format!("must be there, one of {known}"),
            false => format!("{} is not supported; {known} are", found.join(", ")),
        },
    ))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text.as_bytes(), 64))
}

fn plugin(mut config: Object, source: &str, prefix: &str) -> Result<Plugin, Error> {
    let wrong = |field: &str, what: String| Error::Config {
        source: source.to_owned(),
        field: format!("{prefix}{field}"),
        what,
    };
    let program: String = match config.get("type") {
        Some(raw) => typed(raw.get().as_bytes(), source, &format!("{prefix}type"))?,
        None => return Err(wrong("type", "must be there".into())),
    };
    // It becomes the last part of a path, and IPAM plugins the same way.
    if !is_program(&program) {
        return Err(wrong("type", format!("{} is no name of a program", quoted(&program))));
    }
    let capabilities: BTreeMap<String, bool> = match config.remove("capabilities") {
        Some(raw) => typed(raw.get().as_bytes(), source, &format!("{prefix}capabilities"))?,
        None => BTreeMap::new(),
    };
    // Set for each call.
    for key in ["prevResult", "runtimeConfig", "name", "cniVersion", "cniVersions"] {
        config.remove(key);
    }
    let capabilities = capabilities.into_iter().filter_map(|(name, wanted)| wanted.then_some(name)).collect();
    Ok(Plugin { program, capabilities, config })
}

/// A name as the specification has it for networks and containers.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_program(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && text.len() <= 255 && !text.chars().any(|c| c == '/' || c.is_control())
}

fn object(bytes: &[u8], source: &str) -> Result<Object, Error> {
    typed(bytes, source, "")
}

/// Reads JSON of a known shape. `at`: the field that it stands in.
fn typed<T: serde::de::DeserializeOwned>(bytes: &[u8], source: &str, at: &str) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let wrong = |field: String, what: String| Error::Config {
        source: source.to_owned(),
        field,
        what: printable(what.as_bytes(), 200),
    };
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = match e.path().to_string() {
            path if path == "." || path.is_empty() => at.to_owned(),
            path if at.is_empty() => path,
            path => format!("{at}.{path}"),
        };
        wrong(printable(path.as_bytes(), 100), e.inner().to_string())
    })?;
    json.end().map_err(|e| wrong(at.to_owned(), e.to_string()))?;
    Ok(value)
}

impl NetworkList {
    /// The network as a `.conflist`, to be kept: [`list`] reads it.
    pub fn to_json(&self) -> String {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let plugins: Vec<String> = self.plugins.iter().map(Plugin::to_json).collect();
        format!(
            "{{\"cniVersion\":{},\"name\":{},\"disableCheck\":{},\"disableGC\":{},\"loadOnlyInlinedPlugins\":true,\"plugins\":[{}]}}",
            text(self.version.name()),
            text(&self.name),
            self.disable_check,
            self.disable_gc,
            plugins.join(",")
        )
    }

    /// Whether some plugin wants to be told this about a pod.
    pub fn wants(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.contains(capability))
    }
}

impl Plugin {
    fn to_json(&self) -> String {
        let mut config = self.config.clone();
        if !self.capabilities.is_empty() {
            let on = serde_json::Map::from_iter(self.capabilities.iter().map(|name| (name.clone(), true.into())));
            config.insert("capabilities".into(), raw(&serde_json::Value::Object(on)));
        }
        joined(&config)
    }
}

/// A value as it goes into an [`Object`].
pub(super) fn raw(value: &serde_json::Value) -> Box<RawValue> {
    // What `Value` prints is JSON.
    RawValue::from_string(value.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// An object's text.
pub(super) fn joined(object: &Object) -> String {
    let entries: Vec<String> = object
        .iter()
        .map(|(key, value)| format!("{}:{}", serde_json::Value::from(key.as_str()), value.get()))
        .collect();
    format!("{{{}}}", entries.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> String {
        list(text.as_bytes(), "net").expect_err(text).to_string()
    }

    #[test]
    fn a_list_is_read_and_kept_with_every_byte_of_its_values() {
        let text = r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","9.9.9"],"name":"pods","disableCheck":"true","plugins":[
            {"type":"bridge","mtu":123456789012345678901234567890,"ipam":{"x": 1.10},"prevResult":{},"name":"other"},
            {"type":"portmap","capabilities":{"portMappings":true,"x":false}}]}"#;
        let net = list(text.as_bytes(), "net").unwrap();
        assert_eq!(
            (net.name.as_str(), net.version, net.disable_check, net.disable_gc),
            ("pods", Version::V1_0_0, true, false)
        );
        assert_eq!(net.plugins[0].config["mtu"].get(), "123456789012345678901234567890");
        assert!(!net.plugins[0].config.contains_key("prevResult") && !net.plugins[0].config.contains_key("name"));
        assert!(net.wants("portMappings") && !net.wants("x"));
        let again = list(net.to_json().as_bytes(), "net").unwrap();
        assert_eq!(again.to_json(), net.to_json());
        assert!(net.to_json().contains(r#""ipam":{"x": 1.10}"#));
    }

    #[test]
    fn what_cannot_be_used_is_named_by_its_field() {
        for (text, wanted) in [
            ("", "EOF"),
            ("[]", "invalid length"),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[]}"#, "plugins: must have at least one"),
            (r#"{"cniVersion":"1.0.0","plugins":[]}"#, "name: must be there"),
            (r#"{"name":"../a","cniVersion":"1.0.0","plugins":[]}"#, "name: \"../a\" is no network's name"),
            (r#"{"name":"a","plugins":[{"type":"x"}]}"#, "cniVersion: must be there"),
            (r#"{"name":"a","cniVersion":"0.2.0","plugins":[{"type":"x"}]}"#, "\"0.2.0\" is not supported"),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[{}]}"#, "plugins[0].type: must be there"),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":7}]}"#, "plugins[0].type: invalid type"),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"../sh"}]}"#, "is no name of a program"),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":".."}]}"#, "is no name of a program"),
            (
                r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"x","capabilities":[]}]}"#,
                "plugins[0].capabilities",
            ),
            (r#"{"name":"a","cniVersion":"1.0.0","disableCheck":"maybe","plugins":[{"type":"x"}]}"#, "disableCheck"),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"x"}]} x"#, "trailing"),
        ] {
            let said = failed(text);
            assert!(said.contains(wanted) && said.starts_with("CNI network net"), "{text}: {said}");
        }
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let net = parse_single(br#"{"name":"a","cniVersion":"0.3.1","type":"ptp","mtu":1}"#, "net").unwrap();
        assert_eq!((net.plugins.len(), net.plugins[0].program.as_str()), (1, "ptp"));
        let said = parse_single(br#"{"name":"a","cniVersion":"0.3.1","plugins":[]}"#, "net").unwrap_err().to_string();
        assert!(said.contains(".conflist"), "{said}");
    }

    #[test]
    fn the_first_file_by_name_decides_also_when_it_is_broken() {
        let dir = std::env::temp_dir().join(format!("husk-cni-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("00-dir.conflist")).unwrap();
        assert!(matches!(load(&dir, None), Err(Error::NoNetwork { .. })));
        let good = |name: &str| format!(r#"{{"name":"{name}","cniVersion":"1.0.0","plugins":[{{"type":"x"}}]}}"#);
        std::fs::write(dir.join("20-b.conflist"), good("b")).unwrap();
        std::fs::write(dir.join("05-ignored.txt"), "x").unwrap();
        std::fs::write(dir.join("10-a.json"), r#"{"name":"a","cniVersion":"1.0.0","type":"x"}"#).unwrap();
        assert_eq!(load(&dir, None).unwrap().name, "a");
        assert_eq!(load(&dir, Some("b")).unwrap().name, "b");
        assert!(load(&dir, Some("c")).unwrap_err().to_string().contains("named \"c\""));
        std::fs::write(dir.join("07-c.conf"), "{").unwrap();
        let said = load(&dir, None).unwrap_err().to_string();
        assert!(said.contains("07-c.conf"), "{said}");
        std::fs::write(dir.join("06-d.conflist"), good("d")).unwrap();
        std::fs::create_dir(dir.join("d")).unwrap();
        std::fs::write(dir.join("d/10.conf"), r#"{"type":"more"}"#).unwrap();
        let net = load(&dir, None).unwrap();
        assert_eq!(net.plugins.iter().map(|p| p.program.as_str()).collect::<Vec<_>>(), ["x", "more"]);
        nix::unistd::mkfifo(&dir.join("01.conf"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(load(&dir, None).unwrap_err().to_string().contains("no regular file"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
