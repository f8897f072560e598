//! The configuration file. What it says is about the host; what a pod is stands in its manifest.

use std::io::Read;
use std::path::Path;

use husk_oci::errno::io_text;
use serde::Deserialize;

use crate::network;

/// Where it is when nobody says otherwise; it may be missing.
pub const DEFAULT_PATH: &str = "/etc/husk/config.yaml";

/// A larger file is none.
const LIMIT: u64 = 1 << 20;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The network of pods.
    pub network: network::Config,
}

impl Config {
    /// Reads a file; without a path the usual one, when it is there.
    ///
    /// # Errors
    /// A sentence: it cannot be read, is no YAML, or says something that is not possible.
    pub fn load(path: Option<&Path>) -> Result<Config, String> {
        let place = path.unwrap_or_else(|| Path::new(DEFAULT_PATH));
        let mut text = String::new();
        let opened = match std::fs::File::open(place) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.is_none() => return Ok(Config::default()),
            other => other,
        };
        let read = opened.and_then(|file| file.take(LIMIT + 1).read_to_string(&mut text));
        read.map_err(|e| format!("read configuration {}: {}", place.display(), io_text(&e)))?;
        if text.len() as u64 > LIMIT {
            return Err(format!("configuration {}: has more than {LIMIT} bytes", place.display()));
        }
        Config::parse(&text).map_err(|what| format!("configuration {}: {what}", place.display()))
    }

    /// Understands the text of a file.
    ///
    /// # Errors
    /// What is wrong, by field.
    pub fn parse(text: &str) -> Result<Config, String> {
        if text.trim().is_empty() {
            return Ok(Config::default());
        }
        let config: Option<Config> =
            serde_saphyr::from_str(text).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
        let config = config.unwrap_or_default();
        config.network.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Mode;
    use crate::network::config::Wanted;

    #[test]
    fn everything_can_be_left_out() {
        for text in ["", "\n# nothing\n", "network: {}"] {
            assert_eq!(Config::parse(text), Ok(Config::default()), "{text:?}");
        }
    }

    #[test]
    fn every_field_is_understood() {
        let text = "network:\n  mode: cni\n  bridge: pods0\n  ipv4: 10.9.0.0/20\n  ipv6: none\n  mtu: 1400\n  cni:\n    confDir: /c\n    binDirs: [/b]\n    network: blue\n";
        let network = Config::parse(text).unwrap().network;
        assert_eq!((network.mode, network.bridge.as_deref(), network.mtu), (Mode::Cni, Some("pods0"), Some(1400)));
        assert_eq!((network.ipv4.to_string(), network.ipv6), ("10.9.0.0/20".to_owned(), Wanted::None));
        assert_eq!((network.cni.conf_dir.to_str(), network.cni.network.as_deref()), (Some("/c"), Some("blue")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("network: {mode: blue}", "blue"),
            ("network: {colour: blue}", "colour"),
            ("pods: {}", "pods"),
            ("network: {ipv4: 10.0.0.0/30}", "network.ipv4"),
            ("network: {ipv4: 127.0.0.0/8}", "network.ipv4"),
            ("network: {ipv4: 10.0.0.1/16}", "10.0.0.0/16"),
            ("network: {ipv4: 'fd00::/64'}", "other family"),
            ("network: {ipv6: 'fd00::/120'}", "network.ipv6"),
            ("network: {ipv4: none, ipv6: none}", "mode: none"),
            ("network: {mtu: 100}", "network.mtu"),
            ("network: {bridge: a-name-that-is-too-long}", "network.bridge"),
            ("network: {cni: {confDir: x}}", "network.cni.confDir"),
            ("network: {cni: {timeoutSeconds: 0}}", "network.cni.timeoutSeconds"),
            ("network: [", ""),
        ] {
            let said = Config::parse(text).expect_err(text);
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}
