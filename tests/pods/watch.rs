//! `husk watch`: directories and URLs of manifests, real pods, and what becomes of them when any of the three goes wrong.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};

use crate::common::{BUSYBOX, Host, PATIENCE, container, manifest, merge, sample, scaled, wait_for, wait_for_within};

/// Ends at once when asked to.
const QUICK: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// A pod that runs until it is asked to end; `over` is laid over its spec.
fn pod(name: &str, over: Value) -> String {
    let mut spec = json!({"restartPolicy": "Always", "containers": [container("main", QUICK, json!({}))]});
    merge(&mut spec, over);
    manifest(name, spec)
}

/// `husk watch` in the foreground, with all that it says in a file.
struct Watch<'h> {
    host: &'h Host,
    child: Child,
    said: PathBuf,
    notify: UnixDatagram,
}

impl<'h> Watch<'h> {
    /// Started, and not waited for.
    fn start(host: &'h Host, sources: &[&str], interval: &str) -> Watch<'h> {
        let said = host.dir.join("watch.log");
        let address = host.dir.join("notify");
        let _ = fs::remove_file(&address);
        let notify = UnixDatagram::bind(&address).expect("bind");
        notify.set_read_timeout(Some(scaled(PATIENCE))).expect("set a time limit");
        // Whom to trust: without anybody there is no https.
        let authority = host.dir.join("authority.pem");
        let made = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).expect("a certificate");
        fs::write(&authority, made.cert.pem()).expect("write a certificate");
        let log = || OpenOptions::new().create(true).append(true).open(&said).expect("open the log");
        let child = Command::new(env!("CARGO_BIN_EXE_husk"))
            .args(["watch", "--interval", interval])
            .args(sources)
            .env("HUSK_ROOT", &host.root)
            .env("HUSK_STATE", &host.state)
            .env("NOTIFY_SOCKET", &address)
            .env("SSL_CERT_FILE", &authority)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .expect("start husk watch");
        Watch { host, child, said, notify }
    }

    /// Started, and past its first look.
    fn ready(host: &'h Host, sources: &[&str], interval: &str) -> Watch<'h> {
        let watch = Watch::start(host, sources, interval);
        watch.notified("READY=1");
        watch
    }

    /// Waits until the service manager was told this.
    #[track_caller]
    fn notified(&self, what: &str) -> String {
        let mut buffer = [0; 512];
        loop {
            let length = self.notify.recv(&mut buffer).unwrap_or_else(|e| panic!("no {what}: {e}; {}", self.said()));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(what) {
                return text;
            }
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    #[track_caller]
    fn says(&self, what: &str) {
        wait_for(&format!("{what:?} in {:?}", self.said()), || self.said().contains(what).then_some(()));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("signal husk watch");
    }

    /// Ends it, as a service manager does.
    #[track_caller]
    fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().expect("wait");
        assert_eq!(status.code(), Some(0), "{}", self.said());
    }

    /// Waits until exactly these pods are there, and run.
    #[track_caller]
    fn pods(&self, names: &[&str]) {
        wait_for(&format!("pods {names:?}; {}", self.said()), || (running(self.host) == names).then_some(()));
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // After `stop` there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("husk watch said:\n{}", self.said());
        }
    }
}

/// The names of the pods that run.
fn running(host: &Host) -> Vec<String> {
    let output = host.ok(&["get", "pods", "-A", "-o", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let items = list["items"].as_array().expect("items");
    let live = items.iter().filter(|pod| pod["status"]["phase"] == "Running");
    live.map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

/// A directory of this test.
fn directory(host: &Host, name: &str) -> PathBuf {
    let path = host.dir.join(name);
    fs::create_dir(&path).expect("make a directory");
    path
}

/// Writes a file as careful programs do: whole, under its name at once.
fn put(directory: &std::path::Path, name: &str, text: impl AsRef<[u8]>) {
    let draft = directory.join(format!(".{name}.new"));
    fs::write(&draft, text).expect("write");
    fs::rename(&draft, directory.join(name)).expect("rename");
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("temp paths are UTF-8")
}

/// What a container's instance is told from others by.
fn instance(host: &Host, name: &str) -> (String, i32) {
    let pod = host.pod(name);
    (pod.record().id, pod.pid("main"))
}

/// Waits until pod `a` runs as another instance than the one of this process. In between there may be none.
fn another(host: &Host, before: i32) {
    wait_for("another instance", || {
        let pods = host.husk(&["get", "pod", "a", "-o", "json"]);
        let phase = serde_json::from_slice::<Value>(&pods.stdout).ok()?["status"]["phase"].clone();
        if phase != "Running" {
            return None;
        }
        let status = host.pod_dirs().into_iter().filter_map(|dir| fs::read_to_string(dir.join("status.json")).ok());
        let pids: Vec<Value> = status
            .filter_map(|text| serde_json::from_str::<Value>(&text).ok())
            .map(|status| status["containers"][0]["state"]["pid"].clone())
            .filter(|pid| !pid.is_null())
            .collect();
        (!pids.is_empty() && pids.iter().all(|pid| *pid != before)).then_some(())
    });
}

#[test]
fn manifests_appear_change_and_vanish_and_so_do_their_pods() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    put(&dir, "a.yaml", pod("a", json!({})));
    // An interval that no test waits for: only the kernel's word counts.
    let watch = Watch::ready(&host, &[text(&dir)], "1h");
    watch.pods(&["a"]);
    let record = host.pod("a").record();
    let source = record.source.expect("a source");
    assert_eq!((source.place.as_str(), source.file.as_deref()), (text(&dir), Some("a.yaml")));
    assert_eq!(record.id.len(), 32, "a uid made of the content: {}", record.id);
    let wide = host.ok(&["get", "pods", "-o", "wide"]).out();
    assert!(wide.lines().next().is_some_and(|l| l.contains("OWNER")) && wide.contains(" watch "), "{wide}");

    let b = json!({"containers": [container("main", QUICK, json!({"env": [{"name": "X", "value": "1"}]}))]});
    put(&dir, "b.json", pod("b", b.clone()));
    watch.pods(&["a", "b"]);
    let (a, before) = (instance(&host, "a"), instance(&host, "b"));

    put(&dir, "b.json", pod("b", b).replace("\"1\"", "\"2\""));
    watch.says("pod/b is replaced: spec: Forbidden: pod updates may not change");
    wait_for("another pod", || {
        running(&host).contains(&"b".to_owned()).then(|| instance(&host, "b")).filter(|now| now.0 != before.0)
    });
    assert!(host.pod("b").record().containers[0].env.contains(&"X=2".to_owned()));

    fs::remove_file(dir.join("b.json")).expect("remove");
    watch.pods(&["a"]);
    assert_eq!(instance(&host, "a"), a, "a pod whose file nobody touched");
    watch.stop();
    assert_eq!(instance(&host, "a"), a, "pods go on without husk watch");
}

#[test]
fn what_a_pod_takes_while_it_lives_is_changed_in_place() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    let with = |memory: &str, label: &str| {
        let resources = json!({"resources": {"requests": {"memory": "16Mi"}, "limits": {"memory": memory}}});
        let spec = json!({"containers": [container("main", QUICK, resources)]});
        let mut all: Value = serde_json::from_str(&pod("a", spec)).expect("JSON");
        all["metadata"]["labels"] = json!({"step": label});
        all.to_string()
    };
    put(&dir, "a.yaml", with("64Mi", "one"));
    let watch = Watch::ready(&host, &[text(&dir)], "1h");
    let before = instance(&host, "a");
    for (memory, label) in [("96Mi", "one"), ("96Mi", "two"), ("64Mi", "one")] {
        put(&dir, "a.yaml", with(memory, label));
        wait_for(&format!("{memory}, {label}; {}", watch.said()), || {
            let pod = host.pod("a").json();
            let limit = &pod["spec"]["containers"][0]["resources"]["limits"]["memory"];
            (*limit == json!(memory) && pod["metadata"]["labels"]["step"] == json!(label)).then_some(())
        });
    }
    // The file's name is no part of the pod.
    fs::rename(dir.join("a.yaml"), dir.join("z.yaml")).expect("rename");
    wait_for("the record names the file", || {
        (host.pod("a").record().source?.file.as_deref() == Some("z.yaml")).then_some(())
    });
    assert_eq!(instance(&host, "a"), before, "{}", watch.said());
    // A change of which a part cannot be made is not begun.
    put(&dir, "z.yaml", with("96Mi", "one").replace(BUSYBOX, "husk.test/none:1"));
    watch.says("husk.test/none:1");
    assert_eq!(host.pod("a").json()["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi");
    assert_eq!(instance(&host, "a"), before, "{}", watch.said());
    watch.stop();
}

#[test]
fn what_is_no_manifest_disturbs_nothing_and_is_said_once() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    put(&dir, "a.yaml", pod("a", json!({})));
    put(&dir, "broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata: [");
    put(&dir, "field.yaml", pod("field", json!({"restartPolicie": "Never"})));
    put(&dir, "image.yaml", pod("image", json!({"containers": [{"name": "main", "image": "husk.test/none:1"}]})));
    put(&dir, "notes.txt", "not a manifest");
    put(&dir, "a.yaml~", pod("copy", json!({})));
    File::create(dir.join("huge.yaml")).expect("create").set_len(1 << 32).expect("a file with a hole");
    mkfifo(&dir.join("pipe.yaml"), Mode::S_IRWXU).expect("make a pipe");
    symlink("nowhere", dir.join("dangling.yaml")).expect("link");
    symlink("/dev/null", dir.join("device.yaml")).expect("link");
    fs::create_dir(dir.join("directory.yaml")).expect("make a directory");
    fs::write(dir.join(".hidden.yaml"), pod("hidden", json!({}))).expect("write");
    let watch = Watch::ready(&host, &[text(&dir)], "200ms");
    watch.pods(&["a"]);
    let mentioned = [
        "broken.yaml: ",
        "field.yaml: pod field: spec.restartPolicie: unknown field",
        "image.yaml: pod image: spec.containers[0].image",
        "notes.txt: not read: names of manifests end with",
        "a.yaml~: not read",
        "huge.yaml: manifest is too large",
        "pipe.yaml: no regular file",
        "dangling.yaml: a link to nothing",
        "device.yaml: no regular file",
    ];
    mentioned.iter().for_each(|what| watch.says(what));
    assert!(!watch.said().contains("hidden") && !watch.said().contains("directory.yaml"), "{}", watch.said());
    let a = instance(&host, "a");

    // A good file breaks: its pod stays. Another look says nothing new of the others.
    put(&dir, "a.yaml", "{");
    watch.says("/a.yaml: ");
    let before = watch.said();
    put(&dir, "c.yaml", pod("c", json!({})));
    watch.pods(&["a", "c"]);
    assert_eq!(instance(&host, "a"), a);
    for what in mentioned {
        assert_eq!(watch.said().matches(what).count(), 1, "{what}: {}", watch.said());
    }
    assert!(watch.said().starts_with(&before));
    // The image comes, and with it the pod, without a change of the file; the broken one is mended.
    put(&dir, "broken.yaml", pod("mended", json!({})));
    put(&dir, "a.yaml", pod("a", json!({})));
    watch.pods(&["a", "c", "mended"]);
    assert_eq!(instance(&host, "a"), a);
    watch.stop();
}

#[test]
fn a_file_that_is_being_written_is_read_when_it_is_closed() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    let two = json!({"containers": [container("main", QUICK, json!({})), container("other", QUICK, json!({}))]});
    let whole = pod("a", two);
    put(&dir, "a.yaml", &whole);
    let watch = Watch::ready(&host, &[text(&dir)], "100ms");
    let before = instance(&host, "a");
    // Halfway it is a manifest with one container less.
    let mut file = OpenOptions::new().write(true).truncate(true).open(dir.join("a.yaml")).expect("open");
    file.write_all(pod("a", json!({})).as_bytes()).expect("write");
    file.flush().expect("flush");
    // Another file shows that it was looked at meanwhile, twice.
    for name in ["b", "c"] {
        put(&dir, &format!("{name}.yaml"), pod(name, json!({})));
        wait_for(name, || running(&host).contains(&name.to_owned()).then_some(()));
    }
    file.set_len(0).expect("truncate");
    std::io::Seek::rewind(&mut file).expect("rewind");
    file.write_all(whole.as_bytes()).expect("write");
    drop(file);
    put(&dir, "d.yaml", pod("d", json!({})));
    watch.pods(&["a", "b", "c", "d"]);
    assert_eq!(instance(&host, "a"), before, "{}", watch.said());
    watch.stop();
}

#[test]
fn directories_that_are_exchanged_by_links_are_followed() {
    // As the kubelet writes a ConfigMap: names are links through ..data, which is exchanged at once.
    let host = Host::new();
    let dir = directory(&host, "pods");
    let version = |name: &str, pods: &[&str]| {
        let path = dir.join(format!("..{name}"));
        fs::create_dir(&path).expect("make a directory");
        pods.iter().for_each(|p| fs::write(path.join(format!("{p}.yaml")), pod(p, json!({}))).expect("write"));
        symlink(format!("..{name}"), dir.join("..data_tmp")).expect("link");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("rename");
    };
    version("one", &["a", "b"]);
    ["a", "b"].iter().for_each(|p| symlink(format!("..data/{p}.yaml"), dir.join(format!("{p}.yaml"))).expect("link"));
    let watch = Watch::ready(&host, &[text(&dir)], "1h");
    watch.pods(&["a", "b"]);
    let a = instance(&host, "a");
    version("two", &["a"]);
    watch.says("b.yaml: a link to nothing");
    fs::remove_file(dir.join("b.yaml")).expect("remove");
    watch.pods(&["a"]);
    assert_eq!(instance(&host, "a"), a);
    watch.stop();
}

#[test]
fn a_directory_that_goes_away_leaves_its_pods_and_may_come_back() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    put(&dir, "a.yaml", pod("a", json!({})));
    let watch = Watch::ready(&host, &[text(&dir)], "100ms");
    let a = instance(&host, "a");
    let aside = host.dir.join("aside");
    fs::rename(&dir, &aside).expect("rename");
    watch.says("no such file");
    watch.says("its pods stay as they are");
    fs::rename(&aside, &dir).expect("rename");
    put(&dir, "b.yaml", pod("b", json!({})));
    watch.pods(&["a", "b"]);
    assert_eq!(instance(&host, "a"), a);
    // A whole directory in its place is the new truth.
    let other = directory(&host, "other");
    put(&other, "c.yaml", pod("c", json!({})));
    fs::rename(&dir, &aside).expect("rename");
    fs::rename(&other, &dir).expect("rename");
    watch.pods(&["c"]);
    watch.stop();
}

#[test]
fn a_file_system_that_is_not_mounted_any_more_is_no_empty_directory() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let host = Host::new();
    let dir = directory(&host, "pods");
    let tmpfs = || mount(Some("none"), &dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount");
    let umount = || umount2(&dir, MntFlags::MNT_DETACH).expect("umount");
    tmpfs();
    let mounted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        put(&dir, "a.yaml", pod("a", json!({})));
        let watch = Watch::ready(&host, &[text(&dir)], "100ms");
        let a = instance(&host, "a");
        umount();
        watch.says("was on another file system than is mounted there now");
        // Nor does one who starts now know less.
        watch.stop();
        let watch = Watch::ready(&host, &[text(&dir)], "100ms");
        assert_eq!(instance(&host, "a"), a);
        tmpfs();
        put(&dir, "a.yaml", pod("a", json!({})));
        wait_for("it is adopted", || {
            use std::os::unix::fs::MetadataExt;
            (host.pod("a").record().source?.device == Some(dir.metadata().ok()?.dev())).then_some(())
        });
        assert_eq!(instance(&host, "a"), a);
        fs::remove_file(dir.join("a.yaml")).expect("remove");
        watch.pods(&[]);
        watch.stop();
    }));
    let _ = umount2(&dir, MntFlags::MNT_DETACH);
    if let Err(panic) = mounted {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_watcher_that_is_killed_in_the_middle_is_replaced_by_one_that_finishes() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    let names: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
    let write = |round: usize| {
        for name in &names {
            let env = json!({"env": [{"name": "ROUND", "value": round.to_string()}]});
            put(&dir, &format!("{name}.yaml"), pod(name, json!({"containers": [container("main", QUICK, env)]})));
        }
    };
    write(0);
    for (round, delay_ms) in [0, 5, 20, 60, 120, 250].into_iter().enumerate() {
        let watch = Watch::start(&host, &[text(&dir)], "1h");
        std::thread::sleep(scaled(Duration::from_millis(delay_ms)));
        watch.signal(Signal::SIGKILL);
        drop(watch);
        write(round + 1);
    }
    let watch = Watch::ready(&host, &[text(&dir)], "1s");
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    watch.pods(&wanted);
    wait_for(&format!("the last round; {}", watch.said()), || {
        let fresh = |name: &&str| {
            host.pod_dirs().iter().any(|dir| {
                let record = fs::read_to_string(dir.join("pod.json")).unwrap_or_default();
                record.contains(&format!("\"{name}\"")) && record.contains("ROUND=6")
            })
        };
        wanted.iter().all(fresh).then_some(())
    });
    watch.pods(&wanted);
    assert_eq!(host.pod_dirs().len(), names.len());
    let before: Vec<_> = wanted.iter().map(|name| instance(&host, name)).collect();
    // Another one adopts them all and touches none.
    watch.stop();
    let watch = Watch::ready(&host, &[text(&dir)], "100ms");
    assert_eq!(wanted.iter().map(|name| instance(&host, name)).collect::<Vec<_>>(), before);
    watch.stop();
}

#[test]
fn pods_that_died_are_made_again_and_pods_that_ended_are_not() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    put(&dir, "a.yaml", pod("a", json!({})));
    put(
        &dir,
        "once.yaml",
        pod("once", json!({"restartPolicy": "Never", "containers": [container("main", "exit 3", json!({}))]})),
    );
    let watch = Watch::ready(&host, &[text(&dir)], "200ms");
    host.pod("once").wait_phase("Failed");
    let once = host.pod("once").record();
    let before = instance(&host, "a");
    kill(Pid::from_raw(host.pod("a").keeper()), Signal::SIGKILL).expect("kill keeper");
    another(&host, before.1);
    // By hand it can be deleted, and is made again, as the manifest is still there.
    let before = instance(&host, "a");
    host.ok(&["delete", "a"]);
    another(&host, before.1);
    assert_eq!(host.pod("once").record().created_at, once.created_at, "it has ended for good");
    put(
        &dir,
        "once.yaml",
        pod("once", json!({"restartPolicy": "Never", "containers": [container("main", "exit 4", json!({}))]})),
    );
    wait_for("its next end", || {
        let pods = host.ok(&["get", "pods", "-o", "json"]).out();
        pods.contains("\"exitCode\": 4").then_some(())
    });
    watch.stop();
}

#[test]
fn a_name_belongs_to_who_came_first() {
    let host = Host::new();
    let (one, two) = (directory(&host, "one"), directory(&host, "two"));
    host.run("mine", &pod("mine", json!({})));
    put(&one, "mine.yaml", pod("mine", json!({"hostname": "other"})));
    put(&one, "same.yaml", pod("same", json!({})));
    let first = Watch::ready(&host, &[text(&one)], "1h");
    first.pods(&["mine", "same"]);
    first.says("pod default/mine: there is one already, and somebody has made it with husk run");
    let same = instance(&host, "same");

    let said = host.refused(&["watch", text(&one)]);
    assert!(said.contains("is watched already"), "{said}");
    assert!(host.refused(&["watch", text(&two), text(&two)]).contains("named twice"));
    put(&two, "same.yaml", pod("same", json!({"hostname": "other"})));
    let second = Watch::ready(&host, &[text(&two)], "200ms");
    second.says(&format!("pod default/same: there is one already, and {} has made it", text(&one)));
    fs::remove_file(two.join("same.yaml")).expect("remove");
    put(&two, "new.yaml", pod("new", json!({})));
    second.pods(&["mine", "new", "same"]);
    assert_eq!(instance(&host, "same"), same);
    second.stop();
    first.stop();
}

#[test]
fn a_hundred_manifests_at_once_are_a_hundred_pods() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    let watch = Watch::ready(&host, &[text(&dir)], "1h");
    let mut names: Vec<String> = (0..sample(100)).map(|n| format!("p{n:02}")).collect();
    let (files, listed) = (names.len() * 3 / 5, names.len() * 4 / 5);
    // Some in files of their own, some in lists, some in documents.
    for name in &names[..files] {
        put(&dir, &format!("{name}.yaml"), pod(name, json!({})));
    }
    let items = |names: &[String]| -> Vec<Value> {
        names.iter().map(|n| serde_json::from_str(&pod(n, json!({}))).expect("JSON")).collect()
    };
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items(&names[files..listed])});
    put(&dir, "list.json", list.to_string());
    let documents: Vec<String> = names[listed..].iter().map(|n| pod(n, json!({}))).collect();
    put(&dir, "documents.yaml", documents.join("\n---\n"));
    names.sort();
    crate::common::wait_for_within(4 * PATIENCE, &format!("all pods; {}", watch.said()), || {
        (running(&host) == names).then_some(())
    });
    fs::remove_file(dir.join("list.json")).expect("remove");
    put(&dir, "documents.yaml", r#"{"apiVersion": "v1", "kind": "List", "items": []}"#);
    crate::common::wait_for_within(4 * PATIENCE, &format!("those with files of their own; {}", watch.said()), || {
        (running(&host) == names[..files]).then_some(())
    });
    watch.stop();
}

/// What the server says next: status line, headers, body.
type Answer = Arc<Mutex<(&'static str, String, String)>>;

/// An HTTP server on the loopback interface that knows one entity tag.
struct Server {
    url: String,
    answer: Answer,
    /// Requests with a matching If-None-Match.
    saved: Arc<Mutex<usize>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let url = format!("http://{}/pods", listener.local_addr().expect("an address"));
        let answer: Answer = Arc::new(Mutex::new(("500 Broken", String::new(), String::new())));
        let saved = Arc::new(Mutex::new(0));
        let server = Server { url, answer: answer.clone(), saved: saved.clone() };
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                serve(connection, &answer, &saved);
            }
        });
        server
    }

    fn say(&self, status: &'static str, tag: &str, body: impl Into<String>) {
        *self.answer.lock().expect("lock") = (status, tag.to_owned(), body.into());
    }
}

fn serve(mut connection: TcpStream, answer: &Answer, saved: &Mutex<usize>) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|n| n > 0) {
        request.extend(byte);
    }
    let request = String::from_utf8_lossy(&request).to_lowercase();
    let (status, tag, body) = answer.lock().expect("lock").clone();
    let text = if status.starts_with("200") && !tag.is_empty() && request.contains(&format!("if-none-match: \"{tag}\""))
    {
        *saved.lock().expect("lock") += 1;
        "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned()
    } else {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"{tag}\"\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    // A client that has gone is its own affair.
    let _ = connection.write_all(text.as_bytes());
}

#[test]
fn a_url_is_followed_and_its_failures_touch_nothing() {
    let host = Host::new();
    let server = Server::start();
    let watch = Watch::start(&host, &[&server.url], "100ms");
    watch.says("answered 500");
    assert!(running(&host).is_empty());
    server.say("200 OK", "one", pod("a", json!({})));
    watch.pods(&["a"]);
    watch.notified("READY=1");
    wait_for("an answer that was saved", || (*server.saved.lock().expect("lock") >= 2).then_some(()));
    let a = instance(&host, "a");
    assert_eq!(host.pod("a").record().source.map(|s| (s.place, s.file)), Some((server.url.clone(), None)));

    for (status, body, says) in [
        ("404 Not Found", "gone", "answered 404"),
        ("200 OK", "", "no pod in it"),
        ("200 OK", "<html>", "its pods stay as they are"),
        ("200 OK", &pod("a", json!({"x": 1})), "spec.x: unknown field"),
    ] {
        server.say(status, "", body);
        watch.says(says);
    }
    assert_eq!((running(&host), instance(&host, "a")), (vec!["a".to_owned()], a));

    let list = |pods: &[&str]| {
        let items: Vec<Value> = pods.iter().map(|p| serde_json::from_str(&pod(p, json!({}))).expect("JSON")).collect();
        json!({"apiVersion": "v1", "kind": "PodList", "items": items}).to_string()
    };
    server.say("200 OK", "two", list(&["b", "c"]));
    watch.pods(&["b", "c"]);
    watch.stop();
    // Nobody answers, and one that begins then knows no less.
    let closed = server.url.clone();
    let b = instance(&host, "b");
    server.say("503 Unavailable", "", "");
    let watch = Watch::ready(&host, &[&closed], "100ms");
    watch.says("answered 503");
    assert_eq!(instance(&host, "b"), b);
    // No pods is an answer.
    server.say("200 OK", "three", list(&[]));
    watch.pods(&[]);
    watch.stop();
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let host = Host::new();
    // Whatever it says, it does not say it in TLS.
    let server = Server::start();
    let url = server.url.replace("http://", "https://");
    let watch = Watch::start(&host, &[&url], "100ms");
    // Who waits for the end of a line that never comes answers when the time for an answer is over.
    let complained =
        || watch.said().contains("https://127.0.0.1:") && watch.said().contains("its pods stay as they are");
    wait_for_within(scaled(3 * PATIENCE), "the complaint", || complained().then_some(()));
    watch.stop();
}

#[test]
fn a_service_manager_is_told_and_sighup_looks_again() {
    let host = Host::new();
    let dir = directory(&host, "pods");
    put(&dir, "a.yaml", pod("a", json!({})));
    put(&dir, "b.yaml", pod("b", json!({"containers": [{"name": "main", "image": "husk.test/later:1"}]})));
    let watch = Watch::ready(&host, &[text(&dir)], "1h");
    watch.pods(&["a"]);
    watch.says("b.yaml: ");
    let tar = crate::common::image::Image::on_busybox("husk.test/later:1").set("Cmd", json!(["sleep", "100000"]));
    let archive = host.dir.join("later.tar");
    tar.write(&archive);
    host.load(&archive);
    watch.signal(Signal::SIGHUP);
    watch.pods(&["a", "b"]);
    watch.notified("STATUS=2 pods of 1 source");
    watch.signal(Signal::SIGTERM);
    watch.notified("STOPPING=1");
    watch.stop();
}
