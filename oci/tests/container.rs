//! Create, start, end: what a container's first process is and sees.

mod common;

use common::*;

#[test]
fn a_container_runs_its_program_and_its_exit_code_is_exact() {
    let out = run_script("echo hello; exit 37");
    assert_eq!((out.output.as_str(), out.code), ("hello\n", 37), "{out:?}");
    assert_eq!(out.warnings, [] as [&str; 0]);
}
