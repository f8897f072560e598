//! CRI: wire forms over one service object.
//!
//! * `messages.rs` and `status.rs` are what goes over the wire; `service.rs` is what can be asked, in one table
//! * `json.rs`, `dispatch.rs`, `lanes.rs`, `rpc.rs`: JSON-RPC over two streams, from the text of a field to the dialogue
//! * `host.rs` and `host/`: the service of this host, one file for each thing it knows of
//!
//! This room has threads, so it never unshares, changes no umask, and starts nothing but keeper, whose child does not allocate or lock between
//! clone and exec. All else is done by the pod's own supervisor, which has one thread.

pub mod dispatch;
pub mod host;
pub mod json;
pub mod lanes;
pub mod messages;
pub mod rpc;
pub mod service;
pub mod status;

pub use host::HostService;
pub use service::{ImageService, RuntimeService, Service};
pub use status::{Code, Status};
