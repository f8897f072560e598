//! A sandbox that was born in a user namespace: containers join it, their ids are those of the namespace.

mod common;

use common::*;
use husk_oci::spawn::PidNamespace;
use husk_oci::sys::process;

#[test]
fn a_nested_container_is_root_inside_and_nobody_outside() {
    let (sandbox, rootfs) = (Sandbox::new(true), Rootfs::new());
    let s = spec(
        "id -u; echo $$; cat /proc/self/uid_map; echo x > /tmp/f; stat -c %u /tmp/f; echo y > /dev/null && echo null",
    );
    let c = Setup::new(&sandbox, &rootfs, &s).create().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", c.starting.pid)).unwrap();
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap();
    assert!(uid.split_whitespace().all(|u| u == FIRST_ID.to_string()), "{uid}");
    let out = c.finish().unwrap();
    let l: Vec<&str> = out.output.lines().collect();
    assert_eq!((l[0], l[1]), ("0", "1"), "{out:?}");
    assert_eq!(l[2].split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert_eq!(l[3..], ["0", "null"], "{out:?}");
    assert!(process::dumpable().unwrap(), "we are as we were");
    assert_eq!(nix::unistd::getuid().as_raw(), 0);
}

#[test]
fn a_member_of_the_sandbox_joins_its_user_namespace_too() {
    let (sandbox, rootfs, mut s) = (Sandbox::new(true), Rootfs::new(), spec("id -u; id -g; cat /proc/1/comm | wc -l"));
    let user = oci_spec::runtime::UserBuilder::default().uid(33u32).gid(44u32).build().unwrap();
    s.process_mut().as_mut().unwrap().set_user(user);
    without_pid_namespace(&mut s);
    let mut setup = Setup::new(&sandbox, &rootfs, &s);
    setup.pid_namespace = PidNamespace::Sandbox;
    assert_eq!(setup.run().unwrap().output, "33\n44\n1\n");
}

#[test]
fn an_id_that_the_namespace_does_not_have_is_an_error() {
    let (sandbox, rootfs, mut s) = (Sandbox::new(true), Rootfs::new(), spec("true"));
    let user = oci_spec::runtime::UserBuilder::default().uid(70000u32).gid(0u32).build().unwrap();
    s.process_mut().as_mut().unwrap().set_user(user);
    let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err().to_string();
    assert_eq!(e, "become user 70000, group 0: invalid argument (EINVAL); the id is not mapped in the user namespace");
}
