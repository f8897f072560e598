//! Reads OCI layouts and docker archives: which images are in there, and what each is made of. Writes nothing.

use super::config;
use super::digest::{Digest, is_hex64};
use super::error::{Error, printable};
use super::name::Name;
use super::platform;
use super::source::Source;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Bytes of an index, manifest or configuration; registries accept no more.
const MAX_JSON: u64 = 4 << 20;
/// Layers of one image: what overlayfs, and every other store, can stack.
const MAX_LAYERS: usize = 127;
/// Images in one file.
const MAX_IMAGES: usize = 1000;
/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

/// One image of a source.
pub(super) struct Planned {
    pub names: Vec<Name>,
    /// Of the manifest and of the indexes that led to it.
    pub digests: Vec<Digest>,
    pub config_bytes: Vec<u8>,
    /// Bottom first.
    pub layers: Vec<PlannedLayer>,
}

/// One layer: where it lies, and what it must be.
pub(super) struct PlannedLayer {
    pub file: String,
    /// Digest and length of the file as it lies there, where the format tells them.
    pub blob: Option<(Digest, u64)>,
    pub diff_id: Digest,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::content(format!("{what} is not understood: {e}")))
}

/// What is in the source. An OCI layout goes before a docker archive, since its manifests have digests; some files are both.
pub(super) fn plan(source: &Source) -> Result<Vec<Planned>, Error> {
    let images = if source.has("oci-layout")? {
        oci_layout(source)?
    } else if source.has("manifest.json")? {
        docker_archive(source)?
    } else {
        return Err(Error::content(
            "neither an OCI layout (no oci-layout) nor a docker archive (no manifest.json); for a plain root file system use `husk image import`",
        ));
    };
    if images.is_empty() {
        return Err(Error::content("there is no image in it"));
    }
    Ok(images)
}

fn oci_layout(source: &Source) -> Result<Vec<Planned>, Error> {
    let layout: Layout = json("oci-layout", &source.read("oci-layout", MAX_JSON)?)?;
    if !layout.image_layout_version.starts_with("1.") {
        let version = printable(layout.image_layout_version.as_bytes());
        return Err(Error::unsupported(format!("OCI layout version {version} is not supported; 1.0.0 is")));
    }
    let index: Index = json("index.json", &source.read("index.json", MAX_JSON)?)?;
    if index.schema_version != 2 {
        return Err(Error::unsupported(format!(
            "index.json has schemaVersion {}; only 2 is supported",
            index.schema_version
        )));
    }
    if index.manifests.len() > MAX_IMAGES {
        return Err(Error::content(format!("index.json lists more than {MAX_IMAGES} images")));
    }
    // Entries of one name are one image for several platforms; so are the entries without a name, when each tells its platform.
    let mut groups: Vec<(Option<String>, Vec<Descriptor>)> = Vec::new();
    for descriptor in index.manifests {
        let name = reference(&descriptor);
        match groups.iter_mut().find(|(n, _)| *n == name) {
            Some((_, group)) => group.push(descriptor),
            None => groups.push((name, vec![descriptor])),
        }
    }
    let mut planned: Vec<Planned> = Vec::new();
    for (reference, group) in groups {
        let name = reference.as_deref().map(Name::parse).transpose()?;
        let label = reference.unwrap_or_else(|| "the image without a name".to_string());
        let separate = name.is_none() && group.iter().any(|d| d.platform.is_none());
        let chosen = if separate || group.len() == 1 { group } else { vec![choose(group)?] };
        for descriptor in chosen {
            let image = oci_image(source, &descriptor, &name, MAX_DEPTH).map_err(|e| e.within(label.clone()))?;
            merge(&mut planned, image);
        }
    }
    Ok(planned)
}

/// Two names of one image are one image.
fn merge(planned: &mut Vec<Planned>, image: Planned) {
    match planned.iter_mut().find(|p| p.config_bytes == image.config_bytes) {
        Some(known) => {
            known.names.extend(image.names);
            known.digests.extend(image.digests);
        }
        None => planned.push(image),
    }
}

/// The full name where a tool wrote one; the format's own annotation may hold a full name or just a tag.
fn reference(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations.as_ref()?;
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
        .iter()
        .find_map(|key| annotations.get(*key))
        .filter(|name| !name.is_empty())
        .cloned()
}

/// The entry for this host.
fn choose(entries: Vec<Descriptor>) -> Result<Descriptor, Error> {
    // Builders put statements about an image beside it, under a platform that does not exist.
    let statement = |d: &Descriptor| {
        d.annotations.as_ref().is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
            || d.platform.as_ref().is_some_and(|p| p.os == "unknown")
    };
    let entries: Vec<Descriptor> = entries.into_iter().filter(|d| !statement(d)).collect();
    let fits =
        |d: &&Descriptor| d.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == platform::HOST);
    // The plainest variant runs on every machine of the architecture.
    let plain = |d: &&Descriptor| {
        let variant = d.platform.as_ref().and_then(|p| p.variant.as_deref()).unwrap_or_default();
        matches!((platform::HOST, variant), (_, "") | ("amd64", "v1") | ("arm64", "v8"))
    };
    if let Some(found) = entries.iter().filter(fits).find(plain).or_else(|| entries.iter().find(fits)) {
        return Ok(found.clone());
    }
    let mut available: Vec<String> = entries
        .iter()
        .filter_map(|d| d.platform.as_ref())
        .map(|p| platform::describe(&p.os, &p.architecture, p.variant.as_deref()))
        .map(|text| text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect())
        .collect();
    available.dedup();
    available.truncate(30);
    if available.is_empty() {
        available.push("nothing".to_string());
    }
    Err(Error::Platform { host: platform::describe("linux", platform::HOST, None), available })
}

/// A blob of JSON, checked against its descriptor.
fn blob(source: &Source, descriptor: &Descriptor, what: &str) -> Result<(Digest, Vec<u8>), Error> {
    let digest = Digest::parse(&descriptor.digest)?;
    let name = blob_name(&digest);
    let bytes = source.read(&name, MAX_JSON).map_err(|e| e.within(format!("{what} {digest}")))?;
    let found = Digest::of(&bytes);
    if found != digest {
        return Err(Error::Digest { what: what.to_string(), expected: digest.to_string(), found: found.to_string() });
    }
    if bytes.len() as u64 != descriptor.size {
        return Err(Error::content(format!("{what} {digest} has {} bytes, expected {}", bytes.len(), descriptor.size)));
    }
    Ok((digest, bytes))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn is_index(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

fn oci_image(source: &Source, descriptor: &Descriptor, name: &Option<Name>, depth: usize) -> Result<Planned, Error> {
    if is_index(&descriptor.media_type) {
        let (digest, bytes) = blob(source, descriptor, "index")?;
        let index: Index = json("the index", &bytes)?;
        if index.schema_version != 2 || index.manifests.len() > MAX_IMAGES || depth == 0 {
            return Err(Error::content("an index of another version, too long or too deep"));
        }
        let mut image = oci_image(source, &choose(index.manifests)?, name, depth - 1)?;
        image.digests.push(digest);
        return Ok(image);
    }
    match descriptor.media_type.as_str() {
        "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" | "" => {}
        other => {
            return Err(Error::unsupported(format!(
                "a manifest of type {} is not supported",
                printable(other.as_bytes())
            )));
        }
    }
    let (digest, bytes) = blob(source, descriptor, "manifest")?;
    let manifest: Manifest = json("the manifest", &bytes)?;
    if manifest.schema_version != 2 {
        return Err(Error::unsupported(format!(
            "a manifest of schemaVersion {} is not supported; only 2 is",
            manifest.schema_version
        )));
    }
    match manifest.config.media_type.as_str() {
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json" | "" => {}
        other => {
            return Err(Error::unsupported(format!("not a container image but {}", printable(other.as_bytes()))));
        }
    }
    let (_, config_bytes) = blob(source, &manifest.config, "configuration")?;
    let config = config::parse(&config_bytes).map_err(|e| e.within("configuration"))?;
    check_layers(manifest.layers.len(), &config)?;
    let layers = manifest
        .layers
        .iter()
        .zip(&config.diff_ids)
        .map(|(layer, diff_id)| {
            check_layer_type(&layer.media_type)?;
            let digest = Digest::parse(&layer.digest)?;
            Ok(PlannedLayer { file: blob_name(&digest), blob: Some((digest, layer.size)), diff_id: diff_id.clone() })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Planned { names: name.iter().cloned().collect(), digests: vec![digest], config_bytes, layers })
}

fn check_layers(count: usize, config: &config::Parsed) -> Result<(), Error> {
    if count != config.diff_ids.len() {
        return Err(Error::content(format!("{count} layers, but the configuration lists {}", config.diff_ids.len())));
    }
    match count {
        0 => Err(Error::content("the image has no layers")),
        n if n > MAX_LAYERS => Err(Error::unsupported(format!("{n} layers; at most {MAX_LAYERS} are supported"))),
        _ => Ok(()),
    }
}

fn check_layer_type(media_type: &str) -> Result<(), Error> {
    const KNOWN: [&str; 8] = [
        "",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
    if KNOWN.contains(&media_type) {
        return Ok(());
    }
    if media_type.ends_with("+zstd") || media_type.ends_with(".zstd") {
        return Err(Error::unsupported(
            "a layer is compressed with zstd, which is not supported; only plain tar and gzip are",
        ));
    }
    Err(Error::unsupported(format!("a layer of type {} is not supported", printable(media_type.as_bytes()))))
}

fn docker_archive(source: &Source) -> Result<Vec<Planned>, Error> {
    let bytes = source.read("manifest.json", MAX_JSON)?;
    let images: Vec<DockerImage> = json("manifest.json", &bytes)?;
    if images.len() > MAX_IMAGES {
        return Err(Error::content(format!("manifest.json lists more than {MAX_IMAGES} images")));
    }
    let mut planned = Vec::new();
    for image in images {
        let names: Vec<Name> =
            image.repo_tags.unwrap_or_default().iter().map(|n| Name::parse(n)).collect::<Result<_, _>>()?;
        let label = names.first().map_or_else(|| "the image without a name".to_string(), Name::display);
        let one = docker_image(source, &image.config, &image.layers, names).map_err(|e| e.within(label))?;
        merge(&mut planned, one);
    }
    Ok(planned)
}

fn docker_image(source: &Source, config_file: &str, files: &[String], names: Vec<Name>) -> Result<Planned, Error> {
    let config_bytes = source.read(config_file, MAX_JSON).map_err(|e| e.within("configuration"))?;
    // The configuration is stored under its digest, as `HEX.json` or as a blob.
    let stem = config_file.rsplit('/').next().unwrap_or_default();
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    let found = Digest::of(&config_bytes);
    if is_hex64(stem) && stem != found.hex() {
        let expected = format!("sha256:{stem}");
        return Err(Error::Digest { what: "configuration".to_string(), expected, found: found.to_string() });
    }
    let config = config::parse(&config_bytes).map_err(|e| e.within("configuration"))?;
    check_layers(files.len(), &config)?;
    let layers = files
        .iter()
        .zip(&config.diff_ids)
        .map(|(file, diff_id)| PlannedLayer { file: file.clone(), blob: None, diff_id: diff_id.clone() })
        .collect();
    Ok(Planned { names, digests: Vec::new(), config_bytes, layers })
}
