//! Credentials of the calling thread: ids, groups, capability sets.

use super::{Result, call};

/// Sets real, effective, saved (and file system) user id. `setresuid(2)`
pub fn set_uid(uid: u32) -> Result<()> {
    let uid = uid as usize;
    // SAFETY: no address is passed. (Only this thread changes: meant for a process that has no other.)
    unsafe { call(libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0]) }.map(drop)
}

/// Sets real, effective, saved (and file system) group id. `setresgid(2)`
pub fn set_gid(gid: u32) -> Result<()> {
    let gid = gid as usize;
    // SAFETY: as in `set_uid`.
    unsafe { call(libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0]) }.map(drop)
}

/// Sets the supplementary groups. `setgroups(2)`
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: count and address are of `groups` (gid_t is u32), which outlives the call.
    unsafe { call(libc::SYS_setgroups, [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Three of the five sets; bit n = capability n. `capabilities(7)`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSets {
    /// What is checked.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What may survive exec.
    pub inheritable: u64,
}

/// `_LINUX_CAPABILITY_VERSION_3` and the pid (0 = the caller).
const HEADER: [u32; 2] = [0x2008_0522, 0];

/// Reads our three sets. `capget(2)`
pub fn capget() -> Result<CapSets> {
    // The kernel may write the version back, so it gets a copy.
    let mut header = HEADER;
    let mut data = [0u32; 6];
    let args = [header.as_mut_ptr() as usize, data.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: version 3 means a header of two and data of two times three u32; both outlive the call.
    unsafe { call(libc::SYS_capget, args) }?;
    let join = |low: usize| u64::from(data[low]) | u64::from(data[low + 3]) << 32;
    Ok(CapSets { effective: join(0), permitted: join(1), inheritable: join(2) })
}

/// Sets our three sets. `capset(2)`
pub fn capset(sets: CapSets) -> Result<()> {
    let mut header = HEADER;
    let sets = [sets.effective, sets.permitted, sets.inheritable];
    let [e, p, i] = sets.map(|s| s as u32);
    let [e2, p2, i2] = sets.map(|s| (s >> 32) as u32);
    let data = [e, p, i, e2, p2, i2];
    // SAFETY: version 3 means a header of two and data of two times three u32; both outlive the call.
    unsafe { call(libc::SYS_capset, [header.as_mut_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}

fn prctl(option: i32, a: usize, b: usize) -> Result<usize> {
    // SAFETY: the options below take numbers only.
    unsafe { call(libc::SYS_prctl, [option as usize, a, b, 0, 0, 0]) }
}

/// Keeps the permitted set over the next change of user id. `PR_SET_KEEPCAPS`
pub fn set_keepcaps(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, on as usize, 0).map(drop)
}

/// Whether a capability is in the bounding set; EINVAL for one that the kernel does not know. `PR_CAPBSET_READ`
pub fn in_bounding(cap: u8) -> Result<bool> {
    prctl(libc::PR_CAPBSET_READ, cap.into(), 0).map(|n| n == 1)
}

/// Takes a capability out of the bounding set for good. `PR_CAPBSET_DROP`
pub fn drop_bounding(cap: u8) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, cap.into(), 0).map(drop)
}

/// Empties the ambient set. `PR_CAP_AMBIENT_CLEAR_ALL`
pub fn clear_ambient() -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0).map(drop)
}

/// Adds a capability, which must be permitted and inheritable, to the ambient set. `PR_CAP_AMBIENT_RAISE`
pub fn raise_ambient(cap: u8) -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize, cap.into()).map(drop)
}
