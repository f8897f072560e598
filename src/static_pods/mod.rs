//! Static pods: what manifests in a directory or at a URL say is run, changed and ended, for as long as `husk watch` runs.
//!
//! Nothing is kept: what is wanted is read from the source, what is there from the pods' records, which name the source. So `husk watch` may be killed at any time, and
//! another one goes on; pods need neither. [`plan`] compares the two and is pure, [`work`] does what it says, one thread a pod; [`directory`] and [`url`] read.
//!
//! This room has threads, so it must not clone: a pod is made by a process of its own ([`helper`]).

mod directory;
mod notify;
mod plan;
#[cfg(test)]
mod plan_tests;
mod source;
mod url;
mod watcher;
mod work;

pub use source::Place;
pub use watcher::{Options, Say, watch};
pub use work::{HELPER, MadeWith, main as helper};

/// FNV-1a of 128 bits over all parts; what the kubelet hashes static pods with.
fn fnv(parts: &[&[u8]]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    parts.iter().flat_map(|part| part.iter()).fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(super::fnv(&[]), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(super::fnv(&[b"a"]), 0xd228cb696f1a8caf78912b704e4a8964);
        assert_eq!(super::fnv(&[b"foo", b"bar"]), 0x343e1662793c64bf6f0d3597ba446f18);
    }
}
