//! The log writer as a process that is killed, fed fast, and left without room.

use husk::supervisor::log::{ContainerLog, FILE_LIMIT, FILES, Pumped, Staging, Stream};
use husk_oci::sys;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

struct Tmp(PathBuf);

impl Tmp {
    fn new(name: &str) -> Tmp {
        let dir = std::env::temp_dir().join(format!("husk-logtest-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Tmp(dir)
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The output as the container wrote it, out of all files of instance 0, in order, per stream.
fn output(dir: &Path) -> [Vec<u8>; 2] {
    let mut out = [Vec::new(), Vec::new()];
    let mut files: Vec<PathBuf> = (1..FILES).rev().map(|n| dir.join(format!("0.log.{n}"))).collect();
    files.retain(|f| f.exists());
    files.push(dir.join("0.log"));
    for file in files {
        for line in std::fs::read(&file).unwrap().split_inclusive(|b| *b == b'\n') {
            let words: Vec<&[u8]> = line[..line.len() - 1].splitn(4, |b| *b == b' ').collect();
            assert!(words.len() == 4 && words[0].len() == 30, "{:?}: {:?}", file, String::from_utf8_lossy(line));
            let to = match words[1] {
                b"stdout" => &mut out[0],
                b"stderr" => &mut out[1],
                other => panic!("{other:?}"),
            };
            to.extend(words[3]);
            if words[2] == b"F" {
                to.push(b'\n');
            }
        }
    }
    out
}

fn pump_all(staging: &mut Staging, log: &mut ContainerLog, pipes: &[(Stream, BorrowedFd<'_>)]) {
    let mut open = pipes.to_vec();
    while !open.is_empty() {
        open.retain(|(stream, pipe)| log.pump(staging, *stream, *pipe).unwrap() != Pumped::Eof);
    }
}

/// Not a test of its own: what `kills_at_random_instants_leave_an_exact_log` starts and kills.
#[test]
fn a_writer_to_be_killed() {
    let Ok(spec) = std::env::var("HUSK_TEST_LOG_WRITER") else { return };
    let mut words = spec.split(' ');
    let dir = words.next().unwrap();
    let fds: Vec<OwnedFd> = words.map(|n| sys::fd::inherit(n.parse().unwrap()).unwrap()).collect();
    let [b_out, b_in, journal, out, err]: [OwnedFd; 5] = fds.try_into().unwrap();
    let mut staging = Staging::from_fds(b_out, b_in, journal).unwrap();
    staging.recover().unwrap();
    // Small files, so that rotations are killed too.
    let mut log = ContainerLog::with_limit(Path::new(dir), 0, 450_000).unwrap();
    pump_all(&mut staging, &mut log, &[(Stream::Stdout, out.as_fd()), (Stream::Stderr, err.as_fd())]);
}

#[test]
fn kills_at_random_instants_leave_an_exact_log() {
    if std::env::var_os("HUSK_TEST_LOG_WRITER").is_some() {
        return;
    }
    let tmp = Tmp::new("kills");
    let (out, into_out) = sys::fd::pipe(false).unwrap();
    let (err, into_err) = sys::fd::pipe(false).unwrap();
    let staging = Staging::new().unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = |pipe: OwnedFd, name: &'static str| {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut pipe = File::from(pipe);
            let mut n = 0u64;
            // Rotation keeps five files, so the test ends before the sixth would be begun.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) && n < 12_000 {
                let mut text = format!("{name} {n}{}", if n.is_multiple_of(7) { "" } else { "\n" });
                if n.is_multiple_of(1000) {
                    text += &"y".repeat(20_000);
                }
                pipe.write_all(text.as_bytes()).unwrap();
                n += 1;
                if n.is_multiple_of(60) {
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
            n
        })
    };
    let (w1, w2) = (writer(into_out, "out"), writer(into_err, "err"));
    let shared = [staging.fds()[0], staging.fds()[1], staging.fds()[2], out.as_fd(), err.as_fd()];
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    for _ in 0..200 {
        let spec = shared.iter().fold(tmp.0.display().to_string(), |s, fd| format!("{s} {}", fd.as_raw_fd()));
        shared.iter().for_each(|fd| sys::fd::set_cloexec(*fd, false).unwrap());
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_writer_to_be_killed", "--quiet"])
            .env("HUSK_TEST_LOG_WRITER", spec)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        shared.iter().for_each(|fd| sys::fd::set_cloexec(*fd, true).unwrap());
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        std::thread::sleep(Duration::from_micros(1500 + seed % 6000));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let [b_out, b_in, journal] = staging.fds().map(|fd| fd.try_clone_to_owned().unwrap());
    drop(staging);
    let mut staging = Staging::from_fds(b_out, b_in, journal).unwrap();
    staging.recover().unwrap();
    let mut log = ContainerLog::with_limit(&tmp.0, 0, 450_000).unwrap();
    pump_all(&mut staging, &mut log, &[(Stream::Stdout, out.as_fd()), (Stream::Stderr, err.as_fd())]);
    let expected = |name: &str, count: u64| -> Vec<u8> {
        let line = |n| {
            format!(
                "{name} {n}{}{}",
                if n % 7 == 0 { "" } else { "\n" },
                if n % 1000 == 0 { "y".repeat(20_000) } else { String::new() }
            )
        };
        (0..count).flat_map(|n| line(n).into_bytes()).collect()
    };
    let (n1, n2) = (w1.join().unwrap(), w2.join().unwrap());
    assert!(n1 > 1000, "the writer wrote next to nothing: {n1}");
    let [got1, got2] = output(&tmp.0);
    assert!(
        got1 == expected("out", n1),
        "stdout differs after {} of {} bytes",
        same(&got1, &expected("out", n1)),
        got1.len()
    );
    assert!(
        got2 == expected("err", n2),
        "stderr differs after {} of {} bytes",
        same(&got2, &expected("err", n2)),
        got2.len()
    );
}

fn same(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[test]
fn thirty_megabytes_of_anything_are_kept_whole() {
    let tmp = Tmp::new("bulk");
    let (out, into) = sys::fd::pipe(false).unwrap();
    let mut sent = Vec::new();
    let mut seed = 88_172_645_463_325_252u64;
    while sent.len() < 30_000_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        sent.extend(seed.to_le_bytes());
        // Every now and then a long run without a newline.
        if seed.is_multiple_of(4000) {
            sent.extend(std::iter::repeat_n(b'z', 50_000));
        }
    }
    let copy = sent.clone();
    let writer = std::thread::spawn(move || File::from(into).write_all(&copy).unwrap());
    let mut staging = Staging::new().unwrap();
    let mut log = ContainerLog::open(&tmp.0, 0).unwrap();
    let begin = Instant::now();
    pump_all(&mut staging, &mut log, &[(Stream::Stdout, out.as_fd())]);
    let took = begin.elapsed();
    writer.join().unwrap();
    eprintln!("{} MB/s", sent.len() as f64 / 1e6 / took.as_secs_f64());
    assert!(output(&tmp.0)[0] == sent);
    for entry in std::fs::read_dir(&tmp.0).unwrap() {
        assert!(entry.unwrap().metadata().unwrap().len() <= FILE_LIMIT);
    }
}

#[test]
fn a_full_disk_keeps_the_bytes_until_there_is_room() {
    let tmp = Tmp::new("full");
    let dir = tmp.0.clone();
    // A thread with a mount namespace of its own: the small disk goes when the thread ends.
    std::thread::spawn(move || {
        sys::process::unshare(sys::process::ns::MOUNT).unwrap();
        sys::mount::set_propagation(c"/", sys::mount::Propagation::Private, true).unwrap();
        let at = std::ffi::CString::new(dir.to_str().unwrap()).unwrap();
        sys::mount::mount_at(c"disk", &at, c"tmpfs", 0, Some(c"size=64k")).unwrap();
        let (out, into) = sys::fd::pipe(false).unwrap();
        let sent: Vec<u8> = (0..6000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || File::from(into).write_all(&copy).unwrap());
        let mut staging = Staging::new().unwrap();
        let mut log = ContainerLog::open(&dir, 0).unwrap();
        std::fs::write(dir.join("ballast"), [0; 30_000]).unwrap();
        writer.join().unwrap();
        let error = loop {
            match log.pump(&mut staging, Stream::Stdout, out.as_fd()) {
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert!(log.pump(&mut staging, Stream::Stdout, out.as_fd()).is_err());
        sys::mount::mount_at(c"disk", &at, c"tmpfs", libc::MS_REMOUNT, Some(c"size=10m")).unwrap();
        while log.pump(&mut staging, Stream::Stdout, out.as_fd()).unwrap() != Pumped::Eof {}
        assert!(output(&dir)[0] == sent);
    })
    .join()
    .unwrap();
}

#[test]
fn output_of_a_terminal_is_logged_and_its_end_is_seen() {
    let tmp = Tmp::new("tty");
    let pty = nix::pty::openpty(None, None).unwrap();
    sys::fd::set_nonblocking(pty.master.as_fd(), true).unwrap();
    let mut staging = Staging::new().unwrap();
    let mut log = ContainerLog::open(&tmp.0, 0).unwrap();
    assert_eq!(log.pump(&mut staging, Stream::Stdout, pty.master.as_fd()).unwrap(), Pumped::WouldBlock);
    let mut slave = File::from(pty.slave);
    slave.write_all(b"hello\n").unwrap();
    assert_eq!(log.pump(&mut staging, Stream::Stdout, pty.master.as_fd()).unwrap(), Pumped::More);
    drop(slave);
    while log.pump(&mut staging, Stream::Stdout, pty.master.as_fd()).unwrap() != Pumped::Eof {}
    let mut text = String::new();
    File::open(log.path()).unwrap().read_to_string(&mut text).unwrap();
    assert!(text.ends_with(" stdout F hello\r\n"), "{text}");
}
