//! Networks of others: the [CNI specification](https://www.cni.dev/docs/spec/) from the runtime's side, versions 0.3.0 to 1.1.0.
//!
//! ```text
//! config.rs  what stands in /etc/cni/net.d, as a list of plugins
//! exec.rs    one plugin: executed with a deadline, its output bounded
//! result.rs  what a plugin answers: addresses, or an error
//! verbs.rs   ADD, CHECK, DEL, GC, STATUS, VERSION over a list
//! ```
//!
//! Everything here blocks, for as long as its deadline allows, and starts processes: it belongs into a process of its own, which is `runtime/cni.rs`. Nothing here
//! touches a network itself, and nothing is written: who keeps an [`Attachment`] on the disk is the caller's affair, too.

pub mod config;
pub mod error;
pub mod exec;
pub mod result;
pub mod verbs;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use config::NetworkList;
pub use error::Error;
pub use result::Answer;
pub use verbs::{Plugins, Valid};

/// Where networks are configured when nobody says otherwise.
pub const DEFAULT_CONFIG_DIR: &str = "/etc/cni/net.d";
/// Where plugins are when nobody says otherwise: where the plugins' own releases go, and where Debian puts them.
pub const DEFAULT_PLUGIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// The name of a pod's interface, as every Kubernetes runtime calls it.
pub const INTERFACE: &str = "eth0";

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` for DEL
    V0_4_0,
    /// 1.0.0: addresses do not tell their family any more
    V1_0_0,
    /// 1.1.0: GC and STATUS
    V1_1_0,
}

impl Version {
    /// All, the oldest first.
    pub const ALL: [Version; 5] = [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version of this name, if it is one of ours.
    pub fn of_name(name: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|v| v.name() == name)
    }
}

/// What makes one pod's place in a network: the same for ADD, CHECK and DEL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`: path of the network namespace; empty when it is gone.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`: names and values, none of which has a `;`.
    pub args: Vec<(String, String)>,
    /// What plugins may ask for, by capability.
    pub capabilities: BTreeMap<String, serde_json::Value>,
}
