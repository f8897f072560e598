//! The image store: load, import, resolve, unpack, remove.
//!
//! * `store` keeps `<root>/images/`; `load` reads OCI layouts and docker archives out of a `source` (directory or tar); `layer` and
//!   `unpack` turn a layer's archive, read by `tarball`, into a directory; `view` looks into what was unpacked.
//! * Everything in an image is a stranger's: bounded before it is held in memory, checked against its digest before anything refers
//!   to it, and data whatever it says.
//! * This room must not mount anything where it can be seen, execute anything of an image, or know what a pod is.

mod config;
mod digest;
mod error;
mod layer;
mod load;
mod name;
mod platform;
mod source;
mod store;
pub mod tarball;
mod tree;
pub mod unpack;
mod user;
mod view;

pub use config::{ImageConfig, parse_signal};
pub use digest::Digest;
pub use error::{CommandFault, Error, Kind};
pub use name::Name;
pub use platform::HOST as HOST_ARCHITECTURE;
pub use store::{Held, Image, Removed, Store};
pub use user::User;
pub use view::View;
