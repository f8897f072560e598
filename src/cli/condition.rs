//! `husk condition`: sets the conditions that a pod's `readinessGates` wait for.

use clap::Args;

use super::out::Out;
use super::{Context, Error};
use crate::control::client::Client;
use crate::control::{Request, Response};
use crate::manifest;

/// Set or remove conditions of a pod: what its readinessGates wait for.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  husk condition demo example.com/in-service=True\n  husk condition demo example.com/in-service-"
)]
pub struct Condition {
    /// The pod's name, with or without pod in front
    #[arg(value_name = "NAME")]
    pod: String,
    /// TYPE=True, TYPE=False or TYPE=Unknown sets one, TYPE- removes it
    #[arg(required = true, value_name = "TYPE=STATUS")]
    changes: Vec<String>,
    /// A CamelCase word that says why
    #[arg(long, value_name = "WORD", default_value = "")]
    reason: String,
    /// A sentence
    #[arg(long, value_name = "TEXT", default_value = "")]
    message: String,
}

/// A condition, and its status or `None`.
fn read(text: &str) -> Result<(String, Option<String>), String> {
    let (kind, status) = match (text.split_once('='), text.strip_suffix('-')) {
        (Some((kind, status)), _) => {
            let known = ["True", "False", "Unknown"].into_iter().find(|known| known.eq_ignore_ascii_case(status));
            let known = known.ok_or_else(|| format!("{text:?}: {status:?} is none of True, False, Unknown"))?;
            (kind, Some(known.to_owned()))
        }
        (None, Some(kind)) => (kind, None),
        (None, None) => return Err(format!("{text:?} is neither TYPE=STATUS nor TYPE-")),
    };
    manifest::condition_type(kind).map_err(|why| format!("{kind:?} {why}"))?;
    Ok((kind.to_owned(), status))
}

impl Condition {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let changes =
            self.changes.iter().map(|text| read(text)).collect::<Result<Vec<_>, _>>().map_err(Error::usage)?;
        let entry = context.find(&self.pod)?;
        let name = entry.record.name().to_owned();
        if !entry.live {
            return Err(Error::failed(format!("pod {name}: has ended, and its conditions stay as they are")));
        }
        let dir = context.roots.pod_dir(&entry.id);
        let mut out = Out::new();
        for (kind, status) in changes {
            let request = Request::Condition {
                kind: kind.clone(),
                status: status.clone(),
                reason: self.reason.clone(),
                message: self.message.clone(),
            };
            let answer = Client::ask(&dir, &request, &[], || context.roots.is_live(&entry.id));
            match answer.map(|(_, response, _)| response) {
                Ok(Response::Error { message, .. }) => return Err(Error::failed(format!("pod {name}: {message}"))),
                Ok(_) => {}
                Err(e) => {
                    let what = husk_oci::errno::io_text(&e);
                    return Err(Error::failed(format!("pod {name}: its supervisor does not answer: {what}")));
                }
            }
            out.line(match status {
                Some(status) => format!("pod/{name} condition {kind} is {status}"),
                None => format!("pod/{name} condition {kind} removed"),
            })?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_set_by_their_status_and_removed_by_a_dash() {
        assert_eq!(read("example.com/up=true"), Ok(("example.com/up".into(), Some("True".into()))));
        assert_eq!(read("Up-"), Ok(("Up".into(), None)));
        for bad in ["Up", "=True", "-", "Up=yes", "a b=True", "a/b/c=True"] {
            assert!(read(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
