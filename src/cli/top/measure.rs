//! What pods use, out of the kernel's files. What a pod that is just ending no longer has is left out.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use husk_oci::file;
use serde::Serialize;

use crate::cgroup::{Cgroupfs, Load, Usage};
use crate::runtime::container;
use crate::state::record::State;
use crate::state::{PodEntry, parent_of};

/// What a pod uses.
#[derive(Debug, Clone)]
pub struct PodUse {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The pod's id.
    pub id: String,
    /// All its containers together.
    pub total: Use,
    /// Those that run, in spec order.
    pub containers: Vec<(String, Use)>,
    /// Since its network was made; `None` on the host's.
    pub network: Option<Network>,
    /// pause, keeper and supervisor.
    pub overhead: Overhead,
}

/// What a cgroup uses.
#[derive(Debug, Clone, Default)]
pub struct Use {
    /// CPU in billionths of one, over the time between two looks.
    pub nano_cores: Option<u64>,
    /// As the kernel counts it.
    pub usage: Usage,
    /// The rest; empty unless it was asked for.
    pub load: Load,
}

/// Bytes that went through the pod's interfaces, lo left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Received.
    pub rx_bytes: u64,
    /// Sent.
    pub tx_bytes: u64,
}

/// What husk itself takes for a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overhead {
    /// CPU in billionths of one, over the time between two looks.
    pub cpu_nano_cores: Option<u64>,
    /// CPU time since they began, nanoseconds.
    pub cpu_ns: u64,
    /// Memory that is theirs alone (`RssAnon`), bytes.
    pub anon_bytes: u64,
}

/// CPU times at one moment: by cgroup, and by `own/<id>` of husk's own processes.
#[derive(Debug)]
pub struct Sample {
    at: Instant,
    cpu_ns: HashMap<String, u64>,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// CPU and memory.
    Short,
    /// Everything.
    Full,
}

/// CPU times alone, for a rate later.
pub fn sample(driver: &Cgroupfs, entries: &[PodEntry], depth: Depth) -> Sample {
    let mut sample = Sample { at: Instant::now(), cpu_ns: HashMap::new() };
    for entry in entries {
        for path in running(entry).map(|(_, path)| path).chain([entry.record.cgroup.clone()]) {
            if let Ok(Some(ns)) = driver.cpu_ns(&path) {
                sample.cpu_ns.insert(path, ns);
            }
        }
        if depth == Depth::Full {
            sample.cpu_ns.insert(own(entry), own_processes(entry).iter().filter_map(|pid| cpu_ns(*pid)).sum());
        }
    }
    sample
}

/// What the pods use, with rates since an earlier sample; without one since each began. Pods that are gone are left out.
pub fn measure(
    driver: &Cgroupfs,
    entries: &[PodEntry],
    earlier: Option<&Sample>,
    depth: Depth,
) -> (Vec<PodUse>, Sample) {
    let mut looks = Looks { driver, earlier, sample: Sample { at: Instant::now(), cpu_ns: HashMap::new() }, depth };
    let now = jiff::Timestamp::now();
    let pods = entries.iter().filter_map(|entry| looks.pod(entry, now)).collect();
    (pods, looks.sample)
}

struct Looks<'a> {
    driver: &'a Cgroupfs,
    earlier: Option<&'a Sample>,
    sample: Sample,
    depth: Depth,
}

impl Looks<'_> {
    fn pod(&mut self, entry: &PodEntry, now: jiff::Timestamp) -> Option<PodUse> {
        let began = entry.status.sandbox.as_ref()?.ready_at;
        let total = self.cgroup(&entry.record.cgroup, now.duration_since(began).unsigned_abs())?;
        let containers = running(entry).filter_map(|(index, path)| {
            let State::Running { started_at, .. } = &entry.status.containers[index].state else { return None };
            let used = self.cgroup(&path, now.duration_since(*started_at).unsigned_abs())?;
            Some((entry.status.containers[index].name.clone(), used))
        });
        let containers = containers.collect();
        let full = self.depth == Depth::Full;
        Some(PodUse {
            namespace: entry.record.namespace().to_owned(),
            name: entry.record.name().to_owned(),
            id: entry.id.clone(),
            total,
            containers,
            network: if full { network(entry) } else { None },
            overhead: if full {
                self.overhead(entry, now.duration_since(began).unsigned_abs())
            } else {
                Overhead::default()
            },
        })
    }

    fn cgroup(&mut self, path: &str, age: Duration) -> Option<Use> {
        // A path out of a record that leads elsewhere is no cgroup of ours.
        let usage = self.driver.usage(path).ok().flatten()?;
        let load = match self.depth {
            Depth::Full => self.driver.load(path).unwrap_or_default(),
            Depth::Short => Load::default(),
        };
        let nano_cores = usage.cpu_ns.and_then(|ns| self.rate(path.to_owned(), ns, age));
        Some(Use { nano_cores, usage, load })
    }

    fn overhead(&mut self, entry: &PodEntry, age: Duration) -> Overhead {
        let pids = own_processes(entry);
        let cpu_ns = pids.iter().filter_map(|pid| cpu_ns(*pid)).sum();
        Overhead {
            cpu_nano_cores: self.rate(own(entry), cpu_ns, age),
            cpu_ns,
            anon_bytes: pids.iter().filter_map(|pid| anon_bytes(*pid)).sum(),
        }
    }

    /// CPU time per time, since the last look, or since the beginning.
    fn rate(&mut self, what: String, cpu_ns: u64, age: Duration) -> Option<u64> {
        let at = Instant::now();
        self.sample.cpu_ns.insert(what.clone(), cpu_ns);
        let (used, over) = match self.earlier {
            None => (cpu_ns, age),
            // It has begun since: there is no rate yet.
            Some(earlier) => (cpu_ns.saturating_sub(*earlier.cpu_ns.get(&what)?), at.duration_since(earlier.at)),
        };
        let rate = u128::from(used).saturating_mul(1_000_000_000) / over.as_nanos().max(1);
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

/// The containers that run: positions and cgroups.
fn running(entry: &PodEntry) -> impl Iterator<Item = (usize, String)> {
    entry.status.containers.iter().enumerate().filter_map(|(index, c)| match &c.state {
        State::Running { id, .. } => Some((index, container::cgroup(&entry.record, id))),
        _ => None,
    })
}

fn own(entry: &PodEntry) -> String {
    format!("own/{}", entry.id)
}

/// pause, keeper and supervisor. pause's pid is believed together with its start time, and the others are found from there.
fn own_processes(entry: &PodEntry) -> Vec<i32> {
    let Some(sandbox) = entry.status.sandbox.as_ref().filter(|s| !s.ended) else { return Vec::new() };
    let Ok(Some(keeper)) = parent_of(sandbox.pid, sandbox.start_ticks) else { return Vec::new() };
    let list = format!("/proc/{keeper}/task/{keeper}/children");
    let list = file::read_text(Path::new(&list), 256).unwrap_or_default();
    let containers: Vec<i32> = entry
        .status
        .containers
        .iter()
        .filter_map(|c| match c.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        })
        .collect();
    let children = list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    let supervisor = children
        .into_iter()
        .find(|pid| *pid != sandbox.pid && !containers.contains(pid) && is_supervisor(*pid, &entry.id));
    [sandbox.pid, keeper].into_iter().chain(supervisor).collect()
}

/// Among keeper's children are also those of `husk exec`; the supervisor is the one that was started as such.
fn is_supervisor(pid: i32, id: &str) -> bool {
    let line = file::read(Path::new(&format!("/proc/{pid}/cmdline")), 256).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words.get(1) == Some(&b"supervisor".as_slice()) && words.get(4) == Some(&id.as_bytes())
}

/// Time on a CPU, nanoseconds.
fn cpu_ns(pid: i32) -> Option<u64> {
    let text = file::read_text(Path::new(&format!("/proc/{pid}/schedstat")), 64).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn anon_bytes(pid: i32) -> Option<u64> {
    let text = file::read_text(Path::new(&format!("/proc/{pid}/status")), 2048).ok()?;
    let kib: u64 =
        text.lines().find_map(|l| l.strip_prefix("RssAnon:"))?.split_ascii_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The pod's interfaces, as pause sees them.
fn network(entry: &PodEntry) -> Option<Network> {
    let sandbox = entry.status.sandbox.as_ref().filter(|s| !s.ended && !entry.record.sandbox.host_network)?;
    let text = file::read_text(Path::new(&format!("/proc/{}/net/dev", sandbox.pid)), 1024).ok()?;
    // Looked at afterwards, so that it was pause all the time.
    parent_of(sandbox.pid, sandbox.start_ticks).ok()??;
    Some(devices(&text))
}

/// `  eth0: 1 2 3 4 5 6 7 8 9 …`: the first number is bytes received, the ninth bytes sent.
fn devices(text: &str) -> Network {
    let mut all = Network::default();
    for (name, numbers) in text.lines().filter_map(|line| line.split_once(':')) {
        if name.trim() == "lo" {
            continue;
        }
        let number = |n| numbers.split_ascii_whitespace().nth(n).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        all.rx_bytes = all.rx_bytes.saturating_add(number(0));
        all.tx_bytes = all.tx_bytes.saturating_add(number(8));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_added_up_without_lo() {
        let text = "Inter-|   Receive                  |  Transmit\n face |bytes packets\n    lo: 9 9 9 9 9 9 9 9 9 9\n  eth0:  100 1 0 0 0 0 0 0  200 2 0\n  net1: 1 0 0 0 0 0 0 0 2 0\n";
        assert_eq!(devices(text), Network { rx_bytes: 101, tx_bytes: 202 });
        assert_eq!(devices(""), Network::default());
    }
}
