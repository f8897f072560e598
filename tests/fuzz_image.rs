//! A few seconds of broken images, the same ones in every run: whatever a stranger's archive says, nothing panics, nothing outside the layer
//! changes, and the store stays usable. Needs root. (`fuzz/` holds the same ideas for libFuzzer.)

use husk::image::tarball::{Reader, Stream};
use husk::image::unpack::unpack;
use husk::image::{Name, Store, View, parse_signal};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tar::EntryType;

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.roll() % n.max(1) as u64) as usize
    }
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Removed at the end, also of a failing test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("husk-fuzz-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn budget() -> Instant {
    Instant::now() + Duration::from_secs(3)
}

/// Everything below a directory that must not change.
fn seen(top: &Path) -> BTreeMap<PathBuf, (u32, u32, i64, Vec<u8>)> {
    let mut out = BTreeMap::new();
    let mut todo = vec![top.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        out.insert(path, (meta.mode(), meta.uid(), meta.mtime(), content));
    }
    out
}

/// An archive of valid headers with names chosen to meet each other.
fn odd_archive(dice: &mut Dice, host: &str) -> Vec<u8> {
    let climbing = format!("{}{host}", "../".repeat(15));
    let names = [
        "a",
        "b",
        "a/b",
        "a/b/c",
        "b/a",
        "./a",
        "/a",
        "a/",
        "a//b",
        ".",
        "",
        "../a",
        "a/../b",
        host,
        &climbing,
        ".wh.a",
        "a/.wh.b",
        "a/.wh..wh..opq",
        ".wh..wh..opq",
        ".wh.",
        ".wh...",
        ".wh.a/b",
        ".wh..wh.plnk",
        "a/file",
        "b/file",
    ];
    let links = ["a", "b", "..", "../..", "/", ".", host, &climbing, "a/b", "/a", "file", "/proc/self/root", "a/file"];
    let kinds = [
        EntryType::Regular,
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::GNUSparse,
        EntryType::Continuous,
    ];
    let mut builder = tar::Builder::new(Vec::new());
    for _ in 0..dice.below(24) {
        let kind = *dice.pick(&kinds);
        let mut header = tar::Header::new_gnu();
        let (name, link) = (dice.pick(&names).as_bytes(), dice.pick(&links).as_bytes());
        let (name, link) = (&name[..name.len().min(100)], &link[..link.len().min(100)]);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(*dice.pick(&[0o644, 0o4755, 0o1777, 0, 0o7777]));
        header.set_uid(*dice.pick(&[0, 1, 1000, 2_147_483_647]));
        header.set_gid(0);
        header.set_mtime(*dice.pick(&[0, 1, 4_000_000_000, 1 << 40]));
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(*dice.pick(&[0, 1, 8])).unwrap();
            header.set_device_minor(*dice.pick(&[0, 3, 5])).unwrap();
        }
        let data = vec![b'x'; if kind == EntryType::Regular { dice.below(1500) } else { 0 }];
        if dice.below(6) == 0 {
            let records: [(&str, &[u8]); 4] = [
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.x", b""),
                ("path", name),
                ("mtime", b"-5.5"),
            ];
            builder
                .append_pax_extensions(records.into_iter().take(1 + dice.below(4)).filter(|(_, v)| !v.is_empty()))
                .unwrap();
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, &data[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Some bytes changed, cut, doubled; with the headers' sums made right again half of the time, so that the change gets further.
fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 => bytes[at] = dice.roll() as u8,
            2 => bytes[at] ^= 1 << dice.below(8),
            3 => {
                let block: Vec<u8> = bytes[at / 512 * 512..].iter().take(512).copied().collect();
                bytes.extend(block);
            }
            4 => bytes[at..].iter_mut().take(12).for_each(|b| *b = 0xff),
            _ => {
                let digits = dice.pick(&["77777777777\0", "-1\0", "00000000000\0", "99999999999\0"]).as_bytes();
                bytes[at..].iter_mut().zip(digits).for_each(|(b, d)| *b = *d);
            }
        }
    }
    if dice.below(2) == 0 {
        for block in bytes.chunks_exact_mut(512).filter(|b| b.iter().any(|x| *x != 0)) {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

#[test]
fn no_layer_reaches_out_of_its_root() {
    let scratch = Scratch::new("layer");
    let host = scratch.0.join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "untouched").unwrap();
    let before = seen(&host);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let end = budget();
    let (mut accepted, mut rounds) = (0, 0);
    while Instant::now() < end {
        let mut bytes = odd_archive(&mut dice, host.to_str().unwrap());
        if dice.below(2) == 0 {
            mutate(&mut dice, &mut bytes);
        }
        let below = scratch.0.join("below");
        fs::create_dir_all(below.join("a/b")).unwrap();
        let layer = scratch.0.join("layer");
        fs::create_dir(&layer).unwrap();
        let open = |path: &Path| OwnedFd::from(fs::File::open(path).unwrap());
        let lower = if dice.below(2) == 0 { vec![open(&below)] } else { Vec::new() };
        match unpack(&mut Reader::new(Stream(&bytes[..]), false), open(&layer).as_fd(), &lower) {
            Ok(_) => accepted += 1,
            Err(e) => assert!(e.to_string().chars().all(|c| !c.is_control()), "{e:?}"),
        }
        assert_eq!(seen(&host), before, "changed by {bytes:?}");
        if rounds % 16 == 0 {
            // Whatever came out of it can be looked into.
            let view = View::open(&[layer.clone(), below.clone()]).unwrap();
            let _ = view.find_executable("file", "/a", "/b:a");
            let _ = view.resolve_user("a");
        }
        fs::remove_dir_all(&layer).unwrap();
        rounds += 1;
    }
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2);
    assert!(
        accepted > 0 && accepted < rounds,
        "{accepted} of {rounds} were accepted: the archives are too odd or too tame"
    );
}

#[test]
fn no_file_breaks_the_store() {
    let scratch = Scratch::new("store");
    let store = Store::open(&scratch.0.join("root")).unwrap();
    let file = scratch.0.join("file");
    let archive = |files: &[(&str, Vec<u8>)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let zeros = "0".repeat(64);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{zeros}","size":2,
        "platform":{{"architecture":"amd64","os":"linux"}},"annotations":{{"org.opencontainers.image.ref.name":"a/b:1"}}}}]}}"#
    );
    let docker = format!(r#"[{{"Config":"{zeros}.json","RepoTags":["a:1"],"Layers":["l/layer.tar"]}}]"#);
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"StopSignal":"TERM"},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let seeds = [
        archive(&[("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()), ("index.json", index.into_bytes())]),
        archive(&[("manifest.json", docker.into_bytes()), ("c.json", config.into()), ("l/layer.tar", vec![0; 1024])]),
        archive(&[
            ("manifest.json", br#"[{"Config":"c.json","RepoTags":[],"Layers":[]}]"#.to_vec()),
            ("c.json", config.into()),
        ]),
    ];
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let end = budget();
    while Instant::now() < end {
        let mut bytes = dice.pick(&seeds).clone();
        mutate(&mut dice, &mut bytes);
        fs::write(&file, &bytes).unwrap();
        match store.load(&file) {
            Ok(images) => assert!(!images.is_empty()),
            Err(e) => assert!(e.to_string().chars().all(|c| !c.is_control()), "{e:?}"),
        }
        assert!(store.list().unwrap().is_empty());
    }
}

#[test]
fn an_accepted_name_reads_back_as_itself() {
    let pieces = [
        "a",
        "b.c",
        "A",
        ":",
        "/",
        "@",
        "sha256:",
        "latest",
        "localhost",
        ":5000",
        "..",
        "_",
        "__",
        "-",
        ".",
        "\u{1b}",
        "é",
        " ",
        "0",
        "docker.io/",
    ];
    let mut dice = Dice(7);
    let mut accepted = 0;
    for _ in 0..50_000 {
        let text: String = (0..dice.below(7)).map(|_| *dice.pick(&pieces)).collect();
        if let Ok(name) = Name::parse(&text) {
            accepted += 1;
            let shown = name.display();
            let again = Name::parse(&shown).unwrap_or_else(|e| panic!("{text:?}: {e}"));
            assert!(name.same(&again) && again.display() == shown, "{text:?}");
            assert!(shown.bytes().all(|b| b.is_ascii_graphic()));
        }
        if let Some(signal) = parse_signal(&text) {
            assert!((1..=64).contains(&signal), "{text:?}");
        }
    }
    assert!(accepted > 100);
}
