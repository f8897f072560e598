//! What systemd is asked over D-Bus: to start a scope, to stop units. The only file that knows the D-Bus crate.
//!
//! Every call blocks, for [`PATIENCE`] at most, in an event loop of its own that is gone when it returns. Called by short-lived processes alone
//! (`runtime::scope`): a supervisor never comes here. The bus is the system's, or the one that `DBUS_SYSTEM_BUS_ADDRESS` names.

use std::cell::Cell;
use std::future::poll_fn;
use std::path::Path;
use std::pin::{Pin, pin};
use std::time::Duration;

use super::classes::Due;
use husk_oci::file;
use serde::{Deserialize, Serialize};
use zbus::export::futures_core::Stream;
use zbus::message::{Message, Type};
use zbus::{Connection, DynamicType, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, Variant};

/// How long systemd may take for all that one call asks of it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for systemd to forget a unit that has just ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
/// What the bus says while systemd is away from it, as for a moment on `daemon-reexec`.
const AWAY: &[&str] = &[
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.Disconnected",
    "org.freedesktop.DBus.Error.Spawn.ChildExited",
    "org.freedesktop.DBus.Error.Spawn.ExecFailed",
];

/// How long to wait for the signal of a job's end before asking whether it has ended without one.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(1);

/// A scope to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Name of the unit.
    pub unit: String,
    /// Name of the slice that it goes into; systemd makes it if there is none.
    pub slice: String,
    /// Slices that are made first, the outermost first. One that systemd makes on the way is no transient unit: what [`set`] says of it would stay in
    /// files after its end.
    pub slices: Vec<String>,
    /// What it is, and whose: a unit of that name with another description is somebody else's.
    pub description: String,
    /// Its weight among its siblings, 1 to 10000, 100 being what all have that say nothing.
    pub cpu_weight: Option<u64>,
}

/// What went wrong between systemd and us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bus cannot be reached, or breaks.
    Bus {
        /// What was being done.
        doing: String,
        /// What came of it.
        what: String,
    },
    /// systemd, or the bus, said no.
    Refused {
        /// What was being done.
        doing: String,
        /// D-Bus' name of the error.
        name: String,
        /// Its sentence.
        message: String,
    },
    /// A job was queued, and did not end well.
    Job {
        /// What was being done.
        doing: String,
        /// systemd's word: `canceled`, `timeout`, `failed`, `dependency`, `skipped`.
        result: String,
    },
    /// A unit of that name is not the dead pod's.
    Foreign {
        /// Its name.
        unit: String,
        /// What it says about itself.
        description: String,
    },
    /// A job has ended while systemd was away from the bus: nobody has heard how.
    Unheard {
        /// What was being done.
        doing: String,
    },
    /// [`PATIENCE`] is over.
    Late {
        /// What was being done.
        doing: String,
    },
}

impl Error {
    fn is(&self, wanted: &str) -> bool {
        matches!(self, Error::Refused { name, .. } if name == wanted)
    }

    /// Whether it is worth another try in a moment.
    fn may_pass(&self) -> bool {
        match self {
            Error::Refused { name, .. } => AWAY.contains(&name.as_str()),
            Error::Unheard { .. } => true,
            _ => false,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Bus { doing, what } => {
                write!(
                    f,
                    "{doing}: {what}; the systemd cgroup driver needs the system's D-Bus, the cgroupfs driver does not"
                )
            }
            Error::Refused { doing, name, message } => {
                let advice = if name == ACCESS_DENIED { "; husk needs to be root for systemd, too" } else { "" };
                write!(f, "{doing}: systemd says: {message} ({name}){advice}")
            }
            Error::Job { doing, result } => {
                write!(f, "{doing}: systemd's job ended as {result:?}; journalctl -b _PID=1 may tell why")
            }
            Error::Foreign { unit, description } => {
                write!(
                    f,
                    "start {unit}: there is a unit of this name that is not ours ({description:?}); stop it first"
                )
            }
            Error::Unheard { doing } => {
                write!(f, "{doing}: systemd's job has ended, and systemd was not on the bus to say how; try again")
            }
            Error::Late { doing } => {
                write!(f, "{doing}: systemd has not done it within {} s; see systemctl list-jobs", PATIENCE.as_secs())
            }
        }
    }
}

impl std::error::Error for Error {}

/// Starts a scope with this process in it, which is in its cgroup when this returns. A unit that a dead pod has left in its place is stopped
/// first, and what is still in it killed.
///
/// # Errors
/// As [`Error`] has them; the unit may then be there, and goes when this process ends.
pub fn start_scope(scope: &Scope) -> Result<(), Error> {
    let doing = format!("start {}", scope.unit);
    blocking(&doing, async || {
        let systemd = Systemd::connect().await?;
        for slice in &scope.slices {
            systemd.start_slice(slice).await?;
        }
        loop {
            match systemd.start(scope).await {
                // Of a try whose end was not heard.
                Err(e) if e.is(UNIT_EXISTS) && is_in(&scope.unit) => return Ok(()),
                Err(e) if e.is(UNIT_EXISTS) => {
                    systemd.clear(scope).await?;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                other => return other,
            }
        }
    })
}

/// Stops units, one after another. One that is not there is fine.
///
/// # Errors
/// As [`Error`] has them, for the first that could not be stopped; those after it were not tried.
pub fn stop(units: &[String]) -> Result<(), Error> {
    blocking(&format!("stop {}", units.join(", ")), async || {
        let systemd = Systemd::connect().await?;
        for unit in units {
            systemd.stop(unit).await?;
        }
        Ok(())
    })
}

/// Gives transient units other weights and protection, one after another. Others are left as they are, and one that is not there (any more) is fine.
///
/// # Errors
/// As [`Error`] has them, for the first that could not be changed; those after it were not tried.
pub fn set(due: &[Due]) -> Result<(), Error> {
    let names: Vec<&str> = due.iter().map(|due| due.unit.as_str()).collect();
    blocking(&format!("weigh {}", names.join(", ")), async || {
        let systemd = Systemd::connect().await?;
        for due in due {
            systemd.set(due).await?;
        }
        Ok(())
    })
}

/// Whether this process is in a unit.
fn is_in(unit: &str) -> bool {
    let own = file::read_text(Path::new("/proc/self/cgroup"), 1024).unwrap_or_default();
    own.lines().any(|line| line.split('/').any(|part| part == unit))
}

/// Does `work`, and does it again if systemd was away from the bus.
fn blocking<T>(doing: &str, work: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
    let bus = |e: std::io::Error| Error::Bus { doing: doing.to_owned(), what: e.to_string() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(bus)?;
    let last = Cell::new(None);
    let tries = async {
        loop {
            match work().await {
                Err(e) if e.may_pass() => last.set(Some(e)),
                other => return other,
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let done = runtime.block_on(async { tokio::time::timeout(PATIENCE, tries).await });
    done.unwrap_or_else(|_| Err(last.take().unwrap_or(Error::Late { doing: doing.to_owned() })))
}

/// systemd's manager.
struct Systemd {
    bus: Connection,
}

/// Names and values, as systemd takes the properties of a unit.
type PropertyList<'a> = Vec<(&'a str, Variant<'a>)>;

impl Systemd {
    async fn connect() -> Result<Systemd, Error> {
        // Where systemd itself looks. D-Bus' own default is below /var/run, which some hosts have as a directory of its own.
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS");
        let address = address.unwrap_or_else(|_| "unix:path=/run/dbus/system_bus_socket".to_owned());
        let connected = zbus::connection::Builder::address(address.as_str()).build().await;
        let systemd = Systemd { bus: connected.map_err(|e| failed("connect to the system's D-Bus".into(), e))? };
        // Without a subscriber there are no signals.
        systemd.call(MANAGER_PATH, MANAGER, "Subscribe", &(), || "subscribe to systemd's signals".into()).await?;
        Ok(systemd)
    }

    async fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
        doing: impl Fn() -> String,
    ) -> Result<Message, Error>
    where
        B: Serialize + DynamicType,
    {
        let called = self.bus.call_method(Some(SYSTEMD), path, Some(interface), method, body).await;
        called.map_err(|e| failed(doing(), e))
    }

    /// Calls a method that queues a job for `unit`, and waits for the job's end.
    async fn job<B>(&self, unit: &str, method: &str, body: &B, doing: impl Fn() -> String) -> Result<(), Error>
    where
        B: Serialize + DynamicType,
    {
        let bus = |e: zbus::Error| failed(doing(), e);
        let rule = MatchRule::builder().msg_type(Type::Signal).sender(SYSTEMD).interface(MANAGER).member("JobRemoved");
        let rule = rule.arg(2, unit).build().map_err(bus)?;
        let mut removed = pin!(MessageStream::for_match_rule(rule, &self.bus, None).await.map_err(bus)?);
        let queued = self.call(MANAGER_PATH, MANAGER, method, body, &doing).await?;
        let job: OwnedObjectPath = queued.body().deserialize().map_err(bus)?;
        loop {
            let Ok(message) = tokio::time::timeout(SIGNAL_PATIENCE, next(removed.as_mut())).await else {
                // A job has an object of its own for as long as it waits or runs.
                let state = self.call(job.as_str(), PROPERTIES, "Get", &(JOB, "State"), &doing).await;
                if let Err(e) = state {
                    return Err(if e.may_pass() { e } else { Error::Unheard { doing: doing() } });
                }
                continue;
            };
            let message = message.unwrap_or_else(|| Err(zbus::Error::InvalidReply)).map_err(bus)?;
            let body = message.body();
            let (_, ended, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize().map_err(bus)?;
            match result {
                _ if ended != job => {}
                result if result == "done" => return Ok(()),
                result => return Err(Error::Job { doing: doing(), result }),
            }
        }
    }

    async fn start(&self, scope: &Scope) -> Result<(), Error> {
        let mut properties: PropertyList<'_> = vec![
            ("Description", scope.description.as_str().into()),
            ("Slice", scope.slice.as_str().into()),
            // What is inside is ours: systemd makes the controllers available there and writes nothing below.
            ("Delegate", true.into()),
            // The end of the machine is not the end of a scope's order: nobody asks the pod before its file systems go, as with other runtimes.
            ("DefaultDependencies", false.into()),
            // Forgotten when it is empty, also after a pod that was killed.
            ("CollectMode", "inactive-or-failed".into()),
            // The pod's own limit is the one that counts; a default of systemd's would hit pause as well.
            ("TasksMax", u64::MAX.into()),
            ("PIDs", vec![std::process::id()].into()),
        ];
        properties.extend(scope.cpu_weight.map(|weight| ("CPUWeight", weight.into())));
        let auxiliary: Vec<(&str, PropertyList<'_>)> = Vec::new();
        let body = (scope.unit.as_str(), "fail", properties, auxiliary);
        self.job(&scope.unit, "StartTransientUnit", &body, || format!("start {}", scope.unit)).await
    }

    /// Makes a slice, unless it is there or another makes it just now.
    async fn start_slice(&self, slice: &str) -> Result<(), Error> {
        let auxiliary: Vec<(&str, PropertyList<'_>)> = Vec::new();
        let body = (slice, "fail", PropertyList::new(), auxiliary);
        match self.job(slice, "StartTransientUnit", &body, || format!("start {slice}")).await {
            Err(e) if !e.is(UNIT_EXISTS) => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes room for a scope of that name, if what is in its place is of the same pod.
    async fn clear(&self, scope: &Scope) -> Result<(), Error> {
        let unit = scope.unit.as_str();
        let Some(description) = self.property::<String>(unit, "Description").await? else { return Ok(()) };
        if description != scope.description {
            return Err(Error::Foreign { unit: unit.to_owned(), description });
        }
        // Nobody in there has a word to say any more. Without a process systemd says that there is none.
        let killing = || format!("kill what is in {unit}");
        drop(self.call(MANAGER_PATH, MANAGER, "KillUnit", &(unit, "all", libc::SIGKILL), killing).await);
        self.stop(unit).await
    }

    /// What a unit says of itself; `None` when there is no such unit.
    async fn property<T>(&self, unit: &str, name: &str) -> Result<Option<T>, Error>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let doing = || format!("look at {unit}");
        let found = self.call(MANAGER_PATH, MANAGER, "GetUnit", &(unit,), doing).await;
        let path: OwnedObjectPath = match found {
            Err(e) if e.is(NO_SUCH_UNIT) => return Ok(None),
            other => other?.body().deserialize().map_err(|e| failed(doing(), e))?,
        };
        let got = self.call(path.as_str(), PROPERTIES, "Get", &(UNIT, name), doing).await?;
        let value: OwnedVariant = got.body().deserialize().map_err(|e| failed(doing(), e))?;
        T::try_from(value).map(Some).map_err(|e| failed(doing(), e.into()))
    }

    async fn set(&self, due: &Due) -> Result<(), Error> {
        // Of another kind, as of a slice that systemd has made for somebody else's unit, files would stay when it goes.
        if self.property::<bool>(&due.unit, "Transient").await? != Some(true) {
            return Ok(());
        }
        let mut properties: PropertyList<'_> = Vec::new();
        properties.extend(due.cpu_weight.map(|weight| ("CPUWeight", weight.into())));
        properties.extend(due.memory_min_bytes.map(|bytes| ("MemoryMin", bytes.into())));
        let body = (due.unit.as_str(), true, properties);
        let doing = || format!("set CPUWeight and MemoryMin of {}", due.unit);
        match self.call(MANAGER_PATH, MANAGER, "SetUnitProperties", &body, doing).await {
            Err(e) if !e.is(NO_SUCH_UNIT) => Err(e),
            _ => Ok(()),
        }
    }

    async fn stop(&self, unit: &str) -> Result<(), Error> {
        let stopped = self.job(unit, "StopUnit", &(unit, "replace"), || format!("stop {unit}")).await;
        if matches!(&stopped, Err(e) if !e.is(NO_SUCH_UNIT)) {
            return stopped;
        }
        let reset = || format!("reset {unit}");
        match self.call(MANAGER_PATH, MANAGER, "ResetFailedUnit", &(unit,), reset).await {
            Err(e) if !e.is(NO_SUCH_UNIT) => Err(e),
            _ => Ok(()),
        }
    }
}

async fn next(mut stream: Pin<&mut MessageStream>) -> Option<zbus::Result<Message>> {
    poll_fn(|context| stream.as_mut().poll_next(context)).await
}

fn failed(doing: String, e: zbus::Error) -> Error {
    use zbus::DBusError;
    match e {
        zbus::Error::MethodError(name, message, _) => {
            Error::Refused { doing, name: name.to_string(), message: message.unwrap_or_default() }
        }
        zbus::Error::FDO(e) => Error::Refused {
            doing,
            name: e.name().to_string(),
            message: e.description().unwrap_or("no details").to_owned(),
        },
        e => Error::Bus { doing, what: e.to_string() },
    }
}
