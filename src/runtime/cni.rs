//! A pod in a network of others ([`crate::network::cni`]): what is called when, and what is on the disk before.
//!
//! ```text
//! register   husk run, before the pod's record: how plugins will be called            kept: planned
//! add        supervisor, once pause is there      kept: called -> ADD … -> kept: result
//! delete     supervisor, before pause goes (then with its network namespace); else whoever collects the pod
//!                                                 DEL … -> kept: planned, or nothing
//! ```
//!
//! So whatever dies when, what may have to be taken back is known, and it is taken back before anything is added under the same id again.
//!
//! Plugins are executed by a helper, this program itself: it is single-threaded, is the parent of all that plugins leave behind, and may be waited for
//! with a deadline, or not at all. It goes on when whoever has started it dies: half of an ADD is worth nothing.

use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use husk_oci::sys::process;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Error;
use super::helper::Helper;
use crate::network::cni::{self, Attachment, NetworkList, Plugins, Valid, config, exec};
use crate::network::config::Cni;
use crate::state::attachments::Place;
use crate::state::{LockMode, Roots, start_ticks};

/// What `main` knows the helper by; not for users.
pub const HELPER: &str = "cni";
/// What messages call it.
const NAME: &str = "the helper that calls CNI plugins";

/// The longest that ADD may take: the largest `network.cni.timeoutSeconds`.
const ADD_PATIENCE: Duration = Duration::from_secs(600);
/// How long one DEL may take, and not longer than ADD.
const DEL_PATIENCE: Duration = Duration::from_secs(20);
/// How long the questions may take: CHECK, STATUS, VERSION.
const ASK_PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for another helper that is at the same pod: one that finds out that it cannot add, and takes back.
const TURN_PATIENCE: Duration = Duration::from_secs(90);
/// How often a DEL that fails is tried before it is left to gc, and how long between.
const DEL_TRIES: u32 = 3;
const DEL_BACKOFF: Duration = Duration::from_millis(250);
/// How long a plugin wants that says "try again later".
const LATER: Duration = Duration::from_secs(1);
/// How long what a plugin has left running may take to die.
const STRAY_PATIENCE: Duration = Duration::from_secs(2);
/// What a helper may take beyond its plugins' time.
const MARGIN: Duration = Duration::from_secs(5);

const COLLECTING: &str = "CNI plugins have been collecting all the time; try again later";
const ADDING: &str = "CNI plugins have been adding pods all the time; try again later";

/// The process that holds a pod's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Of pause, in the host's PID namespace.
    pub pid: i32,
    /// When it started; see [`start_ticks`].
    pub start_ticks: u64,
}

/// How plugins are called for a pod, and what became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    /// `namespace/name`, for messages.
    pod: String,
    /// The network as it was when the pod was made: DEL must see the configuration of ADD.
    network: String,
    /// Where its plugins are.
    dirs: Vec<PathBuf>,
    /// The pod's place in it. The network namespace is that of the last ADD.
    at: Attachment,
    /// How long ADD may take.
    timeout_seconds: u64,
    /// ADD was called, or is about to be, and DEL has not succeeded since.
    called: Option<Called>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Called {
    boot_id: String,
    holder: Holder,
    /// What the last plugin has answered, when all have.
    result: Option<Box<RawValue>>,
}

/// What a pod is known by to plugins.
#[derive(Clone, Debug, Default)]
pub struct Named<'a> {
    /// The sandbox's id.
    pub id: &'a str,
    /// `metadata.namespace`.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
}

impl Named<'_> {
    /// As every Kubernetes runtime says it.
    fn args(&self, container_id: &str) -> Vec<(String, String)> {
        let pairs = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", self.namespace),
            ("K8S_POD_NAME", self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", container_id),
            ("K8S_POD_UID", self.uid),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// `CNI_CONTAINERID`: the pod's id, which may begin with a `-`, and is then no name for CNI.
    fn container_id(&self) -> String {
        if config::is_name(self.id) { self.id.to_owned() } else { format!("husk{}", self.id) }
    }
}

/// Something that a pod asks plugins for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The capability.
    pub capability: &'static str,
    /// What a plugin is told.
    pub value: serde_json::Value,
    /// Where the pod asks for it, when it cannot be without: a network that does not offer it is refused.
    pub field: Option<String>,
}

fn load(config: &Cni) -> Result<NetworkList, Error> {
    Ok(config::load(&config.conf_dir, config.network.as_deref())?)
}

impl From<cni::Error> for Error {
    fn from(e: cni::Error) -> Error {
        Error::Host { what: e.to_string() }
    }
}

/// Writes down how a new pod will be attached. The caller has reserved its id.
///
/// # Errors
/// There is no network, it cannot be used, it does not offer what the pod asks for; or an earlier pod of this id cannot be taken back.
pub fn register(roots: &Roots, config: &Cni, pod: &Named<'_>, wishes: Vec<Wish>) -> Result<(), Error> {
    let network = load(config)?;
    network.complete(&Plugins { dirs: config.bin_dirs.clone(), patience: ASK_PATIENCE })?;
    let mut capabilities = std::collections::BTreeMap::new();
    for wish in wishes {
        if network.wants(wish.capability) {
            capabilities.insert(wish.capability.to_owned(), wish.value);
        } else if let Some(field) = wish.field {
            let (capability, network) = (wish.capability.to_owned(), network.name);
            return Err(cni::Error::NoCapability { field, capability, network }.into());
        }
    }
    let container_id = pod.container_id();
    let kept = Kept {
        pod: format!("{}/{}", pod.namespace, pod.name),
        network: network.to_json(),
        dirs: config.bin_dirs.clone(),
        timeout_seconds: config.timeout_seconds,
        at: Attachment {
            args: pod.args(&container_id),
            container_id,
            netns: String::new(),
            interface: cni::INTERFACE.to_owned(),
            capabilities,
        },
        called: None,
    };
    // What an earlier pod of this id has left would be forgotten otherwise.
    if let Some(error) = delete(roots, pod.id, None, true) {
        return Err(error);
    }
    let busy = || Error::Pod {
        pod: kept.pod.clone(),
        what: "CNI plugins are at work for an earlier pod of this id; try again later".into(),
    };
    let place = roots.make_attachment_place(pod.id, Instant::now() + MARGIN)?.ok_or_else(busy)?;
    Ok(place.write(&kept)?)
}

/// What a helper is asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Task {
    Add { root: PathBuf, id: String, holder: Holder },
    Delete { root: PathBuf, id: String, holder: Option<Holder>, forget: bool },
    Check { root: PathBuf, id: String },
    Status { config: Cni },
    Gc { root: PathBuf, config: Cni },
}

/// What it answers, as one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The pod has these addresses.
    Added {
        /// The primary one first.
        ips: Vec<IpAddr>,
    },
    /// All is well.
    Done,
    /// There is nothing of which it could be said that it is well.
    Unasked,
    /// It did not work out.
    Failed {
        /// A sentence each.
        messages: Vec<String>,
    },
}

/// A helper at work, and how long it may be.
#[derive(Debug)]
pub struct Working {
    /// It.
    pub helper: Helper,
    /// When it has failed.
    pub deadline: Instant,
}

impl Working {
    fn start(task: &Task, patience: Duration) -> Result<Working, Error> {
        let helper = Helper::start(HELPER, NAME, task)?;
        Ok(Working { helper, deadline: Instant::now() + patience + MARGIN })
    }

    /// Waits for its answer.
    ///
    /// # Errors
    /// It does not come.
    pub fn answer(mut self) -> Result<Answer, Error> {
        self.helper.answer(self.deadline)
    }
}

/// Begins to attach a pod whose network namespace `holder` holds.
///
/// # Errors
/// There is no helper.
pub fn begin_add(roots: &Roots, id: &str, holder: Holder) -> Result<Working, Error> {
    let task = Task::Add { root: roots.root.clone(), id: id.to_owned(), holder };
    Working::start(&task, TURN_PATIENCE + ADD_PATIENCE + DEL_PATIENCE)
}

/// What an answer to [`begin_add`] says.
///
/// # Errors
/// The pod is not attached, and nothing is left of it that is not written down.
pub fn added(pod: &str, answer: Answer) -> Result<Vec<IpAddr>, Error> {
    match answer {
        Answer::Added { ips } => Ok(ips),
        Answer::Failed { messages } => Err(Error::Pod { pod: pod.to_owned(), what: messages.join("; and ") }),
        other => Err(Error::Internal { what: format!("{NAME} answered {other:?}") }),
    }
}

/// Begins to take a pod out of its network, with its network namespace while `holder` lives. `None`: it is in none. `forget`: it will not be attached again.
///
/// # Errors
/// There is no helper.
pub fn begin_delete(roots: &Roots, id: &str, holder: Option<Holder>, forget: bool) -> Result<Option<Working>, Error> {
    // A program start that most pods do not need.
    if !roots.has_attachment(id) {
        return Ok(None);
    }
    let task = Task::Delete { root: roots.root.clone(), id: id.to_owned(), holder, forget };
    Working::start(&task, TURN_PATIENCE + DEL_PATIENCE * DEL_TRIES).map(Some)
}

/// [`begin_delete`] to its end. What went wrong is written down: `husk gc` tries it again.
pub fn delete(roots: &Roots, id: &str, holder: Option<Holder>, forget: bool) -> Option<Error> {
    let answer = match begin_delete(roots, id, holder, forget) {
        Ok(None) => return None,
        Ok(Some(working)) => working.answer(),
        Err(e) => return Some(e),
    };
    deleted(id, answer)
}

/// What an answer to [`begin_delete`] says.
pub fn deleted(id: &str, answer: Result<Answer, Error>) -> Option<Error> {
    match answer {
        Ok(Answer::Failed { messages }) => Some(Error::Pod { pod: id.to_owned(), what: messages.join("; and ") }),
        Ok(_) => None,
        Err(e) => Some(e),
    }
}

/// Whether plugins still find a pod as they have made it. `None`: its network does not check, or it is in none.
///
/// # Errors
/// What a plugin misses.
pub fn check(roots: &Roots, id: &str) -> Result<Option<()>, Error> {
    ask(&Task::Check { root: roots.root.clone(), id: id.to_owned() })
}

/// Whether the network can take pods. `None`: it cannot be asked, but all its plugins are there.
///
/// # Errors
/// There is no network, or it is not ready.
pub fn status(config: &Cni) -> Result<Option<()>, Error> {
    ask(&Task::Status { config: config.clone() })
}

/// Has the network's plugins release all that is of none of our pods. Not for a network that others use too: what is theirs goes as well. `None`: it does not
/// collect.
///
/// # Errors
/// What plugins could not release.
pub fn release_strangers(roots: &Roots, config: &Cni) -> Result<Option<()>, Error> {
    ask(&Task::Gc { root: roots.root.clone(), config: config.clone() })
}

fn ask(task: &Task) -> Result<Option<()>, Error> {
    match Working::start(task, TURN_PATIENCE + ASK_PATIENCE)?.answer()? {
        Answer::Done => Ok(Some(())),
        Answer::Unasked => Ok(None),
        Answer::Failed { messages } => Err(Error::Host { what: messages.join("; and ") }),
        other => Err(Error::Internal { what: format!("{NAME} answered {other:?}") }),
    }
}

/// Takes out of their networks all pods that nobody runs; what could not be.
pub fn gc(roots: &Roots) -> Vec<Error> {
    let ids = match roots.attached() {
        Ok(ids) => ids,
        Err(e) => return vec![e.into()],
    };
    // One that is being made is locked before anything of it is written here.
    let dead = ids.iter().filter(|id| !roots.is_live(id));
    dead.filter_map(|id| delete(roots, id, None, true)).collect()
}

/// `husk cni TASK`: the helper itself; not for users.
pub fn main(mut args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let task = args.next().and_then(|word| serde_json::from_str::<Task>(word.to_str()?).ok());
    let Some(task) = task else {
        eprintln!("husk {HELPER} is started by husk, not by hand");
        return ExitCode::from(2);
    };
    // What a plugin leaves behind in other process groups is ours to end.
    let answer = match process::set_child_subreaper(true) {
        Ok(()) => perform(task),
        Err(e) => Answer::Failed { messages: vec![Error::sys("become the parent of orphans", e).to_string()] },
    };
    // Nobody listens any more when whoever has started us is dead; what was done is on the disk.
    let _ = serde_json::to_string(&answer).map(|line| writeln!(std::io::stdout(), "{line}"));
    ExitCode::SUCCESS
}

fn perform(task: Task) -> Answer {
    // The state directory is no concern of plugins.
    let roots = |root: PathBuf| Roots { state: root.clone(), root };
    let failed = |e: Error| Answer::Failed { messages: vec![e.to_string()] };
    let done = match task {
        Task::Add { root, id, holder } => return perform_add(&roots(root), &id, holder),
        Task::Delete { root, id, holder, forget } => perform_delete(&roots(root), &id, holder, forget).map(Some),
        Task::Check { root, id } => perform_check(&roots(root), &id),
        Task::Status { config } => perform_status(&config),
        Task::Gc { root, config } => match perform_gc(&roots(root), &config) {
            Ok(done) => Ok(done),
            Err(errors) => return Answer::Failed { messages: errors.iter().map(ToString::to_string).collect() },
        },
    };
    done.map_or_else(failed, |done| done.map_or(Answer::Unasked, |()| Answer::Done))
}

fn turn(place: Option<Place>, id: &str) -> Result<Place, Error> {
    let what = || "other CNI plugins have been at work for it all the time".to_owned();
    place.ok_or_else(|| Error::Pod { pod: id.to_owned(), what: what() })
}

impl Kept {
    fn network(&self) -> Result<NetworkList, Error> {
        Ok(config::list(self.network.as_bytes(), &format!("of pod {}", self.pod))?)
    }

    fn plugins(&self, patience: Duration) -> Plugins {
        Plugins { dirs: self.dirs.clone(), patience }
    }

    /// DEL, with the network namespace if `living` is the one that ADD had.
    fn take_back(&mut self, place: &Place, living: Option<&Living>) -> Result<(), Error> {
        let Some(called) = &self.called else { return Ok(()) };
        let network = self.network()?;
        let mut at = self.at.clone();
        let mut pause = DEL_BACKOFF;
        let mut tries = 1;
        loop {
            // An empty path when the namespace is gone: the pid may be another pod's by now.
            if !living.is_some_and(|living| living.is(called) && living.lives()) {
                at.netns.clear();
            }
            match network.delete(
                &self.plugins(DEL_PATIENCE.min(Duration::from_secs(self.timeout_seconds))),
                &at,
                called.result.as_deref(),
            ) {
                Ok(()) => break,
                Err(e) => {
                    exec::end_strays(Instant::now() + STRAY_PATIENCE);
                    if tries == DEL_TRIES {
                        return Err(e.into());
                    }
                }
            }
            tries += 1;
            std::thread::sleep(pause);
            pause *= 2;
        }
        self.called = None;
        Ok(place.write(self)?)
    }
}

/// pause, looked at once and held since.
struct Living {
    holder: Holder,
    boot_id: String,
    pidfd: OwnedFd,
}

impl Living {
    /// `None`: it is dead, or its pid is another's.
    fn find(holder: Holder) -> Result<Option<Living>, Error> {
        let pidfd = match process::pidfd_open(holder.pid) {
            Err(nix::errno::Errno::ESRCH) => return Ok(None),
            other => other.map_err(|e| Error::sys(format_args!("find process {}", holder.pid), e))?,
        };
        if start_ticks(holder.pid)? != Some(holder.start_ticks) {
            return Ok(None);
        }
        Ok(Some(Living { holder, boot_id: crate::state::boot_id()?, pidfd }))
    }

    fn lives(&self) -> bool {
        let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::ZERO) == Ok(0)
    }

    fn is(&self, called: &Called) -> bool {
        (self.holder, &self.boot_id) == (called.holder, &called.boot_id)
    }
}

fn perform_add(roots: &Roots, id: &str, holder: Holder) -> Answer {
    let mut messages = Vec::new();
    match add(roots, id, holder, &mut messages) {
        Ok(ips) => Answer::Added { ips },
        Err(e) => {
            messages.insert(0, e.to_string());
            Answer::Failed { messages }
        }
    }
}

fn add(roots: &Roots, id: &str, holder: Holder, more: &mut Vec<String>) -> Result<Vec<IpAddr>, Error> {
    // Not while somebody has plugins release what is of no pod that he knows.
    let together = roots.lock_attachments(LockMode::Shared, Instant::now() + TURN_PATIENCE)?;
    let _together = together.ok_or_else(|| Error::Host { what: COLLECTING.into() })?;
    let place = turn(roots.attachment_place(id, Instant::now() + TURN_PATIENCE)?, id)?;
    let unknown = || Error::Internal { what: format!("pod {id} is in no CNI network") };
    let mut kept: Kept = place.read()?.ok_or_else(unknown)?;
    let network = kept.network()?;
    let over = || Error::Pod { pod: kept.pod.clone(), what: "it ended before CNI plugins were called".into() };
    let living = Living::find(holder)?.ok_or_else(over)?;
    // An earlier sandbox of the pod: there must be no second ADD without a DEL.
    kept.take_back(&place, Some(&living))?;
    let deadline = Instant::now() + Duration::from_secs(kept.timeout_seconds).min(ADD_PATIENCE);
    loop {
        kept.at.netns = format!("/proc/{}/ns/net", holder.pid);
        kept.called = Some(Called { boot_id: living.boot_id.clone(), holder, result: None });
        place.write(&kept)?;
        let plugins = kept.plugins(deadline.saturating_duration_since(Instant::now()));
        let added = network.add(&plugins, &kept.at, &|| living.lives());
        let (error, again) = match added {
            Ok(answer) => {
                let ips = answer.addresses(&kept.at).unwrap_or_default();
                if let Some(called) = &mut kept.called {
                    called.result = Some(answer.raw);
                }
                match place.write(&kept) {
                    Ok(()) => return Ok(ips),
                    Err(e) => (Error::from(e), false),
                }
            }
            Err(e) => {
                let again = e.is_transient() && Instant::now() + LATER < deadline && living.lives();
                (e.into(), again)
            }
        };
        exec::end_strays(Instant::now() + STRAY_PATIENCE);
        if let Err(e) = kept.take_back(&place, Some(&living)) {
            more.push(format!("what plugins have done could not be taken back, husk gc tries it again: {e}"));
            return Err(error);
        }
        if !again {
            return Err(error);
        }
        std::thread::sleep(LATER);
    }
}

fn perform_delete(roots: &Roots, id: &str, holder: Option<Holder>, forget: bool) -> Result<(), Error> {
    let Some(place) = roots.attachment_place(id, Instant::now() + TURN_PATIENCE)? else {
        // None, or somebody is at it all the time.
        return if roots.has_attachment(id) { turn(None, id).map(drop) } else { Ok(()) };
    };
    if let Some(mut kept) = place.read::<Kept>()? {
        let living = holder.map(Living::find).transpose()?.flatten();
        kept.take_back(&place, living.as_ref())?;
    }
    if forget { Ok(place.remove()?) } else { Ok(()) }
}

fn perform_check(roots: &Roots, id: &str) -> Result<Option<()>, Error> {
    if !roots.has_attachment(id) {
        return Ok(None);
    }
    let place = turn(roots.attachment_place(id, Instant::now() + TURN_PATIENCE)?, id)?;
    let Some(kept) = place.read::<Kept>()? else { return Ok(None) };
    let Some(Called { result: Some(result), .. }) = &kept.called else { return Ok(None) };
    let checked = kept.network()?.check(&kept.plugins(ASK_PATIENCE), &kept.at, result);
    exec::end_strays(Instant::now() + STRAY_PATIENCE);
    Ok(checked?.then_some(()))
}

fn perform_status(config: &Cni) -> Result<Option<()>, Error> {
    let network = load(config)?;
    let plugins = Plugins { dirs: config.bin_dirs.clone(), patience: ASK_PATIENCE };
    let asked = network.status(&plugins);
    exec::end_strays(Instant::now() + STRAY_PATIENCE);
    Ok(asked?.then_some(()))
}

fn perform_gc(roots: &Roots, config: &Cni) -> Result<Option<()>, Vec<Error>> {
    let one = |e: Error| vec![e];
    let network = load(config).map_err(one)?;
    let deadline = Instant::now() + TURN_PATIENCE;
    // Held to the end, so that no pod is added, or taken back, meanwhile.
    let alone = roots.lock_attachments(LockMode::Exclusive, deadline).map_err(|e| one(e.into()))?;
    let _alone = alone.ok_or_else(|| one(Error::Host { what: ADDING.into() }))?;
    let mut places_of_pods = Vec::new();
    let mut valid = Vec::new();
    for id in roots.attached().map_err(|e| one(e.into()))? {
        let Some(place) = roots.attachment_place(&id, deadline).map_err(|e| one(e.into()))? else {
            if roots.has_attachment(&id) {
                return Err(one(turn(None, &id).err().unwrap_or(Error::Internal { what: "no place".into() })));
            }
            continue;
        };
        if let Some(kept) = place.read::<Kept>().map_err(|e| one(e.into()))?
            && kept.network().map_err(one)?.name == network.name
        {
            valid.push(Valid { container_id: kept.at.container_id, interface: kept.at.interface });
        }
        places_of_pods.push(place);
    }
    let plugins = Plugins { dirs: config.bin_dirs.clone(), patience: DEL_PATIENCE };
    let collected = network.gc(&plugins, &valid);
    exec::end_strays(Instant::now() + STRAY_PATIENCE);
    drop(places_of_pods);
    collected.map(|done| done.then_some(())).map_err(|errors| errors.into_iter().map(Error::from).collect())
}
