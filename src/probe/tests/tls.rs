//! HTTPS with a certificate that nobody would believe.

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    TlsAcceptor::from(Arc::new(config))
}

#[test]
fn whoever_the_server_claims_to_be_its_answer_counts() {
    run(async {
        let acceptor = acceptor();
        let port = serve(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = [0; 4096];
                let n = stream.read(&mut head).await.expect("a request");
                let status = if head[..n].starts_with(b"GET /good ") { "200 OK" } else { "500 No" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.expect("it listens");
                let _ = stream.shutdown().await;
            }
        })
        .await;
        let tls = |path: &str| HttpGet { tls: true, ..request(port, path) };
        assert_eq!(ask_http(tls("/good")).await, Outcome::Success);
        assert_failed(&ask_http(tls("/bad")).await, "statuscode: 500");
        // Without TLS it is no HTTP server.
        assert!(matches!(ask_http(request(port, "/good")).await, Outcome::Failure(_)));
    });
}

#[test]
fn a_server_that_speaks_in_the_clear_is_told_from_others() {
    run(async {
        let (port, _) = web(|_| "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned()).await;
        // It waits for a blank line that never comes: one that answers whatever it gets.
        let plain = serve(|mut stream| async move {
            let mut some = [0; 64];
            let _ = stream.read(&mut some).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        })
        .await;
        let tls = |port| HttpGet { tls: true, ..request(port, "/") };
        let answer = crate::probe::http::get(&place(), &tls(plain), "x").await;
        assert!(matches!(answer, Err(crate::probe::http::Error::NotTls(_))), "{answer:?}");
        assert_failed(&ask_http(tls(plain)).await, "plain HTTP");
        assert!(matches!(ask_http(tls(port)).await, Outcome::Failure(_)));
    });
}
