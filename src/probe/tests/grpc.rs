//! `grpc.health.v1`.

use bytes::Bytes;
use hyper::{HeaderMap, Response};

use super::*;

/// A server that knows `good`, `bad`, and fails for others, as services do.
async fn health() -> u16 {
    serve(|stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::task::spawn_local(async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(request.headers()["content-type"], "application/grpc");
                assert_eq!(request.headers()["te"], "trailers");
                let mut body = request.into_body();
                let mut message = Vec::new();
                while let Some(Ok(piece)) = body.data().await {
                    message.extend_from_slice(&piece);
                }
                let service = String::from_utf8_lossy(message.get(7..).unwrap_or_default()).into_owned();
                let head = Response::builder().header("content-type", "application/grpc");
                let (status, serving) = match service.as_str() {
                    "" | "good" => ("0", Some(1)),
                    "bad" => ("0", Some(2)),
                    "none" => ("5", None),
                    _ => ("12", None),
                };
                let Some(serving) = serving else {
                    let head = head.header("grpc-status", status).header("grpc-message", "no such thing");
                    respond.send_response(head.body(()).expect("a head"), true).expect("it listens");
                    return;
                };
                let mut stream = respond.send_response(head.body(()).expect("a head"), false).expect("it listens");
                stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]), false).expect("it listens");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().expect("a value"));
                stream.send_trailers(trailers).expect("it listens");
            });
        }
    })
    .await
}

#[test]
fn a_server_or_a_service_of_it_is_asked_whether_it_serves() {
    run(async {
        let port = health().await;
        let grpc = |service: &str| probe(Handler::Grpc { port, service: service.into() });
        assert_eq!(ask(&place(), &grpc("")).await, Outcome::Success);
        assert_eq!(ask(&place(), &grpc("good")).await, Outcome::Success);
        assert_failed(&ask(&place(), &grpc("bad")).await, "service unhealthy (responded with \"NOT_SERVING\")");
        assert_failed(&ask(&place(), &grpc("none")).await, "gRPC status 5: no such thing");
        assert_failed(&ask(&place(), &grpc("old")).await, "does not implement the grpc health protocol");
    });
}

#[test]
fn other_servers_are_no_grpc_servers() {
    run(async {
        let (port, _) = web(|_| "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_owned()).await;
        let outcome = ask(&place(), &probe(Handler::Grpc { port, service: String::new() })).await;
        assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
        let port = serve(|stream| async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let head = Response::builder().status(404).body(()).expect("a head");
                respond.send_response(head, true).expect("it listens");
            }
        })
        .await;
        let outcome = ask(&place(), &probe(Handler::Grpc { port, service: String::new() })).await;
        assert_failed(&outcome, "HTTP status 404");
    });
}
