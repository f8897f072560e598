//! A terminal out of the container's own devpts. The slave is taken through the master (`TIOCGPTPEER`), never by a path that somebody in the
//! container could have swapped.

use super::place::{self, Kind};
use super::{Done, During, Fault, Init};
use crate::handshake::Message;
use crate::plan::{Part, Target};
use crate::sys::{Errno, fd, mount, path, term};
use std::os::fd::AsFd;

impl Init<'_> {
    pub(super) fn terminal(&mut self, rows: u16, cols: u16, uid: u32, console: Option<&Target>) -> Done {
        let root = self.held.root()?;
        let found;
        let devpts = match &self.held.pts {
            Some(fd) => fd.as_fd(),
            None => {
                let how = path::How {
                    flags: (libc::O_PATH | libc::O_DIRECTORY) as u64,
                    mode: 0,
                    resolve: path::resolve::IN_ROOT | path::resolve::NO_SYMLINKS,
                };
                found = path::openat2(root, c"dev/pts", how).during(Part::Find)?;
                found.as_fd()
            }
        };
        if path::fs_magic(devpts).during(Part::Verify)? != libc::DEVPTS_SUPER_MAGIC {
            return Err(Fault(Part::Verify, Errno::EINVAL));
        }
        let master = term::open_master(devpts)?;
        let slave = term::open_peer(master.as_fd())?;
        term::set_size(master.as_fd(), rows, cols).during(Part::Attributes)?;
        // The group stays what the devpts says (5, tty).
        path::fchown(slave.as_fd(), uid, u32::MAX).during(Part::Owner)?;
        for number in 0..3 {
            fd::place(slave.as_fd(), number)?;
        }
        term::set_controlling(slave.as_fd())?;
        if let Some(target) = console {
            let place = place::find_or_make(root, target, || Ok(Kind::File))?;
            let copy = mount::clone_tree_fd(slave.as_fd(), false)?;
            mount::attach(copy.as_fd(), place.as_fd())?;
        }
        self.tell(Message::Terminal, &[master.as_fd()])
    }
}
