//! The image store in CRI's words.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use crate::cri::messages::*;
use crate::cri::status::{Code, Status};
use crate::image::{self, Kind, Name, Store};
use crate::runtime::images::{pinned, user_of};
use crate::state::Roots;

impl From<image::Error> for Status {
    fn from(error: image::Error) -> Status {
        let code = match error.kind() {
            Kind::NotFound => Code::NotFound,
            Kind::Name | Kind::Content | Kind::User | Kind::Command => Code::InvalidArgument,
            Kind::Unsupported => Code::Unimplemented,
            Kind::Platform | Kind::InUse => Code::FailedPrecondition,
            Kind::Store => Code::DataLoss,
            Kind::Io => Code::Internal,
        };
        Status::new(code, error.to_string())
    }
}

/// The name or id in a request; the rest of the spec is either for people or refused.
pub(super) fn name<'r>(field: &str, spec: Option<&'r ImageSpec>) -> Result<&'r str, Status> {
    let missing = || Status::invalid_argument(format!("{field}.image: must be there"));
    // Annotations choose among platforms, of which the store has one; the others tell what the user wrote, or are about volumes.
    let ImageSpec { image, annotations: _, user_specified_image: _, runtime_handler, image_ref: _ } =
        spec.ok_or_else(missing)?;
    if !runtime_handler.is_empty() {
        let sentence = format!("{field}.runtimeHandler: there is no runtime handler {runtime_handler:?}");
        return Err(Status::invalid_argument(sentence));
    }
    if image.is_empty() { Err(missing()) } else { Ok(image) }
}

fn store(roots: &Roots) -> Result<Store, Status> {
    Ok(Store::open(&roots.root)?)
}

/// The image; `None` when there is no such.
fn find(store: &Store, name: &str) -> Result<Option<image::Image>, Status> {
    match store.resolve(name) {
        Ok(image) => Ok(Some(image)),
        Err(error @ image::Error::Ambiguous { .. }) => Err(Status::invalid_argument(error.to_string())),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn list(roots: &Roots, request: ListImagesRequest) -> Result<ListImagesResponse, Status> {
    let store = store(roots)?;
    let wanted = request.filter.and_then(|filter| filter.image);
    let images = match wanted {
        // An empty filter is none.
        Some(spec) if spec != ImageSpec::default() => {
            find(&store, name("filter.image", Some(&spec))?)?.into_iter().collect()
        }
        _ => store.list()?,
    };
    let pinned = pins(roots)?;
    Ok(ListImagesResponse { images: images.into_iter().map(|image| message(image, &pinned)).collect() })
}

pub(super) fn status(roots: &Roots, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
    let Some(image) = find(&store(roots)?, name("image", request.image.as_ref())?)? else {
        return Ok(ImageStatusResponse::default());
    };
    let mut info = BTreeMap::new();
    if request.verbose {
        let config = json!({
            "architecture": image.architecture,
            "os": image.os,
            "created": image.created.map(|time| time.to_string()),
            "loaded": image.loaded.to_string(),
            "entrypoint": image.config.entrypoint,
            "cmd": image.config.cmd,
            "env": image.config.env,
            "workingDir": image.config.working_dir,
            "user": image.config.user,
            "stopSignal": image.config.stop_signal,
            "labels": image.config.labels,
        });
        info.insert("image".to_owned(), config.to_string());
    }
    Ok(ImageStatusResponse { image: Some(message(image, &pins(roots)?)), info })
}

/// CRI: all names of the image go, whichever is given, and an image that is gone is a success.
pub(super) fn remove(roots: &Roots, request: RemoveImageRequest) -> Result<RemoveImageResponse, Status> {
    let store = store(roots)?;
    let Some(image) = find(&store, name("image", request.image.as_ref())?)? else {
        return Ok(RemoveImageResponse {});
    };
    match store.remove(&image.id, &|id| user_of(roots, id)) {
        Ok(_) => Ok(RemoveImageResponse {}),
        // Somebody was faster.
        Err(error) if error.kind() == Kind::NotFound => Ok(RemoveImageResponse {}),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn fs_info(roots: &Roots) -> Result<ImageFsInfoResponse, Status> {
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![usage(&roots.root.join("images"))?],
        container_filesystems: vec![usage(&roots.root.join("pods"))?],
    })
}

/// The ids of images that others than CRI clients need.
fn pins(roots: &Roots) -> Result<BTreeSet<String>, Status> {
    pinned(roots).map_err(|e| Status::internal(e.to_string()))
}

fn message(image: image::Image, pinned: &BTreeSet<String>) -> Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok();
    let repositories: BTreeSet<String> =
        image.names.iter().filter_map(|name| Some(Name::parse(name).ok()?.canonical_repository())).collect();
    Image {
        pinned: pinned.contains(&image.id),
        repo_digests: repositories
            .iter()
            .flat_map(|repository| image.digests.iter().map(move |digest| format!("{repository}@{digest}")))
            .collect(),
        repo_tags: image.names,
        // CRI wants more than nothing, even of an image without a file.
        size: image.size_bytes.max(1),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid: uid.map(|uid| Int64Value { value: uid.into() }),
        spec: Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() }),
        id: image.id,
    }
}

/// What is below a directory, and in it; nothing when it is not there. What goes away meanwhile is not counted.
pub(super) fn usage(directory: &Path) -> Result<FilesystemUsage, Status> {
    let fail = |path: &Path, e: &std::io::Error| {
        Status::internal(format!("read {}: {}", path.display(), husk_oci::errno::io_text(e)))
    };
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let (mut bytes, mut inodes) = (0u64, 0u64);
    let mut linked = BTreeSet::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if gone(&e) => continue,
            Err(e) => return Err(fail(&path, &e)),
        };
        if !meta.is_dir() && meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
            continue;
        }
        inodes += 1;
        // st_blocks counts in 512 bytes whatever the file system's block size is, see stat(2).
        bytes += meta.blocks() * 512;
        if !meta.is_dir() {
            continue;
        }
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                for entry in entries {
                    todo.push(entry.map_err(|e| fail(&path, &e))?.path());
                }
            }
            Err(e) if gone(&e) => {}
            Err(e) => return Err(fail(&path, &e)),
        }
    }
    Ok(FilesystemUsage {
        timestamp: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
        fs_id: Some(FilesystemIdentifier { mountpoint: directory.display().to_string() }),
        used_bytes: Some(UInt64Value { value: bytes }),
        inodes_used: Some(UInt64Value { value: inodes }),
    })
}
