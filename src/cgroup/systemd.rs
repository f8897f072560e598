//! Names of the systemd driver: which unit a pod's cgroup is, and where systemd puts it.
//!
//! A slice's name spells out its parents with dashes: `husk-pods.slice` is `husk.slice/husk-pods.slice` in the tree. So a dash inside a component
//! is written `_`, as the kubelet does it. A pod is one delegated scope, and what is inside is made by file:
//!
//! ```text
//! husk.slice/husk-pods.slice/husk-pods-burstable.slice/husk-pods-burstable-pod<uid>.scope
//!     runtime                   keeper, supervisor, pause: as long as they live the scope does
//!     pod                       the pod's limits
//!     pod/<container id>        a container
//! ```
//!
//! Pure: nothing here talks to systemd.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Who makes the cgroup that a pod lives in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// husk, by file.
    #[default]
    Cgroupfs,
    /// systemd, as a scope; what is inside is made by file.
    Systemd,
}

impl DriverKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DriverKind::Cgroupfs => "cgroupfs",
            DriverKind::Systemd => "systemd",
        }
    }

    /// The driver of that name.
    pub fn of_name(name: &str) -> Option<DriverKind> {
        [DriverKind::Cgroupfs, DriverKind::Systemd].into_iter().find(|kind| kind.name() == name)
    }

    /// For serde: what is not written stands for this.
    pub fn is_default(&self) -> bool {
        *self == DriverKind::default()
    }
}

/// The longest name of a unit that systemd takes, and the kernel as a directory, in bytes.
const UNIT_NAME_MAX: usize = 255;

const SCOPE: &str = ".scope";
const SLICE: &str = ".slice";

/// The classes of pods as parts of the path; guaranteed ones have none.
pub const CLASSES: [&str; 3] = ["", "burstable", "besteffort"];

/// Whether systemd is the init of this host, as `sd_booted(3)` looks for it.
pub fn is_init() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A component as a part of a unit's name.
pub fn escape(component: &str) -> String {
    component.replace('-', "_")
}

/// The slice of a class of pods below an instance's cgroup, e.g. `husk-pods-burstable.slice`.
pub fn class_slice(parent: &str, class: &str) -> String {
    let dash = if class.is_empty() { "" } else { "-" };
    format!("{}-pods{dash}{class}{SLICE}", escape(parent))
}

/// The instance's own slice, above those of its pods.
pub fn parent_slice(parent: &str) -> String {
    format!("{}{SLICE}", escape(parent))
}

/// What the names of an instance's scopes begin with in a class' slice; the escaped id follows.
pub fn scope_prefix(parent: &str, class: &str) -> String {
    format!("{}-pod", class_slice(parent, class).trim_end_matches(SLICE))
}

/// A pod's scope, in the slice of its class or in one that somebody else has made: its path relative to the hierarchies' mounts.
///
/// # Errors
/// A sentence: what is wrong with the names.
pub fn scope_path(parent: &str, class: &str, id: &str, foreign_slice: Option<&str>) -> Result<String, String> {
    let taken = |c: char| c.is_ascii_alphanumeric() || ":-_.".contains(c);
    let unit = match foreign_slice {
        None => format!("{}{}{SCOPE}", scope_prefix(parent, class), escape(id)),
        Some(_) => format!("{}-pod{}{SCOPE}", escape(parent), escape(id)),
    };
    if !unit.chars().all(taken) {
        return Err(format!("{id:?} cannot be part of a unit's name: systemd takes letters, digits and : - _ ."));
    }
    if unit.len() > UNIT_NAME_MAX {
        return Err(format!("{unit} is longer than a unit's name may be, {UNIT_NAME_MAX} bytes"));
    }
    let own = class_slice(parent, class);
    Ok(format!("{}/{unit}", slice_path(foreign_slice.unwrap_or(&own))?))
}

/// Where systemd puts a slice: `a-b.slice` is `a.slice/a-b.slice`, and `-.slice` the root.
///
/// # Errors
/// A sentence: not the name of a slice.
pub fn slice_path(unit: &str) -> Result<String, String> {
    let wrong = || format!("{unit:?} is not the name of a slice; it is written a-b-c{SLICE}, for c in b in a");
    let stem = unit.strip_suffix(SLICE).ok_or_else(wrong)?;
    let taken = |c: char| c.is_ascii_alphanumeric() || ":_.\\".contains(c);
    let parts: Vec<&str> = stem.split('-').collect();
    if parts.iter().any(|part| part.is_empty() || !part.chars().all(taken)) || unit.len() > UNIT_NAME_MAX {
        return Err(wrong());
    }
    let units: Vec<String> = (1..=parts.len()).map(|n| format!("{}{SLICE}", parts[..n].join("-"))).collect();
    Ok(units.join("/"))
}

/// Last component of a scope's path and of the slice above it, both names of units.
pub fn units(scope_path: &str) -> Option<(&str, &str)> {
    let (above, scope) = scope_path.rsplit_once('/')?;
    let slice = above.rsplit('/').next()?;
    (scope.ends_with(SCOPE) && slice.ends_with(SLICE)).then_some((scope, slice))
}

/// Whether a cgroup's name is that of a scope.
pub fn is_scope(name: &str) -> bool {
    name.ends_with(SCOPE)
}

/// The escaped id of the pod whose scope has this name in a class' slice.
pub fn escaped_id<'n>(parent: &str, class: &str, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(scope_prefix(parent, class).as_str())?.strip_suffix(SCOPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_and_slices_are_named_as_the_kubelet_names_them() {
        let path = |class, id| scope_path("husk", class, id, None).unwrap();
        assert_eq!(
            path("burstable", "1-2"),
            "husk.slice/husk-pods.slice/husk-pods-burstable.slice/husk-pods-burstable-pod1_2.scope"
        );
        assert_eq!(path("", "u"), "husk.slice/husk-pods.slice/husk-pods-podu.scope");
        let other = scope_path("husk-0a1b", "besteffort", "u", None).unwrap();
        assert!(other.starts_with("husk_0a1b.slice/husk_0a1b-pods.slice/husk_0a1b-pods-besteffort.slice/"), "{other}");
        assert_eq!(
            units(&path("", "u")),
            Some(("husk-pods-podu.scope", "husk-pods.slice")),
            "what systemd is asked for are the last two components"
        );
        assert_eq!(units("husk/pods/podu"), None);
    }

    #[test]
    fn a_slice_of_somebody_else_is_found_by_its_name() {
        let path = scope_path("husk", "", "i", Some("kubepods-burstable-pod1_2.slice")).unwrap();
        assert_eq!(
            path, "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/husk-podi.scope",
            "the name of a scope says nothing about its slice"
        );
        for bad in
            ["a", ".slice", "-.slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "a b.slice", "..-/.slice"]
        {
            assert!(slice_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_that_is_no_name_of_a_unit_is_refused() {
        assert!(scope_path("husk", "", "a b", None).unwrap_err().contains("a b"));
        assert!(scope_path("husk", "", &"x".repeat(250), None).unwrap_err().contains("255"));
    }

    #[test]
    fn the_id_is_read_back_from_the_name() {
        for class in CLASSES {
            let path = scope_path("husk-1", class, "a-b", None).unwrap();
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(escaped_id("husk-1", class, name), Some("a_b"));
        }
        assert_eq!(escaped_id("husk", "", "husk-pods-burstable-podx.scope"), None);
        assert_eq!(escaped_id("husk", "", "other.scope"), None);
    }

    #[test]
    fn a_driver_is_known_by_its_name() {
        assert_eq!(DriverKind::of_name("systemd"), Some(DriverKind::Systemd));
        assert_eq!(DriverKind::of_name(DriverKind::default().name()), Some(DriverKind::Cgroupfs));
        assert_eq!(DriverKind::of_name("Systemd"), None);
    }
}
