//! Any bytes as a layer, unpacked beside a marker that must not change. Run as root, in a throw-away mount namespace if there is one.
#![no_main]

use husk::image::tarball::{Reader, Stream};
use husk::image::unpack::unpack;
use libfuzzer_sys::fuzz_target;
use std::os::fd::{AsFd, OwnedFd};

fuzz_target!(|bytes: &[u8]| {
    let top = std::env::temp_dir().join(format!("husk-fuzz-unpack-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&top);
    std::fs::create_dir_all(top.join("root")).expect("make a directory");
    std::fs::write(top.join("marker"), "untouched").expect("write the marker");
    let root: OwnedFd = std::fs::File::open(top.join("root")).expect("open the directory").into();
    let _ = unpack(&mut Reader::new(Stream(bytes), false), root.as_fd(), &[]);
    assert_eq!(std::fs::read(top.join("marker")).expect("read the marker"), b"untouched");
    assert_eq!(std::fs::read_dir(&top).expect("list").count(), 2);
    std::fs::remove_dir_all(&top).expect("clean up");
});
