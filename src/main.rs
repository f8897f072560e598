//! `husk`: runs Kubernetes pods on one Linux host, without a daemon. Everything is in the library; see `docs/architecture.md`.

fn main() -> std::process::ExitCode {
    husk::cli::main()
}
