//! Huge pages: closed to who did not ask, and limited for who did.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::outside::hierarchy;
use crate::common::skip::skip;
use crate::common::{Host, Pod, manifest, wait_for};
use crate::{container, dirs, v1, value};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Can the host count huge pages of 2 MiB for a cgroup?
fn counted() -> Result<(), &'static str> {
    if !Path::new(POOL).exists() {
        return Err("the kernel has no huge pages of 2 MiB");
    }
    let root = hierarchy("unified").unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"));
    let v2 = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let found = v1("hugetlb") || v2.split_ascii_whitespace().any(|c| c == "hugetlb");
    if found { Ok(()) } else { Err("no hugetlb controller here") }
}

/// `hugetlb.<size>.max` of both kinds in the pod's and the container's cgroup; `None`: the cgroup above decides.
fn limit(dir: &Path, size: &str) -> [Option<String>; 2] {
    let kinds = if v1("hugetlb") { ["limit_in_bytes", "rsvd.limit_in_bytes"] } else { ["max", "rsvd.max"] };
    kinds.map(|kind| {
        let file = format!("hugetlb.{size}.{kind}");
        dir.join(&file).exists().then(|| value(dir, &file))
    })
}

fn both(bytes: u64) -> [Option<String>; 2] {
    [Some(bytes.to_string()), Some(bytes.to_string())]
}

#[test]
fn every_size_is_closed_unless_it_was_asked_for() {
    if let Err(why) = counted() {
        skip!("{why}");
    }
    let host = Host::new();
    let plain =
        host.run("plain", &manifest("plain", json!({"containers": [container("main", "sleep 100000", json!({}))]})));
    assert_eq!(limit(&dirs(&plain, "main", "hugetlb").1, "2MB"), both(0));
    let asks = json!({"limits": {"memory": "64Mi", "hugepages-2Mi": "4Mi"}});
    let containers = json!([container("asks", "sleep 100000", asks), container("none", "sleep 100000", json!({}))]);
    let pod = host.run("asks", &manifest("asks", json!({ "containers": containers })));
    let (own, above) = dirs(&pod, "asks", "hugetlb");
    assert_eq!((limit(&above, "2MB"), limit(&own, "2MB")), (both(4 << 20), both(4 << 20)));
    assert_eq!(limit(&dirs(&pod, "none", "hugetlb").0, "2MB"), both(0));
    if Path::new("/sys/kernel/mm/hugepages/hugepages-1048576kB").exists() {
        assert_eq!((limit(&above, "1GB"), limit(&own, "1GB")), (both(0), both(0)));
    }
}

/// Pages that were set aside for a test and are given back when it is over.
struct Reserved {
    before: String,
}

impl Reserved {
    /// `count` free pages, or why there are none.
    fn new(count: u64) -> Result<Reserved, &'static str> {
        if std::env::var_os("HUSK_TEST_VM").is_none() {
            return Err("huge pages are set aside in a virtual machine only");
        }
        let file = Path::new(POOL).join("nr_hugepages");
        let reserved = Reserved { before: value(Path::new(POOL), "nr_hugepages") };
        fs::write(&file, (count + reserved.before.parse::<u64>().expect("a number")).to_string())
            .expect("reserve pages");
        let free: u64 = value(Path::new(POOL), "free_hugepages").parse().expect("a number");
        if free >= count { Ok(reserved) } else { Err("the kernel could not set enough huge pages aside") }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        fs::write(Path::new(POOL).join("nr_hugepages"), &self.before).expect("give the pages back");
    }
}

/// Takes `pages` huge pages in a container, by a file of hugetlbfs.
fn take(pod: &Pod<'_>, container: &str, pages: u64) -> bool {
    let script = format!(
        "mkdir -p /tmp/h && mount -t hugetlbfs -o pagesize=2M none /tmp/h || exit 9; \
         fallocate -l {} /tmp/h/x; code=$?; rm -f /tmp/h/x; umount /tmp/h; exit $code",
        pages << 21
    );
    match pod.try_sh(container, &script).code {
        Some(0) => true,
        Some(9) => panic!("hugetlbfs cannot be mounted in {container}"),
        _ => false,
    }
}

#[test]
fn pages_beyond_the_limit_are_not_given() {
    if let Err(why) = counted() {
        skip!("{why}");
    }
    let _reserved = match Reserved::new(8) {
        Ok(reserved) => reserved,
        Err(why) => skip!("{why}"),
    };
    let host = Host::alone();
    let asks = |resources: Value| {
        let mut c = container("main", "sleep 100000", resources);
        c["securityContext"] = json!({"privileged": true});
        c
    };
    let two = json!({"limits": {"memory": "64Mi", "hugepages-2Mi": "4Mi"}});
    let pod = host.run("two", &manifest("two", json!({"containers": [asks(two)]})));
    assert!(take(&pod, "main", 2));
    assert!(!take(&pod, "main", 3));
    assert!(take(&pod, "main", 2), "what was refused is not held");
    let none =
        host.run("none", &manifest("none", json!({"containers": [asks(json!({"limits": {"memory": "64Mi"}}))]})));
    assert!(!take(&none, "main", 1));
    drop((pod, none));
    wait_for("the pages are free again", || {
        (value(Path::new(POOL), "free_hugepages").parse::<u64>().expect("a number") >= 8).then_some(())
    });
}
