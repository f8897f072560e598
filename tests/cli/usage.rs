//! Help, usage errors, and what is not there.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Husk, Said};

#[test]
fn every_command_has_a_short_help_with_an_example() {
    let husk = Husk::new("help");
    let top = husk.call(&["--help"]);
    top.is(0);
    let commands = [
        "run", "get", "describe", "explain", "logs", "exec", "delete", "wait", "image", "gc", "cri", "version",
        "watch", "apply", "diff", "restart",
    ];
    for command in commands {
        assert!(top.stdout.contains(&format!("\n  {command} ")), "{command} is not in the help");
        let help = husk.call(&[command, "--help"]);
        help.is(0);
        assert!(help.stdout.contains("Example"), "{command} --help has no example");
        assert!(help.stdout.contains("Usage: husk"), "{command} --help has no usage");
        assert_eq!(help.stderr, "");
    }
    assert!(!top.stdout.contains("supervisor"), "what is not for users is in the help");
    assert!(husk.files().is_empty());
}

#[test]
fn version_tells_the_version_as_text_and_json() {
    let husk = Husk::new("version");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(husk.call(&["version"]).is(0).stdout, format!("husk {version}\n"));
    assert_eq!(husk.call(&["--version"]).is(0).stdout, format!("husk {version}\n"));
    let json: Value = serde_json::from_str(&husk.call(&["version", "-o", "json"]).is(0).stdout).expect("JSON");
    assert_eq!(json["version"], version);
}

#[test]
fn usage_errors_end_with_2_and_change_nothing() {
    let husk = Husk::new("usage");
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["run"],
        &["run", "-", "-"],
        &["run", "-", "--dry-run", "--wait"],
        &["run", "-", "-o", "yaml"],
        &["watch"],
        &["watch", "ftp://host/x"],
        &["watch", "http://user:secret@host/"],
        &["watch", "/x", "--interval", "0"],
        &["apply"],
        &["apply", "pod.yaml"],
        &["diff"],
        &["restart"],
        &["restart", "a", "b"],
        &["get"],
        &["get", "services"],
        &["get", "pods", "-o", "xml"],
        &["get", "pods", "-l", "a b"],
        &["get", "pod", "demo", "-A"],
        &["describe"],
        &["explain"],
        &["explain", "a", "b"],
        &["explain", "a", "-o", "wide"],
        &["logs"],
        &["logs", "service/x"],
        &["logs", "demo", "--tail=-2"],
        &["logs", "demo", "--since=soon"],
        &["exec", "demo"],
        &["exec", "demo", "true"],
        &["exec", "--", "true"],
        &["delete"],
        &["delete", "-A"],
        &["delete", "demo", "--all"],
        &["delete", "demo", "--grace-period=0"],
        &["delete", "demo", "--grace-period=-1"],
        &["delete", "demo", "--now", "--force"],
        &["delete", "demo", "--grace-period=5", "--force"],
        &["wait", "demo"],
        &["wait", "demo", "--for=happiness"],
        &["wait", "--for=delete"],
        &["image"],
        &["image", "load"],
        &["image", "import", "x.tar"],
        &["version", "-o", "wide"],
    ];
    for args in cases {
        let said = husk.call(args);
        said.is(2);
        assert_eq!(said.stdout, "", "{args:?}");
        assert!(said.stderr.contains("husk") || said.stderr.starts_with("error: "), "{args:?}: {}", said.stderr);
    }
    assert!(husk.call(&["delete", "demo", "--grace-period=0"]).stderr.contains("--force"));
    assert!(husk.files().is_empty());
}

#[test]
fn an_instance_that_was_never_used_is_empty_and_stays_so() {
    let husk = Husk::new("empty");
    let said = husk.call(&["get", "pods"]);
    assert_eq!((said.is(0).stdout.as_str(), said.stderr.as_str()), ("", "husk: no pods found in namespace default\n"));
    let list: Value = serde_json::from_str(&husk.call(&["get", "pods", "-o", "json"]).is(0).stdout).expect("JSON");
    assert_eq!((&list["kind"], &list["items"]), (&json!("List"), &json!([])));
    husk.call(&["get", "pods", "-o", "name", "-A"]).is(0);
    husk.call(&["describe", "pods"]).is(0);
    husk.call(&["delete", "--all"]).is(0);
    husk.call(&["delete", "demo", "--ignore-not-found"]).is(0);
    husk.call(&["wait", "demo", "--for=delete"]).is(0);
    husk.call(&["image", "ls"]).is(0);
    husk.call(&["gc"]).is(0);
    assert!(husk.files().is_empty(), "{:?}", husk.files());
}

#[test]
fn an_unknown_pod_is_named_by_every_command() {
    let husk = Husk::new("unknown");
    let cases: &[(i32, &[&str])] = &[
        (1, &["get", "pod", "nobody"]),
        (1, &["get", "pod/nobody", "-o", "yaml"]),
        (1, &["describe", "pod", "nobody"]),
        (1, &["explain", "pod", "nobody"]),
        (1, &["logs", "nobody"]),
        (125, &["exec", "nobody", "--", "true"]),
        (1, &["delete", "nobody"]),
        (1, &["delete", "pod/nobody", "--now"]),
        (1, &["wait", "nobody", "--for=condition=Ready"]),
    ];
    for (code, args) in cases {
        husk.call(args).refused(*code, &["nobody", "not found"]);
    }
    assert!(husk.files().is_empty(), "{:?}", husk.files());
}

#[test]
fn control_characters_in_arguments_never_reach_the_terminal() {
    let husk = Husk::new("control");
    for args in
        [&["get", "pod", "a\x1b[31mb"][..], &["logs", "a\nb"], &["delete", "pod/a\x07"], &["run", "/no\x1b[0m/file"]]
    {
        let said = husk.call(args);
        said.refused(1, &[]);
        let plain = said.stderr.trim_end_matches('\n').chars().all(|c| !c.is_control());
        assert!(plain, "{:?}", said.stderr);
    }
}

#[test]
fn nobody_but_root_is_served() {
    let husk = Husk::new("not-root");
    // A copy that another user can reach, whatever the modes of the directories above the source tree are.
    let directory = husk.directory.join("bin");
    std::fs::create_dir(&directory).expect("make a directory");
    let binary = directory.join("husk");
    std::fs::copy(env!("CARGO_BIN_EXE_husk"), &binary).expect("copy");
    let call = |args: &[&str]| -> Said {
        let mut command = Command::new(&binary);
        command.args(["--root", "/nonexistent/root", "--state", "/nonexistent/state"]).args(args);
        command.uid(65534).gid(65534).current_dir("/").output().expect("start husk").into()
    };
    for args in [&["get", "pods"][..], &["run", "x.yaml"], &["gc"], &["image", "ls"], &["delete", "x"]] {
        call(args).refused(1, &["must be run as root", "65534"]);
    }
    call(&["version"]).is(0);
    call(&["run", "--help"]).is(0);
}

#[test]
fn a_closed_standard_output_ends_a_command_quietly() {
    let husk = Husk::new("pipe");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let said: Said = husk
        .command()
        .args(["get", "pods", "-o", "json"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("start husk")
        .into();
    assert_eq!(said.is(141).stderr, "");
}
