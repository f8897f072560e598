//! `grpc`: one call of `grpc.health.v1.Health/Check` over HTTP/2 in the clear.
//!
//! The two messages have one field each, so they are written and read here. A server can make us wait, not remember: windows are as small as HTTP/2 allows, headers may take [`HEAD_LIMIT`] bytes, and
//! a message [`MESSAGE_LIMIT`].

use std::net::SocketAddr;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request};

use super::io::Driven;
use super::{ConnectError, Outcome, Place};

const HEAD_LIMIT: u32 = 16 * 1024;
/// An answer has two bytes.
const MESSAGE_LIMIT: usize = 1024;
const AGENT: &str = concat!("husk-probe/", env!("CARGO_PKG_VERSION"));

/// Asks a server whether it, or a service of it, serves.
pub(super) async fn check(place: &Place<'_>, port: u16, service: &str) -> Outcome {
    let to = SocketAddr::from((place.address, port));
    match call(place, to, service).await {
        Ok(Ok(Serving::Serving)) => Outcome::Success,
        Ok(Ok(other)) => Outcome::Failure(format!("service unhealthy (responded with {:?})", other.name())),
        Ok(Err(what)) => Outcome::Failure(what),
        Err(what) => Outcome::Error(what),
    }
}

pub(super) fn describe(place: &Place<'_>, port: u16, service: &str) -> String {
    let to = SocketAddr::from((place.address, port));
    if service.is_empty() { format!("health check at {to}") } else { format!("health check of {service:?} at {to}") }
}

/// `HealthCheckResponse.ServingStatus`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// 0
    Unknown,
    /// 1
    Serving,
    /// 2
    NotServing,
    /// 3
    ServiceUnknown,
    /// Of a later version.
    Other(u64),
}

impl Serving {
    fn name(self) -> String {
        match self {
            Serving::Unknown => "UNKNOWN".into(),
            Serving::Serving => "SERVING".into(),
            Serving::NotServing => "NOT_SERVING".into(),
            Serving::ServiceUnknown => "SERVICE_UNKNOWN".into(),
            Serving::Other(n) => n.to_string(),
        }
    }
}

/// `HealthCheckRequest { service }` behind the five bytes that gRPC puts before a message.
fn request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

fn put_varint(to: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        to.push(n as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

/// The status in a `HealthCheckResponse` behind its five bytes; unknown fields are skipped.
///
/// # Errors
/// It is none.
pub fn response(bytes: &[u8]) -> Result<Serving, &'static str> {
    let [compressed, a, b, c, d, message @ ..] = bytes else { return Err("its message is cut short") };
    if *compressed != 0 {
        return Err("its message is compressed");
    }
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    let mut rest = message.get(..length).ok_or("its message is cut short")?;
    let mut status = 0;
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        let skip = match key & 7 {
            0 => {
                let value = take_varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut rest)?).unwrap_or(usize::MAX),
            5 => 4,
            _ => return Err("its message is no protobuf"),
        };
        rest = rest.get(skip..).ok_or("its message is cut short")?;
    }
    Ok(match status {
        0 => Serving::Unknown,
        1 => Serving::Serving,
        2 => Serving::NotServing,
        3 => Serving::ServiceUnknown,
        n => Serving::Other(n),
    })
}

fn take_varint(from: &mut &[u8]) -> Result<u64, &'static str> {
    let mut n = 0_u64;
    for shift in (0..70).step_by(7) {
        let (first, rest) = from.split_first().ok_or("its message is cut short")?;
        *from = rest;
        n |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
        if first & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err("its message is no protobuf")
}

type Called = Result<Serving, String>;

/// The outer error: it could not be tried.
async fn call(place: &Place<'_>, to: SocketAddr, service: &str) -> Result<Called, String> {
    let stream = match place.connect_to_talk(to).await {
        Ok(stream) => stream,
        Err(e @ ConnectError::Socket { .. }) => return Err(e.to_string()),
        Err(e @ ConnectError::Refused { .. }) => return Ok(Err(e.to_string())),
    };
    let failed = |e: h2::Error| format!("{to}: {e}");
    Ok(converse(place, stream, to, service).await.unwrap_or_else(|e| Err(failed(e))))
}

async fn converse(
    place: &Place<'_>,
    stream: tokio::net::TcpStream,
    to: SocketAddr,
    service: &str,
) -> Result<Called, h2::Error> {
    place.progress.set("for the answer to its call");
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .header_table_size(0)
        .initial_window_size(65_535)
        .max_header_list_size(HEAD_LIMIT)
        .max_frame_size(16_384)
        .max_concurrent_reset_streams(1);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    let mut connection = Driven::new(connection);
    let mut sender = connection.during(sender.ready()).await?;
    let request_head = Request::builder()
        .method(Method::POST)
        .version(hyper::Version::HTTP_2)
        .uri(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, AGENT)
        .body(());
    let head = match request_head {
        Ok(head) => head,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let (response_head, mut body) = sender.send_request(head, false)?;
    body.send_data(request(service), true)?;
    let answer = connection.during(response_head).await?;
    if answer.status() != hyper::StatusCode::OK {
        return Ok(Err(format!("{to}: no gRPC server, it answers with HTTP status {}", answer.status().as_u16())));
    }
    // An answer without a message has its trailers as headers.
    if let Some(failure) = failure(answer.headers(), true) {
        return Ok(Err(failure));
    }
    let mut body = answer.into_body();
    let mut message = Vec::new();
    while let Some(data) = connection.during(body.data()).await {
        let data = data?;
        if message.len() + data.len() > MESSAGE_LIMIT {
            return Ok(Err(format!("{to}: its answer is too long for a health check")));
        }
        message.extend_from_slice(&data);
    }
    let trailers = connection.during(body.trailers()).await?;
    if let Some(failure) = failure(&trailers.unwrap_or_default(), false) {
        return Ok(Err(failure));
    }
    Ok(response(&message).map_err(|what| format!("{to}: {what}")))
}

/// What `grpc-status` says beside success. In the `head` it need not be there.
fn failure(headers: &HeaderMap, head: bool) -> Option<String> {
    let text = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    match headers.get("grpc-status").map(text).as_deref() {
        None if head => None,
        None => Some("the server ended its answer without a gRPC status".into()),
        Some("0") => None,
        Some("12") => Some("this server does not implement the grpc health protocol (grpc.health.v1.Health)".into()),
        Some(code) => {
            let message = headers.get("grpc-message").map(text).unwrap_or_default();
            let message: String = message.chars().take(super::OUTPUT_LIMIT / 4).collect();
            Some(format!("health rpc failed with gRPC status {code}: {message}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_grpc_health_v1() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(300);
        assert_eq!(&request(&long)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(response(&[0, 0, 0, 0, 2, 8, 1]), Ok(Serving::Serving));
        assert_eq!(response(&[0, 0, 0, 0, 2, 8, 2]), Ok(Serving::NotServing));
        assert_eq!(response(&[0, 0, 0, 0, 0]), Ok(Serving::Unknown));
        // Fields that are not known, of each type, before and behind.
        let more = [0x12, 1, b'x', 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 8, 1, 0x25, 0, 0, 0, 0, 0x28, 0x80, 1];
        let whole = [&[0, 0, 0, 0, more.len() as u8][..], &more].concat();
        assert_eq!(response(&whole), Ok(Serving::Serving));
    }

    #[test]
    fn whatever_a_server_sends_is_an_answer_or_an_error() {
        for wrong in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 0],
            &[0, 0xff, 0xff, 0xff, 0xff, 8, 1],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 0x0f, 1],
            &[0, 0, 0, 0, 3, 0x12, 0xff, 0xff],
            &[0, 0, 0, 0, 12, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert!(response(wrong).is_err(), "{wrong:?}");
        }
        let mut state = 1_u64;
        for _ in 0..50_000 {
            let mut bytes = vec![0, 0, 0, 0];
            for _ in 0..=state % 12 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                bytes.push((state >> 56) as u8);
            }
            bytes[4] %= 12;
            // No panic, no hang.
            let _ = response(&bytes);
        }
    }
}
