//! Servers that want to hurt. How much one gets rid of, the kernel's buffers on the way included, bounds what we can have kept of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// What the kernel may buffer between two sockets, and something for us.
const BOUND: usize = 24 << 20;

/// A server that writes `first`, then `again` for ever; counts what it got rid of.
async fn flood(first: &'static [u8], again: &'static [u8]) -> (u16, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let copy = written.clone();
    let port = serve(move |mut stream| {
        let written = copy.clone();
        async move {
            let _ = head(&mut stream).await;
            let again = again.repeat(1 + (16 << 10) / again.len());
            let mut next = first;
            while let Ok(n) = stream.write(next).await {
                written.fetch_add(n, Ordering::Relaxed);
                next = if n < next.len() { &next[n..] } else { &again };
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    (port, written)
}

#[test]
fn no_answer_is_read_beyond_its_bounds() {
    run(async {
        for (what, first, again, passed) in [
            ("endless headers", &b"HTTP/1.1 200 OK\r\n"[..], &b"X-A: b\r\n"[..], false),
            ("one endless header", b"HTTP/1.1 200 OK\r\nX: ", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("an endless status line", b"HTTP/1.1 200 ", b"OK", false),
            ("garbage", b"\0\x01\xff", b"\xfe\x00garbage\n", false),
            ("blank lines", b"\r\n", b"\r\n", false),
            ("interim answers for ever", b"", b"HTTP/1.1 100 Continue\r\n\r\n", false),
            ("an endless body", b"HTTP/1.1 200 OK\r\n\r\n", b"body", true),
            ("a body of an exabyte", b"HTTP/1.1 200 OK\r\nContent-Length: 1152921504606846976\r\n\r\n", b"body", true),
            ("endless chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", true),
            ("an endless chunk size", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0000", false),
            ("an endless chunk extension", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"aaaa", false),
            ("endless trailers", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n", false),
        ] {
            let (port, written) = flood(first, again).await;
            let outcome = ask_http(request(port, "/")).await;
            assert_eq!(outcome.passed(), Some(passed), "{what}: {outcome:?}");
            let written = written.load(Ordering::Relaxed);
            assert!(written < BOUND || what.starts_with("interim"), "{what}: {written} bytes went somewhere");
        }
    });
}

#[test]
fn an_answer_that_breaks_off_or_contradicts_itself_is_a_failure() {
    run(async {
        for broken in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/9.9 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            let (port, _) = web(move |_| broken.to_owned()).await;
            let outcome = ask_http(request(port, "/")).await;
            assert_eq!(outcome.passed(), Some(false), "{broken:?}: {outcome:?}");
        }
    });
}

#[test]
fn no_http_2_server_is_read_beyond_its_bounds() {
    // Length, type, flags and stream of a frame.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ENDLESS_HEADERS: &[u8] = &[0, 0, 4, 9, 0, 0, 0, 0, 1, 0, 1, b'a', 0];
    const PINGS: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const HUGE: &[u8] = &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    run(async {
        for (what, first, again) in [
            ("headers that go on", &[SETTINGS, &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x88]].concat(), ENDLESS_HEADERS),
            ("pings", &SETTINGS.to_vec(), PINGS),
            ("settings", &SETTINGS.to_vec(), SETTINGS),
            ("a frame of 16 MiB", &SETTINGS.to_vec(), HUGE),
            ("garbage", &b"garbage".to_vec(), &b"garbage"[..]),
        ] {
            let (port, written) = flood(first.clone().leak(), again).await;
            let outcome = ask(&place(), &probe(Handler::Grpc { port, service: String::new() })).await;
            assert_eq!(outcome.passed(), Some(false), "{what}: {outcome:?}");
            let written = written.load(Ordering::Relaxed);
            assert!(written < BOUND || matches!(what, "pings" | "settings"), "{what}: {written} bytes went somewhere");
        }
    });
}
