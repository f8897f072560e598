//! Manifests at a URL: asked for again and again, and answered in full only when they have changed.

use std::sync::Arc;
use std::time::Duration;

use ureq::http::StatusCode;
use ureq::http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, http::HeaderValue};

use super::source::{Reader, Seen, Setting};
use crate::manifest::MAX_BYTES;

/// How long a connection may take, and a whole answer.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);

/// How many redirects are followed; from https none leads to http.
const REDIRECTS: u32 = 10;

/// A URL that is polled.
#[derive(Debug)]
pub struct Poller {
    url: String,
    of: Setting,
    agent: Agent,
    etag: Option<HeaderValue>,
    modified: Option<HeaderValue>,
}

impl Poller {
    /// Nothing is asked for yet. `of` fills in what manifests leave open.
    ///
    /// # Errors
    /// A sentence: https without a single certificate that this host trusts.
    pub fn new(url: String, of: &Setting) -> Result<Poller, String> {
        let secure = url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let mut config = Agent::config_builder()
            .user_agent(concat!("husk/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .https_only(secure)
            .max_redirects(REDIRECTS)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ANSWER))
            // What the environment says of proxies is meant for people's programs.
            .proxy(None);
        if secure {
            config = config.tls_config(tls()?);
        }
        Ok(Poller { agent: config.build().new_agent(), url, of: of.clone(), etag: None, modified: None })
    }

    /// Asks once. `None`: nothing has changed since the last answer, whatever that was worth.
    ///
    /// # Errors
    /// A sentence: no answer, another status than 200 and 304, or no manifest.
    pub fn poll(&mut self) -> Result<Option<Seen>, String> {
        let wrong = |what: String| format!("{}: {what}", self.url);
        let mut request = self.agent.get(&self.url);
        for (name, value) in [(IF_NONE_MATCH, &self.etag), (IF_MODIFIED_SINCE, &self.modified)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let conditional = self.etag.is_some() || self.modified.is_some();
        let mut response = request.call().map_err(|e| wrong(e.to_string()))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if conditional => return Ok(None),
            status => return Err(wrong(format!("answered {status}"))),
        }
        let limit = MAX_BYTES as u64 + 1;
        let bytes = response.body_mut().with_config().limit(limit).read_to_vec().map_err(|e| match e {
            ureq::Error::BodyExceedsLimit(_) => wrong(format!("more than {} MiB", MAX_BYTES >> 20)),
            e => wrong(e.to_string()),
        })?;
        let header = |name| response.headers().get(name).cloned();
        (self.etag, self.modified) = (header(ETAG), header(LAST_MODIFIED));
        let reader = Reader { place: &self.url, file: None, device: None, of: &self.of };
        Ok(Some(Seen { wanted: reader.read(&bytes)?, ..Seen::default() }))
    }
}

/// Verifies against what this host trusts.
fn tls() -> Result<TlsConfig, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
        return Err(format!(
            "https: this host trusts no certificate authority{why}; install ca-certificates, or set SSL_CERT_FILE"
        ));
    }
    let certs = found.certs.iter().map(|cert| Certificate::from_der(cert).to_owned());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::from(certs))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
