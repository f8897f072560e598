//! Hosts files of pods that find each other. There is no daemon that keeps them: whoever brings a pod, or takes one away, changes those of the others.
//!
//! ```text
//! own      before the first container: the pod's addresses, and all that are known by then
//! join     soon after: the pod is known, the others' files get its lines
//! leave    before its addresses may be another's: the lines go
//! repair   gc: the table anew from the records, and every file from the table
//! ```
//!
//! Files are changed in place, as they are mounted into containers. Whoever reads one meanwhile finds whole lines, those of before or those of after: what
//! is added is appended, and what becomes shorter is filled with empty lines before it is cut.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Error, mounts};
use crate::manifest::dns::{self, Known};
use crate::state::record::PodRecord;
use crate::state::{Listed, Roots};

/// The largest hosts file that is read. A container cannot write its own, unless it is privileged.
const LIMIT: u64 = 4 << 20;
/// How long somebody else may be at it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a pod that has started may not be known yet to others that start at the same time.
const SETTLE: Duration = Duration::from_secs(1);

type Table = Vec<(String, Known)>;

/// Whether a pod finds others and is found: it has addresses, and no client decides about its files.
fn takes_part(record: &PodRecord, ips: &[IpAddr]) -> bool {
    !record.driven() && !record.sandbox.host_network && !ips.is_empty()
}

/// Writes a pod's own hosts file, once its addresses are known.
///
/// # Errors
/// It cannot be written.
pub fn own(roots: &Roots, record: &PodRecord, ips: &[IpAddr]) -> Result<(), Error> {
    if !takes_part(record, ips) {
        return Ok(());
    }
    let table: Table = roots.known_hosts();
    let known: Vec<&Known> = table.iter().map(|(_, known)| known).collect();
    let text = dns::with_peers(&dns::hosts(&record.pod, ips, None), &dns::peers(record.namespace(), &known));
    let path = mounts::name_dir(roots, &record.id).join("hosts");
    open(&path).and_then(|file| rewrite(&file, text.as_bytes()).map(drop)).map_err(|e| failed(&path, &e))
}

/// What others shall know of a pod; `None`: nothing.
pub fn entry(record: &PodRecord, ips: &[IpAddr]) -> Option<Known> {
    takes_part(record, ips).then(|| Known::new(&record.pod, ips))
}

/// Makes a pod known to the others. False: somebody else is at it, try again.
///
/// # Errors
/// The table cannot be written.
pub fn join(roots: &Roots, id: &str, new: &Known) -> Result<bool, Error> {
    let is_there = |table: &Table| table.iter().any(|(known, what)| known == id && what == new);
    if is_there(&roots.known_hosts()) {
        return Ok(true);
    }
    let Some(hosts) = roots.hosts(Instant::now())? else { return Ok(false) };
    let mut table: Table = roots.known_hosts();
    table.retain(|(known, _)| known != id);
    table.push((id.to_owned(), new.clone()));
    hosts.write(table.clone())?;
    refresh(roots, &table);
    Ok(true)
}

/// Makes a pod unknown, when its sandbox has ended. What cannot be done now is done by gc.
pub fn leave(roots: &Roots, id: &str) {
    let knows = |table: &Table| table.iter().any(|(known, _)| known == id);
    // What was half written goes with the next one that is whole.
    if !knows(&roots.known_hosts()) && !roots.hosts_in_work() {
        return;
    }
    let left = match roots.hosts(Instant::now() + PATIENCE) {
        Ok(Some(hosts)) => {
            let mut table: Table = roots.known_hosts();
            table.retain(|(known, _)| known != id);
            let written = hosts.write(table.clone()).map_err(|e| e.to_string());
            // Also when it was not: the files are what counts.
            refresh(roots, &table);
            written
        }
        Ok(None) => Err("somebody else is at the names of pods all the time".into()),
        Err(e) => Err(e.to_string()),
    };
    if let Err(what) = left {
        super::say::say(
            "warn",
            format_args!("take pod {id} out of the others' hosts files: {what}, continuing; husk gc does it"),
        );
    }
}

/// Makes the table from the records, and all files from the table; what was wrong, a line each.
///
/// # Errors
/// The pods cannot be listed, or the table not be written.
pub fn repair(roots: &Roots) -> Result<Vec<String>, Error> {
    // Most instances have nothing of it, and need no directory for that.
    if !roots.state.join("hosts").exists() && living(roots, &Vec::new())?.is_empty() {
        return Ok(Vec::new());
    }
    let hosts = roots.hosts(Instant::now() + PATIENCE)?.ok_or_else(busy)?;
    let before: Table = roots.known_hosts();
    let living = living(roots, &before)?;
    let mut wrong = differences(&before, &living);
    if living != before || living.is_empty() {
        hosts.write(living.clone())?;
    }
    wrong.extend(refresh(roots, &living));
    Ok(wrong)
}

/// What [`repair`] would mend, a line each; touches nothing. Blocks for as long as pods that have just come may take to make themselves known, when there is
/// something to mend.
///
/// # Errors
/// The pods cannot be listed.
pub fn check(roots: &Roots) -> Result<Vec<String>, Error> {
    if !roots.state.join("hosts").exists() {
        return Ok(Vec::new());
    }
    let until = Instant::now() + SETTLE;
    loop {
        let wrong = look(roots)?;
        if wrong.is_empty() || Instant::now() >= until {
            return Ok(wrong);
        }
        std::thread::sleep(SETTLE / 20);
    }
}

/// What is wrong now, a line each.
fn look(roots: &Roots) -> Result<Vec<String>, Error> {
    // Nobody comes or goes meanwhile.
    let _hosts = roots.hosts(Instant::now() + PATIENCE)?.ok_or_else(busy)?;
    let before: Table = roots.known_hosts();
    let mut wrong = differences(&before, &living(roots, &before)?);
    let known: Vec<&Known> = before.iter().map(|(_, known)| known).collect();
    for (id, of) in &before {
        let path = mounts::name_dir(roots, id).join("hosts");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let wanted = dns::own_part(&text).map(|own| dns::with_peers(own, &dns::peers(&of.namespace, &known)));
        if wanted.is_none_or(|wanted| wanted != text) {
            wrong.push(stale(&path));
        }
    }
    Ok(wrong)
}

fn busy() -> Error {
    Error::Host { what: "somebody else is at the names of pods all the time".into() }
}

fn stale(path: &Path) -> String {
    format!("{} does not name the pods that there are", path.display())
}

fn differences(before: &Table, living: &Table) -> Vec<String> {
    let name = |known: &Known| format!("{}/{}", known.namespace, known.name);
    let lost = living.iter().filter(|entry| !before.contains(entry));
    let lost = lost.map(|(_, known)| format!("pod {} is not known to others", name(known)));
    let gone = before.iter().filter(|(id, _)| !living.iter().any(|(other, _)| other == id));
    lost.chain(gone.map(|(_, known)| format!("pod {} has ended and is known to others", name(known)))).collect()
}

/// Those that live, by the records. Who was known keeps its place, which decides whose a disputed name is.
fn living(roots: &Roots, before: &Table) -> Result<Table, Error> {
    let mut living: Table = Vec::new();
    for listed in roots.list()? {
        let Listed::Pod(entry) = listed else { continue };
        let sandbox = entry.status.sandbox.as_ref().filter(|s| !s.ended && entry.live);
        let network = sandbox.and_then(|s| s.network.as_deref());
        if let Some(known) = network.and_then(|n| self::entry(&entry.record, &n.ips)) {
            living.push((entry.id.clone(), known));
        }
    }
    let place = |id: &String| before.iter().position(|(known, _)| known == id).unwrap_or(usize::MAX);
    living.sort_by_key(|(id, _)| place(id));
    Ok(living)
}

/// Brings the files of all pods up to date; those that were not, a line each. One that cannot be changed is told.
fn refresh(roots: &Roots, table: &Table) -> Vec<String> {
    let known: Vec<&Known> = table.iter().map(|(_, known)| known).collect();
    let mut of_namespaces: BTreeMap<&str, String> = BTreeMap::new();
    let mut changed = Vec::new();
    for (id, of) in table {
        let peers = of_namespaces.entry(&of.namespace).or_insert_with(|| dns::peers(&of.namespace, &known));
        let path = mounts::name_dir(roots, id).join("hosts");
        match update(&path, peers) {
            Ok(true) => changed.push(stale(&path)),
            Ok(false) => {}
            // It is being removed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => super::say::say("warn", format_args!("{}, continuing; husk gc tries again", failed(&path, &e))),
        }
    }
    changed
}

fn failed(path: &Path, e: &io::Error) -> Error {
    Error::io(format_args!("write {}", path.display()), e)
}

fn update(path: &Path, peers: &str) -> io::Result<bool> {
    let file = open(path)?;
    let mut text = String::new();
    (&file).take(LIMIT).read_to_string(&mut text)?;
    match dns::own_part(&text) {
        Some(own) => rewrite(&file, dns::with_peers(own, peers).as_bytes()),
        // Its pod has no addresses yet.
        None => Ok(false),
    }
}

/// Not to be held up by a lease that somebody has on it (EWOULDBLOCK), nor led elsewhere.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Gives a file another content, in place. True when it had another one.
fn rewrite(file: &File, new: &[u8]) -> io::Result<bool> {
    let mut old = vec![0; usize::try_from(file.metadata()?.len().min(LIMIT)).unwrap_or_default()];
    let read = file.read_at(&mut old, 0)?;
    old.truncate(read);
    if old == new {
        return Ok(false);
    }
    if let Some(more) = new.strip_prefix(old.as_slice()) {
        file.write_all_at(more, old.len() as u64)?;
        return Ok(true);
    }
    if new.len() > old.len() {
        file.write_all_at(&vec![b'\n'; new.len() - old.len()], old.len() as u64)?;
    }
    let mut padded = new.to_vec();
    padded.resize(new.len().max(old.len()), b'\n');
    file.write_all_at(&padded, 0)?;
    file.set_len(new.len() as u64)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_pods_come_and_go_and_every_file_has_all_of_them() {
        let dir = std::env::temp_dir().join(format!("husk-hosts-many-{}", std::process::id()));
        let roots = Roots { root: dir.join("root"), state: dir.join("state") };
        std::fs::create_dir_all(&roots.state).unwrap();
        let known = |n: usize| Known {
            namespace: "default".into(),
            name: format!("pod-{n}"),
            hostname: format!("pod-{n}"),
            alias: String::new(),
            subdomain: "sub".into(),
            ips: vec![format!("10.0.{}.{}", n / 200, n % 200 + 1).parse().unwrap()],
        };
        let file = |n: usize| mounts::name_dir(&roots, &n.to_string()).join("hosts");
        let since = Instant::now();
        for n in 0..200 {
            std::fs::create_dir_all(file(n).parent().unwrap()).unwrap();
            std::fs::write(file(n), dns::with_peers("own\n", "")).unwrap();
            assert!(join(&roots, &n.to_string(), &known(n)).unwrap());
        }
        println!("200 pods came in {:?}", since.elapsed());
        leave(&roots, "7");
        let text = std::fs::read_to_string(file(199)).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("10.0.")).count(), 199);
        assert!(!text.contains("pod-7\n"));
        for n in (0..200).filter(|n| *n != 7) {
            assert!(std::fs::read_to_string(file(n)).unwrap() == text, "the file of pod-{n} is another");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_file_is_changed_in_place_whatever_it_was() {
        let path = std::env::temp_dir().join(format!("husk-hosts-{}", std::process::id()));
        for (old, new) in
            [("", "a\n"), ("a\n", "a\nb\n"), ("a\nb\n", "b\n"), ("a\n", "longer\n"), ("abc\n", ""), ("x\n", "y\n")]
        {
            std::fs::write(&path, old).unwrap();
            let file = open(&path).unwrap();
            assert!(rewrite(&file, new.as_bytes()).unwrap());
            assert!(!rewrite(&file, new.as_bytes()).unwrap());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), new, "{old:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
