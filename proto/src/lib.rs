//! The messages of CRI v1, generated from `cri.proto` when this is built: prost's structs with their protobuf form, and serde
//! implementations with the JSON form of proto3.
//!
//! The code below is a machine's, so what we ask of our own is not asked of it, here and nowhere else.

/// Package `runtime.v1`.
#[allow(missing_docs, deprecated, clippy::all, clippy::undocumented_unsafe_blocks, rustdoc::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.serde.rs"));
}
