//! The command line without a pod: usage, help, what is not there, and bad input, which must name its object and field and change nothing.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// Two roots of our own, and the built binary.
struct Husk {
    directory: PathBuf,
}

/// What a call said.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    #[track_caller]
    fn is(&self, code: i32) -> &Said {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Failed with one line on standard error that holds all of `words`, and printed nothing.
    #[track_caller]
    fn refused(&self, code: i32, words: &[&str]) -> &Said {
        self.is(code);
        assert_eq!(self.stdout, "");
        assert!(self.stderr.starts_with("husk: "), "{:?}", self.stderr);
        assert!(self.stderr.len() < 2000, "{} bytes of message: {:?}", self.stderr.len(), &self.stderr[..200]);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {:?}", self.stderr);
        }
        self
    }
}

impl Husk {
    fn new(name: &str) -> Husk {
        let directory = std::env::temp_dir().join(format!("husk-cli-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("make a directory");
        Husk { directory }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_husk"));
        command
            .env_remove("HUSK_ROOT")
            .env_remove("HUSK_STATE")
            .arg("--root")
            .arg(self.directory.join("root"))
            .arg("--state")
            .arg(self.directory.join("state"))
            .stdin(Stdio::null());
        command
    }

    fn call(&self, args: &[&str]) -> Said {
        self.command().args(args).output().expect("start husk").into()
    }

    fn feed(&self, args: &[&str], input: &[u8]) -> Said {
        let mut child = self
            .command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start husk");
        // husk may stop reading: that is one of the things under test.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        child.wait_with_output().expect("wait").into()
    }

    /// Every file below both roots, with what would tell a change.
    fn files(&self) -> BTreeMap<PathBuf, (u64, u32, i64)> {
        let mut files = BTreeMap::new();
        let mut todo = vec![self.directory.join("root"), self.directory.join("state")];
        while let Some(path) = todo.pop() {
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                todo.extend(std::fs::read_dir(&path).expect("read").map(|entry| entry.expect("an entry").path()));
            }
            let size = if metadata.is_dir() { 0 } else { metadata.size() };
            files.insert(path, (size, metadata.mode(), metadata.nlink() as i64));
        }
        files
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.directory.join(name);
        std::fs::write(&path, content).expect("write");
        path.to_str().expect("a plain path").into()
    }
}

impl Drop for Husk {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).expect("clean up");
    }
}

/// A pod that is right, with `change` made to it.
fn pod(change: impl FnOnce(&mut Value)) -> String {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "demo"},
        "spec": {
            "containers": [{"name": "app", "image": "husk.example/none:1", "command": ["true"]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }
    });
    change(&mut pod);
    pod.to_string()
}

#[test]
fn every_command_has_a_short_help_with_an_example() {
    let husk = Husk::new("help");
    let top = husk.call(&["--help"]);
    top.is(0);
    let commands = ["run", "get", "describe", "logs", "exec", "delete", "wait", "image", "gc", "version"];
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
        &["get"],
        &["get", "services"],
        &["get", "pods", "-o", "xml"],
        &["get", "pods", "-l", "a b"],
        &["get", "pod", "demo", "-A"],
        &["describe"],
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

/// Each bad manifest: a name for the test's output, the text, and the words that the message must hold.
fn bad_manifests() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let app = |change: fn(&mut Value)| pod(move |pod| change(&mut pod["spec"]["containers"][0]));
    let mount = |path: &str| json!({"name": "data", "mountPath": path});
    vec![
        ("empty", String::new(), vec![]),
        ("broken YAML", "metadata:\n  name: demo\n bad: [".into(), vec![]),
        ("broken JSON", "{\"apiVersion\": \"v1\", \"kind\"".into(), vec![]),
        ("not an object", "- 1\n- 2\n".into(), vec![]),
        ("another kind", pod(|pod| pod["kind"] = json!("Service")), vec!["Service"]),
        ("unknown field", app(|app| app["imagee"] = json!("x")), vec!["spec.containers[0].imagee"]),
        ("unknown field at the top", pod(|pod| pod["sepc"] = json!({})), vec!["sepc"]),
        ("wrong type", app(|app| app["command"] = json!("true")), vec!["spec.containers[0].command"]),
        (
            "wrong type of a number",
            pod(|pod| pod["spec"]["terminationGracePeriodSeconds"] = json!("x")),
            vec!["terminationGracePeriodSeconds"],
        ),
        ("duplicate key", "apiVersion: v1\nkind: Pod\nkind: Pod\n".into(), vec!["kind"]),
        ("no name", pod(|pod| pod["metadata"] = json!({})), vec!["metadata.name"]),
        ("no containers", pod(|pod| pod["spec"]["containers"] = json!([])), vec!["demo", "spec.containers"]),
        (
            "no image",
            app(|app| drop(app.as_object_mut().map(|app| app.remove("image")))),
            vec!["demo", "spec.containers[0].image"],
        ),
        (
            "duplicate container names",
            pod(|pod| {
                let app = pod["spec"]["containers"][0].clone();
                pod["spec"]["containers"].as_array_mut().expect("a list").push(app);
            }),
            vec!["demo", "spec.containers[1].name"],
        ),
        (
            "duplicate volume names",
            pod(|pod| {
                let volume = pod["spec"]["volumes"][0].clone();
                pod["spec"]["volumes"].as_array_mut().expect("a list").push(volume);
            }),
            vec!["demo", "spec.volumes[1].name"],
        ),
        (
            "pod name outside DNS-1123",
            pod(|pod| pod["metadata"]["name"] = json!("De_mo")),
            vec!["metadata.name", "De_mo"],
        ),
        ("pod name with a slash", pod(|pod| pod["metadata"]["name"] = json!("../demo")), vec!["metadata.name"]),
        (
            "control characters in the pod name",
            pod(|pod| pod["metadata"]["name"] = json!("de\u{1b}[31mmo\n")),
            vec!["metadata.name"],
        ),
        (
            "control characters in a container name",
            app(|app| app["name"] = json!("a\u{7}b")),
            vec!["spec.containers[0].name"],
        ),
        (
            "control characters in a volume name",
            pod(|pod| pod["spec"]["volumes"][0]["name"] = json!("a\nb")),
            vec!["spec.volumes[0].name"],
        ),
        (
            "control characters in a namespace",
            pod(|pod| pod["metadata"]["namespace"] = json!("a\u{9b}b")),
            vec!["metadata.namespace"],
        ),
        (
            "container name outside DNS-1123",
            app(|app| app["name"] = json!("App")),
            vec!["spec.containers[0].name", "App"],
        ),
        (
            "unknown volume",
            app(|app| app["volumeMounts"] = json!([{"name": "nothing", "mountPath": "/x"}])),
            vec!["demo", "spec.containers[0].volumeMounts[0].name", "nothing"],
        ),
        (
            "duplicate mount path",
            pod(|pod| pod["spec"]["containers"][0]["volumeMounts"] = json!([mount("/x"), mount("/x")])),
            vec!["demo", "spec.containers[0].volumeMounts[1].mountPath", "/x"],
        ),
        (
            "mount path with ..",
            pod(|pod| pod["spec"]["containers"][0]["volumeMounts"] = json!([mount("/x/../../etc")])),
            vec!["demo", "spec.containers[0].volumeMounts[0].mountPath"],
        ),
        (
            "limit below what can start",
            app(|app| app["resources"] = json!({"limits": {"memory": "4Ki"}})),
            vec!["demo", "spec.containers[0].resources.limits"],
        ),
        (
            "a limit that is no quantity",
            app(|app| app["resources"] = json!({"limits": {"memory": "much"}})),
            vec!["spec.containers[0].resources.limits", "much"],
        ),
        (
            "negative grace",
            pod(|pod| pod["spec"]["terminationGracePeriodSeconds"] = json!(-1)),
            vec!["demo", "spec.terminationGracePeriodSeconds"],
        ),
        (
            "uid out of range",
            app(|app| app["securityContext"] = json!({"runAsUser": 4294967296_i64})),
            vec!["demo", "spec.containers[0].securityContext.runAsUser"],
        ),
        (
            "negative uid",
            app(|app| app["securityContext"] = json!({"runAsUser": -1})),
            vec!["demo", "spec.containers[0].securityContext.runAsUser"],
        ),
        (
            "a field that is not supported yet",
            app(|app| app["livenessProbe"] = json!({"exec": {"command": ["true"]}})),
            vec!["demo", "spec.containers[0].livenessProbe"],
        ),
    ]
}

#[test]
fn a_bad_manifest_names_object_and_field_and_changes_nothing() {
    let husk = Husk::new("manifests");
    for (what, text, words) in bad_manifests() {
        let said = husk.feed(&["run", "-"], text.as_bytes());
        eprintln!("{what}: {}", said.stderr);
        said.refused(1, &words);
        assert!(!said.stderr.trim_end().chars().any(|c| c.is_control() && c != '\n'), "{:?}", said.stderr);
        assert!(husk.files().is_empty(), "{what}: {:?}", husk.files());
    }
}

#[test]
fn one_bad_document_keeps_all_others_from_being_made() {
    let husk = Husk::new("all-or-none");
    let bad = pod(|pod| pod["metadata"]["name"] = json!("Bad"));
    husk.feed(&["run", "-"], format!("{}\n---\n{bad}\n", pod(|_| ())).as_bytes()).refused(1, &["Bad", "metadata.name"]);
    let good = husk.write("good.json", pod(|_| ()));
    let bad = husk.write("bad.json", bad);
    husk.call(&["run", &good, &bad]).refused(1, &["bad.json", "metadata.name"]);
    husk.call(&["run", &good, &good]).refused(1, &["demo", "metadata.name"]);
    husk.call(&["run", &good, "/does/not/exist.yaml"]).refused(1, &["/does/not/exist.yaml", "ENOENT"]);
    husk.call(&["run", "/"]).refused(1, &["EISDIR"]);
    assert!(husk.files().is_empty(), "{:?}", husk.files());
}

#[test]
fn the_namespace_of_a_manifest_must_agree_with_the_flag() {
    let husk = Husk::new("namespace");
    let manifest = pod(|pod| pod["metadata"]["namespace"] = json!("theirs"));
    husk.feed(&["run", "-", "-n", "ours"], manifest.as_bytes()).refused(1, &["metadata.namespace", "theirs", "ours"]);
    husk.feed(&["run", "-", "-n", "Not_A_Name"], pod(|_| ()).as_bytes()).refused(1, &["metadata.namespace"]);
    assert!(husk.files().is_empty(), "{:?}", husk.files());
}

#[test]
fn a_manifest_of_100_mb_is_refused_without_reading_it_all() {
    let husk = Husk::new("huge");
    let path = husk.write("huge.yaml", "");
    let file = std::fs::File::options().write(true).open(&path).expect("open");
    file.set_len(100 << 20).expect("grow");
    husk.call(&["run", &path]).refused(1, &["huge.yaml"]);
    let comments = "# a comment that says nothing\n".repeat(200_000);
    husk.feed(&["run", "-"], comments.as_bytes()).refused(1, &["standard input"]);
    assert!(husk.files().is_empty());
}

#[test]
fn a_manifest_nested_10000_deep_is_refused() {
    let husk = Husk::new("deep");
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let block: String = (0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth.min(3000)))).collect();
    for text in [deep("[", "]"), deep("{\"a\":", "}"), deep("- ", ""), block] {
        husk.feed(&["run", "-"], text.as_bytes()).refused(1, &["standard input"]);
    }
    // Aliases that would grow to a thousand million nodes.
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..10 {
        let inner = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![inner; 10].join(",")));
    }
    husk.feed(&["run", "-"], bomb.as_bytes()).refused(1, &["standard input"]);
    assert!(husk.files().is_empty());
}

#[test]
fn a_missing_image_is_named_and_nothing_is_made_for_it() {
    let husk = Husk::new("no-image");
    husk.feed(&["run", "-"], pod(|_| ()).as_bytes()).refused(1, &["demo", "husk.example/none:1"]);
    assert!(!husk.directory.join("state/pods").exists() || is_empty(&husk.directory.join("state/pods")));
    let said = husk.call(&["get", "pods", "-A"]);
    assert_eq!(said.is(0).stdout, "");
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).expect("read").next().is_none()
}

#[test]
fn an_image_that_is_no_image_changes_nothing() {
    let husk = Husk::new("images");
    let directory = husk.directory.join("not-a-layout");
    std::fs::create_dir(&directory).expect("make a directory");
    let garbage = husk.write("garbage.tar", [0x5a; 5000]);
    let empty = husk.write("empty.tar", "");
    husk.call(&["image", "load", "/does/not/exist.tar"]).refused(1, &["/does/not/exist.tar", "ENOENT"]);
    husk.call(&["image", "load", directory.to_str().expect("plain")]).refused(1, &["not-a-layout"]);
    husk.call(&["image", "load", &garbage]).refused(1, &["garbage.tar"]);
    husk.call(&["image", "load", &empty]).refused(1, &["empty.tar"]);
    husk.call(&["image", "import", &garbage, "husk.example/x:1"]).refused(1, &["garbage.tar"]);
    husk.call(&["image", "import", &empty, "Not A Name"]).refused(1, &["Not A Name"]);
    husk.call(&["image", "rm", "husk.example/none:1"]).refused(1, &["husk.example/none:1"]);
    let left: Vec<_> = husk.files().into_keys().filter(|path| path.is_file()).collect();
    assert!(left.iter().all(|path| path.metadata().is_ok_and(|metadata| metadata.len() == 0)), "{left:?}");
    assert_eq!(husk.call(&["image", "ls", "-o", "name"]).is(0).stdout, "");
}
