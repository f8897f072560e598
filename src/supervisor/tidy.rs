//! Memory given back before the event loop sleeps, when the stack holds nothing but the loop.

use std::cell::Cell;

use husk_oci::sys::memory;

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
}

/// Much was done, and now the supervisor mostly sleeps: before it does, memory that is free goes back to the kernel. Not at once, since whoever asks
/// stands deep in the stack, which is given back only below the caller.
pub(super) fn before_sleep() {
    WANTED.set(true);
}

/// For the event loop, each time that it finds nothing to do.
pub(super) fn sleeps() {
    if WANTED.take() {
        memory::release_free();
    }
}
