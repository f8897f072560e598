//! Kubernetes objects in: parse, default, validate. Pure code: bytes and plain data in, plain data out; no I/O, no clock.
//!
//! The order is [`parse()`], [`default()`], [`validate()`]; the rest may rely on a pod that went through all three.

pub mod annotations;
pub mod command;
mod compare;
mod defaults;
pub mod dns;
pub mod ephemeral;
mod parse;
mod qos;
mod quantity;
mod resize;
mod resources;
mod selector;
mod validate;
mod volumes;

pub use command::Node;
pub use compare::{Difference, InPlace, comparable, difference};
pub use defaults::default;
pub use parse::{Error, ErrorKind, MAX_BYTES, MAX_DEPTH, parse, parse_list};
pub use qos::{QosClass, limited_swap, memory_high, oom_score_adj, qos_class};
pub use quantity::{Quantity, QuantityError, quantity};
pub use resize::{Amounts, Change, container, resize, set_image, set_resources};
pub use resources::{Resources, effective_resources, hugepage_size, pod_resources, resources, total};
pub use selector::{Selector, SelectorError, selector};
pub use validate::{Errors, FieldError, condition_type, validate, validate_ephemeral};
pub use volumes::{is_memory, memory_volume_bytes};
