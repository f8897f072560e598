//! `husk top`: what pods and their containers use now.

mod measure;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::get::{Format, Select};
use super::out::{self, Cell, Out};
use super::{Context, Error, names, span};
use crate::cgroup::{Cgroupfs, Load, Usage};
use crate::state::PodEntry;
use measure::{Depth, PodUse, Use, measure, sample};

/// Show what pods use: CPU, memory, processes, network, disks.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk top pods --containers --sort memory\n  husk top demo -o wide --watch")]
pub struct Top {
    /// pods, or pod and names, or names; without any all pods of the namespace
    #[arg(value_name = "[KIND] NAME")]
    what: Vec<String>,
    #[command(flatten)]
    select: Select,
    /// A line for each container that runs
    #[arg(long)]
    containers: bool,
    /// What comes first
    #[arg(long, value_name = "BY", default_value = "name", alias = "sort-by")]
    sort: Sort,
    /// json, yaml or wide instead of the short table
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Output>,
    /// Leave out the header of the table
    #[arg(long)]
    no_headers: bool,
    /// Go on until interrupted
    #[arg(short, long)]
    watch: bool,
    /// How often with --watch
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = span::parse)]
    interval: Duration,
    /// How long CPU use is measured; 0 for the average since the start
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = span::parse)]
    window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// Namespace and name.
    Name,
    /// The most CPU first.
    Cpu,
    /// The most memory first.
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Yaml,
    /// All columns.
    Wide,
}

/// The shortest pause between two looks.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

impl Top {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?.names;
        if self.watch && self.interval < MIN_INTERVAL {
            return Err(Error::usage(format!("--interval must be at least {} ms", MIN_INTERVAL.as_millis())));
        }
        let driver = Cgroupfs::detect().map_err(|e| Error::failed(e.to_string()))?;
        let (mut entries, mut complaints) = self.entries(context, &names)?;
        let mut earlier = (!self.window.is_zero()).then(|| sample(&driver, &entries, self.depth()));
        let mut begun = Instant::now();
        if earlier.is_some() && !entries.is_empty() {
            std::thread::sleep(self.window);
        }
        loop {
            let (mut pods, now) = measure(&driver, &entries, earlier.as_ref(), self.depth());
            self.order(&mut pods);
            self.print(context, &pods, earlier.as_ref().map(|_| begun.elapsed()))?;
            if !self.watch {
                break;
            }
            (earlier, begun) = (Some(now), Instant::now());
            std::thread::sleep(self.interval);
            (entries, complaints) = self.entries(context, &names)?;
        }
        complaints.iter().for_each(out::say);
        if complaints.is_empty() { Ok(()) } else { Err(Error::Exit { code: 1 }) }
    }

    fn depth(&self) -> Depth {
        if self.output.is_some() { Depth::Full } else { Depth::Short }
    }

    /// The pods that are meant and run, and a sentence for each that was named and does not.
    fn entries(&self, context: &Context, names: &[String]) -> Result<(Vec<PodEntry>, Vec<String>), Error> {
        if names.is_empty() {
            let (mut entries, complaints) = self.select.entries(context)?;
            entries.retain(|entry| entry.live);
            return Ok((entries, complaints));
        }
        if self.select.all_namespaces || self.select.selector.is_some() {
            return Err(Error::usage("names cannot be combined with -l or -A"));
        }
        let (mut entries, mut complaints) = (Vec::new(), Vec::new());
        for name in names {
            match context.roots.find(&context.namespace, name) {
                Ok(entry) if entry.live => entries.push(entry),
                Ok(_) => complaints.push(format!("pod {name} does not run, and uses nothing")),
                Err(error) => complaints.push(super::error::sentence(&error)),
            }
        }
        Ok((entries, complaints))
    }

    fn order(&self, pods: &mut [PodUse]) {
        use std::cmp::Reverse;
        let key = |used: &Use| match self.sort {
            Sort::Name => None,
            Sort::Cpu => used.nano_cores,
            Sort::Memory => used.usage.working_set_bytes,
        };
        // Stable, so that equals stay in the order of their names.
        pods.sort_by_key(|pod| Reverse(key(&pod.total)));
        for pod in pods {
            pod.containers.sort_by_key(|(_, used)| Reverse(key(used)));
        }
    }

    fn print(&self, context: &Context, pods: &[PodUse], window: Option<Duration>) -> Result<(), Error> {
        let mut out = Out::new();
        match self.output {
            Some(Output::Json) => out.raw(Format::Json.render(&list(pods, window))?.as_bytes())?,
            Some(Output::Yaml) => out.raw(Format::Yaml.render(&list(pods, window))?.as_bytes())?,
            None | Some(Output::Wide) => {
                if self.watch && std::io::stdout().is_terminal() {
                    // Home, and nothing below.
                    out.raw(b"\x1b[H\x1b[J")?;
                }
                if pods.is_empty() {
                    out::say(match self.select.all_namespaces {
                        true => "no pods that run".to_owned(),
                        false => format!("no pods that run in namespace {}", context.namespace),
                    });
                } else {
                    self.table(&mut out, pods)?;
                }
            }
        }
        out.flush()
    }

    fn table(&self, out: &mut Out, pods: &[PodUse]) -> Result<(), Error> {
        let wide = self.output == Some(Output::Wide);
        let mut header = if self.containers { vec!["POD", "NAME"] } else { vec!["NAME"] };
        if self.select.all_namespaces {
            header.insert(0, "NAMESPACE");
        }
        header.extend(["CPU(cores)", "MEMORY(bytes)"]);
        if wide {
            header.extend(["RSS", "PIDS", "READ", "WRITTEN", "CPU%WAIT", "MEM%WAIT", "IO%WAIT"]);
            if !self.containers {
                header.extend(["RX", "TX", "HUSK-CPU", "HUSK-MEMORY"]);
            }
        }
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for pod in pods {
            let mut row = |container: Option<&str>, used: &Use| {
                let mut cells: Vec<Cell> = Vec::new();
                if self.select.all_namespaces {
                    cells.push(pod.namespace.as_str().into());
                }
                cells.push(pod.name.as_str().into());
                cells.extend(container.map(Cell::from));
                cells.extend([cores(used.nano_cores), bytes(used.usage.working_set_bytes)].map(Cell::from));
                if wide {
                    cells.extend(more(used).map(Cell::from));
                    if container.is_none() {
                        cells.extend(of_pod(pod).map(Cell::from));
                    }
                }
                rows.push(cells);
            };
            match self.containers {
                true => pod.containers.iter().for_each(|(name, used)| row(Some(name), used)),
                false => row(None, &pod.total),
            }
        }
        if self.no_headers { out.rows(&header, &rows) } else { out.table(&header, &rows) }
    }
}

fn more(used: &Use) -> [String; 7] {
    let (usage, load) = (&used.usage, &used.load);
    let [cpu, memory, io] = [load.cpu_pressure, load.memory_pressure, load.io_pressure].map(percent);
    let tasks = usage.tasks.map_or_else(nothing, |n| n.to_string());
    [bytes(usage.rss_bytes), tasks, bytes(load.read_bytes), bytes(load.written_bytes), cpu, memory, io]
}

fn of_pod(pod: &PodUse) -> [String; 4] {
    [
        bytes(pod.network.map(|n| n.rx_bytes)),
        bytes(pod.network.map(|n| n.tx_bytes)),
        cores(pod.overhead.cpu_nano_cores),
        bytes(Some(pod.overhead.anon_bytes)),
    ]
}

/// What nobody counts here.
fn nothing() -> String {
    "-".to_owned()
}

/// In thousandths of a CPU.
fn cores(nano_cores: Option<u64>) -> String {
    nano_cores.map_or_else(nothing, |n| format!("{}m", n.saturating_add(500_000) / 1_000_000))
}

/// In Mi as kubectl has it; in Ki what would be less than ten of them.
fn bytes(n: Option<u64>) -> String {
    n.map_or_else(nothing, |n| match n {
        n if n >= 10 << 20 => format!("{}Mi", n >> 20),
        n => format!("{}Ki", n >> 10),
    })
}

fn percent(hundredths: Option<u32>) -> String {
    hundredths.map_or_else(nothing, |n| format!("{}.{:02}", n / 100, n % 100))
}

/// `metrics.k8s.io/v1beta1`, and below `husk` what it has no fields for.
fn list(pods: &[PodUse], window: Option<Duration>) -> Value {
    let now = jiff::Timestamp::now();
    let items: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let containers = pod.containers.iter().map(|(name, used)| {
                json!({"name": name, "usage": quantities(used), "husk": details(&used.usage, &used.load)})
            });
            let mut all = details(&pod.total.usage, &pod.total.load);
            all.insert("usage".into(), quantities(&pod.total));
            all.insert("overhead".into(), json!(pod.overhead));
            if let Some(network) = pod.network {
                all.insert("network".into(), json!(network));
            }
            json!({
                "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.id},
                "timestamp": now.to_string(),
                // Since the start, without one.
                "window": window.map(|w| format!("{:.3}s", w.as_secs_f64())),
                "containers": containers.collect::<Vec<_>>(),
                "husk": all,
            })
        })
        .collect();
    json!({"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetricsList", "metadata": {}, "items": items})
}

fn quantities(used: &Use) -> Value {
    let mut usage = Map::new();
    if let Some(nano) = used.nano_cores {
        usage.insert("cpu".into(), format!("{nano}n").into());
    }
    if let Some(bytes) = used.usage.working_set_bytes {
        usage.insert("memory".into(), format!("{}Ki", bytes >> 10).into());
    }
    usage.into()
}

/// What the kernel counts, by name; what it does not count here is absent.
fn details(usage: &Usage, load: &Load) -> Map<String, Value> {
    let pressure = |hundredths: Option<u32>| hundredths.map(|n| f64::from(n) / 100.0);
    let numbers = [
        ("cpuNs", usage.cpu_ns),
        ("memoryBytes", usage.memory_bytes),
        ("workingSetBytes", usage.working_set_bytes),
        ("rssBytes", usage.rss_bytes),
        ("memoryLimitBytes", usage.memory_limit_bytes),
        ("swapBytes", usage.swap_bytes),
        ("pids", usage.tasks),
        ("readBytes", load.read_bytes),
        ("writtenBytes", load.written_bytes),
    ];
    let pressures = [
        ("cpuPressurePercent", pressure(load.cpu_pressure)),
        ("memoryPressurePercent", pressure(load.memory_pressure)),
        ("ioPressurePercent", pressure(load.io_pressure)),
    ];
    let numbers = numbers.into_iter().filter_map(|(name, n)| Some((name.to_owned(), json!(n?))));
    numbers.chain(pressures.into_iter().filter_map(|(name, n)| Some((name.to_owned(), json!(n?))))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_kubectls() {
        assert_eq!([0, 499_999, 500_000, 1_234_000_000].map(|n| cores(Some(n))), ["0m", "0m", "1m", "1234m"]);
        assert_eq!(
            [0, 300 << 10, 9 << 20, 10 << 20, 3 << 30].map(|n| bytes(Some(n))),
            ["0Ki", "300Ki", "9216Ki", "10Mi", "3072Mi"]
        );
        assert_eq!([Some(0), Some(5), Some(1234), None].map(percent), ["0.00", "0.05", "12.34", "-"]);
        assert_eq!((cores(None), bytes(None)), ("-".to_owned(), "-".to_owned()));
    }
}
