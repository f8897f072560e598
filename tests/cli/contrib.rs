//! What is in `contrib/`, as far as it can be judged without installing it.

use std::path::Path;
use std::process::Command;

use crate::Husk;

#[test]
fn the_unit_for_watch_is_a_unit_that_calls_what_exists() {
    let husk = Husk::new("contrib");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/husk-watch.service");
    let unit = std::fs::read_to_string(path).expect("read the unit");
    for line in
        ["Type=notify", "KillMode=process", "Delegate=yes", "ExecStart=/usr/local/bin/husk watch /etc/husk/pods"]
    {
        assert!(unit.lines().any(|l| l == line), "{line:?} is not in the unit");
    }
    // A husk that is there, and no documentation to look for.
    let unit = unit.replace("/usr/local/bin/husk", env!("CARGO_BIN_EXE_husk"));
    let copy = husk.write("husk-watch.service", unit);
    match Command::new("systemd-analyze").args(["verify", "--man=no", &copy]).output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!(
                "skipped: contrib::the_unit_for_watch_is_a_unit_that_calls_what_exists: there is no systemd-analyze here"
            );
        }
        Err(e) => panic!("start systemd-analyze: {e}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let about: Vec<&str> = said.lines().filter(|l| l.contains("husk-watch")).collect();
            assert!(output.status.success() && about.is_empty(), "{}: {said}", output.status);
        }
    }
}
