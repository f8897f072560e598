//! Who the process is: ids, groups, capabilities.

use super::{Done, During};
use crate::caps::Sets;
use crate::plan::Part;
use crate::sys::cred;

/// Takes the ids 0 of the user namespace that was just entered, where our old ones mean nobody. The capabilities came with entering.
pub(super) fn become_root() -> Done {
    cred::set_groups(&[]).during(Part::Owner)?;
    cred::set_gid(0)?;
    Ok(cred::set_uid(0)?)
}

/// Takes everything but `keep` out of the bounding set.
pub(super) fn bounding(keep: u64, known: u8) -> Done {
    (0..known).filter(|cap| keep & (1 << cap) == 0).try_for_each(|cap| Ok(cred::drop_bounding(cap)?))
}

/// Groups first: they need the capabilities that go with uid 0.
pub(super) fn ids(uid: u32, gid: u32, groups: &[u32], keep_caps: bool) -> Done {
    if keep_caps {
        cred::set_keepcaps(true)?;
    }
    cred::set_groups(groups).during(Part::Owner)?;
    cred::set_gid(gid)?;
    Ok(cred::set_uid(uid)?)
}

/// Sets effective, permitted and inheritable, then ambient (which can only hold what the other two hold).
pub(super) fn capabilities(sets: &Sets) -> Done {
    cred::clear_ambient()?;
    let Sets { effective, permitted, inheritable, .. } = *sets;
    cred::capset(cred::CapSets { effective, permitted, inheritable })?;
    (0..sets.known).filter(|cap| sets.ambient & (1 << cap) != 0).try_for_each(|cap| Ok(cred::raise_ambient(cap)?))
}
