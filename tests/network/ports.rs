//! Ports of the host.

use serde_json::json;

use super::common::netns::Beside;
use super::common::outside::alive;
use super::common::{container, manifest, wait_for};
use super::world::{HOST, HOST6, OUTSIDE, addresses, ask, ask_from, greeter, try_ask, world};

#[test]
fn a_host_port_is_reached_from_everywhere() {
    let (host, outside) = world();
    let one = host.run("one", &greeter("one", json!({"hostPort": 8080})));
    let two = host.run("two", &greeter("two", json!({})));
    for address in [HOST.to_owned(), format!("[{HOST6}]"), "127.0.0.1".into(), "[::1]".into()] {
        assert!(ask(&format!("{address}:8080")).starts_with("hello one"), "from the host to {address}");
    }
    let said = outside.within(|| ask(&format!("{HOST}:8080")));
    assert!(said.contains(OUTSIDE), "the pod sees who asks: {said}");
    assert!(outside.within(|| ask(&format!("[{HOST6}]:8080"))).starts_with("hello one"));
    for pod in [&two, &one] {
        assert!(ask_from(pod, &format!("{HOST}:8080")).starts_with("hello one"), "from pod {}", pod.name);
        assert!(ask_from(pod, &format!("[{HOST6}]:8080")).starts_with("hello one"), "from pod {}", pod.name);
    }
    // A supervisor that is killed takes nothing with it.
    let supervisor = one.supervisor();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL).expect("kill it");
    wait_for("another supervisor", || (!alive(supervisor) && one.supervisor() != supervisor).then_some(()));
    assert!(ask("127.0.0.1:8080").starts_with("hello one"));
    one.delete(&["--force"]);
    assert_eq!(try_ask(&format!("{HOST}:8080")), None);
    assert_eq!(try_ask("127.0.0.1:8080"), None);
    let three = host.run("three", &greeter("three", json!({"hostPort": 8080})));
    assert!(ask(&format!("{HOST}:8080")).starts_with("hello three"), "who comes next has the port");
    drop(three);
}

#[test]
fn a_port_of_one_address_is_that_addresss_alone() {
    let (host, outside) = world();
    host.run("one", &greeter("one", json!({"hostPort": 8080, "hostIP": HOST})));
    assert!(outside.within(|| ask(&format!("{HOST}:8080"))).starts_with("hello one"));
    assert_eq!(try_ask("127.0.0.1:8080"), None);
    host.run("two", &greeter("two", json!({"hostPort": 8080, "hostIP": "127.0.0.1"})));
    assert!(ask("127.0.0.1:8080").starts_with("hello two"));
    assert!(outside.within(|| ask(&format!("{HOST}:8080"))).starts_with("hello one"));
    let said = host.try_run(&greeter("three", json!({"hostPort": 8081, "hostIP": "198.51.100.7"}))).err();
    assert!(said.contains("198.51.100.7:8081/tcp cannot be reserved: hostIP is no address of this host"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_refused_with_who_has_it() {
    let (host, _outside) = world();
    host.run("one", &greeter("one", json!({"hostPort": 8080})));
    let output = host.try_run(&greeter("two", json!({"hostPort": 8080})));
    assert_eq!(output.code, Some(1));
    assert!(output.err().contains("pod default/two: hostPort 8080/tcp is taken by pod default/one"), "{output}");
    let taken = std::net::TcpListener::bind("0.0.0.0:8090").expect("listen");
    let output = host.try_run(&greeter("two", json!({"hostPort": 8090})));
    assert!(output.err().contains("hostPort 8090/tcp is taken by a program of the host"), "{output}");
    drop(taken);
    assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err(), "and no program can have a pod's");
    let sctp = json!({"hostPort": 8080, "protocol": "SCTP"});
    host.run("two", &greeter("two", sctp.clone()));
    let output = host.try_run(&greeter("three", sctp));
    assert!(output.err().contains("hostPort 8080/sctp is taken by pod default/two"), "{output}");
    let output = host.job(&["run", "--network", "none", "-"]).stdin(greeter("four", json!({"hostPort": 9}))).finish();
    assert!(output.err().contains("spec.containers[0].ports[0].hostPort"), "{output}");
}

#[test]
fn a_port_that_many_ask_for_at_once_is_ones() {
    let (host, _outside) = world();
    for protocol in ["TCP", "UDP", "SCTP"] {
        let name = |i: usize| format!("{}{i}", protocol.to_lowercase());
        let jobs: Vec<_> = (0..5)
            .map(|i| {
                host.job(&["run", "-"])
                    .stdin(greeter(&name(i), json!({"hostPort": 8080, "protocol": protocol})))
                    .start()
            })
            .collect();
        let outputs: Vec<_> = jobs.into_iter().map(|job| job.finish()).collect();
        let got: Vec<usize> = (0..5).filter(|i| outputs[*i].code == Some(0)).collect();
        assert_eq!(
            got.len(),
            1,
            "{protocol}: {}",
            outputs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        );
        for output in outputs.iter().filter(|output| output.code != Some(0)) {
            assert!(output.err().contains("hostPort 8080") && output.err().contains("is taken by"), "{output}");
        }
        // Who is killed with all that it has frees it.
        let (holder, next) = (host.pod(&name(got[0])), name(9));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(holder.keeper()), nix::sys::signal::Signal::SIGKILL)
            .expect("kill it");
        wait_for("the port to be free", || {
            let output = host.try_run(&greeter(&next, json!({"hostPort": 8080, "protocol": protocol})));
            (output.code == Some(0)).then_some(())
        });
        host.pod(&next).delete(&["--force"]);
    }
}

#[test]
fn udp_is_passed_on_too() {
    let (host, outside) = world();
    let port = json!({"ports": [{"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}]});
    let spec = json!({"containers": [container("c", "exec sleep 1000", port)]});
    let pod = host.run("one", &manifest("one", spec));
    let echo = Beside::of(pod.pause()).within(|| std::net::UdpSocket::bind("[::]:53").expect("a socket in the pod"));
    echo.set_read_timeout(Some(super::common::scaled(std::time::Duration::from_secs(3)))).expect("a deadline");
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, peer)) = echo.recv_from(&mut datagram) {
            if echo.send_to(&datagram[..length], peer).is_err() {
                return;
            }
        }
    });
    let udp = |to: String| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).expect("a deadline");
        let mut answer = [0; 16];
        socket.send_to(b"hello", &to).ok()?;
        socket.recv_from(&mut answer).ok().map(|(length, _)| answer[..length].to_vec())
    };
    let to = |address: &str| format!("{address}:5353");
    assert_eq!(wait_for("an answer to the host", || udp(to(HOST))), b"hello");
    assert_eq!(wait_for("an answer on the loopback interface", || udp(to("127.0.0.1"))), b"hello");
    assert_eq!(outside.within(|| wait_for("an answer to the outside", || udp(to(HOST)))), b"hello");
    let direct = format!("{}:53", addresses(&pod)[0]);
    assert_eq!(udp(direct).as_deref(), Some(&b"hello"[..]));
}
