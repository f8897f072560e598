//! CRI-shaped verbs over sandboxes and containers: the order of set-up, and its reverse on failure. No policy: that is `pod/`.

pub mod apparmor;
pub mod cni;
pub mod container;
pub mod copy;
pub mod delete;
pub mod devices;
pub mod driven;
pub mod ephemeral;
pub mod error;
pub mod exe;
pub mod helper;
pub mod holder;
pub mod hosts;
pub mod images;
pub mod keeper;
pub mod limits;
pub mod messages;
pub mod mounts;
pub mod network;
pub mod probes;
pub mod remove;
pub mod resolve;
pub mod run;
pub mod sandbox;
pub mod say;
pub mod scope;
pub mod settings;
pub mod spec;
pub mod update;
pub mod upgrade;
pub mod wishes;

pub use delete::{DeleteOptions, delete, delete_and_tell};
pub use error::Error;
pub use remove::GcReport;
pub use run::{RunOutcome, run, run_record, run_static};
pub use settings::Settings;

/// Collects everything that belongs to no pod; see [`remove::gc`].
///
/// # Errors
/// The lists cannot be read, or there are no cgroups. What could not be removed is in the report.
pub fn gc(roots: &crate::state::Roots) -> Result<GcReport, Error> {
    let driver = crate::cgroup::Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() })?;
    remove::gc(roots, &driver)
}
