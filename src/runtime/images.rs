//! Who needs which image.

use std::collections::BTreeSet;

use crate::state::record::{ContainerRecord, Owner};
use crate::state::{Error, Listed, PodEntry, Roots};

/// A living pod that needs the image, if there is one: what keeps an image from being removed.
pub fn user_of(roots: &Roots, id: &str) -> Option<String> {
    let pods = match roots.list() {
        Ok(pods) => pods,
        Err(error) => return Some(format!("a pod that cannot be looked at: {error}")),
    };
    pods.into_iter().find_map(|listed| match listed {
        Listed::Pod(entry) => {
            let uses = entry.live && made_of(&entry).any(|container| container.image_id == id);
            uses.then(|| entry.full_name())
        }
        other => other.live().then(|| format!("with uid {}", other.id())),
    })
}

/// What its containers are made of, and what they will be made of.
fn made_of(entry: &PodEntry) -> impl Iterator<Item = &ContainerRecord> {
    let next = entry.status.containers.iter().filter_map(|c| c.next.as_deref());
    entry.record.containers.iter().chain(next)
}

/// The images of living pods that no CRI client made: a client that collects images shall leave these alone.
///
/// # Errors
/// The pods cannot be listed.
pub fn pinned(roots: &Roots) -> Result<BTreeSet<String>, Error> {
    let mut images = BTreeSet::new();
    for listed in roots.list()? {
        if let Listed::Pod(entry) = listed
            && entry.live
            && entry.record.owner != Owner::Cri
        {
            images.extend(made_of(&entry).map(|container| container.image_id.clone()));
        }
    }
    Ok(images)
}
