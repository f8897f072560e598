//! AppArmor profiles of containers: which one, and our own default.
//!
//! As with containerd, a container that says nothing gets the default profile where the kernel has AppArmor and `apparmor_parser(8)` is there to load it,
//! unless it is privileged; a profile that was asked for by name must be loaded already.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use husk_oci::errno::io_text;

use super::Error;
use crate::state::record::ContainerRecord;

/// The profile of containers that ask for none, or for `RuntimeDefault`.
pub const DEFAULT_PROFILE: &str = "husk-default";

/// `Y` in it: the kernel has AppArmor, and it is on.
const SWITCH: &str = "/sys/module/apparmor/parameters/enabled";
/// A line for each profile: `NAME (MODE)`.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
const PARSERS: [&str; 2] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"];

/// What the default profile says. Files are the container's affair but for those through which it would change the kernel; mounts are refused, since
/// they could put another name onto one of these.
const RULES: &str = include_str!("apparmor.profile");

/// What a container asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// It says nothing.
    #[default]
    Unsaid,
    /// `Unconfined`.
    Unconfined,
    /// `RuntimeDefault`.
    Default,
    /// `Localhost`, and the profile's name.
    Named(String),
}

/// The name of the profile that a container gets; `None`: it is unconfined.
///
/// # Errors
/// Why what was asked for cannot be had on this host.
pub fn choose(wanted: Wanted, privileged: bool) -> Result<Option<String>, String> {
    choose_on(Host::look(), wanted, privileged, is_loaded)
}

/// What the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// No AppArmor.
    Without,
    /// AppArmor, and nobody who could load a profile.
    NoParser,
    /// All of it.
    Full,
}

impl Host {
    fn look() -> Host {
        if !std::fs::read(SWITCH).is_ok_and(|text| text.starts_with(b"Y")) {
            Host::Without
        } else if parser().is_some() {
            Host::Full
        } else {
            Host::NoParser
        }
    }
}

fn choose_on(
    host: Host,
    wanted: Wanted,
    privileged: bool,
    is_loaded: impl Fn(&str) -> Result<bool, String>,
) -> Result<Option<String>, String> {
    let absent = "AppArmor is not enabled on this host; remove it, or use Unconfined";
    match (wanted, host) {
        (Wanted::Unconfined, _) => Ok(None),
        (Wanted::Unsaid, Host::Full) if !privileged => Ok(Some(DEFAULT_PROFILE.to_owned())),
        (Wanted::Unsaid, _) => Ok(None),
        (Wanted::Default | Wanted::Named(_), Host::Without) => Err(absent.to_owned()),
        (Wanted::Default, Host::Full) => Ok(Some(DEFAULT_PROFILE.to_owned())),
        (Wanted::Default, Host::NoParser) => match is_loaded(DEFAULT_PROFILE)? {
            true => Ok(Some(DEFAULT_PROFILE.to_owned())),
            false => Err("apparmor_parser, which loads the default profile, is not installed; install apparmor".into()),
        },
        (Wanted::Named(name), _) => match is_loaded(&name)? {
            true => Ok(Some(name)),
            false => Err(format!("profile {name:?} is not loaded; load it with apparmor_parser first")),
        },
    }
}

fn parser() -> Option<&'static Path> {
    PARSERS.iter().map(Path::new).find(|path| path.exists())
}

fn is_loaded(name: &str) -> Result<bool, String> {
    let text = std::fs::read_to_string(LOADED).map_err(|e| format!("read {LOADED}: {}", io_text(&e)))?;
    Ok(listed(&text, name))
}

/// A profile's name may have blanks in it, its mode has not.
fn listed(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.rsplit_once(" (").is_some_and(|(found, _)| found == name))
}

/// Has the kernel know the default profile, when one of the containers is to get it. Once a boot it costs an execution of `apparmor_parser(8)`.
/// It stays: other pods use it.
///
/// # Errors
/// It cannot be loaded.
pub fn ensure<'a>(containers: impl IntoIterator<Item = &'a ContainerRecord>) -> Result<(), Error> {
    let wanted = containers.into_iter().any(|c| c.apparmor.as_deref() == Some(DEFAULT_PROFILE));
    if !wanted || is_loaded(DEFAULT_PROFILE).map_err(|what| Error::Host { what })? {
        return Ok(());
    }
    load().map_err(|what| Error::Host { what: format!("load the AppArmor profile {DEFAULT_PROFILE}: {what}") })
}

fn load() -> Result<(), String> {
    let parser = parser().ok_or("apparmor_parser is not installed; install apparmor")?;
    let text = |e: std::io::Error| format!("execute {}: {}", parser.display(), io_text(&e));
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache", "--quiet"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(text)?;
    // It reads all before it says anything, and a broken pipe is told by its exit.
    let sent = child.stdin.take().map(|mut stdin| stdin.write_all(RULES.as_bytes()));
    let mut said = Vec::new();
    child.stderr.take().map_or(Ok(0), |mut stderr| stderr.read_to_end(&mut said)).map_err(text)?;
    let how = match child.wait() {
        Ok(status) if status.success() && matches!(sent, Some(Ok(()))) => return Ok(()),
        Ok(status) => status.to_string(),
        // Where the kernel reaps our children by itself, as in `husk cri`, nobody knows how one has ended; but what it was to do can be seen.
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => match is_loaded(DEFAULT_PROFILE)? {
            true => return Ok(()),
            false => "it has ended, and the profile is not loaded".to_owned(),
        },
        Err(e) => return Err(text(e)),
    };
    Err(format!("{}: {how}: {}", parser.display(), String::from_utf8_lossy(&said).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_gets_the_default_where_there_is_one() {
        let never = |_: &str| Ok(false);
        for (host, privileged, want) in [
            (Host::Full, false, Some(DEFAULT_PROFILE)),
            (Host::Full, true, None),
            (Host::NoParser, false, None),
            (Host::Without, false, None),
        ] {
            let got = choose_on(host, Wanted::Unsaid, privileged, never).unwrap();
            assert_eq!(got.as_deref(), want, "{host:?} {privileged}");
            assert_eq!(choose_on(host, Wanted::Unconfined, privileged, never), Ok(None));
        }
    }

    #[test]
    fn what_was_asked_for_is_had_or_refused() {
        let known = |name: &str| Ok(name == "mine");
        assert_eq!(choose_on(Host::Full, Wanted::Named("mine".into()), true, known), Ok(Some("mine".into())));
        assert_eq!(choose_on(Host::NoParser, Wanted::Named("mine".into()), false, known), Ok(Some("mine".into())));
        assert_eq!(choose_on(Host::Full, Wanted::Default, true, known), Ok(Some(DEFAULT_PROFILE.into())));
        for (host, wanted, word) in [
            (Host::Full, Wanted::Named("theirs".into()), "not loaded"),
            (Host::Without, Wanted::Named("mine".into()), "not enabled"),
            (Host::Without, Wanted::Default, "not enabled"),
            (Host::NoParser, Wanted::Default, "not installed"),
        ] {
            let e = choose_on(host, wanted, false, known).unwrap_err();
            assert!(e.contains(word), "{host:?}: {e}");
        }
    }

    #[test]
    fn a_profile_is_listed_by_its_whole_name() {
        let text = "/usr/bin/man (enforce)\nhusk-default (enforce)\nwith blank (complain)\n";
        assert!(listed(text, "husk-default") && listed(text, "with blank"));
        assert!(!listed(text, "husk") && !listed(text, "blank") && !listed("", ""));
    }

    #[test]
    fn the_default_profile_is_called_by_its_name() {
        assert!(RULES.contains(&format!("profile {DEFAULT_PROFILE} ")));
    }
}
