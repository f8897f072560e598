//! Any bytes as a network's configuration and as what its plugins answer: an error or a value; what is accepted survives being kept, and addresses are a pod's.
#![no_main]

use husk::network::cni::result::{self, Answer};
use husk::network::cni::{Attachment, INTERFACE, Version, config};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for network in [config::list(bytes, "fuzz"), config::parse_single(bytes, "fuzz")].into_iter().flatten() {
        let kept = network.to_json();
        let again = config::list(kept.as_bytes(), "again").expect("what was accepted is accepted again");
        assert_eq!(kept, again.to_json());
    }
    let at = Attachment { interface: INTERFACE.into(), ..Attachment::default() };
    for version in Version::ALL {
        let Ok(answer) = Answer::parse(bytes, version) else { continue };
        let again = Answer::parse(answer.raw.get().as_bytes(), version).expect("what was accepted is accepted again");
        assert_eq!(answer.addresses(&at), again.addresses(&at));
        let found = answer.addresses(&at).unwrap_or_default();
        assert!(found.len() <= 2 && found.iter().all(|ip| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()));
    }
    // Whether it is one is not the question here.
    let _ = (result::parse_error(bytes), result::parse_versions(bytes));
});
