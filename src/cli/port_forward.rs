//! `husk port-forward`: ports of this host that lead into a pod while the command runs.

use std::net::IpAddr;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;

use super::out::{self, Out};
use super::{Context, Error};
use crate::network::forward::{self, End, Listen, Note, Pair};
use crate::runtime;

/// Lead ports of this host into a pod, until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk port-forward demo 8080:80      # 127.0.0.1:8080 and [::1]:8080\n  \
    husk port-forward demo :http        # a free port, to the container port of that name")]
pub struct PortForward {
    /// The pod, as NAME or pod/NAME
    pod: String,
    /// Ports: LOCAL:REMOTE, or REMOTE for the same on both sides, or :REMOTE for a free one here
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<String>,
    /// Addresses to listen on; localhost is 127.0.0.1 and ::1
    #[arg(long, value_name = "IP", value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
}

impl PortForward {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let listen = self.address.iter().map(|word| listen(word)).collect::<Result<Vec<_>, _>>()?;
        let entry = context.find(&self.pod)?;
        let pairs = self.ports.iter().map(|word| pair(word, &entry.record.pod));
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        let pod = entry.record.name().to_owned();
        let target = runtime::holder::target(&entry)?;
        forward::raise_fd_limit();
        let mut out = Out::new();
        let end = forward::run(target, &listen, &pairs, |note| match note {
            Note::Trouble { what } => {
                out::say(format!("pod {pod}: {what}"));
                Ok(())
            }
            note => out.line(note).and_then(|()| out.flush()),
        });
        match end.map_err(|what| Error::failed(format!("pod {pod}: {what}")))?? {
            End::Asked => Ok(()),
            End::PodEnded => Err(Error::failed(format!("pod {pod}: it has ended"))),
        }
    }
}

fn listen(word: &str) -> Result<Listen, Error> {
    if word == "localhost" {
        return Ok(Listen::Localhost);
    }
    let bare = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')).unwrap_or(word);
    let ip: Option<IpAddr> = bare.parse().ok();
    ip.map(Listen::At).ok_or_else(|| Error::usage(format!("--address {word:?}: must be an IP address or localhost")))
}

/// `[LOCAL:]REMOTE`.
fn pair(word: &str, pod: &Pod) -> Result<Pair, Error> {
    let wrong = |what: &str| Error::usage(format!("{word:?}: {what}"));
    let (local, remote) = match word.split_once(':') {
        Some((local, remote)) => (Some(local), remote),
        None => (None, word),
    };
    let number =
        |text: &str| -> Option<u16> { text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten() };
    let remote = match number(remote) {
        Some(0) => return Err(wrong("the pod's port must be from 1 to 65535")),
        Some(port) => port,
        None if remote.bytes().all(|b| b.is_ascii_digit()) => return Err(wrong("the pod's port must be from 1 to 65535")),
        None => named(remote, pod).ok_or_else(|| {
            wrong("must be [LOCAL:]REMOTE, two numbers; or REMOTE the name of a container's port, and no container has one of that name")
        })?,
    };
    let local = match local {
        None => remote,
        Some("") => 0,
        Some(text) => number(text).ok_or_else(|| wrong("the local port must be from 0 to 65535"))?,
    };
    Ok(Pair { local, remote })
}

/// The TCP port of this name.
fn named(name: &str, pod: &Pod) -> Option<u16> {
    let spec = pod.spec.as_ref()?;
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut ports = all.flat_map(|c| c.ports.iter().flatten());
    let port = ports.find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == "TCP")?;
    u16::try_from(port.container_port).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(word: &str) -> Result<(u16, u16), i32> {
        let pod: Pod = serde_json::from_str(
            r#"{"spec":{"containers":[{"name":"c","ports":[{"name":"dns","containerPort":53,"protocol":"UDP"},{"name":"http","containerPort":80}]}]}}"#,
        )
        .unwrap();
        pair(word, &pod).map(|p| (p.local, p.remote)).map_err(|e| i32::from(e.code()))
    }

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        assert_eq!(read("80"), Ok((80, 80)));
        assert_eq!(read("8080:80"), Ok((8080, 80)));
        assert_eq!(read(":80"), Ok((0, 80)));
        assert_eq!(read("0:80"), Ok((0, 80)));
        assert_eq!(read("http"), Ok((80, 80)));
        assert_eq!(read("7:http"), Ok((7, 80)));
        for word in [
            "", ":", "0", "80:", "80:0", "65536", "1:65536", "65536:1", "-1:80", "+1:80", "a:80", "dns", "1:2:3",
            "nope",
        ] {
            assert_eq!(read(word), Err(2), "{word:?}");
        }
    }

    #[test]
    fn addresses_are_numbers_or_localhost() {
        assert_eq!(listen("localhost"), Ok(Listen::Localhost));
        assert_eq!(listen("0.0.0.0"), Ok(Listen::At("0.0.0.0".parse().unwrap())));
        assert_eq!(listen("[::1]"), listen("::1"));
        assert!(listen("example.com").is_err());
    }
}
