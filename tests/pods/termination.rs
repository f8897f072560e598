//! Deletion: signals, grace, deadlines. Measured while no other test of this process runs.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::image::Image;
use crate::common::outside::alive;
use crate::common::{Host, Pod, container, manifest, scaled, sleeper, wait_for};

/// How late SIGKILL may come.
const LATE: Duration = Duration::from_millis(50);

/// A named pipe in a hostPath: containers tell the test through it, without a delay, what has happened.
struct Wire {
    dir: PathBuf,
    end: File,
}

impl Wire {
    fn new(host: &Host) -> Wire {
        let dir = host.dir.join("wire");
        std::fs::create_dir(&dir).expect("make a directory");
        let path = dir.join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("make a named pipe");
        // Read and write: never an end of file, and a container's open never blocks.
        let end = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&path)
            .expect("open the named pipe");
        Wire { dir, end }
    }

    fn volume(&self) -> Value {
        json!([{"name": "wire", "hostPath": {"path": self.dir}}])
    }

    fn mount() -> Value {
        json!({"volumeMounts": [{"name": "wire", "mountPath": "/wire"}]})
    }

    /// Forgets what an earlier container has said.
    fn clear(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.end.read(&mut bytes), Ok(1..)) {}
    }

    /// Waits for `count` bytes.
    fn hear(&mut self, count: usize) -> String {
        let mut heard = Vec::new();
        wait_for(&format!("{count} bytes through the wire"), || {
            let mut byte = [0];
            while heard.len() < count && matches!(self.end.read(&mut byte), Ok(1)) {
                heard.push(byte[0]);
            }
            (heard.len() >= count).then_some(())
        });
        String::from_utf8(heard).expect("letters")
    }
}

/// Tells when it runs and when SIGTERM comes, and does not end.
const DEAF: &str = "trap 'echo -n t > /wire/fifo' TERM; echo -n r > /wire/fifo; while :; do sleep 1000 & wait; done";

fn death(pid: i32, patience: Duration) -> Instant {
    let deadline = Instant::now() + scaled(patience);
    loop {
        if !alive(pid) {
            return Instant::now();
        }
        assert!(Instant::now() < deadline, "{pid} still lives after {patience:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn deaf_pod<'h>(host: &'h Host, name: &str, wire: &mut Wire, grace: u64) -> (Pod<'h>, i32) {
    wire.clear();
    let spec = json!({"terminationGracePeriodSeconds": grace, "volumes": wire.volume(), "containers": [container("deaf", DEAF, Wire::mount())]});
    let pod = host.run(name, &manifest(name, spec));
    assert_eq!(wire.hear(1), "r");
    let pid = pod.pid("deaf");
    (pod, pid)
}

#[test]
fn sigkill_comes_at_the_deadline_never_before_and_not_much_after() {
    let host = Host::punctual();
    let mut wire = Wire::new(&host);
    // The machine may stand still for a moment, and so the best of the rounds counts; never before is said of each.
    let mut least = Duration::MAX;
    for (round, flags) in [vec![], vec!["--grace-period=2"], vec![]].into_iter().enumerate() {
        let grace = if round == 2 { 3 } else { 2 };
        let name = format!("deaf-{round}");
        let (pod, pid) = deaf_pod(&host, &name, &mut wire, grace);
        let asked = Instant::now();
        let mut args = vec!["delete", "pod", name.as_str()];
        args.extend(flags);
        let deletion = host.job(&args).start();
        let deletion_record = wait_for("the deletion is recorded", || pod.status().deletion);
        let early = wire.hear(1);
        let told = Instant::now();
        assert_eq!(early, "t", "SIGTERM first");
        assert_eq!(deletion_record.grace_seconds, grace);
        let died = death(pid, Duration::from_secs(10));
        let grace = Duration::from_secs(grace);
        assert!(died - asked >= grace, "killed {:?} after the request, grace {grace:?}", died - asked);
        least = least.min(died.saturating_duration_since(told + grace));
        // On the kernel's clock: the recorded deadline has passed.
        assert_eq!(deletion.finish().code, Some(0));
    }
    assert!(least <= scaled(LATE), "killed {least:?} after the deadline at best");
}

#[test]
fn containers_are_asked_in_parallel_and_an_early_exit_ends_the_wait() {
    let host = Host::punctual();
    let mut wire = Wire::new(&host);
    let slow = "trap 'echo -n t > /wire/fifo; sleep 0.5; exit 0' TERM; echo -n r > /wire/fifo; while :; do sleep 1000 & wait $!; done";
    let names: Vec<String> = (0..5).map(|i| format!("c{i}")).collect();
    let containers: Vec<Value> = names.iter().map(|name| container(name, slow, Wire::mount())).collect();
    let pod = host.run(
        "many",
        &manifest(
            "many",
            json!({"terminationGracePeriodSeconds": 60, "volumes": wire.volume(), "containers": containers}),
        ),
    );
    assert_eq!(wire.hear(5), "rrrrr");
    let asked = Instant::now();
    let deletion = host.job(&["delete", "pod", "many"]).start();
    assert_eq!(wire.hear(5), "ttttt");
    assert!(
        asked.elapsed() < scaled(Duration::from_millis(450)),
        "all were asked before the first had ended: {:?}",
        asked.elapsed()
    );
    let output = deletion.finish();
    assert_eq!(output.code, Some(0), "{output}");
    assert!(
        output.elapsed < scaled(Duration::from_millis(1500)),
        "five waits of 0.5 s side by side took {:?}",
        output.elapsed
    );
    assert!(!pod.dir.exists());
}

#[test]
fn a_second_delete_shortens_the_grace_and_never_lengthens_it() {
    let host = Host::punctual();
    let mut wire = Wire::new(&host);
    let (pod, pid) = deaf_pod(&host, "longer", &mut wire, 2);
    let asked = Instant::now();
    let first = host.job(&["delete", "pod", "longer"]).start();
    assert_eq!(wire.hear(1), "t");
    let second = host.job(&["delete", "pod", "longer", "--grace-period=40"]).start();
    let died = death(pid, Duration::from_secs(10));
    assert!(
        died - asked >= Duration::from_secs(2) && died - asked < scaled(Duration::from_millis(2500)),
        "{:?}",
        died - asked
    );
    assert_eq!((first.finish().code, second.finish().code), (Some(0), Some(0)));
    assert!(!pod.dir.exists());

    let (_pod, pid) = deaf_pod(&host, "shorter", &mut wire, 50);
    let first = host.job(&["delete", "pod", "shorter"]).start();
    assert_eq!(wire.hear(1), "t");
    let asked = Instant::now();
    let second = host.job(&["delete", "pod", "shorter", "--grace-period=2"]).start();
    let died = death(pid, Duration::from_secs(10));
    assert!(
        died - asked >= Duration::from_secs(2) && died - asked < scaled(Duration::from_millis(2500)),
        "{:?}",
        died - asked
    );
    assert_eq!((first.finish().code, second.finish().code), (Some(0), Some(0)));
}

#[test]
fn now_and_force_kill_at_once() {
    let host = Host::punctual();
    let mut wire = Wire::new(&host);
    for (name, flags) in [("now", &["--now"][..]), ("force", &["--force"]), ("zero", &["--force", "--grace-period=0"])]
    {
        let (pod, pid) = deaf_pod(&host, name, &mut wire, 50);
        let output = pod.delete(flags);
        assert!(!alive(pid));
        assert!(
            output.elapsed < scaled(Duration::from_millis(if name == "now" { 2800 } else { 800 })),
            "{name}: {output}"
        );
    }
    let (_pod, pid) = deaf_pod(&host, "plain-zero", &mut wire, 50);
    let said = host.husk(&["delete", "pod", "plain-zero", "--grace-period=0"]);
    assert!(matches!(said.code, Some(1 | 2)) && said.err().contains("--force"), "{said}");
    assert!(alive(pid));
}

#[test]
fn the_stop_signal_of_the_image_is_used() {
    let host = Host::punctual();
    let mut wire = Wire::new(&host);
    host.load(
        &Image::on_busybox("husk.test/usr1:1").set("StopSignal", json!("SIGUSR1")).write(&host.dir.join("i.tar")),
    );
    let script = "trap 'echo -n u > /wire/fifo; exit 0' USR1; trap 'echo -n t > /wire/fifo' TERM; echo -n r > /wire/fifo; while :; do sleep 1000 & wait; done";
    let mut main = container("main", script, Wire::mount());
    main["image"] = json!("husk.test/usr1:1");
    let pod = host.run(
        "usr1",
        &manifest("usr1", json!({"terminationGracePeriodSeconds": 30, "volumes": wire.volume(), "containers": [main]})),
    );
    assert_eq!(wire.hear(1), "r");
    let output = pod.delete(&[]);
    assert!(output.elapsed < scaled(Duration::from_secs(2)), "{output}");
    assert_eq!(wire.hear(1), "u");

    // The manifest's word before the image's.
    main["command"][2] = json!(script.replace("USR1", "USR2"));
    main["lifecycle"] = json!({"stopSignal": "SIGUSR2"});
    let spec = json!({"os": {"name": "linux"}, "volumes": wire.volume(), "containers": [main]});
    let pod = host.run("usr2", &manifest("usr2", spec));
    assert_eq!(wire.hear(1), "r");
    assert_eq!(pod.container("main")["stopSignal"], "SIGUSR2");
    pod.delete(&[]);
    assert_eq!(wire.hear(1), "u");
}

#[test]
fn the_whole_of_a_container_ends_not_its_first_process_only() {
    let host = Host::punctual();
    let script = "(trap '' TERM HUP; sleep 100003) & setsid sh -c 'trap \"\" TERM HUP; sleep 100004; true' & trap 'exit 0' TERM; wait";
    for shared in [false, true] {
        let name = if shared { "shared" } else { "private" };
        let spec = json!({"shareProcessNamespace": shared, "terminationGracePeriodSeconds": 1, "containers": [container("main", script, json!({})), sleeper("other")]});
        let pod = host.run(name, &manifest(name, spec));
        let pids = wait_for("the family", || {
            Some(crate::common::outside::children(pod.pid("main"))).filter(|list| list.len() >= 2)
        });
        pod.delete(&[]);
        assert!(pids.iter().all(|pid| !alive(*pid)), "{name}");
    }
}

#[test]
fn a_hundred_deletes_at_once_delete_once() {
    let host = Host::punctual();
    let pod = host.run("popular", &manifest("popular", json!({"containers": [sleeper("main")]})));
    let jobs: Vec<_> = (0..20).map(|_| host.job(&["delete", "pod", "popular", "--force"]).start()).collect();
    let outputs: Vec<_> = jobs.into_iter().map(crate::common::run::Running::finish).collect();
    assert!(outputs.iter().any(|output| output.code == Some(0)));
    for output in &outputs {
        assert!(output.code == Some(0) || output.err().contains("popular"), "{output}");
    }
    assert!(!pod.dir.exists());
}
