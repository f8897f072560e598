//! Images made on the spot: OCI layouts in a tar, from Debian's static busybox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image to be written as an archive.
pub struct Image {
    name: String,
    architecture: String,
    config: Value,
    layers: Vec<Vec<u8>>,
}

impl Image {
    /// An image of this machine's architecture without a layer.
    pub fn new(name: &str) -> Image {
        Image { name: name.to_owned(), architecture: architecture().to_owned(), config: json!({}), layers: Vec::new() }
    }

    /// An image on top of busybox.
    pub fn on_busybox(name: &str) -> Image {
        Image::new(name).layer(busybox_layer().to_vec())
    }

    /// Sets a field of `config`: `Entrypoint`, `Cmd`, `Env`, `User`, `WorkingDir`, `StopSignal`.
    pub fn set(mut self, field: &str, value: Value) -> Image {
        self.config[field] = value;
        self
    }

    /// Claims another architecture.
    pub fn architecture(mut self, name: &str) -> Image {
        self.architecture = name.to_owned();
        self
    }

    /// Adds an uncompressed layer.
    pub fn layer(mut self, tar: Vec<u8>) -> Image {
        self.layers.push(tar);
        self
    }

    /// The OCI layout as a tar.
    pub fn to_tar(&self) -> Vec<u8> {
        let mut archive = Archive::default();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        let mut blob = |media: &str, bytes: &[u8]| {
            let digest = hex(&Sha256::digest(bytes));
            archive.file(&format!("blobs/sha256/{digest}"), 0o644, bytes);
            json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len()})
        };
        let layers: Vec<Value> =
            self.layers.iter().map(|layer| blob("application/vnd.oci.image.layer.v1.tar", layer)).collect();
        let config = json!({
            "architecture": self.architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| layer["digest"].clone()).collect::<Vec<_>>()},
        });
        let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers});
        let mut manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        manifest["annotations"] =
            json!({"org.opencontainers.image.ref.name": self.name, "io.containerd.image.name": self.name});
        archive.file("index.json", 0o644, json!({"schemaVersion": 2, "manifests": [manifest]}).to_string().as_bytes());
        archive.finish()
    }

    /// Writes the archive to `path`.
    pub fn write(&self, path: &Path) -> PathBuf {
        fs::write(path, self.to_tar()).expect("write an image archive");
        path.to_owned()
    }
}

/// A tar in the making.
pub struct Archive(tar::Builder<Vec<u8>>);

impl Default for Archive {
    fn default() -> Archive {
        Archive(tar::Builder::new(Vec::new()))
    }
}

impl Archive {
    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        let mut header = Archive::header(tar::EntryType::Regular, mode, bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes).expect("append to memory");
    }

    /// Adds a directory.
    pub fn dir(&mut self, path: &str, mode: u32) {
        let mut header = Archive::header(tar::EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, path, std::io::empty()).expect("append to memory");
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let mut header = Archive::header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target).expect("append to memory");
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("finish in memory")
    }
}

/// GOARCH of this machine.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Path of an archive of [`super::BUSYBOX`], made once a machine.
pub fn busybox() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = dir.join("busybox-image.tar");
        let draft = dir.join(format!("busybox-image.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        Image::on_busybox(super::BUSYBOX)
            .set("Cmd", json!(["/bin/sh"]))
            .set("Env", json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]))
            .write(&draft);
        fs::rename(&draft, &path).expect("put the image archive in its place");
        path
    })
    .clone()
}

/// What tests call in a container. A link for each of the nearly three hundred applets is what takes longest in loading an image, and every test loads one.
const APPLETS: &str = "[ awk base64 cat chmod chown chroot cmp cp cut date dd df diff dirname du echo env expr fallocate false find fold grep gzip \
    head hostname httpd id ip kill ln ls mkdir mkfifo mknod mktemp mount mv nc nproc pidof ping printf ps pwd readlink realpath rm rmdir route sed seq \
    setpriv setsid sh sha256sum sleep sort stat stty sync sysctl tail tar tee test timeout top touch tr true truncate tty umount uname uniq unlink \
    unshare usleep wc wget which whoami xargs yes";

/// A root file system with busybox, links for [`APPLETS`], two users and the usual directories.
pub fn busybox_layer() -> &'static [u8] {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| {
        let path = find_busybox();
        let mut tar = Archive::default();
        for dir in ["bin", "etc", "proc", "sys", "dev", "root", "home", "home/user", "var", "usr", "usr/bin", "srv"] {
            tar.dir(dir, 0o755);
        }
        tar.dir("tmp", 0o1777);
        tar.file("bin/busybox", 0o755, &fs::read(&path).expect("read busybox"));
        for applet in APPLETS.split(' ').filter(|word| !word.is_empty()) {
            tar.link(&format!("bin/{applet}"), "busybox");
        }
        tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001:user:/home/user:/bin/sh\n");
        tar.file("etc/group", 0o644, b"root:x:0:\nuser:x:1001:\nextra:x:2002:user\n");
        tar.file("etc/data", 0o644, b"not a program\n");
        tar.file("etc/garbage", 0o755, b"\x7fELF but nothing else");
        tar.finish()
    })
}

/// Finds a static busybox, installing Debian's package when there is none.
pub fn find_busybox() -> PathBuf {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    if let Some(path) = places.iter().find(|path| path.is_file()) {
        return path.clone();
    }
    let status =
        Command::new("apt-get").args(["install", "-y", "-q", "busybox-static"]).status().expect("start apt-get");
    assert!(status.success(), "apt-get install busybox-static: {status}");
    places.into_iter().find(|path| path.is_file()).expect("busybox-static brings busybox")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
