//! The clients in `examples/cri/`: the pod of the quick start, driven by a shell and by Python.

use crate::common::Host;
use crate::common::run::Job;
use crate::dialogue::quickstart_image;

fn drive(program: &str, file: &str) {
    let host = Host::empty();
    quickstart_image(&host);
    let path = format!("{}/examples/cri/{file}", env!("CARGO_MANIFEST_DIR"));
    let output = Job::new(program, &[&path])
        .env("HUSK", env!("CARGO_BIN_EXE_husk"))
        .env("HUSK_ROOT", host.root.as_os_str())
        .env("HUSK_STATE", host.state.as_os_str())
        .finish();
    assert_eq!(output.code, Some(0), "{output}");
    assert!(output.out().contains("<h1>Hello from quickstart, a pod on this host</h1>"), "{output}");
    assert!(output.out().contains("server: bye"), "{output}");
    // The pod is gone without our doing; the bridge, which pods share, is not.
    host.ok(&["gc"]);
    host.assert_untouched();
}

#[test]
fn the_shell_drives_a_pod() {
    drive("bash", "quickstart.sh");
}

#[test]
fn python_drives_a_pod() {
    drive("python3", "quickstart.py");
}
