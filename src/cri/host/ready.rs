//! Whether this host can run pods.

use serde_json::json;

use crate::cgroup::{Cgroupfs, DriverKind, systemd};
use crate::cri::messages::*;
use crate::network::Mode;
use crate::runtime::{self, Settings};
use crate::state::Roots;

pub(super) fn status(roots: &Roots, settings: &Settings, request: &StatusRequest) -> StatusResponse {
    let driver = settings.cgroup_driver;
    let runtime = match Cgroupfs::detect() {
        Ok(_) if driver == DriverKind::Systemd && !systemd::is_init() => {
            let what = "the systemd cgroup driver needs systemd as the host's init, and it is not";
            condition("RuntimeReady", false, "NoSystemd", what)
        }
        Ok(_) => condition("RuntimeReady", true, "", ""),
        Err(e) => condition("RuntimeReady", false, "NoCgroups", &e.to_string()),
    };
    let network = match settings.network.mode {
        Mode::None | Mode::Host => condition(
            "NetworkReady",
            true,
            "LoopbackOnly",
            "a pod has a network namespace of its own with a loopback interface, or the host's network; there are no pod addresses",
        ),
        Mode::Bridge => match runtime::network::trial::ready(roots, &settings.network) {
            Ok(()) => condition("NetworkReady", true, "", ""),
            Err(e) => condition("NetworkReady", false, "BridgeNotReady", &e.to_string()),
        },
        Mode::Cni => match runtime::cni::status(&settings.network.cni) {
            Ok(_) => condition("NetworkReady", true, "", ""),
            Err(e) => condition("NetworkReady", false, "NetworkPluginNotReady", &e.to_string()),
        },
    };
    let mut info = std::collections::BTreeMap::new();
    if request.verbose {
        let config = json!({
            "root": roots.root.display().to_string(),
            "state": roots.state.display().to_string(),
            "cgroupParent": roots.cgroup_parent(),
            "cgroupDriver": driver.name(),
            "network": settings.network.mode.name(),
        });
        info.insert("config".to_owned(), config.to_string());
    }
    StatusResponse {
        status: Some(RuntimeStatus { conditions: vec![runtime, network] }),
        info,
        runtime_handlers: vec![RuntimeHandler {
            name: String::new(),
            features: Some(RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false }),
        }],
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: false,
            user_namespaces_host_network: false,
            mount_options: false,
        }),
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> RuntimeCondition {
    RuntimeCondition { r#type: kind.to_owned(), status, reason: reason.to_owned(), message: message.to_owned() }
}
