//! `httpGet`: HTTP/1.1, without keep-alive, compression, proxy or checked certificate. The kubelet's `pkg/probe/http` in what is sent and what counts.
//!
//! A server can make us wait (the caller has a deadline) but not remember: the head of an answer may take [`HEAD_LIMIT`] bytes and [`HEADER_LIMIT`] headers, of a body
//! [`OUTPUT_LIMIT`] bytes are read.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::{Driven, Io};
use super::tls::{self, TlsError};
use super::url::{self, Url};
use super::{ConnectError, HttpGet, OUTPUT_LIMIT, Outcome, Place, text};

/// How many redirects are followed.
const REDIRECTS: usize = 10;
/// The most that the head of an answer may take, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;
/// The most headers of an answer.
const HEADER_LIMIT: usize = 256;
/// The same as `User-Agent`.
const PROBE_AGENT: &str = concat!("husk-probe/", env!("CARGO_PKG_VERSION"));

/// What a server has answered in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// At most [`OUTPUT_LIMIT`] bytes of its body.
    pub body: String,
    /// Where it would have sent us: another host than the one that was asked, which is not followed.
    pub elsewhere: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request could not be made.
    Impossible(String),
    /// Asked by https, the server has answered in the clear.
    NotTls(String),
    /// The server does not answer, or not in HTTP.
    Failed(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Impossible(what) | Error::NotTls(what) | Error::Failed(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

/// Asks a server once, for a probe.
pub(super) async fn check(place: &Place<'_>, request: &HttpGet) -> Outcome {
    match get(place, request, PROBE_AGENT).await {
        Ok(Answer { elsewhere: Some(to), body, .. }) => {
            let about = if body.is_empty() { String::new() } else { format!(", answer body: {body}") };
            Outcome::Warning(format!("redirect to another host, not followed: {to}{about}"))
        }
        // A redirect that leads nowhere.
        Ok(Answer { status: 300..=399, body, .. }) => {
            Outcome::Warning(format!("redirect without an address, answer body: {body}"))
        }
        Ok(Answer { status: 200..=299, .. }) => Outcome::Success,
        Ok(Answer { status, .. }) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(Error::Impossible(what)) => Outcome::Error(what),
        Err(Error::NotTls(what) | Error::Failed(what)) => Outcome::Failure(what),
    }
}

/// What is asked for, for messages.
pub(super) fn describe(place: &Place<'_>, request: &HttpGet) -> String {
    match first(place, request) {
        Ok(url) => format!("GET {url}"),
        Err(e) => e,
    }
}

fn first(place: &Place<'_>, request: &HttpGet) -> Result<Url, String> {
    let host = place.host(request.host.as_deref())?.to_string();
    Ok(Url { tls: request.tls, host, port: request.port, path: url::encode(&request.path) })
}

/// Asks a server, following redirects on the same host. To be dropped when its time is over. `agent` is the `User-Agent` unless the request has one.
///
/// # Errors
/// There is no answer.
pub async fn get(place: &Place<'_>, request: &HttpGet, agent: &str) -> Result<Answer, Error> {
    let start = first(place, request).map_err(Error::Impossible)?;
    let address = place.host(request.host.as_deref()).map_err(Error::Impossible)?;
    let (headers, host) = headers(request, agent).map_err(Error::Impossible)?;
    let (mut url, mut host) = (start.clone(), host);
    for _ in 0..=REDIRECTS {
        let (status, location, body) = once(place, address, &url, &headers, host.as_ref()).await?;
        let Some(location) = location.filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)) else {
            return Ok(Answer { status, body, elsewhere: None });
        };
        let next = url.join(&location).map_err(|e| Error::Failed(format!("GET {url}: redirect to {e}")))?;
        if next.host != start.host {
            return Ok(Answer { status, body, elsewhere: Some(next.to_string()) });
        }
        // The name that it was asked by stays while the server speaks of itself.
        if url::is_absolute(&location) {
            host = None;
        }
        url = next;
    }
    Err(Error::Failed(format!("GET {start}: stopped after {REDIRECTS} redirects, the last one to {url}")))
}

/// The headers of every request, and the name that the server is asked by instead of its address.
fn headers(request: &HttpGet, agent: &str) -> Result<(HeaderMap, Option<HeaderValue>), String> {
    let mut map = HeaderMap::new();
    let mut host = None;
    for (name, value) in &request.headers {
        let wrong = |what: &str| format!("header {name:?}: {what}");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("no name of a header"))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong("its value has control characters"))?;
        match name {
            header::HOST => host = host.or(Some(value).filter(|v| !v.is_empty())),
            // Those follow from how it is sent.
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::TRAILER | header::CONNECTION => {}
            name => drop(map.append(name, value)),
        }
    }
    for (name, value) in [(header::USER_AGENT, agent), (header::ACCEPT, "*/*")] {
        match map.get(&name).map(HeaderValue::is_empty) {
            None => {
                let value = HeaderValue::from_str(value).map_err(|e| format!("{name}: {e}"))?;
                map.insert(name, value);
            }
            // Asked to be left out.
            Some(true) => drop(map.remove(&name)),
            Some(false) => {}
        }
    }
    map.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok((map, host))
}

type Once = (u16, Option<String>, String);

/// One request on a connection of its own: status, `Location`, body.
async fn once(
    place: &Place<'_>,
    address: IpAddr,
    url: &Url,
    headers: &HeaderMap,
    host: Option<&HeaderValue>,
) -> Result<Once, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Failed(format!("GET {url}: {e}"));
    let to = (address, url.port).into();
    let stream = if url.tls { place.connect_to_talk(to).await } else { place.connect(to).await };
    let stream = stream.map_err(|e| match e {
        ConnectError::Refused { .. } => failed(&e),
        ConnectError::Socket { .. } => Error::Impossible(format!("GET {url}: {e}")),
    })?;
    if !url.tls {
        return converse(place, stream, url, headers, host).await.map_err(|e| failed(&e));
    }
    place.progress.set("for the TLS handshake");
    match tls::connect(stream, address).await {
        Ok(stream) => converse(place, stream, url, headers, host).await.map_err(|e| failed(&e)),
        Err(TlsError::Plain) => {
            Err(Error::NotTls(format!("GET {url}: the server gave a plain HTTP answer, or none in TLS")))
        }
        Err(TlsError::Handshake(what)) => Err(failed(&format_args!("TLS: {what}"))),
    }
}

async fn converse(
    place: &Place<'_>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    url: &Url,
    headers: &HeaderMap,
    host: Option<&HeaderValue>,
) -> Result<Once, String> {
    let said = |e: hyper::Error| match std::error::Error::source(&e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    };
    place.progress.set("for the head of its answer");
    let request = Request::builder().method(Method::GET).uri(url.path.as_str()).body(Nothing);
    let mut request = request.map_err(|e| e.to_string())?;
    let named = HeaderValue::from_str(&url.authority()).map_err(|e| e.to_string())?;
    request.headers_mut().insert(header::HOST, host.cloned().unwrap_or(named));
    request.headers_mut().extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_LIMIT).max_headers(HEADER_LIMIT).title_case_headers(true);
    let (mut sender, connection) = builder.handshake(Io(stream)).await.map_err(said)?;
    let mut connection = Driven::new(connection);
    let response = connection.during(sender.send_request(request)).await.map_err(said)?;
    let status = response.status();
    let location = (status != StatusCode::NOT_MODIFIED).then(|| location(&response)).flatten();
    place.progress.set("for the rest of its answer");
    let body = read(&mut connection, response.into_body()).await.map_err(said)?;
    Ok((status.as_u16(), location, body))
}

fn location(response: &Response<Incoming>) -> Option<String> {
    let value = response.headers().get(header::LOCATION)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned()).filter(|text| !text.is_empty())
}

async fn read<C: Future + Unpin>(connection: &mut Driven<C>, mut body: Incoming) -> Result<String, hyper::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < OUTPUT_LIMIT {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = connection.during(next).await else { break };
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(OUTPUT_LIMIT - bytes.len())]);
        }
    }
    Ok(text(bytes))
}

/// The body of a GET.
struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(0)
    }
}
