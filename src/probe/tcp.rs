//! `tcpSocket`: a server that takes a connection is good.

use super::{ConnectError, Outcome, Place};

/// Connects, and hangs up.
pub(super) async fn check(place: &Place<'_>, host: Option<&str>, port: u16) -> Outcome {
    let address = match place.host(host) {
        Ok(address) => address,
        Err(e) => return Outcome::Error(e),
    };
    match place.connect((address, port).into()).await {
        Ok(_) => Outcome::Success,
        Err(e @ ConnectError::Refused { .. }) => Outcome::Failure(e.to_string()),
        Err(e @ ConnectError::Socket { .. }) => Outcome::Error(e.to_string()),
    }
}

pub(super) fn describe(place: &Place<'_>, host: Option<&str>, port: u16) -> String {
    match place.host(host) {
        Ok(address) => format!("connect to {}", std::net::SocketAddr::from((address, port))),
        Err(e) => e,
    }
}
