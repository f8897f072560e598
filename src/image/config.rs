//! The image configuration (OCI image-spec "config.md"): what of it is used, checked.

use super::digest::Digest;
use super::error::{Error, printable};
use serde::Deserialize;
use std::collections::BTreeMap;

/// How a container of the image starts, with every default of the format filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `ENTRYPOINT`, may be empty.
    pub entrypoint: Vec<String>,
    /// `CMD`, may be empty.
    pub cmd: Vec<String>,
    /// `NAME=value`, in the image's order.
    pub env: Vec<String>,
    /// As written: empty, `user`, `uid`, `user:group`, …; see [`View::resolve_user`](super::View::resolve_user).
    pub user: String,
    /// Absolute; `/` when the image has none. Not yet resolved in the image's tree.
    pub working_dir: String,
    /// Signal number that asks the workload to stop, when the image has an opinion.
    pub stop_signal: Option<i32>,
    /// Labels: data, never instructions.
    pub labels: BTreeMap<String, String>,
}

/// A parsed configuration blob.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub created: Option<jiff::Timestamp>,
    pub architecture: String,
    pub os: String,
    pub diff_ids: Vec<Digest>,
    pub config: ImageConfig,
}

#[derive(Deserialize)]
struct Raw {
    created: Option<String>,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawConfig {
    #[serde(rename = "User")]
    user: Option<String>,
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
    #[serde(rename = "Entrypoint")]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Cmd")]
    cmd: Option<Vec<String>>,
    #[serde(rename = "WorkingDir")]
    working_dir: Option<String>,
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "StopSignal")]
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Option<Vec<String>>,
}

/// Reads a configuration blob.
///
/// # Errors
/// `Content` for what is not an image configuration or has values that no container can be started with; `Unsupported` for another
/// operating system.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Error> {
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|e| Error::content(format!("not an image configuration: {e}")))?;
    if raw.rootfs.kind != "layers" {
        return Err(Error::content(format!(
            "rootfs.type is {}, must be \"layers\"",
            printable(raw.rootfs.kind.as_bytes())
        )));
    }
    let word = |field: &str, value: &str| {
        let ok = !value.is_empty()
            && value.len() <= 32
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if ok {
            Ok(())
        } else {
            Err(Error::content(format!("{field} is {}, not a platform", printable(value.as_bytes()))))
        }
    };
    word("architecture", &raw.architecture)?;
    word("os", &raw.os)?;
    if raw.os != "linux" {
        return Err(Error::unsupported(format!("the image is for {}; only linux images can run here", raw.os)));
    }
    let diff_ids: Vec<Digest> =
        raw.rootfs.diff_ids.unwrap_or_default().iter().map(|d| Digest::parse(d)).collect::<Result<_, _>>()?;
    Ok(Parsed {
        created: raw.created.and_then(|t| t.parse().ok()),
        architecture: raw.architecture,
        os: raw.os,
        diff_ids,
        config: check(raw.config.unwrap_or_default())?,
    })
}

fn check(raw: RawConfig) -> Result<ImageConfig, Error> {
    let no_nul = |field: &str, text: &str| {
        if text.contains('\0') { Err(Error::content(format!("config.{field} has a NUL character"))) } else { Ok(()) }
    };
    let entrypoint = raw.entrypoint.unwrap_or_default();
    let cmd = raw.cmd.unwrap_or_default();
    let env = raw.env.unwrap_or_default();
    entrypoint.iter().try_for_each(|a| no_nul("Entrypoint", a))?;
    cmd.iter().try_for_each(|a| no_nul("Cmd", a))?;
    for entry in &env {
        no_nul("Env", entry)?;
        if entry.find('=').is_none_or(|at| at == 0) {
            // The value may be a secret: only the shape is told.
            return Err(Error::content("config.Env has an entry that is not NAME=value"));
        }
    }
    let user = raw.user.unwrap_or_default();
    no_nul("User", &user)?;
    let working_dir = match raw.working_dir.as_deref() {
        None | Some("") => "/".to_string(),
        Some(dir) if dir.starts_with('/') => dir.to_string(),
        Some(dir) => format!("/{dir}"),
    };
    no_nul("WorkingDir", &working_dir)?;
    let stop_signal = match raw.stop_signal.as_deref() {
        None | Some("") => None,
        Some(text) => Some(parse_signal(text).ok_or_else(|| {
            Error::content(format!("config.StopSignal is {}, which is no signal", printable(text.as_bytes())))
        })?),
    };
    Ok(ImageConfig { entrypoint, cmd, env, user, working_dir, stop_signal, labels: raw.labels.unwrap_or_default() })
}

/// First and last real-time signal as programs count them: the two that the C library keeps for itself left out.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Number of a signal written as `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMAX-1`, in any case.
pub fn parse_signal(text: &str) -> Option<i32> {
    if !text.is_empty() && text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|n| (1..=RTMAX).contains(n));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| -> Option<i32> {
        if rest.is_empty() {
            return Some(0);
        }
        let digits = rest.strip_prefix(sign)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return offset(rest, '+').filter(|n| (0..=RTMAX - RTMIN).contains(n)).map(|n| RTMIN + n);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return offset(rest, '-').filter(|n| (0..=RTMAX - RTMIN).contains(n)).map(|n| RTMAX - n);
    }
    match name {
        "IOT" => Some(libc::SIGABRT),
        "CLD" => Some(libc::SIGCHLD),
        "POLL" => Some(libc::SIGIO),
        _ => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

    fn with_config(config: &str) -> Result<Parsed, Error> {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        parse(text.as_bytes())
    }

    #[test]
    fn stop_signals_are_understood_in_every_spelling() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("term", 15),
            ("15", 15),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("SIGRTMAX-1", 63),
            ("9", 9),
            ("IOT", 6),
        ] {
            assert_eq!(parse_signal(text), Some(number), "{text}");
        }
        for text in [
            "",
            "0",
            "65",
            "-1",
            "+15",
            "SIG",
            "SIGRTMIN+31",
            "SIGRTMIN-1",
            "SIGRTMIN+",
            "SIGRTMAX+1",
            "SIGSIGTERM",
            "15 ",
            "0x0f",
        ] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
    }

    #[test]
    fn null_and_absent_are_empty() {
        let parsed = parse(MINIMAL.as_bytes()).unwrap();
        assert_eq!(parsed.config.working_dir, "/");
        let nulls = r#"{"User":null,"Env":null,"Entrypoint":null,"Cmd":null,"WorkingDir":"","Labels":null,"StopSignal":"","Volumes":{"/x":{}}}"#;
        assert_eq!(with_config(nulls).unwrap().config, parsed.config);
        assert_eq!(with_config("null").unwrap().config, parsed.config);
    }

    #[test]
    fn values_that_no_process_can_get_are_refused() {
        for bad in [
            r#"{"Env":["novalue"]}"#,
            r#"{"Env":["=x"]}"#,
            r#"{"Env":["A=\u0000"]}"#,
            r#"{"Cmd":["a\u0000b"]}"#,
            r#"{"Entrypoint":["a\u0000b"]}"#,
            r#"{"User":"a\u0000b"}"#,
            r#"{"WorkingDir":"/\u0000"}"#,
            r#"{"StopSignal":"SIGNOPE"}"#,
            r#"{"Cmd":"not a list"}"#,
        ] {
            assert_eq!(with_config(bad).unwrap_err().kind(), crate::image::Kind::Content, "{bad}");
        }
        assert_eq!(with_config(r#"{"WorkingDir":"srv"}"#).unwrap().config.working_dir, "/srv");
    }

    #[test]
    fn what_is_not_an_image_is_refused() {
        for bad in ["", "{}", "[]", "null", r#"{"rootfs":{"type":"tree"}}"#, &"[".repeat(100_000)] {
            assert!(parse(bad.as_bytes()).is_err());
        }
        let windows = MINIMAL.replace("linux", "windows");
        assert_eq!(parse(windows.as_bytes()).unwrap_err().kind(), crate::image::Kind::Unsupported);
        let odd = MINIMAL.replace("amd64", "a\\u001b[2J");
        assert!(!parse(odd.as_bytes()).unwrap_err().to_string().contains('\x1b'));
    }
}
