//! A pod that stands in the records alone: its keeper is a lock that the test holds, its supervisor a thread of the test.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;

use husk::control::{Request, Response};
use husk::state::pods::{PodDir, Reserved};
use husk::state::record::{ContainerKind, ContainerRecord, PodRecord, SandboxRecord, Status, VERSION};
use husk::state::{Lock, Roots};
use husk_oci::sys::fd;
use husk_oci::sys::socket::accept;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use serde_json::{Value, json};

use crate::Husk;

pub struct FakePod {
    pub roots: Roots,
    pub uid: String,
    pub name: String,
    pub lock: Option<Lock>,
    directory: PodDir,
}

/// The manifest of every fake pod: an init container, and two app containers.
fn manifest(name: &str, uid: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid,
            "labels": {"app": name},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}],
            "initContainers": [{"name": "setup", "image": "husk.example/a:1"}],
            "containers": [
                {
                    "name": "main", "image": "husk.example/a:1", "command": ["sleep", "a\u{1b}[31mb"],
                    "env": [{"name": "COLOUR", "value": "blue"}],
                    "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                    "resources": {"limits": {"memory": "32Mi"}, "requests": {"memory": "32Mi"}},
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true}],
                },
                {"name": "other", "image": "husk.example/b:1"},
            ],
        },
    })
}

fn exit(attempt: u32, exit_code: i32) -> Value {
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    json!({
        "id": "c".repeat(64), "attempt": attempt, "exitCode": exit_code, "signal": null, "reason": reason, "message": "",
        "startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:02Z", "finishedBootNs": 1,
    })
}

/// `state` of a running container.
pub fn running() -> Value {
    json!({
        "state": "running", "id": "d".repeat(64), "pid": 1, "start_ticks": 1,
        "started_at": "2026-01-01T00:00:03Z", "stopping": false,
    })
}

/// `state` of a container that has ended.
pub fn terminated(attempt: u32, exit_code: i32) -> Value {
    let mut state = exit(attempt, exit_code);
    state["state"] = json!("terminated");
    state
}

/// `state` of a container in its back-off.
pub fn crash_loop() -> Value {
    json!({"state": "waiting", "reason": "CrashLoopBackOff", "message": "back-off 10s"})
}

impl FakePod {
    /// A pod whose init container is done and whose containers run.
    pub fn new(husk: &Husk, name: &str) -> FakePod {
        FakePod::in_namespace(husk, name, "default")
    }

    pub fn in_namespace(husk: &Husk, name: &str, namespace: &str) -> FakePod {
        let roots = Roots::new(&husk.directory.join("root"), &husk.directory.join("state")).expect("plain directories");
        roots.prepare().expect("make the directories");
        let uid = format!(
            "00000000-0000-4000-8000-{:0>12}",
            name.bytes().map(|byte| format!("{:x}", byte % 16)).collect::<String>()
        );
        let Ok(Reserved::New(reservation)) = roots.reserve(Some((namespace, name)), &uid) else {
            panic!("{name} is taken")
        };
        let directory = PodDir::open(reservation.dir.clone()).expect("open");
        let container = |name: &str, kind| ContainerRecord {
            name: name.into(),
            kind,
            image_id: "sha256:1".into(),
            image_ref: "husk.example/a:1".into(),
            argv: vec!["sleep".into()],
            cwd: "/".into(),
            stop_signal: 15,
            ..ContainerRecord::default()
        };
        let (init, app) = (ContainerKind::Init, ContainerKind::App);
        let record: PodRecord = serde_json::from_value(json!({
            "version": VERSION, "owner": "cli", "id": uid, "attempt": 0, "created_at": "2026-01-01T00:00:00Z",
            "cgroup": "nowhere", "log_dir": roots.log_dir(namespace, name, &uid),
            "pod": manifest(name, &uid, namespace),
            "sandbox": SandboxRecord::default(),
            "containers": [container("setup", init), container("main", app), container("other", app)],
        }))
        .expect("a record");
        directory.write_record(&record).expect("write");
        let pod = FakePod { roots, uid, name: name.into(), lock: Some(reservation.lock), directory };
        pod.status(running(), |_| ());
        pod
    }

    /// Writes the status: `main` in this state, the other container running, and what `change` does to it.
    pub fn status(&self, main: Value, change: impl FnOnce(&mut Value)) {
        let container = |slot: u32, name: &str, kind: &str, state: Value| json!({"name": name, "kind": kind, "attempt": 0, "state": state, "last": null, "backoff": null, "slot": slot});
        let mut status = json!({
            "version": VERSION, "boot_id": husk::state::boot_id().expect("a boot id"), "start_time": "2026-01-01T00:00:00Z",
            "sandbox": {"pid": 1, "start_ticks": 1, "ready_at": "2026-01-01T00:00:00Z", "ended": false},
            "initialized_at": "2026-01-01T00:00:02Z",
            "containers": [
                container(0, "setup", "init", terminated(0, 0)),
                container(1, "main", "app", main),
                container(2, "other", "app", running()),
            ],
            "deletion": null, "finished_at": null, "failure": null,
        });
        change(&mut status);
        let status: Status = serde_json::from_value(status).expect("a status");
        self.directory.write_status(&status).expect("write");
    }

    /// Sets the instance that runs and the one that ran before.
    pub fn attempt(&self, attempt: u32) {
        self.status(running(), |status| {
            status["containers"][1]["attempt"] = json!(attempt);
            status["containers"][1]["last"] = exit(attempt - 1, 3);
        });
    }

    /// What `main` has written, `(file, content)`.
    pub fn log(&self, file: &str, content: &str) {
        use std::io::Write;
        let directory = self.log_directory();
        std::fs::create_dir_all(&directory).expect("make the directory");
        let mut file = std::fs::File::options().append(true).create(true).open(directory.join(file)).expect("open");
        file.write_all(content.as_bytes()).expect("write");
    }

    pub fn log_directory(&self) -> PathBuf {
        self.roots.log_dir("default", &self.name, &self.uid).join("main")
    }

    /// Plays the supervisor for one request.
    pub fn serve(&self, play: impl FnOnce(Conversation) + Send + 'static) -> JoinHandle<()> {
        let listener =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        let path = self.roots.pod_dir(&self.uid).join("control.sock");
        let _ = std::fs::remove_file(&path);
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).expect("a short path")).expect("bind");
        listen(&listener, Backlog::new(4).expect("a number")).expect("listen");
        std::thread::spawn(move || {
            let socket = accept(listener.as_fd()).expect("accept");
            fd::set_nonblocking(socket.as_fd(), false).expect("make it block");
            let mut buffer = vec![0; 128 << 10];
            let got = fd::recv(socket.as_fd(), &mut buffer, false).expect("receive");
            let request = serde_json::from_slice(&buffer[..got.len]).expect("a request");
            play(Conversation { request, fds: got.fds.into_iter().flatten().collect(), socket });
        })
    }
}

/// A request, and the way to answer it.
pub struct Conversation {
    pub request: Request,
    pub fds: Vec<OwnedFd>,
    socket: OwnedFd,
}

impl Conversation {
    pub fn answer(&self, response: &Response, with: Option<&OwnedFd>) {
        let packet = serde_json::to_vec(response).expect("JSON");
        let fds: Vec<_> = with.iter().map(|fd| fd.as_fd()).collect();
        fd::send(self.socket.as_fd(), &packet, &fds).expect("send");
    }

    pub fn exited(&self, exit_code: i32) {
        self.answer(&Response::Exited { exit_code, signal: None, timed_out: false }, None);
    }

    /// Waits until the other side is gone.
    pub fn await_end(&self) {
        let got = fd::recv(self.socket.as_fd(), &mut [0; 16], false).expect("receive");
        assert_eq!(got.len, 0);
    }
}
