//! Each kind of probe against servers in the pod's network: good ones, sick ones, and such as want to hurt.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};

use crate::common::netns::Beside;
use crate::common::{BUSYBOX, Host, wait_for};

const WEB: u16 = 8080;
const TLS: u16 = 8443;
const GRPC: u16 = 9000;

/// Servers with sockets of a pod's network namespace, until this is dropped. They live in a thread of the test, so what they do is no container's affair.
struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Its sockets keep the namespace.
        let ended = self.thread.take().expect("dropped once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the servers panicked");
    }
}

/// Servers of every kind in the network namespace of a pod's pause.
fn serve_in(pause: i32) -> Servers {
    let listen = |port| {
        let socket = TcpListener::bind(("::", port)).expect("listen in the pod");
        socket.set_nonblocking(true).expect("a socket that is polled");
        socket
    };
    let sockets = Beside::of(pause).within(|| [WEB, TLS, GRPC].map(listen));
    let (stop, mut stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async {
            let [web_socket, tls_socket, grpc_socket] =
                sockets.map(|s| tokio::net::TcpListener::from_std(s).expect("a socket"));
            let acceptor = acceptor();
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    Ok((stream, _)) = web_socket.accept() => drop(tokio::task::spawn_local(web(stream))),
                    Ok((stream, _)) = tls_socket.accept() => {
                        let accepting = acceptor.accept(stream);
                        tokio::task::spawn_local(async move {
                            if let Ok(stream) = accepting.await {
                                web(stream).await;
                            }
                        });
                    }
                    Ok((stream, _)) = grpc_socket.accept() => drop(tokio::task::spawn_local(health(stream))),
                }
            }
        });
    });
    Servers { stop: Some(stop), thread: Some(thread) }
}

/// TLS with a certificate that nobody would believe.
fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    TlsAcceptor::from(Arc::new(config))
}

async fn web(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    let mut head = Vec::new();
    // Whoever begins a handshake here gets an answer in the clear.
    while !head.ends_with(b"\r\n\r\n") && head.first() != Some(&0x16) {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let to = |place: &str| format!("HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n");
    let answer = match head.split(' ').nth(1).unwrap_or_default() {
        "/hop" => to("/hop2"),
        "/hop2" => to("/header"),
        "/away" => to("http://192.0.2.1/"),
        "/round" => to("/round"),
        // Headers go along on the way.
        "/header" if head.contains("X-Probe: yes\r\n") && head.contains("Host: the.pod\r\n") => {
            "HTTP/1.1 204 No Content\r\n\r\n".to_owned()
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            return;
        }
        "/flood" => {
            // Whoever reads this to its end never ends.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            while stream.write_all(&b"X-A: b\r\n".repeat(1000)).await.is_ok() {}
            return;
        }
        _ => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// `grpc.health.v1` of a server that serves, and of its service `sick`, which does not.
async fn health(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::task::spawn_local(async move {
            let mut body = request.into_body();
            let mut message = Vec::new();
            while let Some(Ok(piece)) = body.data().await {
                message.extend_from_slice(&piece);
            }
            let serving = if message.ends_with(b"sick") { 2 } else { 1 };
            let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let _ = stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            let _ = stream.send_trailers(trailers);
        });
    }
}

#[test]
fn every_kind_of_probe_tells_good_servers_from_bad_ones() {
    let headers = json!([{"name": "X-Probe", "value": "yes"}, {"name": "Host", "value": "the.pod"}]);
    let get = |path: &str| json!({"httpGet": {"path": path, "port": WEB, "httpHeaders": headers}});
    // Name, probe, whether it succeeds, what the events say.
    let cases = [
        ("grpc", json!({"grpc": {"port": GRPC}}), true, ""),
        (
            "sick",
            json!({"grpc": {"port": GRPC, "service": "sick"}}),
            false,
            "service unhealthy (responded with \"NOT_SERVING\")",
        ),
        ("no-grpc", json!({"grpc": {"port": WEB}}), false, "frame with invalid size"),
        (
            "tls",
            json!({"httpGet": {"path": "/header", "port": TLS, "scheme": "HTTPS", "httpHeaders": headers}}),
            true,
            "",
        ),
        ("no-tls", json!({"httpGet": {"port": WEB, "scheme": "HTTPS"}}), false, "the server gave a plain HTTP answer"),
        ("hops", get("/hop"), true, ""),
        (
            "away",
            get("/away"),
            true,
            "Readiness probe warning: redirect to another host, not followed: http://192.0.2.1",
        ),
        ("round", get("/round"), false, "stopped after 10 redirects"),
        ("slow", get("/slow"), false, "waited 1 s in vain for the head of its answer"),
        ("flood", get("/flood"), false, "message head is too large"),
        ("none", json!({"tcpSocket": {"port": 1}}), false, "connection refused (ECONNREFUSED)"),
        ("socket", json!({"tcpSocket": {"port": WEB}}), true, ""),
    ];
    let containers: Vec<Value> = cases
        .iter()
        .map(|(name, probe, ..)| {
            let mut probe = probe.clone();
            probe["periodSeconds"] = json!(1);
            probe["timeoutSeconds"] = json!(if *name == "slow" { 1 } else { 30 });
            json!({"name": name, "image": BUSYBOX, "command": ["sleep", "1000"], "readinessProbe": probe})
        })
        .collect();
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": containers});
    let host = Host::new();
    let pod = host.run("kinds", &crate::common::manifest("kinds", spec));
    let _servers = serve_in(pod.pause());
    let events = || -> Vec<Value> {
        let list: Value = serde_json::from_str(&host.ok(&["events", "kinds", "-o", "json"]).out()).expect("JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    };
    for (name, _, good, says) in &cases {
        let said = |events: &[Value]| {
            events.iter().any(|e| {
                e["involvedObject"]["fieldPath"] == json!(format!("spec.containers{{{name}}}"))
                    && e["message"].as_str().is_some_and(|m| m.contains(says) && m.contains("robe"))
            })
        };
        wait_for(&format!("{name}: ready is {good}, told with {says:?}"), || {
            (pod.container(name)["ready"] == json!(good) && (says.is_empty() || said(&events()))).then_some(())
        });
    }
    // Nobody who fails became ready meanwhile, and the supervisor lived through all of it.
    for (name, _, good, _) in &cases {
        assert_eq!(pod.container(name)["ready"], json!(good), "{name}");
        assert_eq!(pod.container(name)["restartCount"], json!(0), "{name}");
    }
}
