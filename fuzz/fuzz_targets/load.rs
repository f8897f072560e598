//! Any bytes as a file for `husk image load`, and as the JSON files of a layout: refused or loaded, and the store still works.
#![no_main]

use husk::image::Store;
use libfuzzer_sys::fuzz_target;

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).expect("build");
    }
    builder.into_inner().expect("build")
}

fuzz_target!(|bytes: &[u8]| {
    let top = std::env::temp_dir().join(format!("husk-fuzz-load-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&top);
    std::fs::create_dir_all(&top).expect("make a directory");
    let store = Store::open(&top.join("root")).expect("open");
    let layout = archive(&[("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", bytes)]);
    for content in [bytes.to_vec(), layout, archive(&[("manifest.json", bytes)])] {
        std::fs::write(top.join("file"), content).expect("write");
        let _ = store.load(&top.join("file"));
        store.list().expect("the store works");
    }
    std::fs::remove_dir_all(&top).expect("clean up");
});
