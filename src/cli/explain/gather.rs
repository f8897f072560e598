//! What is known of a pod and of what it needs of the host.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use husk_oci::errno::io_text;
use husk_oci::file;
use husk_oci::sys::clock;
use jiff::Timestamp;

use super::{Detail, LogTail};
use crate::cli::log_reader::LogReader;
use crate::cli::{Context, Error, liveness};
use crate::pod::{self, Liveness, Now};
use crate::state::events::Event;
use crate::state::record::{Container, ContainerRecord, MountRecord, MountSource, PodRecord, State, Status};
use crate::state::{PodEntry, start_ticks};

/// So many lines of a log are shown.
const LINES: usize = 8;
/// So much of a process's stack in the kernel.
const FRAMES: usize = 6;
/// So much of the end of `supervisor.log` is looked through.
const SUPERVISOR_LOG_BYTES: u64 = 16 << 10;

/// What is known of a pod at one moment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What was decided.
    pub record: PodRecord,
    /// What has happened.
    pub status: Status,
    /// Whether somebody watches it.
    pub live: Liveness,
    /// The moment.
    pub now: Now,
    /// In the order in which they were last seen.
    pub events: Vec<Event>,
    /// What containers need that do not run, and the host has not.
    pub missing: Vec<Detail>,
    /// Main processes that were asked to stop, by container.
    pub processes: BTreeMap<String, Process>,
    /// Where something listens in the pod's network; `None`: that is not known.
    pub ports: Option<Ports>,
    /// The end of what the container has printed that failed last and does not run.
    pub log: Option<LogTail>,
    /// The last error that the supervisor has told in its log.
    pub trouble: Option<(Timestamp, String)>,
}

/// A process that shall end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// As the host sees it.
    pub pid: i32,
    /// State in proc_pid_stat(5).
    pub state: Option<char>,
    /// Where it sleeps in the kernel.
    pub wchan: String,
    /// Who has called that, the innermost first.
    pub stack: Vec<String>,
}

/// Ports that something listens on, and whether others than the pod itself can reach them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// TCP.
    pub tcp: BTreeMap<u16, bool>,
    /// UDP.
    pub udp: BTreeMap<u16, bool>,
}

/// Looks at everything once.
///
/// # Errors
/// The events cannot be read.
pub fn facts(context: &Context, entry: PodEntry) -> Result<Facts, Error> {
    let events = context.roots.events(&entry.id)?;
    let trouble = trouble(&context.roots.pod_dir(&entry.id).join("supervisor.log"));
    let live = liveness(&entry);
    let PodEntry { record, status, .. } = entry;
    let now = Now { boot_ns: u64::try_from(clock::boottime().as_nanos()).unwrap_or(u64::MAX), wall: Timestamp::now() };
    let over = live != Liveness::Alive || status.finished_at.is_some();
    Ok(Facts {
        missing: if over { Vec::new() } else { missing(&record, &status) },
        processes: if over { BTreeMap::new() } else { processes(&status) },
        ports: if over { None } else { ports(&status) },
        log: if record.driven() { None } else { log(&record, &status) },
        record,
        status,
        live,
        now,
        events,
        trouble,
    })
}

fn missing(record: &PodRecord, status: &Status) -> Vec<Detail> {
    let mut all = Vec::new();
    for (c, made_of) in status.containers.iter().zip(&record.containers) {
        let done = matches!(&c.state, State::Terminated(exit) if exit.exit_code == 0);
        if matches!(c.state, State::Running { .. }) || done {
            continue;
        }
        let lacks = image(made_of).into_iter().chain(made_of.mounts.iter().filter_map(mount));
        all.extend(lacks.map(|text| Detail { container: Some(c.name.clone()), text: format!("{}: {text}", c.name) }));
    }
    all
}

/// What is wrong with a container's image, if anything is.
fn image(made_of: &ContainerRecord) -> Option<String> {
    let gone = |layer: &&String| !Path::new(layer).is_dir();
    let layer = made_of.layers.iter().find(gone)?;
    Some(format!("image {} is not there any more: layer {layer} is gone", made_of.image_ref))
}

/// What is wrong with a path of the host, if anything is.
fn mount(mount: &MountRecord) -> Option<String> {
    let MountSource::Host { path, typ } = &mount.source else { return None };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && typ.ends_with("OrCreate") => return None,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Some(format!("volume {}: {path} of the host is not there", mount.volume));
        }
        Err(e) => return Some(format!("volume {}: {path} of the host: {}", mount.volume, io_text(&e))),
    };
    let kind = metadata.file_type();
    let (fits, wanted) = match typ.as_str() {
        "Directory" | "DirectoryOrCreate" => (kind.is_dir(), "directory"),
        "File" | "FileOrCreate" => (kind.is_file(), "regular file"),
        "Socket" => (kind.is_socket(), "socket"),
        "CharDevice" => (kind.is_char_device(), "character device"),
        "BlockDevice" => (kind.is_block_device(), "block device"),
        _ => (true, ""),
    };
    (!fits).then(|| format!("volume {}: {path} of the host is no {wanted}", mount.volume))
}

/// The processes that shall end.
fn processes(status: &Status) -> BTreeMap<String, Process> {
    let asked = |c: &&Container| {
        status.deletion.is_some() || c.stop.is_some() || matches!(c.state, State::Running { stopping: true, .. })
    };
    let pid = |c: &Container| match &c.state {
        State::Running { pid, start_ticks: ticks, .. } if start_ticks(*pid).ok()? == Some(*ticks) => {
            Some((c.name.clone(), process(*pid)))
        }
        _ => None,
    };
    status.containers.iter().filter(asked).filter_map(pid).collect()
}

fn process(pid: i32) -> Process {
    // What is gone meanwhile has nothing to tell.
    let read = |what: &str| file::read_text(Path::new(&format!("/proc/{pid}/{what}")), 4096).unwrap_or_default();
    let stat = read("stat");
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    let mut process = Process { pid, state, ..Process::default() };
    if state == Some('D') {
        process.wchan = read("wchan");
        let frames = read("stack");
        let frames = frames.lines().filter_map(|line| line.split_once("] ").map(|(_, frame)| frame.to_owned()));
        process.stack = frames.take(FRAMES).collect();
    }
    process
}

/// Where something listens in the network of pause.
fn ports(status: &Status) -> Option<Ports> {
    let pid = status.sandbox.as_ref().filter(|sandbox| !sandbox.ended)?.pid;
    let read = |name: &str| file::read_text(Path::new(&format!("/proc/{pid}/net/{name}")), 64 << 10).ok();
    let mut ports = Ports::default();
    for (name, state) in [("tcp", LISTENS), ("tcp6", LISTENS), ("udp", UNCONNECTED), ("udp6", UNCONNECTED)] {
        let into = if name.starts_with("tcp") { &mut ports.tcp } else { &mut ports.udp };
        match read(name) {
            Some(table) => listening(&table, state, into),
            // A kernel without IPv6.
            None if name.ends_with('6') => {}
            None => return None,
        }
    }
    Some(ports)
}

/// States in proc_net_tcp(5) and its like.
const LISTENS: &str = "0A";
const UNCONNECTED: &str = "07";

/// The local ports of a table of the kernel's that are in this state.
fn listening(table: &str, state: &str, into: &mut BTreeMap<u16, bool>) {
    for line in table.lines().skip(1) {
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some(found)) = (words.next(), words.nth(1)) else { continue };
        let Some((address, port)) = local.rsplit_once(':') else { continue };
        if let (true, Ok(port)) = (found == state, u16::from_str_radix(port, 16)) {
            // 127.0.0.0/8 in the byte order of the host, ::1, and the first as IPv6 has it.
            let v4 = address.len() == 8 && address.ends_with("7F");
            let v6 = address == "00000000000000000000000001000000";
            let mapped = address.starts_with("0000000000000000FFFF0000") && address.ends_with("7F");
            *into.entry(port).or_default() |= !(v4 || v6 || mapped);
        }
    }
}

fn log(record: &PodRecord, status: &Status) -> Option<LogTail> {
    let failed =
        status.containers.iter().filter_map(|c| Some((c, pod::ended(c)?))).filter(|(_, exit)| exit.exit_code != 0);
    let (c, exit) = failed.max_by_key(|(_, exit)| exit.finished_boot_ns)?;
    let directory = Path::new(&record.log_dir).join(&c.name);
    let mut lines = VecDeque::new();
    // A log that cannot be read is said to be so by `husk logs`; here it is one hint of many.
    let mut reader = LogReader::open(&directory, exit.attempt).ok()?;
    reader.skip_to_tail(LINES, |_| true).ok()?;
    let mut partial = String::new();
    reader
        .read(|entry| {
            partial.push_str(&String::from_utf8_lossy(entry.text));
            if entry.full {
                lines.push_back(std::mem::take(&mut partial));
                if lines.len() > LINES {
                    lines.pop_front();
                }
            }
            Ok(())
        })
        .ok()?;
    lines.extend(Some(partial).filter(|rest| !rest.is_empty()));
    let lines: Vec<String> = lines.into();
    (!lines.is_empty()).then(|| LogTail { container: c.name.clone(), attempt: exit.attempt, lines })
}

/// The last line of level error near the end of the supervisor's log.
fn trouble(path: &Path) -> Option<(Timestamp, String)> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(SUPERVISOR_LOG_BYTES))).ok()?;
    let mut end = Vec::new();
    file.take(SUPERVISOR_LOG_BYTES).read_to_end(&mut end).ok()?;
    String::from_utf8_lossy(&end).lines().rev().find_map(|line| {
        let (time, text) = line.split_once(" error: ")?;
        Some((time.parse().ok()?, text.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_is_read_from_the_kernels_tables() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let v4 = format!(
            "{head}   0: 0100007F:1F90 00000000:0000 0A 0\n   1: 00000000:0050 00000000:0000 0A 0\n   2: 0200000A:0051 0300000A:C000 01 0\n"
        );
        let v6 = format!(
            "{head}   0: 00000000000000000000000001000000:0052 0:0000 0A 0\n   1: 00000000000000000000000000000000:1F90 0:0000 0A 0\n"
        );
        let mut found = BTreeMap::new();
        listening(&v4, LISTENS, &mut found);
        assert_eq!(found, BTreeMap::from([(8080, false), (80, true)]));
        listening(&v6, LISTENS, &mut found);
        assert_eq!(found, BTreeMap::from([(8080, true), (80, true), (82, false)]));
        listening("garbage\n: :\nx y:zz 0 0A\n", LISTENS, &mut found);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_path_of_another_kind_is_missing_too() {
        let of = |path: &str, typ: &str| {
            mount(&MountRecord {
                volume: "v".into(),
                destination: "/x".into(),
                source: MountSource::Host { path: path.into(), typ: typ.into() },
                sub_path: None,
                access: Default::default(),
                propagation: Default::default(),
            })
        };
        assert_eq!(of("/proc", "Directory"), None);
        assert_eq!(of("/dev/null", "CharDevice"), None);
        assert_eq!(of("/nowhere/at/all", "DirectoryOrCreate"), None);
        assert_eq!(of("/nowhere", "").as_deref(), Some("volume v: /nowhere of the host is not there"));
        assert_eq!(of("/proc", "File").as_deref(), Some("volume v: /proc of the host is no regular file"));
        assert_eq!(
            of("/dev/null/x", "").as_deref(),
            Some("volume v: /dev/null/x of the host: not a directory (ENOTDIR)")
        );
    }
}
