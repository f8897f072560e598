//! `husk cp`: files between a container and the host.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use clap::Args;

use super::{Context, Error, names};
use crate::runtime::copy::archive::{Packer, unpack};
use crate::runtime::copy::place::Root;
use crate::runtime::copy::read::Walk;
use crate::runtime::copy::write::{Owner, Writer};
use crate::state::record::ContainerKind;

/// Copy files between a container and the host.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  husk cp demo:/etc/nginx ./nginx\n  husk cp index.html demo:/srv/ -c server\n  \
    husk cp demo:/var/log - | tar tf -\n\n\
    A directory that is there takes the copy under its own name; DIR/. means what is in DIR. Nothing in the\n\
    container is executed. Links inside a tree are copied as links; devices, pipes and sockets are left out")]
pub struct Cp {
    /// POD:PATH, a path of the host, or - for a tar archive on standard input
    from: OsString,
    /// POD:PATH, a path of the host, or - for a tar archive on standard output
    to: OsString,
    /// The container; without it, the first one
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Keep owners, by number, and set-id bits; else copies belong to the container's user, or to root on the host
    #[arg(short, long)]
    preserve: bool,
}

/// One side.
enum Side {
    Container(String, Vec<u8>),
    Host(Vec<u8>),
    Archive,
}

/// `POD:PATH` has its colon before any slash, but for that of `pod/NAME`.
fn side(word: &OsString) -> Result<Side, Error> {
    let bytes = word.as_bytes();
    if bytes == b"-" {
        return Ok(Side::Archive);
    }
    if bytes.is_empty() {
        return Err(Error::usage("an empty path; the current directory is ."));
    }
    let colon = bytes.iter().position(|b| *b == b':').filter(|at| !matches!(bytes[0], b'/' | b'.') && *at > 0);
    match colon.and_then(|at| Some((std::str::from_utf8(&bytes[..at]).ok()?, &bytes[at + 1..]))) {
        Some((pod, _)) if pod.contains('/') && !pod.starts_with("pod") => Ok(Side::Host(bytes.to_vec())),
        Some((pod, path)) => Ok(Side::Container(names::name(pod).map_err(Error::usage)?, path.to_vec())),
        None => Ok(Side::Host(bytes.to_vec())),
    }
}

/// Standard output, which remembers that nobody reads it any more.
struct Output<'a> {
    closed: &'a Cell<bool>,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        nix::unistd::write(std::io::stdout(), bytes).map_err(|e| {
            self.closed.set(self.closed.get() || e == nix::errno::Errno::EPIPE);
            e.into()
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Cp {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let mut warn = |sentence: String| super::out::say(format_args!("cp: {sentence}"));
        match (side(&self.from)?, side(&self.to)?) {
            (Side::Container(pod, path), to @ (Side::Host(_) | Side::Archive)) => {
                let (root, _) = self.root(context, &pod)?;
                let failed = |e: crate::runtime::Error| Error::failed(format!("pod {pod}: cp: {e}"));
                let (found, name) = root.source(&path).map_err(failed)?;
                if let Side::Host(to) = to {
                    let (dir, name) = Root::host().target(&to, name.as_deref()).map_err(failed)?;
                    let mut writer =
                        Writer::new(dir, self.owner(nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
                    return Walk::new(&mut writer, &mut warn).copy(found.as_fd(), name.as_deref()).map_err(failed);
                }
                let closed = Cell::new(false);
                let mut packer = Packer::new(BufWriter::with_capacity(64 << 10, Output { closed: &closed }));
                let packed = Walk::new(&mut packer, &mut warn).copy(found.as_fd(), name.as_deref());
                let packed = packed.and_then(|()| packer.finish());
                if closed.get() { Err(Error::ClosedOutput) } else { packed.map_err(failed) }
            }
            (from @ (Side::Host(_) | Side::Archive), Side::Container(pod, path)) => {
                let (root, (uid, gid)) = self.root(context, &pod)?;
                let failed = |e: crate::runtime::Error| Error::failed(format!("pod {pod}: cp: {e}"));
                let owner = self.owner(uid, gid);
                let Side::Host(from) = from else {
                    let (dir, name) = root.target(&path, None).map_err(failed)?;
                    if name.is_some() {
                        let shown = String::from_utf8_lossy(&path).into_owned();
                        return Err(Error::failed(format!("pod {pod}: cp: {shown}: there is no such directory")));
                    }
                    return unpack(std::io::stdin().lock(), &dir, owner, &mut warn).map_err(failed);
                };
                let (found, name) = Root::host().source(&from).map_err(failed)?;
                let (dir, name) = root.target(&path, name.as_deref()).map_err(failed)?;
                let mut writer = Writer::new(dir, owner);
                Walk::new(&mut writer, &mut warn).copy(found.as_fd(), name.as_deref()).map_err(failed)
            }
            (Side::Container(..), Side::Container(..)) => Err(Error::usage(
                "from one container to another: copy by way of the host, or pipe one husk cp into another",
            )),
            _ => Err(Error::usage("one of the two must be POD:PATH")),
        }
    }

    fn owner(&self, uid: u32, gid: u32) -> Owner {
        if self.preserve { Owner::Kept } else { Owner::Given { uid, gid } }
    }

    /// The container's root, and its user.
    fn root(&self, context: &Context, pod: &str) -> Result<(Root, (u32, u32)), Error> {
        let entry = context.find(pod)?;
        let failed = |what: String| Error::failed(format!("pod {pod}: cp: {what}"));
        let containers = &entry.record.containers;
        let index = match &self.container {
            Some(name) => containers.iter().position(|c| c.name == *name),
            None => containers.iter().position(|c| c.kind == ContainerKind::App),
        };
        let names = || containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        let index = index.ok_or_else(|| {
            failed(format!("there is no container {:?}; it has {}", self.container.as_deref().unwrap_or(""), names()))
        })?;
        let root = Root::of_container(&context.roots, &entry, index).map_err(|e| failed(e.to_string()))?;
        let user = &containers[index].user;
        Ok((root, (user.uid, user.gid)))
    }
}
