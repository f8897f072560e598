//! The five capability sets: from the spec's names to bits, clamped to what we have ourselves.

use crate::sys::cred;
use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use std::str::FromStr;
use std::sync::OnceLock;

/// The five sets as bits, and what could not be granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
    /// Asked for, and outside of what this host process may give.
    pub refused: u64,
    /// Number of capabilities that the kernel knows.
    pub known: u8,
}

/// What we may pass on: bit n of `bounding` = capability n is in our bounding set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub bounding: u64,
    pub known: u8,
}

/// Reads our bounding set, once: nothing in this process ever changes it.
pub(crate) fn own() -> Own {
    static OWN: OnceLock<Own> = OnceLock::new();
    *OWN.get_or_init(|| {
        let mut own = Own { bounding: 0, known: 0 };
        while own.known < 64
            && let Ok(has) = cred::in_bounding(own.known)
        {
            own.bounding |= u64::from(has) << own.known;
            own.known += 1;
        }
        own
    })
}

fn bits(names: Option<&Capabilities>) -> u64 {
    let known = |name: &oci_spec::runtime::Capability| caps::Capability::from_str(&format!("CAP_{name}")).ok();
    names.into_iter().flatten().filter_map(known).fold(0, |all, cap| all | cap.bitmask())
}

/// Turns the spec's sets into bits. `new_user_namespace`: the process gets a full bounding set by entering one, so nothing is clamped.
/// No `capabilities` in the spec means none at all.
pub(crate) fn from_spec(spec: Option<&LinuxCapabilities>, own: Own, new_user_namespace: bool) -> Sets {
    let all = if own.known >= 64 { u64::MAX } else { (1 << own.known) - 1 };
    let may = if new_user_namespace { all } else { own.bounding };
    let Some(spec) = spec else { return Sets { known: own.known, ..Sets::default() } };
    let [bounding, effective, permitted, inheritable, ambient] =
        [spec.bounding(), spec.effective(), spec.permitted(), spec.inheritable(), spec.ambient()]
            .map(|set| bits(set.as_ref()));
    let asked = bounding | effective | permitted | inheritable | ambient;
    let permitted = permitted & may;
    let inheritable = inheritable & may & bounding;
    Sets {
        bounding: bounding & may,
        effective: effective & permitted,
        permitted,
        inheritable,
        ambient: ambient & permitted & inheritable,
        refused: asked & !may,
        known: own.known,
    }
}

/// The names of the bits, `CAP_SYS_RESOURCE, ...`.
pub(crate) fn names(bits: u64) -> String {
    let mut names: Vec<String> =
        caps::all().into_iter().filter(|c| c.bitmask() & bits != 0).map(|c| c.to_string()).collect();
    names.sort();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder};

    fn set(caps: &[Capability]) -> Capabilities {
        caps.iter().copied().collect()
    }

    #[test]
    fn sets_are_clamped_to_our_bounding_set_and_the_rest_is_named() {
        let spec = LinuxCapabilitiesBuilder::default()
            .bounding(set(&[Capability::Chown, Capability::SysResource]))
            .permitted(set(&[Capability::Chown, Capability::SysResource]))
            .effective(set(&[Capability::Chown]))
            .inheritable(set(&[]))
            .ambient(set(&[Capability::Chown]))
            .build()
            .unwrap();
        let own = Own { bounding: 0b1, known: 41 };
        let sets = from_spec(Some(&spec), own, false);
        assert_eq!((sets.bounding, sets.permitted, sets.effective), (1, 1, 1));
        assert_eq!((sets.inheritable, sets.ambient), (0, 0), "ambient needs inheritable");
        assert_eq!(names(sets.refused), "CAP_SYS_RESOURCE");
        assert_eq!(from_spec(Some(&spec), own, true).refused, 0);
    }

    #[test]
    fn every_name_of_the_spec_is_known() {
        let all = set(&[Capability::AuditControl, Capability::Bpf, Capability::CheckpointRestore, Capability::NetRaw]);
        assert_eq!(bits(Some(&all)).count_ones(), 4);
    }

    #[test]
    fn no_capabilities_in_the_spec_are_none() {
        assert_eq!(from_spec(None, own(), false), Sets { known: own().known, ..Sets::default() });
    }
}
