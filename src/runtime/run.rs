//! `husk run`: from a validated manifest to a pod that runs under its keeper.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use husk_oci::sys::{process, random};
use k8s_openapi::api::core::v1::Pod;

use super::{Error, Settings, apparmor, container, keeper, limits, network, remove, resolve, sandbox, scope};
use crate::cgroup::{CgroupDriver, Cgroupfs, Limits};
use crate::control::{HELPED, Ready};
use crate::image::Store;
use crate::state::pods::{PodDir, Reserved};
use crate::state::record::{Owner, PodRecord, Source};
use crate::state::timeline::RunTimes;
use crate::state::{Lock, LockMode, PodEntry, Reservation, Roots};

/// What became of a [`run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOutcome {
    /// The sandbox's id: for a manifest's pod its uid.
    pub id: String,
    /// False when a pod of that name and uid was there already.
    pub created: bool,
    /// What was tolerated on the way.
    pub warnings: Vec<String>,
}

/// How often a dead pod of the same name is collected before we give up.
const TRIES: u32 = 3;

/// How long somebody else may take to make the same pod at the same time.
const MAKING_PATIENCE: Duration = Duration::from_secs(60);

/// Runs one pod: reserves its name, writes its record, starts its keeper and waits until the sandbox is up and the first containers
/// were started. Blocks for that long.
///
/// # Errors
/// The pod cannot be run as it stands, or the host refuses; everything that was made is undone then.
pub fn run(roots: &Roots, settings: &Settings, pod: Pod, owner: Owner) -> Result<RunOutcome, Error> {
    resolve_and_run(roots, settings, pod, owner, None)
}

/// Runs a static pod, as [`run`] does; its record tells where it came from.
///
/// # Errors
/// As [`run`].
pub fn run_static(roots: &Roots, settings: &Settings, pod: Pod, source: Source) -> Result<RunOutcome, Error> {
    resolve_and_run(roots, settings, pod, Owner::Watch, Some(source))
}

fn resolve_and_run(
    roots: &Roots,
    settings: &Settings,
    mut pod: Pod,
    owner: Owner,
    source: Option<Source>,
) -> Result<RunOutcome, Error> {
    let times = RunTimes { begun: BEGUN.swap(0, Ordering::Relaxed), parsed: clock_ns(), ..RunTimes::default() };
    if pod.metadata.uid.is_none() {
        let bytes = random::bytes().map_err(|e| Error::sys("choose the pod's uid", e))?;
        pod.metadata.uid = Some(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string());
    }
    let store = Store::open(&roots.root).map_err(|e| Error::Host { what: e.to_string() })?;
    // Until the record says that the pod uses them, nobody may remove its images.
    let _held = store.hold().map_err(|e| Error::Host { what: e.to_string() })?;
    let driver = detect()?;
    let mut record = resolve::pod(roots, settings, &store, driver.hierarchies(), pod, owner)?;
    record.source = source;
    apparmor::ensure(&record.containers)?;
    run_with(roots, &driver, settings, &record, times)
}

/// When the command began that runs the next pod; 0: some time ago.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// The command begins that will [`run`] pods: reading their manifests is part of the first one's timeline.
pub fn begin() {
    BEGUN.store(clock_ns(), Ordering::Relaxed);
}

fn clock_ns() -> u64 {
    husk_oci::sys::clock::boottime().as_nanos() as u64
}

fn detect() -> Result<Cgroupfs, Error> {
    Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() })
}

/// Runs the sandbox that a record describes, as [`run`] does; a CRI client's begins without containers.
///
/// # Errors
/// As [`run`].
pub fn run_record(roots: &Roots, settings: &Settings, record: &PodRecord) -> Result<RunOutcome, Error> {
    run_with(roots, &detect()?, settings, record, RunTimes::default())
}

fn run_with(
    roots: &Roots,
    driver: &Cgroupfs,
    settings: &Settings,
    record: &PodRecord,
    mut times: RunTimes,
) -> Result<RunOutcome, Error> {
    times.resolved = clock_ns();
    let id = &record.id;
    // The client of a driven pod knows it by its id alone, and may have several of one name.
    let name = (!record.driven()).then(|| (record.namespace(), record.name()));
    scope::check(record)?;
    roots.prepare()?;
    let deadline = Instant::now() + MAKING_PATIENCE;
    let mut tries = 0;
    while tries < TRIES {
        match roots.reserve(name, id)? {
            Reserved::New(reservation) => {
                times.reserved = clock_ns();
                return start(roots, driver, settings, record, reservation, times);
            }
            Reserved::Same(entry) => return same(&entry, record),
            Reserved::Making if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Reserved::Making => {
                let what = format!(
                    "somebody else has been making it for {} s; see supervisor.log in {}",
                    MAKING_PATIENCE.as_secs(),
                    roots.pod_dir(id).display()
                );
                return Err(Error::Pod { pod: record.full_name(), what });
            }
            // Every start collects for its own name.
            Reserved::Dead { id } => {
                remove::collect(roots, driver, &id).map_err(first_of)?;
                tries += 1;
            }
        }
    }
    Err(Error::Pod {
        pod: record.full_name(),
        what: "what an earlier pod of this name left cannot be collected; try husk gc".into(),
    })
}

fn first_of(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or(Error::Internal { what: "an empty list of errors".into() })
}

/// The same uid again is the same pod, unless the manifest says something else now.
fn same(entry: &PodEntry, record: &PodRecord) -> Result<RunOutcome, Error> {
    if !record.driven() && entry.record.pod.spec != record.pod.spec {
        return Err(Error::Pod {
            pod: record.full_name(),
            what: format!("runs with uid {} from another spec; delete it first", entry.id),
        });
    }
    Ok(RunOutcome { id: entry.id.clone(), created: false, warnings: Vec::new() })
}

fn start(
    roots: &Roots,
    driver: &Cgroupfs,
    settings: &Settings,
    record: &PodRecord,
    reservation: Reservation,
    mut times: RunTimes,
) -> Result<RunOutcome, Error> {
    let dir = reservation.dir.clone();
    let mut record = record.clone();
    let launched = network::reserve(roots, &settings.network, &mut record)
        .and_then(|()| launch(roots, driver, &record, reservation));
    let record = &record;
    let outcome = launched.and_then(|(keeper, mut ready, scope)| {
        times.launched = clock_ns();
        let answer = help(roots, driver, record, &keeper, &mut ready, times).and_then(|()| {
            // keeper is in there by now, and nobody else is needed.
            drop(scope);
            // The supervisor has all that it needs and starts the containers meanwhile.
            let settled = limits::settle(roots, driver, record);
            let mut warnings = await_ready(&dir, ready)?;
            warnings.extend(
                settled.err().map(|e| format!("weigh the pods of its class: {e}, continuing; husk gc tries again")),
            );
            Ok(warnings)
        });
        answer.inspect_err(|_| {
            // keeper is our child as long as we live: leave no zombie to whoever started us.
            let _ = process::wait(process::Target::Pidfd(keeper.child.pidfd.as_fd()), false, false);
        })
    });
    match outcome {
        Ok(warnings) => Ok(RunOutcome { id: record.id.clone(), created: true, warnings }),
        Err(error) => {
            // The supervisor undoes what it made; when it could not, or never lived, this does.
            wait_until_unlocked(&dir);
            if let Err(more) = remove::collect(roots, driver, &record.id) {
                let left: Vec<String> = more.iter().map(ToString::to_string).collect();
                return Err(Error::Host {
                    what: format!("{error}; and what was made could not be removed: {}", left.join("; ")),
                });
            }
            // It goes with a later pod, or with gc, if it cannot go now; the error that matters is the pod's.
            drop(remove::runtime_cgroup(roots, driver));
            Err(error)
        }
    }
}

/// Writes the records and starts keeper, which takes the lock over. Returns our end of the socket to the first supervisor,
/// and what keeps a systemd scope until keeper is in it.
fn launch(
    roots: &Roots,
    driver: &Cgroupfs,
    record: &PodRecord,
    reservation: Reservation,
) -> Result<(keeper::Launched, UnixStream, scope::Held), Error> {
    let dir = PodDir::open(reservation.dir.clone())?;
    dir.write_record(record)?;
    let now = crate::pod::Now { boot_ns: husk_oci::sys::clock::boottime().as_nanos() as u64, wall: record.created_at };
    dir.write_status(&crate::pod::initial(record, &crate::state::boot_id()?, now))?;
    // Takes its time, and most of what follows does not depend on it.
    let mut scope = scope::hold(roots, record)?;
    let log = crate::state::append_file(&reservation.dir.join("supervisor.log"))?;
    let exe = super::exe::sealed(&roots.state.join("names"))?;
    let runtime = record.runtime_cgroup(roots);
    scope.ready()?;
    let host = |e: crate::cgroup::Error| Error::Host { what: e.to_string() };
    // There with a scope; else shared by all pods of the instance: nobody removes it while a pod is reserved, and most often it is there.
    let placement = driver.placement(&runtime).or_else(|_| {
        driver.create(&runtime, &Limits { every_hierarchy: true, ..Limits::default() })?;
        driver.placement(&runtime)
    });
    let placement = placement.map_err(host)?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| Error::io("make a socket to the supervisor", &e))?;
    let (pause, design) = (sandbox::image()?, sandbox::Design::new(&record.sandbox)?);
    let pause = design.sandbox(pause.as_fd(), false);
    let argument = |p: &Path| CString::new(p.as_os_str().as_bytes());
    let argv = [
        CString::new("husk"),
        CString::new("supervisor"),
        argument(&roots.root),
        argument(&roots.state),
        CString::new(record.id.as_str()),
    ];
    let argv = argv.into_iter().collect::<Result<Vec<_>, _>>();
    let argv = argv.map_err(|_| Error::Internal { what: "a NUL byte in a path".into() })?;
    let keeper = keeper::launch(keeper::Launch {
        lock: reservation.lock.as_fd(),
        exe: exe.as_fd(),
        ready: theirs.as_fd(),
        pause: &husk_oci::sandbox::prepare(&pause).map_err(|e| Error::Host { what: e.to_string() })?,
        log: log.as_fd(),
        argv,
        cgroup: &placement,
    })?;
    Ok((keeper, ours, scope))
}

/// While keeper and the supervisor are executed and pause makes its namespaces: makes what the supervisor needs next, and tells it. Each step
/// is one that the supervisor would take, and takes if we die or fail. It waits for us, or for our end, before it goes on, and before
/// it takes anything away again.
fn help(
    roots: &Roots,
    driver: &Cgroupfs,
    record: &PodRecord,
    keeper: &keeper::Launched,
    ready: &mut UnixStream,
    mut times: RunTimes,
) -> Result<(), Error> {
    let mut first = crate::pod::first(record).into_iter();
    let done = sandbox::prepare(roots, driver, record)
        .and_then(|()| first.try_for_each(|index| container::places(roots, driver, record, index, 0)));
    times.helped = clock_ns();
    let mut told = [HELPED; 1 + RunTimes::BYTES];
    told[1..].copy_from_slice(&times.to_bytes());
    match done {
        // A supervisor that cannot be told has died. Its successor did not wait for us: the pod may even have come to its end meanwhile.
        Ok(()) if ready.write_all(&told).is_err() && !roots.pod_dir(&record.id).exists() => {
            remove::pod(roots, driver, &record.id, Some(record), true).map_err(first_of)?;
        }
        Ok(()) => {}
        // The supervisor will fail the same way, and says so.
        Err(_) => drop(ready.shutdown(std::net::Shutdown::Write)),
    }
    keeper.confirm()
}

fn await_ready(dir: &Path, mut socket: UnixStream) -> Result<Vec<String>, Error> {
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        // It died before it had read what we told it.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => drop(other.map_err(|e| Error::io("read the supervisor's answer", &e))?),
    }
    match serde_json::from_slice(&answer) {
        Ok(Ready::Started { warnings }) => Ok(warnings),
        Ok(Ready::Failed { message }) => Err(Error::Host { what: message }),
        // The first supervisor was killed before it could say anything; if keeper lives, so does the pod, under the next one.
        Err(_) => match Lock::attempt(dir, LockMode::Shared) {
            Ok(None) => {
                Ok(vec!["the pod's first supervisor died while it started the pod; its successor goes on".into()])
            }
            // Not to be waited for: it may live for long.
            Err(e) if dir.exists() => Ok(vec![format!(
                "the pod's first supervisor died while it started the pod, and whether it has a successor cannot be seen: {e}"
            )]),
            _ => {
                let log = std::fs::read_to_string(dir.join("supervisor.log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or("keeper died before a supervisor could answer");
                Err(Error::Host { what: last.to_owned() })
            }
        },
    }
}

/// Waits until keeper is gone; at once when there is none.
pub(super) fn wait_until_unlocked(dir: &Path) {
    // A directory that cannot be opened has no keeper either.
    drop(Lock::wait(dir, LockMode::Shared));
}
