//! The mechanisms against servers that the test makes, on the loopback: good, bad, slow and hostile ones.

mod grpc;
mod hostile;
mod http;
mod tls;

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Runs a test on one thread, as the supervisor is one.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// A server on the loopback that handles each connection like this; its port.
pub(super) async fn serve<F>(handle: impl Fn(TcpStream) -> F + 'static) -> u16
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listen on the loopback");
    let port = listener.local_addr().expect("bound").port();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(handle(stream));
        }
    });
    port
}

/// What clients have sent.
pub(super) type Heard = Arc<Mutex<Vec<String>>>;

/// Reads the head of a request.
pub(super) async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A server that answers each request as `answer` says to its head, and what it has heard.
pub(super) async fn web(answer: impl Fn(&str) -> String + 'static) -> (u16, Heard) {
    let heard = Heard::default();
    let (copy, answer) = (heard.clone(), Arc::new(answer));
    let port = serve(move |mut stream| {
        let (heard, answer) = (copy.clone(), answer.clone());
        async move {
            let head = head(&mut stream).await;
            let answer = answer(&head);
            heard.lock().expect("no panic").push(head);
            // A client that has heard enough hangs up.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    (port, heard)
}

pub(super) fn place() -> Place<'static> {
    Place::new(None, None)
}

pub(super) fn request(port: u16, path: &str) -> HttpGet {
    HttpGet { host: None, port, tls: false, path: path.into(), headers: Vec::new() }
}

pub(super) fn probe(handler: Handler) -> Probe {
    Probe {
        handler,
        initial_delay_seconds: 0,
        timeout_seconds: 1,
        period_seconds: 1,
        success_threshold: 1,
        failure_threshold: 1,
        grace_seconds: None,
    }
}

/// The outcome of an HTTP probe of a second, which must come within a little more.
pub(super) async fn ask_http(request: HttpGet) -> Outcome {
    let begun = Instant::now();
    let outcome = ask(&place(), &probe(Handler::HttpGet(request))).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    outcome
}

#[track_caller]
pub(super) fn assert_failed(outcome: &Outcome, with: &str) {
    assert!(
        matches!(outcome, Outcome::Failure(text) if text.contains(with)),
        "{outcome:?} is no failure with {with:?}"
    );
}

#[test]
fn a_port_is_probed_by_connecting() {
    run(async {
        let port = serve(|_| async {}).await;
        let tcp = |host: Option<&str>, port| probe(Handler::TcpSocket { host: host.map(str::to_owned), port });
        for host in [None, Some("127.0.0.1"), Some("localhost"), Some("LocalHost")] {
            assert_eq!(ask(&place(), &tcp(host, port)).await, Outcome::Success, "{host:?}");
        }
        // A port that was free a moment ago.
        let free = {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
            listener.local_addr().expect("bound").port()
        };
        let refused = ask(&place(), &tcp(None, free)).await;
        assert_failed(&refused, &format!("connect to 127.0.0.1:{free}: connection refused (ECONNREFUSED)"));
        let name = ask(&place(), &tcp(Some("example.com"), port)).await;
        assert!(matches!(&name, Outcome::Error(text) if text.contains("example.com")), "{name:?}");
    });
}

#[test]
fn a_namespace_that_is_gone_says_nothing_about_the_container() {
    run(async {
        // A process that has ended, and was reaped.
        let mut child = std::process::Command::new("true").spawn().expect("start true");
        let pidfd = husk_oci::sys::process::pidfd_open(child.id() as i32).expect("a pidfd");
        child.wait().expect("it ends");
        use std::os::fd::AsFd;
        let own = husk_oci::sys::netns::OwnNetns::open().expect("our own namespace");
        let place = Place::new(Some((pidfd.as_fd(), &own)), None);
        let outcome = ask(&place, &probe(Handler::TcpSocket { host: None, port: 1 })).await;
        assert!(matches!(&outcome, Outcome::Error(text) if text.contains("network namespace")), "{outcome:?}");
    });
}

#[test]
fn what_was_waited_for_is_told() {
    run(async {
        // Takes connections and says nothing.
        let port = serve(|stream| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(stream);
        })
        .await;
        let outcome = ask_http(request(port, "/x")).await;
        let expected = format!("GET http://127.0.0.1:{port}/x: waited 1 s in vain for the head of its answer");
        assert_eq!(outcome, Outcome::Failure(expected));
        let outcome = ask(&place(), &probe(Handler::Grpc { port, service: "s".into() })).await;
        assert_failed(&outcome, "waited 1 s in vain for the answer to its call");
        let outcome = ask_http(HttpGet { tls: true, ..request(port, "/") }).await;
        assert_failed(&outcome, "waited 1 s in vain for the TLS handshake");
    });
}
