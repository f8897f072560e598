//! What the administrator says about all new pods.

use crate::cgroup::DriverKind;
use crate::network;

/// What is the same for all pods that a process makes.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Who makes the cgroups of new pods.
    pub cgroup_driver: DriverKind,
    /// Where their network comes from.
    pub network: network::Config,
}
