//! The only writer below the two state roots.

pub mod record;
