//! One thin safe function per system call; every `unsafe` block outside `pause/` is below this module.
#![allow(unsafe_code)]
