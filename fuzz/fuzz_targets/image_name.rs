//! Any text as an image name and as a stop signal: an accepted name reads back as itself.
#![no_main]

use husk::image::{Name, parse_signal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = Name::parse(text) {
        let again = Name::parse(&name.display()).expect("what is shown is a name");
        assert!(name.same(&again));
        assert_eq!(name.display(), again.display());
        assert!(!name.display().chars().any(char::is_control));
    }
    if let Some(signal) = parse_signal(text) {
        assert!((1..=64).contains(&signal));
    }
});
