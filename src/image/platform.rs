//! Architecture names: ours, OCI's and ELF's.

/// The host's architecture in OCI's words.
pub const HOST: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else if cfg!(target_arch = "riscv64") {
    "riscv64"
} else if cfg!(target_arch = "s390x") {
    "s390x"
} else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
    "ppc64le"
} else if cfg!(target_arch = "loongarch64") {
    "loong64"
} else {
    "unknown"
};

/// OCI's words and the ELF machines (`elf.h`, `EM_*`) that belong to them.
const MACHINES: &[(&str, u16)] = &[
    ("386", 3),
    ("amd64", 62),
    ("arm", 40),
    ("arm64", 183),
    ("riscv64", 243),
    ("s390x", 22),
    ("ppc64le", 21),
    ("loong64", 258),
    ("mips", 8),
];

/// OCI's word for an ELF machine, or its number.
pub(super) fn machine_name(machine: u16) -> String {
    MACHINES
        .iter()
        .find(|(_, m)| *m == machine)
        .map_or_else(|| format!("ELF machine {machine}"), |(name, _)| (*name).to_string())
}

/// Whether the host's kernel may run programs of an ELF machine. amd64 kernels run 386 programs too, arm64 ones often arm.
pub(super) fn runs_here(machine: u16) -> bool {
    let name = machine_name(machine);
    name == HOST || HOST == "unknown" || (HOST == "amd64" && name == "386") || (HOST == "arm64" && name == "arm")
}

/// The platform string of an index entry: `linux/arm64/v8`.
pub(super) fn describe(os: &str, architecture: &str, variant: Option<&str>) -> String {
    match variant {
        Some(v) if !v.is_empty() => format!("{os}/{architecture}/{v}"),
        _ => format!("{os}/{architecture}"),
    }
}
