//! Users and groups by an image's own `/etc/passwd` and `/etc/group`.

use super::error::{Error, printable};

/// Largest id: above it, ids turn negative in somebody's arithmetic.
const MAX_ID: u32 = i32::MAX as u32;

/// Who an image's `USER` is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id, at most 2^31-1.
    pub uid: u32,
    /// Group id, at most 2^31-1.
    pub gid: u32,
    /// Supplementary groups, without `gid`.
    pub groups: Vec<u32>,
    /// Whether the user was given as a number (so that who it is does not depend on the image's files). The empty user is not.
    pub name_was_numeric: bool,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// What a file of the image says, if it is there.
pub(super) type ReadFile<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>, Error> + 'a;

/// Resolves `user` by the image's files.
pub(super) fn resolve(user: &str, read: &ReadFile<'_>) -> Result<User, Error> {
    let fail = |why: String| Error::User { user: user.to_string(), why };
    let bad = |why: &str| Err(fail(why.to_string()));
    let (who, group) = match user.split_once(':') {
        Some((who, group)) => (who, Some(group)),
        None => (user, None),
    };
    if user.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return bad("has a blank or control character");
    }
    if group.is_some_and(|g| g.is_empty() || g.contains(':')) || (who.is_empty() && group.is_some()) {
        return bad("must be user, uid, user:group or uid:gid");
    }
    let passwd = text(read("/etc/passwd")?);
    let entry = if who.is_empty() {
        by_uid(&passwd, 0).or(Some(Passwd { name: "root", uid: 0, gid: 0 }))
    } else if let Some(uid) = id(who).map_err(fail)? {
        by_uid(&passwd, uid).or(Some(Passwd { name: "", uid, gid: 0 }))
    } else {
        by_name(&passwd, who).map_err(fail)?
    };
    let Some(entry) = entry else {
        return Err(fail(format!("there is no {} in the image's /etc/passwd", printable(who.as_bytes()))));
    };
    let name_was_numeric = !who.is_empty() && who.bytes().all(|b| b.is_ascii_digit());
    let groups_file = text(read("/etc/group")?);
    if let Some(group) = group {
        let gid = match id(group).map_err(fail)? {
            Some(gid) => gid,
            None => group_by_name(&groups_file, group).map_err(fail)?.ok_or_else(|| {
                fail(format!("there is no group {} in the image's /etc/group", printable(group.as_bytes())))
            })?,
        };
        return Ok(User { uid: entry.uid, gid, groups: Vec::new(), name_was_numeric });
    }
    let mut groups = memberships(&groups_file, entry.name);
    groups.retain(|g| *g != entry.gid);
    Ok(User { uid: entry.uid, gid: entry.gid, groups, name_was_numeric })
}

/// Lines that are not UTF-8 lose what is not; a name never matches them.
fn text(bytes: Option<Vec<u8>>) -> String {
    bytes.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// A number, when the text is digits only; anything else is a name. Too large a number is neither.
fn id(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(format!("the id {} is outside 0 to {MAX_ID}", printable(text.as_bytes()))),
    }
}

/// An id in a file: digits only, in range.
fn field(text: &str) -> Option<u32> {
    id(text).ok().flatten()
}

fn passwd_line(line: &str) -> Option<(&str, Option<u32>, Option<u32>)> {
    let mut fields = line.split(':');
    let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    (!name.is_empty()).then(|| (name, field(uid), field(gid)))
}

fn by_uid(passwd: &str, wanted: u32) -> Option<Passwd<'_>> {
    passwd.lines().filter_map(passwd_line).find_map(|(name, uid, gid)| match (uid, gid) {
        (Some(uid), Some(gid)) if uid == wanted => Some(Passwd { name, uid, gid }),
        _ => None,
    })
}

/// The first line of that name decides, even when its ids are no ids: falling through to another line, or to 0, would run as somebody else.
fn by_name<'a>(passwd: &'a str, wanted: &str) -> Result<Option<Passwd<'a>>, String> {
    match passwd.lines().filter_map(passwd_line).find(|(name, ..)| *name == wanted) {
        None => Ok(None),
        Some((name, Some(uid), Some(gid))) => Ok(Some(Passwd { name, uid, gid })),
        Some(_) => Err(format!("its line in the image's /etc/passwd has no ids of 0 to {MAX_ID}")),
    }
}

fn group_line(line: &str) -> Option<(&str, Option<u32>, &str)> {
    let mut fields = line.split(':');
    let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
    (!name.is_empty()).then(|| (name, field(gid), fields.next().unwrap_or_default()))
}

fn group_by_name(groups: &str, wanted: &str) -> Result<Option<u32>, String> {
    match groups.lines().filter_map(group_line).find(|(name, ..)| *name == wanted) {
        None => Ok(None),
        Some((_, Some(gid), _)) => Ok(Some(gid)),
        Some(_) => Err(format!("the group's line in the image's /etc/group has no id of 0 to {MAX_ID}")),
    }
}

fn memberships(groups: &str, user: &str) -> Vec<u32> {
    if user.is_empty() {
        return Vec::new();
    }
    let mut out: Vec<u32> = groups
        .lines()
        .filter_map(group_line)
        .filter(|(_, _, members)| members.split(',').any(|m| m == user))
        .filter_map(|(_, gid, _)| gid)
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:\nbad:x:4294967296:0::/:\nempty:x::::\nneg:x:-1:0::/:\n\
                          0x0:x:77:77::/:\nbroken\n\nweb:x:0:0::/:\n";
    const GROUP: &str =
        "root:x:0:root\nwheel:x:10:root,web\nwww:x:34:web\nextra:x:50:web,other\nhuge:x:99999999999:web\n";

    fn who(user: &str) -> Result<User, Error> {
        resolve(user, &|name| Ok(Some(if name == "/etc/passwd" { PASSWD } else { GROUP }.as_bytes().to_vec())))
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let user =
            |uid, gid, groups: &[u32], name_was_numeric| User { uid, gid, groups: groups.to_vec(), name_was_numeric };
        assert_eq!(who("").unwrap(), user(0, 0, &[10], false));
        assert_eq!(who("root").unwrap(), user(0, 0, &[10], false));
        assert_eq!(who("web").unwrap(), user(33, 34, &[10, 50], false));
        assert_eq!(who("33").unwrap(), user(33, 34, &[10, 50], true));
        assert_eq!(who("1234").unwrap(), user(1234, 0, &[], true));
        assert_eq!(who("2147483647:2147483647").unwrap(), user(2147483647, 2147483647, &[], true));
        assert_eq!(who("web:wheel").unwrap(), user(33, 10, &[], false));
        assert_eq!(who("0x0").unwrap().uid, 77);
        let nothing = |_: &str| Ok(None);
        assert_eq!(resolve("", &nothing).unwrap(), user(0, 0, &[], false));
        assert_eq!(resolve("7", &nothing).unwrap(), user(7, 0, &[], true));
    }

    #[test]
    fn what_is_no_user_never_becomes_root() {
        for bad in [
            "4294967296",
            "2147483648",
            "4294967295",
            "18446744073709551616",
            "-1",
            "+0",
            " 0",
            "0 ",
            "0\n",
            "0x1",
            "0:",
            ":0",
            ":",
            "0:0:0",
            "0:-1",
            "0:4294967296",
            "bad",
            "empty",
            "neg",
            "broken",
            "nobody",
            "root:nobody",
            "web:huge",
            "\u{661}",
            "1e3",
        ] {
            let error = who(bad).expect_err(bad);
            assert_eq!(error.kind(), crate::image::Kind::User, "{bad:?}");
            assert!(error.to_string().chars().all(|c| !c.is_control()));
        }
    }
}
