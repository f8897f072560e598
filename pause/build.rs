//! Compiles the two programs of this package with plain `rustc` for the package's target, and cuts off what only a linker needs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link.ld");
    for program in ["pause", "keeper"] {
        if let Err(why) = build(program) {
            println!("cargo::error=cannot build {program}: {why}");
        }
    }
}

/// A variable that cargo sets for every build script.
fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("read ${name}: {e}"))
}

fn build(program: &str) -> Result<(), String> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let file = PathBuf::from(var("OUT_DIR")?).join(program);
    let mut rustc = Command::new(var("RUSTC")?);
    rustc.arg(root.join("src/lib.rs")).arg("-o").arg(&file).args(["--target", &var("TARGET")?]);
    rustc.args(["--crate-name", program, "--crate-type", "bin", "--edition", "2024"]);
    rustc.args(["--cfg", "husk_bin", "--cfg", &format!("husk_bin={program:?}")]);
    for option in [
        // At `z` constants travel over the stack, which pause does not want to touch again; for keeper that is no matter.
        if program == "pause" { "opt-level=s" } else { "opt-level=z" },
        "lto=fat",
        "codegen-units=1",
        "panic=abort",
        "debuginfo=0",
        "strip=symbols",
        "debug-assertions=no",
        "overflow-checks=no",
        "force-unwind-tables=no",
        "relocation-model=static",
        "target-feature=+crt-static",
    ] {
        rustc.args(["-C", option]);
    }
    for option in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-z,noseparate-code,-z,norelro"]
    {
        rustc.arg("-C").arg(format!("link-arg={option}"));
    }
    rustc.arg("-C").arg(format!("link-arg=-Wl,-T,{}", root.join("link.ld").display()));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let output = rustc.output().map_err(|e| format!("run rustc: {e}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}\n{messages}", output.status).replace('\n', " | "));
    }
    for line in messages.lines().filter(|l| l.starts_with("warning")) {
        println!("cargo::warning={program}: {line}");
    }
    trim(&file)
}

/// Cuts a 64-bit little-endian ELF file behind the last byte that the kernel maps: section headers and names are for linkers.
fn trim(file: &Path) -> Result<(), String> {
    let mut elf = fs::read(file).map_err(|e| format!("read {}: {e}", file.display()))?;
    let number = |elf: &[u8], at: usize, len: usize| {
        elf.get(at..at + len)
            .map(|bytes| bytes.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b)))
            .ok_or_else(|| format!("{} is no ELF file", file.display()))
    };
    let (table, entry, count) = (number(&elf, 32, 8)?, number(&elf, 54, 2)?, number(&elf, 56, 2)?);
    let mut end = 0;
    for i in 0..count {
        let header = table + i * entry;
        let in_file = number(&elf, header + 32, 8)?;
        if in_file > 0 {
            end = end.max(number(&elf, header + 8, 8)? + in_file);
        }
    }
    elf.truncate(end);
    // e_shoff, e_shnum and e_shstrndx.
    for field in [40..48, 60..62, 62..64] {
        elf.get_mut(field).ok_or("short ELF file")?.fill(0);
    }
    fs::write(file, elf).map_err(|e| format!("write {}: {e}", file.display()))
}
