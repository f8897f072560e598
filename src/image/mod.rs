//! The image store: load, import, resolve, unpack, remove.
