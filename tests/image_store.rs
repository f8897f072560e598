//! The image store against real files: what is loaded, what is refused, and what is left after each. Needs root.

use flate2::Compression;
use flate2::write::GzEncoder;
use husk::image::{CommandFault, Error, HOST_ARCHITECTURE, Kind, Store, View};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tar::EntryType;

// ---- what tests are made of ----

/// A directory of this test's own; removed at its end, also a failing one.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("husk-image-{}-{n}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    fn root(&self) -> PathBuf {
        self.path("root")
    }
    fn store(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }
    /// Every name below the store, with its content where it has some: for comparing before and after.
    fn listing(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        listing(&self.root())
    }
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn listing(top: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![top.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mut what = format!("{:o} {} {} ", meta.mode(), meta.uid(), meta.gid()).into_bytes();
            if meta.is_dir() {
                todo.push(path.clone());
            } else if meta.is_file() {
                what.extend(fs::read(&path).unwrap());
            }
            out.insert(path, what);
        }
    }
    out
}

/// A tar archive, entry by entry. Names go in as they are, whatever they are.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }
    fn header(kind: EntryType, name: &str, link: &str) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header
    }
    fn raw(mut self, mut header: tar::Header, data: &[u8]) -> Tar {
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }
    fn file(self, name: &str, data: &str) -> Tar {
        self.raw(Tar::header(EntryType::Regular, name, ""), data.as_bytes())
    }
    fn mode(self, name: &str, mode: u32, data: &[u8]) -> Tar {
        let mut header = Tar::header(EntryType::Regular, name, "");
        header.set_mode(mode);
        self.raw(header, data)
    }
    fn dir(self, name: &str) -> Tar {
        self.raw(Tar::header(EntryType::Directory, name, ""), b"")
    }
    fn dir_as(self, name: &str, mode: u32, uid: u64, gid: u64) -> Tar {
        let mut header = Tar::header(EntryType::Directory, name, "");
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.raw(header, b"")
    }
    fn symlink(self, name: &str, target: &str) -> Tar {
        self.raw(Tar::header(EntryType::Symlink, name, target), b"")
    }
    fn hard(self, name: &str, target: &str) -> Tar {
        self.raw(Tar::header(EntryType::Link, name, target), b"")
    }
    fn device(self, kind: EntryType, name: &str, major: u32, minor: u32) -> Tar {
        let mut header = Tar::header(kind, name, "");
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, b"")
    }
    fn pax(mut self, records: &[(&str, &[u8])]) -> Tar {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }
    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// An OCI layout under construction: file names and contents.
struct Layout {
    files: BTreeMap<String, Vec<u8>>,
    manifests: Vec<serde_json::Value>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

impl Layout {
    fn new() -> Layout {
        Layout { files: BTreeMap::new(), manifests: Vec::new() }
    }
    fn blob(&mut self, bytes: &[u8]) -> (String, usize) {
        self.files.insert(format!("blobs/sha256/{}", hex(bytes)), bytes.to_vec());
        (digest(bytes), bytes.len())
    }
    fn json(&mut self, kind: &str, value: &serde_json::Value) -> serde_json::Value {
        let (digest, size) = self.blob(&serde_json::to_vec(value).unwrap());
        serde_json::json!({"mediaType": kind, "digest": digest, "size": size})
    }
    /// The descriptor of an image with these layers; plain and gzip in turn.
    fn image(&mut self, layers: &[Vec<u8>], config: serde_json::Value, architecture: &str) -> serde_json::Value {
        let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let layers: Vec<serde_json::Value> = layers
            .iter()
            .enumerate()
            .map(|(n, plain)| {
                let (kind, stored) = if n % 2 == 0 { (LAYER_GZIP, gzip(plain)) } else { (LAYER, plain.clone()) };
                let (digest, size) = self.blob(&stored);
                serde_json::json!({"mediaType": kind, "digest": digest, "size": size})
            })
            .collect();
        let config = self.json(
            "application/vnd.oci.image.config.v1+json",
            &serde_json::json!({
                "created": "2024-02-03T04:05:06Z", "architecture": architecture, "os": "linux", "config": config,
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }),
        );
        let mut descriptor =
            self.json(MANIFEST, &serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers}));
        descriptor["platform"] = serde_json::json!({"architecture": architecture, "os": "linux"});
        descriptor
    }
    fn named(mut self, mut descriptor: serde_json::Value, name: &str) -> Layout {
        descriptor["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(descriptor);
        self
    }
    fn simple(name: &str, layers: &[Vec<u8>]) -> Layout {
        let mut layout = Layout::new();
        let image = layout.image(layers, serde_json::json!({"Cmd": ["sh"]}), HOST_ARCHITECTURE);
        layout.named(image, name)
    }
    fn finish(mut self) -> BTreeMap<String, Vec<u8>> {
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests});
        self.files.insert("index.json".into(), serde_json::to_vec(&index).unwrap());
        self.files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        self.files
    }
    fn tar(self, scratch: &Scratch, name: &str) -> PathBuf {
        scratch.write(name, &archive(&self.finish()))
    }
    fn dir(self, scratch: &Scratch, name: &str) -> PathBuf {
        let top = scratch.path(name);
        for (file, bytes) in self.finish() {
            fs::create_dir_all(top.join(&file).parent().unwrap()).unwrap();
            fs::write(top.join(&file), bytes).unwrap();
        }
        top
    }
}

fn archive(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut tar = Tar::new();
    for (name, bytes) in files {
        tar = tar.raw(Tar::header(EntryType::Regular, name, ""), bytes);
    }
    tar.bytes()
}

/// A pipe that somebody writes this file into.
fn pipe(scratch: &Scratch, name: &str, from: &Path) -> PathBuf {
    let path = scratch.path(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (to, bytes) = (path.clone(), fs::read(from).unwrap());
    std::thread::spawn(move || fs::write(to, bytes));
    path
}

fn unused(_: &str) -> Option<String> {
    None
}

fn message(e: &Error) -> String {
    let text = e.to_string();
    assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
    text
}

/// Imports an archive that must be accepted: the unpacked tree.
fn unpacked(scratch: &Scratch, tar: Tar) -> PathBuf {
    let file = scratch.write("rootfs.tar", &tar.bytes());
    scratch.store().import(&file, "t").unwrap().layers[0].clone()
}

/// Loads a layer on top of another one and on its own: refused both times, with these words; the host and the store are as before.
fn refused(hostile: impl Fn(&Scratch) -> Tar, words: &str) {
    let scratch = Scratch::new();
    let marker = scratch.path("host");
    fs::create_dir(&marker).unwrap();
    fs::write(marker.join("secret"), "untouched").unwrap();
    fs::set_permissions(marker.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(marker.join("dir")).unwrap();
    let store = scratch.store();
    store
        .load(&Layout::simple("good", &[Tar::new().dir("etc").file("etc/a", "a").bytes()]).tar(&scratch, "good"))
        .unwrap();
    let before = (listing(&marker), scratch.listing());
    let layer = hostile(&scratch).bytes();
    let base = Tar::new().dir("base").file("base/file", "x").bytes();
    let over = Layout::simple("bad", &[base, layer.clone()]).tar(&scratch, "bad");
    let error = store.load(&over).unwrap_err();
    assert!(message(&error).contains(words), "{error}");
    assert_eq!((listing(&marker), scratch.listing()), before);
    let rootfs = scratch.write("bad.tar", &layer);
    if let Err(error) = store.import(&rootfs, "bad") {
        assert!(message(&error).contains(words), "{error}");
        assert_eq!((listing(&marker), scratch.listing()), before);
    }
    assert_eq!(store.list().unwrap().len() + usize::from(store.resolve("bad").is_err()), 2);
    assert_eq!(listing(&marker), before.0);
}

fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let file = fs::File::open(path).unwrap();
    let mut buf = [0; 256];
    husk_oci::sys::xattr::fgetxattr(file.as_fd(), name, &mut buf).ok().map(|v| v.to_vec())
}

// ---- formats ----

#[test]
fn a_layout_is_loaded_from_a_directory_a_tar_a_gzipped_tar_and_pipes() {
    let scratch = Scratch::new();
    let config = serde_json::json!({
        "Entrypoint": ["/bin/app"], "Cmd": ["-v"], "Env": ["A=b=c", "PATH=/bin"], "User": "web:www", "WorkingDir": "/srv", "StopSignal": "SIGRTMIN+3",
        "Labels": {"io.husk.anything": "is data"},
    });
    let make = || {
        let mut layout = Layout::new();
        let layers = [
            Tar::new().dir("./").dir("bin").mode("bin/app", 0o755, b"#!/bin/app").bytes(),
            Tar::new().file("new", "12345").bytes(),
        ];
        let image = layout.image(&layers, config.clone(), HOST_ARCHITECTURE);
        layout.named(image, "husk.example/app:2")
    };
    let tar = make().tar(&scratch, "a.tar");
    let zipped = scratch.write("a.tar.gz", &gzip(&fs::read(&tar).unwrap()));
    let store = scratch.store();
    assert!(store.list().unwrap().is_empty());
    assert!(!scratch.root().exists(), "reading an absent store makes nothing");
    let mut ids = Vec::new();
    let (piped, piped_zipped) = (pipe(&scratch, "p1", &tar), pipe(&scratch, "p2", &zipped));
    for path in [make().dir(&scratch, "dir"), tar, zipped, piped, piped_zipped] {
        let images = store.load(&path).unwrap();
        assert_eq!(images.len(), 1);
        let image = &images[0];
        assert_eq!(image.names, ["husk.example/app:2"]);
        assert_eq!(image.size_bytes, 15);
        assert_eq!(image.created, Some("2024-02-03T04:05:06Z".parse().unwrap()));
        assert_eq!((image.architecture.as_str(), image.os.as_str()), (HOST_ARCHITECTURE, "linux"));
        assert_eq!(image.layers.len(), 2);
        assert_eq!(fs::read_to_string(image.layers[0].join("new")).unwrap(), "12345", "top first");
        assert_eq!(image.config.entrypoint, ["/bin/app"]);
        assert_eq!(image.config.cmd, ["-v"]);
        assert_eq!(image.config.env, ["A=b=c", "PATH=/bin"]);
        assert_eq!(image.config.user, "web:www");
        assert_eq!(image.config.working_dir, "/srv");
        assert_eq!(image.config.stop_signal, Some(37));
        assert_eq!(store.resolve("husk.example/app:2").unwrap(), *image);
        ids.push(image.id.clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(store.list().unwrap().len(), 1, "loading again gives the same image");
    for dir in [scratch.root(), scratch.path("root/images"), scratch.path("root/images/layers")] {
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700, "{}", dir.display());
    }
}

#[test]
fn a_docker_archive_is_loaded_with_all_its_names() {
    let scratch = Scratch::new();
    let layer = Tar::new().file("hello", "world").bytes();
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": HOST_ARCHITECTURE, "os": "linux", "config": {"Cmd": ["x"]}, "rootfs": {"type": "layers", "diff_ids": [digest(&layer), digest(&layer)]},
    }))
    .unwrap();
    let config_name = format!("{}.json", hex(&config));
    let list = serde_json::json!([{"Config": config_name, "RepoTags": ["one:1", "two:2"], "Layers": ["aa/layer.tar", "bb/layer.tar"]}]);
    let make = |config: &[u8], layer: &[u8]| {
        Tar::new()
            .raw(Tar::header(EntryType::Regular, &config_name, ""), config)
            .raw(Tar::header(EntryType::Regular, "aa/layer.tar", ""), layer)
            // Old archives store equal layers once.
            .symlink("bb/layer.tar", "../aa/layer.tar")
            .raw(Tar::header(EntryType::Regular, "manifest.json", ""), &serde_json::to_vec(&list).unwrap())
            .bytes()
    };
    let store = scratch.store();
    let image = store.load(&scratch.write("d.tar", &make(&config, &layer))).unwrap().remove(0);
    assert_eq!(image.names, ["one:1", "two:2"]);
    assert_eq!(image.layers.len(), 2);
    assert_eq!(fs::read_to_string(image.layers[1].join("hello")).unwrap(), "world");
    assert_eq!(image.id, digest(&config));
    let mut damaged = config.clone();
    damaged.push(b' ');
    let error = store.load(&scratch.write("e.tar", &make(&damaged, &layer))).unwrap_err();
    assert!(message(&error).contains("configuration: digest is"), "{error}");
    let other = Tar::new().file("hello", "wurst").bytes();
    let fresh = Scratch::new();
    let error = fresh.store().load(&scratch.write("f.tar", &make(&config, &other))).unwrap_err();
    assert!(message(&error).contains("decompressed layer: digest is"), "{error}");
    assert!(fresh.store().list().unwrap().is_empty());
}

#[test]
fn a_root_file_system_is_imported_plain_gzipped_and_from_a_pipe() {
    let scratch = Scratch::new();
    let tar = Tar::new().dir("bin").mode("bin/sh", 0o755, b"#!x").bytes();
    let plain = scratch.write("r.tar", &tar);
    let store = scratch.store();
    let first = store.import(&plain, "husk.example/r").unwrap();
    assert_eq!(first.names, ["husk.example/r:latest"]);
    assert_eq!(first.architecture, HOST_ARCHITECTURE);
    let second = store.import(&scratch.write("r.tgz", &gzip(&tar)), "r2:1").unwrap();
    assert_eq!(first.id, second.id, "the same content is the same image");
    assert_eq!(second.names, ["husk.example/r:latest", "r2:1"]);
    let piped = pipe(&scratch, "pipe", &scratch.path("r.tgz"));
    assert_eq!(store.import(&piped, "r3").unwrap().id, first.id);
    for bad in ["", "UPPER", "a b", "a:b:c", "x@sha256:0", "a\u{1b}"] {
        assert_eq!(store.import(&plain, bad).unwrap_err().kind(), Kind::Name, "{bad:?}");
    }
    assert_eq!(store.import(&scratch.0, "x").unwrap_err().kind(), Kind::Content);
}

#[test]
fn an_index_gives_the_image_for_this_host_or_says_what_is_there() {
    let scratch = Scratch::new();
    let make = |architectures: &[&str]| {
        let mut layout = Layout::new();
        let mut manifests: Vec<serde_json::Value> = architectures
            .iter()
            .map(|a| layout.image(&[Tar::new().file("arch", a).bytes()], serde_json::json!({}), a))
            .collect();
        let mut statement = manifests[0].clone();
        statement["platform"] = serde_json::json!({"architecture": "unknown", "os": "unknown"});
        manifests.push(statement);
        let index = layout.json(INDEX, &serde_json::json!({"schemaVersion": 2, "manifests": manifests}));
        (index["digest"].as_str().unwrap().to_string(), layout.named(index, "multi:1"))
    };
    let store = scratch.store();
    let (index, layout) = make(&["mips", HOST_ARCHITECTURE, "s390x"]);
    let image = store.load(&layout.tar(&scratch, "m.tar")).unwrap().remove(0);
    assert_eq!(image.architecture, HOST_ARCHITECTURE);
    assert_eq!(store.resolve(&format!("multi@{index}")).unwrap().id, image.id);
    assert_eq!(store.resolve(&format!("multi:1@{index}")).unwrap().id, image.id);
    assert!(store.resolve(&format!("other@{index}")).is_err());
    let error = store.load(&make(&["mips", "sparc64"]).1.tar(&scratch, "n.tar")).unwrap_err();
    assert_eq!(error.kind(), Kind::Platform);
    assert!(message(&error).contains("linux/mips, linux/sparc64"), "{error}");
    // One image for another machine is loaded and says so.
    let mut layout = Layout::new();
    let foreign = layout.image(&[Tar::new().file("a", "b").bytes()], serde_json::json!({}), "mips");
    let loaded = store.load(&layout.named(foreign, "foreign").tar(&scratch, "o.tar")).unwrap();
    assert_eq!(loaded[0].architecture, "mips");
}

#[test]
fn what_is_not_supported_is_refused_with_a_sentence() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let change = |f: &dyn Fn(&mut serde_json::Value)| {
        let mut layout = Layout::new();
        let image = layout.image(&[Tar::new().file("a", "b").bytes()], serde_json::json!({}), HOST_ARCHITECTURE);
        let name = format!("blobs/sha256/{}", image["digest"].as_str().unwrap().trim_start_matches("sha256:"));
        let mut manifest: serde_json::Value = serde_json::from_slice(&layout.files[&name]).unwrap();
        f(&mut manifest);
        let image = layout.json(MANIFEST, &manifest);
        layout.named(image, "x").tar(&scratch, "x.tar")
    };
    let case = |f: &dyn Fn(&mut serde_json::Value), words: &str| {
        let error = store.load(&change(f)).unwrap_err();
        assert!(message(&error).contains(words), "{error}");
    };
    case(
        &|m| m["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd".into(),
        "compressed with zstd, which is not supported",
    );
    case(
        &|m| m["layers"][0]["mediaType"] = "application/x-odd".into(),
        "a layer of type \"application/x-odd\" is not supported",
    );
    case(&|m| m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into(), "not a container image");
    case(&|m| m["schemaVersion"] = 3.into(), "schemaVersion 3");
    case(&|m| m["layers"] = serde_json::json!([]), "0 layers, but the configuration lists 1");
    case(&|m| m["layers"][0]["digest"] = format!("sha512:{}", "0".repeat(128)).into(), "sha512");
    case(&|m| m["layers"][0]["digest"] = "sha256:../../../../etc/passwd".into(), "is not a digest");
    case(&|m| m["layers"][0]["size"] = 5.into(), "expected 5");
    // zstd by its first bytes, where no type tells.
    let zstd = scratch.write("z.tar", b"\x28\xb5\x2f\xfd and more");
    assert!(message(&store.load(&zstd).unwrap_err()).contains("zstd"));
    assert!(message(&store.import(&zstd, "z").unwrap_err()).contains("zstd"));
    for (bytes, words) in [
        (&b""[..], "ends early"),
        (b"hello", "ends early"),
        (&[b'x'; 5000], "not a tar header"),
        (&[0; 1024], "neither an OCI layout"),
    ] {
        let error = store.load(&scratch.write("junk", bytes)).unwrap_err();
        assert!(message(&error).contains(words), "{error}");
    }
    assert!(message(&store.load(Path::new("/dev/null")).unwrap_err()).contains("neither a directory nor a file"));
    assert!(message(&store.load(&scratch.path("absent")).unwrap_err()).contains("(ENOENT)"));
    let empty = scratch.path("empty");
    fs::create_dir(&empty).unwrap();
    assert!(message(&store.load(&empty).unwrap_err()).contains("neither an OCI layout"));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn every_changed_byte_is_noticed() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let good = Layout::simple("x", &[Tar::new().file("a", "some content").bytes()]).finish();
    for (name, bytes) in &good {
        if !name.starts_with("blobs/") {
            continue;
        }
        for (at, longer) in [(0, false), (bytes.len() / 2, false), (bytes.len() - 1, false), (0, true)] {
            let mut files = good.clone();
            let blob = files.get_mut(name).unwrap();
            if longer {
                blob.push(0)
            } else {
                blob[at] ^= 1
            }
            let error = store.load(&scratch.write("x.tar", &archive(&files))).unwrap_err();
            assert_eq!(error.kind(), Kind::Content, "{error}");
            message(&error);
        }
        let mut files = good.clone();
        files.remove(name);
        assert!(message(&store.load(&scratch.write("x.tar", &archive(&files))).unwrap_err()).contains("(ENOENT)"));
    }
    assert!(store.list().unwrap().is_empty());
    assert!(fs::read_dir(scratch.path("root/images/layers")).unwrap().next().is_none());
    assert!(fs::read_dir(scratch.path("root/images/configs")).unwrap().next().is_none());
    store.load(&scratch.write("x.tar", &archive(&good))).unwrap();
    // Loading again checks again.
    let mut files = good.clone();
    let layer = files
        .iter_mut()
        .max_by_key(|(name, b)| (name.starts_with("blobs/") && b.starts_with(&[0x1f, 0x8b])) as u8)
        .unwrap()
        .1;
    let last = layer.len() - 1;
    layer[last] ^= 1;
    assert_eq!(store.load(&scratch.write("x.tar", &archive(&files))).unwrap_err().kind(), Kind::Content);
}

#[test]
fn an_archive_that_ends_early_is_refused() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let whole = archive(&Layout::simple("x", &[Tar::new().file("a", &"z".repeat(3000)).bytes()]).finish());
    for cut in [1, 100, 512, 513, 1500, whole.len() / 2, whole.len() - 1024 - 512] {
        let error = store.load(&scratch.write("cut.tar", &whole[..cut])).unwrap_err();
        assert!(message(&error).contains("ends early"), "cut at {cut}: {error}");
    }
    let zipped = gzip(&whole);
    for cut in [5, 20, zipped.len() / 2, zipped.len() - 4] {
        let error = store.load(&scratch.write("cut.tgz", &zipped[..cut])).unwrap_err();
        assert_eq!(error.kind(), Kind::Content, "cut at {cut}: {error}");
    }
    let rootfs = Tar::new().file("a", &"z".repeat(3000)).bytes();
    for cut in [0, 512, 600, 3584] {
        let error = store.import(&scratch.write("cut.tar", &rootfs[..cut]), "x").unwrap_err();
        assert!(message(&error).contains("ends early"), "cut at {cut}: {error}");
    }
    assert!(store.list().unwrap().is_empty());
}

// ---- unpacking ----

#[test]
fn names_that_climb_out_are_refused() {
    for name in ["../host/secret", "a/../../host/secret", "base/..", "..", "./../x"] {
        refused(|_| Tar::new().file(name, "evil"), "a name with .. in it");
    }
}

#[test]
fn absolute_names_stay_inside() {
    let scratch = Scratch::new();
    let outside = scratch.path("outside");
    let root =
        unpacked(&scratch, Tar::new().file(outside.to_str().unwrap(), "in").dir("/").file("//double//name", "x"));
    assert!(!outside.exists());
    assert!(root.join(outside.strip_prefix("/").unwrap()).is_file());
    assert!(root.join("double/name").is_file());
}

#[test]
fn names_that_pass_through_links_stay_inside() {
    let scratch = Scratch::new();
    let host = scratch.path("host");
    fs::create_dir(&host).unwrap();
    let before = listing(&host);
    let inside = host.strip_prefix("/").unwrap().to_str().unwrap().to_string();
    let tar = Tar::new()
        .dir(&inside)
        .symlink("absolute", host.to_str().unwrap())
        .symlink("climbing", &format!("{}{inside}", "../".repeat(12)))
        .dir("real")
        .symlink("local", "real")
        .file("absolute/one", "1")
        .file("climbing/two", "2")
        .file("local/three", "3")
        .symlink("self", ".")
        .file("self/self/self/four", "4");
    let root = unpacked(&scratch, tar);
    assert_eq!(listing(&host), before);
    assert_eq!(fs::read_to_string(root.join(&inside).join("one")).unwrap(), "1");
    assert_eq!(fs::read_to_string(root.join(&inside).join("two")).unwrap(), "2");
    assert_eq!(fs::read_to_string(root.join("real/three")).unwrap(), "3");
    assert_eq!(fs::read_to_string(root.join("four")).unwrap(), "4");
}

#[test]
fn links_that_lead_nowhere_or_round_are_refused_as_directories() {
    refused(
        |s| Tar::new().symlink("l", s.path("host/dir/new").to_str().unwrap()).file("l/x", "evil"),
        "leads to no directory",
    );
    refused(
        |s| Tar::new().symlink("l", s.path("host").to_str().unwrap()).file("l/dir/x", "evil"),
        "leads to no directory",
    );
    refused(|_| Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "evil"), "(ELOOP)");
    refused(|_| Tar::new().file("f", "").file("f/x", "evil"), "is not a directory");
    refused(|_| Tar::new().symlink("p", "/proc/self/cwd").file("p/x", "evil"), "leads to no directory");
}

#[test]
fn a_link_as_the_last_part_is_replaced_and_never_written_through() {
    let scratch = Scratch::new();
    let secret = scratch.write("secret", b"untouched");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let target = secret.to_str().unwrap().to_string();
    let tar = Tar::new()
        .symlink("file", &target)
        .mode("file", 0o4777, b"new")
        .symlink("dir", scratch.0.to_str().unwrap())
        .dir_as("dir", 0o700, 5, 6)
        .file("dir/inside", "x")
        .symlink("kept", &target);
    let root = unpacked(&scratch, tar);
    assert_eq!(fs::read(&secret).unwrap(), b"untouched");
    let meta = fs::metadata(&secret).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o600, 0), "chmod and chown do not follow links");
    assert!(root.join("dir/inside").is_file());
    assert_eq!(fs::symlink_metadata(root.join("dir")).unwrap().uid(), 5);
    assert_eq!(fs::read_link(root.join("kept")).unwrap(), secret);
    assert!(!scratch.path("inside").exists());
}

#[test]
fn hard_links_outside_or_to_directories_are_refused() {
    refused(|_| Tar::new().hard("l", "../host/secret"), "a name with ..");
    refused(|s| Tar::new().hard("l", s.path("host/secret").to_str().unwrap()), "not in this layer");
    refused(|_| Tar::new().hard("l", "/etc/passwd"), "not in this layer");
    refused(|s| Tar::new().symlink("d", s.path("host").to_str().unwrap()).hard("l", "d/secret"), "not in this layer");
    refused(|_| Tar::new().dir("d").hard("l", "d"), "a directory");
    refused(|_| Tar::new().hard("l", "/"), "the layer's root");
    refused(|_| Tar::new().hard("l", "base/file"), "not in this layer");
    refused(|_| Tar::new().file(".wh.base", "").hard("l", "base"), "a hard link to \"base\"");
}

#[test]
fn hard_links_share_a_file_and_a_link_to_a_link_stays_a_link() {
    let scratch = Scratch::new();
    let secret = scratch.write("secret", b"untouched");
    let tar = Tar::new()
        .mode("suid", 0o4755, b"program")
        .hard("again", "suid")
        .hard("suid", "suid")
        .symlink("evil", secret.to_str().unwrap())
        .hard("l", "evil")
        .mode("l", 0o666, b"replaces the link");
    let root = unpacked(&scratch, tar);
    let (a, b) = (fs::metadata(root.join("suid")).unwrap(), fs::metadata(root.join("again")).unwrap());
    assert_eq!(a.ino(), b.ino());
    assert_eq!(a.mode() & 0o7777, 0o4755);
    assert_eq!(fs::read(&secret).unwrap(), b"untouched");
    assert_eq!(fs::read_to_string(root.join("l")).unwrap(), "replaces the link");
}

#[test]
fn owners_permissions_times_and_attributes_are_kept() {
    let scratch = Scratch::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut header = Tar::header(EntryType::Regular, "suid", "");
    header.set_mode(0o6755);
    header.set_uid(2_147_483_647);
    header.set_gid(1234);
    let mut link = Tar::header(EntryType::Symlink, "link", "suid");
    link.set_uid(77);
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.note", b"hello"),
            ("SCHILY.xattr.security.capability", &capability),
            ("mtime", b"1234567890.5"),
        ])
        .raw(header, b"x")
        .raw(link, b"")
        .dir_as("tmp", 0o1777, 0, 0)
        .file("tmp/later", "x")
        .dir_as("./", 0o711, 9, 9);
    let root = unpacked(&scratch, tar);
    let meta = fs::metadata(root.join("suid")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o6755, 2_147_483_647, 1234));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(xattr(&root.join("suid"), c"user.note").unwrap(), b"hello");
    assert_eq!(xattr(&root.join("suid"), c"security.capability").unwrap(), capability);
    assert_eq!(fs::symlink_metadata(root.join("link")).unwrap().uid(), 77);
    let tmp = fs::metadata(root.join("tmp")).unwrap();
    assert_eq!(
        (tmp.mode() & 0o7777, tmp.mtime()),
        (0o1777, 1_000_000_000),
        "a directory's time is not that of its last file"
    );
    let top = fs::metadata(&root).unwrap();
    assert_eq!((top.mode() & 0o7777, top.uid()), (0o711, 9));
}

#[test]
fn attributes_that_mean_something_to_the_host_are_dropped() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"unconfined"),
            ("SCHILY.xattr.user.kept", b"1"),
        ])
        .dir("d");
    let dir = unpacked(&scratch, tar).join("d");
    for name in [c"trusted.overlay.opaque", c"trusted.overlay.redirect", c"user.overlay.opaque", c"security.selinux"] {
        assert_eq!(xattr(&dir, name), None, "{name:?}");
    }
    assert_eq!(xattr(&dir, c"user.kept").unwrap(), b"1");
}

#[test]
fn owners_out_of_range_are_refused() {
    for id in [2_147_483_648u64, 4_294_967_295, 4_294_967_296, u64::MAX >> 8] {
        let header = |group| {
            let mut header = Tar::header(EntryType::Regular, "f", "");
            if group {
                header.set_gid(id)
            } else {
                header.set_uid(id)
            }
            header
        };
        refused(|_| Tar::new().raw(header(false), b""), "user id");
        refused(|_| Tar::new().raw(header(true), b""), "group id");
    }
    refused(|_| Tar::new().pax(&[("uid", b"-1")]).file("f", ""), "uid");
    refused(|_| Tar::new().pax(&[("uid", b"99999999999999999999")]).file("f", ""), "uid");
}

#[test]
fn devices_are_not_made_unless_harmless() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .dir("dev")
        .device(EntryType::Block, "dev/sda", 8, 0)
        .device(EntryType::Char, "dev/mem", 1, 1)
        .device(EntryType::Char, "dev/kmsg", 1, 11)
        .device(EntryType::Char, "dev/null", 1, 3)
        .raw(Tar::header(EntryType::Fifo, "pipe", ""), b"");
    let root = unpacked(&scratch, tar);
    for gone in ["dev/sda", "dev/mem", "dev/kmsg"] {
        assert!(!root.join(gone).exists(), "{gone}");
    }
    assert_eq!(fs::metadata(root.join("dev/null")).unwrap().rdev(), 0x103);
    let pipe = fs::metadata(root.join("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o644);
    refused(|_| Tar::new().device(EntryType::Char, "base", 0, 0), "0:0");
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    let scratch = Scratch::new();
    let lower = Tar::new()
        .dir_as("tmp", 0o1777, 3, 4)
        .dir("etc")
        .file("etc/gone", "1")
        .file("etc/kept", "2")
        .dir("opaque")
        .file("opaque/old", "3")
        .dir("replaced")
        .file("replaced/old", "4")
        .dir("both")
        .file("both/old", "5");
    let upper = Tar::new()
        .file("etc/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "n")
        // The whiteout before its directory, and after it: both hide what is below only.
        .file(".wh.replaced", "")
        .dir("replaced")
        .file("replaced/new", "n")
        .dir("both")
        .file("both/new", "n")
        .file(".wh.both", "")
        // Only implied: looks as it does below.
        .file("tmp/file", "t")
        .file(".wh..wh.plnk", "");
    let layers = [lower.bytes(), upper.bytes()];
    let image = scratch.store().load(&Layout::simple("w", &layers).tar(&scratch, "w.tar")).unwrap().remove(0);
    let gone = fs::symlink_metadata(image.layers[0].join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(xattr(&image.layers[0].join("opaque"), c"trusted.overlay.opaque").unwrap(), b"y");
    let tmp = fs::metadata(image.layers[0].join("tmp")).unwrap();
    assert_eq!((tmp.mode() & 0o7777, tmp.uid(), tmp.gid()), (0o1777, 3, 4));
    let view = View::open(&image.layers).unwrap();
    for (name, there) in [
        ("etc/gone", false),
        ("etc/kept", true),
        ("opaque/old", false),
        ("opaque/new", true),
        ("replaced/old", false),
        ("replaced/new", true),
        ("both/old", false),
        ("both/new", true),
        ("tmp/file", true),
        (".wh..wh.plnk", false),
    ] {
        assert_eq!(view.read_file(name, 100).is_ok(), there, "{name}");
    }
    refused(|_| Tar::new().file(".wh..", ""), "not a whiteout");
    refused(|_| Tar::new().file(".wh...", ""), "not a whiteout");
    refused(|_| Tar::new().file(".wh.", ""), "not a whiteout");
    refused(|_| Tar::new().file(".wh..wh.odd", ""), "not a whiteout");
    refused(|_| Tar::new().file(".wh.base/file", ""), "used as a directory");
}

#[test]
fn long_names_sparse_files_and_many_entries_come_through() {
    let scratch = Scratch::new();
    let long = "directory/".repeat(30) + "file";
    let mut tar = Tar::new();
    let mut header = Tar::header(EntryType::Regular, "", "");
    header.set_size(1);
    tar.0.append_data(&mut header, &long, &b"1"[..]).unwrap();
    let long_target = "t/".repeat(200);
    tar.0.append_link(&mut Tar::header(EntryType::Symlink, "", ""), "link", &long_target).unwrap();
    // Old GNU: 4 bytes at 1 MiB of a 2 MiB file.
    let mut sparse = Tar::header(EntryType::GNUSparse, "sparse", "");
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.set_real_size(2 << 20);
    gnu.sparse[0].set_offset(1 << 20);
    gnu.sparse[0].set_length(4);
    tar = tar.raw(sparse, b"data");
    // pax 1.0: the map stands before the data.
    let mut data = b"1\n4096\n4\n".to_vec();
    data.resize(512, 0);
    data.extend(b"more");
    tar = tar
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse1"),
            ("GNU.sparse.realsize", b"8192"),
        ])
        .raw(Tar::header(EntryType::Regular, "GNUSparseFile.0/sparse1", ""), &data);
    for n in 0..3000 {
        tar = tar.file(&format!("many/{n}"), "");
    }
    let root = unpacked(&scratch, tar);
    assert_eq!(fs::read_to_string(root.join(&long)).unwrap(), "1");
    assert_eq!(
        fs::read_link(root.join("link")).unwrap().to_str().unwrap().trim_end_matches('/'),
        long_target.trim_end_matches('/')
    );
    let content = fs::read(root.join("sparse")).unwrap();
    assert_eq!((content.len(), &content[1 << 20..(1 << 20) + 4]), (2 << 20, &b"data"[..]));
    assert!(fs::metadata(root.join("sparse")).unwrap().blocks() < 100);
    let content = fs::read(root.join("sparse1")).unwrap();
    assert_eq!((content.len(), &content[4096..4100]), (8192, &b"more"[..]));
    assert_eq!(fs::read_dir(root.join("many")).unwrap().count(), 3000);
    refused(
        |_| Tar::new().file(&"x".repeat(99), "").pax(&[("path", "y/".repeat(2500).as_bytes())]).file("z", ""),
        "4095 bytes",
    );
    refused(|_| Tar::new().pax(&[("path", b"a\0b")]).file("z", ""), "NUL");
    refused(|_| Tar::new().pax(&[("size", b"99999999999999999999")]).file("z", ""), "size");
    refused(|_| Tar::new().raw(Tar::header(EntryType::new(b'M'), "z", ""), b""), "unknown entry type");
}

#[test]
fn a_tree_deeper_than_any_path_is_unpacked_and_removed() {
    let scratch = Scratch::new();
    let mut tar = Tar::new();
    // Every step goes through a link to the deepest directory so far.
    let deep = "d/".repeat(1000);
    for n in 0..4 {
        let from = if n == 0 { String::new() } else { format!("l{}/", n - 1) };
        let mut header = Tar::header(EntryType::Directory, "", "");
        tar.0.append_data(&mut header, format!("{from}{deep}"), &b""[..]).unwrap();
        let mut link = Tar::header(EntryType::Symlink, "", "");
        tar.0.append_link(&mut link, format!("l{n}"), format!("{from}{deep}")).unwrap();
    }
    unpacked(&scratch, tar);
    let store = scratch.store();
    let removed = store.remove("t", &unused).unwrap();
    assert!(removed.deleted);
    assert_eq!(removed.layers, 1);
    assert!(fs::read_dir(scratch.path("root/images/layers")).unwrap().next().is_none());
}

// ---- the store ----

#[test]
fn images_share_layers_and_lose_names_one_by_one() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let base = Tar::new().file("base", "b").bytes();
    let one = store
        .load(&Layout::simple("busybox", &[base.clone(), Tar::new().file("1", "1").bytes()]).tar(&scratch, "1"))
        .unwrap()
        .remove(0);
    let two = store
        .load(&Layout::simple("two:2", &[base, Tar::new().file("2", "2").bytes()]).tar(&scratch, "2"))
        .unwrap()
        .remove(0);
    assert_eq!(one.layers[1], two.layers[1]);
    for name in [
        "busybox",
        "busybox:latest",
        "docker.io/library/busybox",
        "docker.io/busybox:latest",
        &one.id,
        &one.id[7..20],
        &one.id[..20],
    ] {
        assert_eq!(store.resolve(name).unwrap().id, one.id, "{name}");
    }
    let error = store.resolve("busibox").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(message(&error).contains("similar: busybox:latest"), "{error}");
    assert_eq!(store.resolve("sha256:abc").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.resolve("no\u{1b}pe").unwrap_err().kind(), Kind::Name);
    let used = |id: &str| (id == one.id).then(|| "default/demo".to_string());
    let error = store.remove("busybox", &used).unwrap_err();
    assert_eq!(error.kind(), Kind::InUse);
    assert!(message(&error).contains("in use by pod default/demo"), "{error}");
    // A second name may go while a pod runs.
    store
        .load(
            &Layout::simple("second", &[Tar::new().file("base", "b").bytes(), Tar::new().file("1", "1").bytes()])
                .tar(&scratch, "3"),
        )
        .unwrap();
    let removed = store.remove("second", &used).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["second:latest".to_string()], false));
    let removed = store.remove("busybox", &unused).unwrap();
    assert_eq!((removed.deleted, removed.layers), (true, 1));
    assert!(two.layers.iter().all(|l| l.is_dir()), "the shared layer stays");
    let removed = store.remove(&two.id, &unused).unwrap();
    assert_eq!((removed.untagged, removed.layers), (vec!["two:2".to_string()], 2));
    assert!(fs::read_dir(scratch.path("root/images/configs")).unwrap().next().is_none());
    assert_eq!(store.remove("two:2", &unused).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_name_moves_to_the_newer_image() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let old =
        store.load(&Layout::simple("app", &[Tar::new().file("v", "1").bytes()]).tar(&scratch, "1")).unwrap().remove(0);
    let new = store
        .load(&Layout::simple("docker.io/library/app:latest", &[Tar::new().file("v", "2").bytes()]).tar(&scratch, "2"))
        .unwrap()
        .remove(0);
    assert_eq!(store.resolve("app").unwrap().id, new.id);
    assert!(store.resolve(&old.id).unwrap().names.is_empty());
    assert!(store.remove(&old.id, &unused).unwrap().deleted);
}

#[test]
fn a_mount_inside_a_layer_is_never_emptied() {
    let scratch = Scratch::new();
    let root = unpacked(&scratch, Tar::new().dir("a").dir("a/mnt").file("a/f", ""));
    let precious = scratch.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let output = child(
        "remove_under_a_mount",
        &[("TREE", &root.join("a/mnt")), ("SOURCE", &precious), ("ROOT", &scratch.root())],
    )
    .wait_with_output()
    .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("REFUSED") && said.contains("(EBUSY)"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(precious.join("file")).unwrap(), b"x");
    // Without the mount, the next change cleans up.
    scratch.store().import(&scratch.write("t.tar", &Tar::new().file("x", "").bytes()), "u").unwrap();
    assert_eq!(fs::read_dir(scratch.path("root/images/layers")).unwrap().count(), 1);
}

#[test]
fn a_damaged_list_is_an_error_and_never_swept() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let image =
        store.load(&Layout::simple("a", &[Tar::new().file("v", "1").bytes()]).tar(&scratch, "1")).unwrap().remove(0);
    let list = scratch.path("root/images/images.json");
    let good = fs::read(&list).unwrap();
    for bad in [&b"{"[..], b"{\"version\":2,\"images\":\"other\"}", b""] {
        fs::write(&list, bad).unwrap();
        assert_eq!(store.list().unwrap_err().kind(), Kind::Store);
        assert_eq!(store.load(&scratch.path("1")).unwrap_err().kind(), Kind::Store);
        assert!(image.layers[0].is_dir());
    }
    fs::write(&list, good).unwrap();
    assert_eq!(store.resolve("a").unwrap(), image);
    let config = scratch.path("root/images/configs").join(format!("{}.json", &image.id[7..]));
    fs::write(&config, "{}").unwrap();
    let error = store.resolve("a").unwrap_err();
    assert!(message(&error).contains("load the image again"), "{error}");
    store.load(&scratch.path("1")).unwrap();
    assert_eq!(store.resolve("a").unwrap(), image_with_time(&image, &store));
}

fn image_with_time(image: &husk::image::Image, store: &Store) -> husk::image::Image {
    husk::image::Image { loaded: store.list().unwrap()[0].loaded, ..image.clone() }
}

#[test]
fn loads_at_the_same_time_all_succeed() {
    let scratch = Scratch::new();
    let base = Tar::new().file("base", &"b".repeat(100_000)).bytes();
    let files: Vec<PathBuf> = (0..6)
        .map(|n| {
            Layout::simple(
                &format!("image{}", n / 2),
                &[base.clone(), Tar::new().file("n", &(n / 2).to_string()).bytes()],
            )
            .tar(&scratch, &n.to_string())
        })
        .collect();
    std::thread::scope(|scope| {
        for file in &files {
            let store = scratch.store();
            scope.spawn(move || store.load(file).unwrap());
        }
    });
    let images = scratch.store().list().unwrap();
    assert_eq!(images.len(), 3);
    for image in images {
        assert_eq!(fs::read_to_string(image.layers[0].join("n")).unwrap(), image.names[0][5..6]);
        assert_eq!(fs::metadata(image.layers[1].join("base")).unwrap().len(), 100_000);
    }
    assert_eq!(fs::read_dir(scratch.path("root/images/layers")).unwrap().count(), 4);
}

#[test]
fn what_is_held_is_not_removed() {
    let scratch = Scratch::new();
    let store = scratch.store();
    assert!(store.hold().unwrap().is_none());
    store.load(&Layout::simple("a", &[Tar::new().file("v", "1").bytes()]).tar(&scratch, "1")).unwrap();
    let held = store.hold().unwrap().unwrap();
    let image = store.resolve("a").unwrap();
    let remover = std::thread::spawn({
        let store = store.clone();
        move || store.remove("a", &unused).unwrap()
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(image.layers[0].join("v").exists());
    drop(held);
    assert!(remover.join().unwrap().deleted);
    assert!(!image.layers[0].exists());
}

#[test]
fn a_load_that_is_killed_leaves_a_store_that_works() {
    let scratch = Scratch::new();
    let store = scratch.store();
    store.load(&Layout::simple("before", &[Tar::new().file("v", "1").bytes()]).tar(&scratch, "1")).unwrap();
    let before = scratch.listing();
    let pipe = scratch.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut child = child("import_from_a_pipe", &[("FILE", &pipe), ("ROOT", &scratch.root())]);
    let rootfs = Tar::new().file("first", &"1".repeat(200_000)).file("second", "2").bytes();
    let mut to = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    to.write_all(&rootfs[..150_000]).unwrap();
    let layers = scratch.path("root/images/layers");
    let deadline = Instant::now() + Duration::from_secs(20);
    let half = || {
        fs::read_dir(&layers)
            .unwrap()
            .flatten()
            .any(|e| e.path().join("first").metadata().is_ok_and(|m| m.len() > 50_000))
    };
    while !half() {
        assert!(Instant::now() < deadline, "the child has not begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    drop(to);
    assert!(scratch.listing().keys().any(|p| p.to_string_lossy().contains(".tmp-")));
    assert_eq!(store.list().unwrap().len(), 1);
    // The next change sweeps what the dead one left.
    store.import(&scratch.write("r.tar", &rootfs), "after").unwrap();
    store.remove("after", &unused).unwrap();
    let after = scratch.listing();
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    let scratch = Scratch::new();
    let big = Tar::new().file("a", "small").file("big", &"x".repeat(3 << 20)).bytes();
    let image = Layout::simple("big", std::slice::from_ref(&big)).tar(&scratch, "big.tar");
    let rootfs = scratch.write("rootfs.tar", &big);
    let zipped = scratch.write("big.tgz", &gzip(&archive(&Layout::simple("raw", &[Tar::new().bytes(), big]).finish())));
    let place = scratch.path("small");
    fs::create_dir(&place).unwrap();
    let output =
        child("load_on_a_small_disk", &[("ROOT", &place), ("FILE", &image), ("ROOTFS", &rootfs), ("ZIPPED", &zipped)])
            .wait_with_output()
            .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("DONE"), "{said} {}", String::from_utf8_lossy(&output.stderr));
}

// ---- looking into images ----

/// The head of an ELF file for a machine.
fn elf(machine: u16) -> Vec<u8> {
    let mut head = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    head.extend(machine.to_le_bytes());
    head.resize(64, 0);
    head
}

#[test]
fn commands_are_found_as_the_container_would() {
    let scratch = Scratch::new();
    let here = if HOST_ARCHITECTURE == "arm64" { 183 } else { 62 };
    let other = if HOST_ARCHITECTURE == "arm64" { 62 } else { 183 };
    let tar = Tar::new()
        .dir("bin")
        .mode("bin/sh", 0o755, &elf(here))
        .mode("bin/foreign", 0o755, &elf(other))
        .mode("bin/script", 0o755, b"#!/bin/sh -e\n")
        .mode("bin/orphan", 0o755, b"#!/bin/python\n")
        .mode("bin/plain", 0o644, &elf(here))
        .dir("srv/dir")
        .mode("srv/tool", 0o700, b"anything")
        .symlink("usr", "/")
        .symlink("bin/host", "/usr/bin/../bin/sh")
        .symlink("bin/out", "/etc/../../../../../bin/bash")
        .raw(Tar::header(EntryType::Fifo, "bin/pipe", ""), b"")
        .device(EntryType::Char, "bin/zero", 1, 5);
    let view = View::open(&[unpacked(&scratch, tar)]).unwrap();
    let find = |argv0: &str, cwd: &str, path: &str| {
        view.find_executable(argv0, cwd, path).map_err(|e| {
            message(&e);
            e.command_fault().cloned().unwrap()
        })
    };
    assert_eq!(find("sh", "/", "/nope:/bin").unwrap(), "/bin/sh");
    assert_eq!(find("sh", "/", "/usr/bin").unwrap(), "/usr/bin/sh");
    assert_eq!(find("/bin/script", "/", "").unwrap(), "/bin/script");
    assert_eq!(find("./tool", "/srv", "/bin").unwrap(), "/srv/./tool");
    assert_eq!(find("tool", "/srv", "/bin:").unwrap(), "/srv/tool");
    assert_eq!(find("host", "/", "/bin").unwrap(), "/bin/host");
    for absent in ["bash", "out", "/bin/bash", "", "no\0", "/", "/bin/", "../../../../bin/bash"] {
        assert!(find(absent, "/srv", "/bin").is_err(), "{absent:?}");
    }
    assert_eq!(find("out", "/", "/bin").unwrap_err(), CommandFault::NotFound);
    for unfit in ["plain", "pipe", "zero"] {
        assert_eq!(
            find(unfit, "/", "/bin").unwrap_err(),
            CommandFault::NotExecutable { path: format!("/bin/{unfit}") }
        );
    }
    assert!(matches!(find("/srv/dir", "/", "").unwrap_err(), CommandFault::NotExecutable { .. }));
    assert_eq!(
        find("foreign", "/", "/bin").unwrap_err(),
        CommandFault::WrongArchitecture { path: "/bin/foreign".into(), machine: other }
    );
    assert!(matches!(find("orphan", "/", "/bin").unwrap_err(), CommandFault::NoInterpreter { .. }));
}

#[test]
fn users_are_those_of_the_image_and_links_in_it_stay_inside() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .dir("etc")
        .file("real", "root:x:0:0::/:\nweb:x:33:34::/:\n")
        .symlink("etc/passwd", "../../../../../../../real")
        .file("etc/group", "extra:x:50:web\n");
    let root = unpacked(&scratch, tar);
    let view = View::open(std::slice::from_ref(&root)).unwrap();
    let user = view.resolve_user("web").unwrap();
    assert_eq!((user.uid, user.gid, user.groups, user.name_was_numeric), (33, 34, vec![50], false));
    // On the host there is one; in the image there is not.
    assert_eq!(view.resolve_user("daemon").unwrap_err().kind(), Kind::User);
    assert_eq!(view.resolve_user("4294967296").unwrap_err().kind(), Kind::User);
    assert!(view.read_file("/etc/passwd", 5).is_err(), "bounded");
    assert!(view.read_file("/etc", 500).is_err(), "a directory is no file");
    // Nothing of it is attached.
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(scratch.0.to_str().unwrap()));
    assert!(View::open(&[]).is_err());
}

// ---- processes of our own, for what must not happen in this one ----

fn child(test: &str, variables: &[(&str, &Path)]) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("process::{test}"), "--ignored", "--nocapture", "--test-threads=1"]);
    command.envs(variables.iter().map(|(name, value)| (format!("HUSK_IMAGE_{name}"), value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Started by the tests above, in a process of their own; without its variables each does nothing.
mod process {
    use super::*;
    use nix::mount::{MsFlags, mount};

    fn variable(name: &str) -> Option<PathBuf> {
        std::env::var_os(format!("HUSK_IMAGE_{name}")).map(PathBuf::from)
    }

    fn own_mounts() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    }

    #[test]
    #[ignore = "started by a_load_that_is_killed_leaves_a_store_that_works"]
    fn import_from_a_pipe() {
        let (Some(root), Some(file)) = (variable("ROOT"), variable("FILE")) else { return };
        Store::open(&root).unwrap().import(&file, "never").unwrap();
    }

    #[test]
    #[ignore = "started by a_mount_inside_a_layer_is_never_emptied"]
    fn remove_under_a_mount() {
        let (Some(root), Some(tree), Some(source)) = (variable("ROOT"), variable("TREE"), variable("SOURCE")) else {
            return;
        };
        own_mounts();
        mount(Some(&source), &tree, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        match Store::open(&root).unwrap().remove("t", &unused) {
            Ok(_) => println!("REMOVED"),
            Err(e) => println!("REFUSED {e}"),
        }
    }

    #[test]
    #[ignore = "started by a_full_disk_is_a_clear_error_and_leaves_nothing"]
    fn load_on_a_small_disk() {
        let (Some(root), Some(file), Some(rootfs), Some(zipped)) =
            (variable("ROOT"), variable("FILE"), variable("ROOTFS"), variable("ZIPPED"))
        else {
            return;
        };
        own_mounts();
        mount(Some("small"), &root, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        let store = Store::open(&root).unwrap();
        let small = root.join("../small.tar");
        fs::write(&small, Tar::new().file("v", "1").bytes()).unwrap();
        store.import(&small, "small").unwrap();
        let before = listing(&root);
        for error in
            [store.load(&file).unwrap_err(), store.import(&rootfs, "r").unwrap_err(), store.load(&zipped).unwrap_err()]
        {
            let text = message(&error);
            assert_eq!(error.kind(), Kind::Io);
            assert!(text.contains("(ENOSPC)"), "{text}");
            assert_eq!(listing(&root), before);
        }
        assert_eq!(store.list().unwrap().len(), 1);
        println!("DONE");
    }
}
