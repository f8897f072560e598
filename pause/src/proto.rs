//! Messages between keeper and supervisor: one fixed-size record a `SOCK_SEQPACKET` packet.
//!
//! | from       | message  | key         | a     | b      | fd  | answer                                                       |
//! |------------|----------|-------------|-------|--------|-----|--------------------------------------------------------------|
//! | supervisor | `Hello`  |             |       |        |     | `Done`, key = [`VERSION`], b = supervisors before this one   |
//! | supervisor | `Put`    | slot        |       |        | yes | `Done`, a = 0, `ENOSPC` or `EBADF` (no fd came)              |
//! | supervisor | `Get`    | slot        |       |        |     | `Fd` with the fd, or `Done`, a = `ENOENT`                    |
//! | supervisor | `Drop`   | slot        |       |        |     | `Done`, a = 0 or `ENOENT`                                    |
//! | supervisor | `List`   | lowest slot |       |        |     | `Item`, key = next used slot >= key, or `Done`, a = `ENOENT` |
//! | supervisor | `Reap`   |             | pid   |        |     | `Done`, key = pid, a = 0, `EAGAIN` (it lives) or `ECHILD`    |
//! | supervisor | `Signal` | slot        | signo |        | yes | `Done`, a = 0 or errno                                       |
//! | supervisor | `Quit`   |             |       |        |     | none: keeper exits 0, and with it the pod                    |
//! | keeper     | `Exited` | `si_code`   | pid   | status |     | `Reap`, once the record is synced                            |
//!
//! Requests are answered in order; an answer repeats the slot. Slots are numbered from 1. `Put` replaces. Who puts another executable into
//! [`SLOT_EXE`] and exits is followed by a supervisor of it at once.
//! `Exited` comes unasked, one at a time: the next zombie is announced after the last one was reaped, and the current one is
//! announced again to a supervisor that was started again. Every dead child of keeper is announced, orphans of the pod included.
//!
//! `Signal` comes with a pidfd, sends the signal and keeps the pidfd in the slot. When the slot is used it does nothing but answer 0: whoever asks
//! again, not knowing whether its predecessor has asked, does not send the signal twice.
//!
//! Anything else (a short or long packet, an unknown kind, slot 0, a pid below 1 or the supervisor's own, an fd where none belongs,
//! more than one fd, `Drop` of [`SLOT_EXE`]) is answered with `Done`, a = `EINVAL`; every fd that came is closed.
//!
//! keeper reads a request only when the answer to the last one is in the socket. A client that sends many before it reads must
//! send without blocking, and read when the socket is full.

/// Version of this protocol, answered to [`Kind::Hello`].
pub const VERSION: u64 = 1;

/// How many descriptors keeper can hold, the executable included.
pub const SLOTS: usize = 320;

/// The fd on which a supervisor finds its socket to keeper.
pub const SUPERVISOR_FD: i32 = 3;

/// keeper's own fds at its start: the locked pod directory and the husk executable (`O_PATH`, kept under [`SLOT_EXE`]).
pub const KEEPER_LOCK_FD: i32 = 3;
/// See [`KEEPER_LOCK_FD`].
pub const KEEPER_EXE_FD: i32 = 4;
/// What the first supervisor alone gets, under the same numbers, begins here. Each may be closed. This one is the socket to whoever started
/// keeper, on which the supervisor says that the pod runs.
pub const KEEPER_READY_FD: i32 = 5;
/// The socket of a pause that was cloned before keeper was executed, as its child, and is setting itself up.
pub const KEEPER_REPORT_FD: i32 = 6;
/// The pidfd of that pause.
pub const KEEPER_PAUSE_FD: i32 = 7;
/// Whatever keeper was started with from here on is closed.
pub const FIRST_FREE_FD: usize = 8;

/// The slot that holds the executable of the next supervisor.
pub const SLOT_EXE: u64 = 1;

/// What a message asks or says. Append, never renumber.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Which protocol is spoken?
    Hello = 1,
    /// Keep this fd under `key`.
    Put = 2,
    /// Give me a copy of the fd under `key`.
    Get = 3,
    /// Close the fd under `key`; one that was got stays open.
    Drop = 4,
    /// Which is the first used slot from `key` on?
    List = 5,
    /// The exit of `a` is on disk: reap it.
    Reap = 6,
    /// The pod is over.
    Quit = 7,
    /// Send signal `a` to the process of this pidfd, unless that was done under `key` before.
    Signal = 8,
    /// The answer to everything that returns no fd; `a` is an errno or 0.
    Done = 32,
    /// The answer to [`Kind::Get`].
    Fd = 33,
    /// The answer to [`Kind::List`].
    Item = 34,
    /// A child is dead and kept as a zombie.
    Exited = 35,
}

/// One packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msg {
    /// A [`Kind`] as a number; decoded with [`Kind::from_u32`], never cast.
    pub kind: u32,
    /// pid or errno.
    pub a: i32,
    /// `si_status` of an exit.
    pub b: i32,
    /// Zero.
    pub pad: i32,
    /// Slot, version or `si_code`.
    pub key: u64,
}

impl Msg {
    /// Bytes of a packet.
    pub const BYTES: usize = 24;

    /// A request, or an answer without details.
    pub const fn new(kind: Kind, key: u64) -> Msg {
        Msg { kind: kind as u32, a: 0, b: 0, pad: 0, key }
    }

    /// The packet, in the machine's byte order.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut packet = [0; Self::BYTES];
        packet[0..4].copy_from_slice(&self.kind.to_ne_bytes());
        packet[4..8].copy_from_slice(&self.a.to_ne_bytes());
        packet[8..12].copy_from_slice(&self.b.to_ne_bytes());
        packet[12..16].copy_from_slice(&self.pad.to_ne_bytes());
        packet[16..24].copy_from_slice(&self.key.to_ne_bytes());
        packet
    }

    /// The message in a packet of exactly the right length.
    pub fn from_bytes(packet: &[u8; Self::BYTES]) -> Msg {
        let word = |at: usize| [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
        let (low, high) = (word(16), word(20));
        Msg {
            kind: u32::from_ne_bytes(word(0)),
            a: i32::from_ne_bytes(word(4)),
            b: i32::from_ne_bytes(word(8)),
            pad: i32::from_ne_bytes(word(12)),
            key: u64::from_ne_bytes([low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]),
        }
    }
}

const _: () = assert!(size_of::<Msg>() == Msg::BYTES);

impl Kind {
    /// Decodes a number off the wire; `None` for one that no version of this table knows.
    pub const fn from_u32(n: u32) -> Option<Kind> {
        Some(match n {
            1 => Kind::Hello,
            2 => Kind::Put,
            3 => Kind::Get,
            4 => Kind::Drop,
            5 => Kind::List,
            6 => Kind::Reap,
            7 => Kind::Quit,
            8 => Kind::Signal,
            32 => Kind::Done,
            33 => Kind::Fd,
            34 => Kind::Item,
            35 => Kind::Exited,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_holds_a_message_whole() {
        let message = Msg { kind: 35, a: -7, b: i32::MAX, pad: 0, key: 0x0123_4567_89ab_cdef };
        assert_eq!(Msg::from_bytes(&message.to_bytes()), message);
    }

    #[test]
    fn every_kind_is_decoded_to_itself_and_nothing_else_is() {
        let known: [u32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 32, 33, 34, 35];
        for n in 0..1000 {
            assert_eq!(Kind::from_u32(n).map(|k| k as u32), known.contains(&n).then_some(n));
        }
        assert_eq!(Kind::from_u32(u32::MAX), None);
    }
}
