//! Turns `cri.proto` into Rust: prost makes the messages, pbjson their JSON forms. All of it is Rust, there is no `protoc`.

use std::error::Error;
use std::path::PathBuf;

const SOURCE: &str = "cri.proto";
const PACKAGE: &str = ".runtime.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let descriptors = protox::compile([SOURCE], ["."])?;

    let mut json = pbjson_build::Builder::new();
    for file in &descriptors.file {
        json.register_file_descriptor(file.clone());
    }
    // Maps in the order of their keys: the same answer is the same text.
    json.out_dir(&out).btree_map(["."]).emit_fields().build(&[PACKAGE])?;

    // Services are not generated here: the traits of `src/cri/service.rs` serve every wire form.
    prost_build::Config::new().out_dir(&out).btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
