//! The wire between a child and its parent: one `SOCK_SEQPACKET` pair, one fixed-size message a packet.
//!
//! ```text
//!  child                                            parent
//!    | Warning(item, errno, value)*                   |   a step was done in a lesser way
//!    | Terminal + master fd                           |   at most once, only with a terminal
//!    | Warning*                                       |
//!    | Created                                        |   everything but exec is done
//!    |                          byte on `start` <-----|   (its own pipe: the parent may be another process by then)
//!    | end of file                                    |   exec worked, or the child was killed: the pidfd tells
//!
//!  at any time instead:
//!    | Failed(item, part, errno), end of file         |   the child is about to exit
//!    | end of file before Created                     |   the child was killed
//! ```
//!
//! The child sends numbers; the parent has the plan and makes the sentence. Numbers are decoded, never cast.

/// Wire format: append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Step `item` was refused with `errno` and done in a lesser way; `value` is what it became.
    Warning {
        item: u16,
        errno: i32,
        value: i64,
    },
    /// Step `item` failed at `part`.
    Failed {
        item: u16,
        part: u16,
        errno: i32,
    },
    Terminal,
    Created,
}

/// Bytes of a message.
pub(crate) const LEN: usize = 24;

impl Message {
    pub(crate) fn encode(self) -> [u8; LEN] {
        let (kind, item, part, errno, value) = match self {
            Message::Warning { item, errno, value } => (1u16, item, 0, errno, value),
            Message::Failed { item, part, errno } => (2, item, part, errno, 0),
            Message::Terminal => (3, 0, 0, 0, 0),
            Message::Created => (4, 0, 0, 0, 0),
        };
        let mut out = [0; LEN];
        out[0..2].copy_from_slice(&kind.to_ne_bytes());
        out[2..4].copy_from_slice(&item.to_ne_bytes());
        out[4..6].copy_from_slice(&part.to_ne_bytes());
        out[8..12].copy_from_slice(&errno.to_ne_bytes());
        out[16..24].copy_from_slice(&value.to_ne_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Message> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let (item, part) = (short(2), short(4));
        let errno = i32::from_ne_bytes(bytes[8..12].try_into().ok()?);
        let value = i64::from_ne_bytes(bytes[16..24].try_into().ok()?);
        Some(match short(0) {
            1 => Message::Warning { item, errno, value },
            2 => Message::Failed { item, part, errno },
            3 => Message::Terminal,
            4 => Message::Created,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_wire() {
        for m in [
            Message::Warning { item: 7, errno: 13, value: -998 },
            Message::Failed { item: 65535, part: 3, errno: 2 },
            Message::Terminal,
            Message::Created,
        ] {
            assert_eq!(Message::decode(&m.encode()), Some(m));
        }
    }

    #[test]
    fn what_is_no_message_is_not_decoded() {
        assert_eq!(Message::decode(&[]), None);
        assert_eq!(Message::decode(&[0; LEN]), None);
        assert_eq!(Message::decode(&[1; LEN + 1]), None);
    }
}
