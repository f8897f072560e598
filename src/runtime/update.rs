//! `husk update`: other resources for a container of a pod that runs.

use super::Error;
use crate::control::client::Client;
use crate::control::{Request, Response};
use crate::manifest::Amounts;
use crate::state::{PodEntry, Roots};

/// Changes a container's resources and waits until they hold: for its end and restart, where its `resizePolicy` asks for that.
///
/// # Errors
/// The pod does not run, or its supervisor refuses; all is as before then.
pub fn update(roots: &Roots, entry: &PodEntry, container: Option<String>, amounts: Amounts) -> Result<(), Error> {
    let wrong = |what: String| Error::Pod { pod: entry.full_name(), what };
    let lives = || roots.is_live(&entry.id);
    if !lives() {
        return Err(wrong("it does not run any more".into()));
    }
    let dir = roots.pod_dir(&entry.id);
    let request = Request::Resize { container, amounts: Box::new(amounts) };
    match Client::ask(&dir, &request, &[], lives) {
        Ok((_, Response::Ok, _)) => Ok(()),
        Ok((_, Response::Error { message, .. }, _)) => Err(wrong(message)),
        Ok((_, other, _)) => Err(wrong(format!("its supervisor answered {other:?}, which does not belong here"))),
        Err(_) if !lives() => Err(wrong("it has come to its end".into())),
        Err(e) => {
            let why = husk_oci::errno::io_text(&e);
            Err(wrong(format!("its supervisor does not answer: {why}; see supervisor.log in {}", dir.display())))
        }
    }
}
