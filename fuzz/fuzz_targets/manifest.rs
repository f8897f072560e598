//! Any bytes as a manifest: an error or pods; what is accepted survives defaults and validation, and reads back after being written.
#![no_main]

use husk::manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(pods) = manifest::parse(bytes, "fuzz") else { return };
    for mut pod in pods {
        manifest::default(&mut pod);
        // Whether it is valid is not the question here; that the question is answered is.
        let valid = manifest::validate(&pod).is_ok();
        let text = serde_json::to_vec(&pod).expect("a pod is JSON");
        let again = manifest::parse(&text, "again").expect("what was accepted is accepted again");
        assert_eq!(again.len(), 1);
        assert_eq!(manifest::validate(&again[0]).is_ok(), valid);
    }
});
