//! The messages of CRI v1: names, numbers and types are those of the wire (`proto/cri.proto`); JSON is proto3's, with fields of default
//! value written out.

pub use husk_proto::v1::*;
