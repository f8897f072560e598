//! Any bytes as a tar archive: read to the end or refused, in bounded memory.
#![no_main]

use husk::image::tarball::{Reader, Stream};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(Stream(bytes), false);
    let mut buf = [0; 4096];
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(!entry.name.contains(&0) && !entry.link.contains(&0));
        assert!(entry.mode <= 0o7777);
        let mut got = 0u64;
        while let Ok(n @ 1..) = reader.read_data(&mut buf) {
            got += n as u64;
        }
        assert!(got <= bytes.len() as u64);
    }
});
