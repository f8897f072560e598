//! Which devices the processes of a cgroup may make and open.
//!
//! * This file has the rules, and the words in which v1 reads and writes them.
//! * `program` makes a BPF program of them, for v2.
//! * `apply` gives them to a cgroup.
//!
//! Both kinds of kernel answer alike: an access is allowed when one single rule allows all of it (`open(2)` for reading and writing is one
//! access). So rules for the same devices are one rule here, as v1 has it.

mod apply;
mod program;

pub(super) use apply::{v1, v2};
pub use program::NAME as PROGRAM_NAME;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The two kinds of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

/// What may be done with a device: never nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permissions(u8);

impl Permissions {
    /// Make a node of it; v1's `m`.
    pub const MKNOD: Permissions = Permissions(1);
    /// Open it for reading; v1's `r`.
    pub const READ: Permissions = Permissions(2);
    /// Open it for writing; v1's `w`.
    pub const WRITE: Permissions = Permissions(4);
    /// All of it.
    pub const ALL: Permissions = Permissions(7);

    /// As the kernel has them: `BPF_DEVCG_ACC_*`.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Permissions) -> Permissions {
        Permissions(self.0 | other.0)
    }

    /// What is left without `other`; `None` when that is nothing.
    fn without(self, other: Permissions) -> Option<Permissions> {
        Some(Permissions(self.0 & !other.0)).filter(|p| p.0 != 0)
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(Permissions::READ, "r"), (Permissions::WRITE, "w"), (Permissions::MKNOD, "m")];
        letters.iter().filter(|(bit, _)| self.0 & bit.0 != 0).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// Each of `r`, `w` and `m` at most once, and at least one.
impl FromStr for Permissions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bits = 0;
        for letter in text.chars() {
            let bit = match letter {
                'r' => Permissions::READ.0,
                'w' => Permissions::WRITE.0,
                'm' => Permissions::MKNOD.0,
                _ => return Err(format!("{text:?}: {letter:?} is none of r, w and m")),
            };
            if bits & bit != 0 {
                return Err(format!("{text:?}: {letter} stands there twice"));
            }
            bits |= bit;
        }
        if bits == 0 { Err("is empty; must be one or more of r, w and m".into()) } else { Ok(Permissions(bits)) }
    }
}

/// Allows something with some devices. Written as v1 has it: `c 1:3 rwm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceRule {
    /// Which kind.
    pub kind: DeviceKind,
    /// `None`: every one.
    pub major: Option<u32>,
    /// `None`: every one.
    pub minor: Option<u32>,
    /// What is allowed.
    pub permissions: Permissions,
}

impl DeviceRule {
    const fn char(major: Option<u32>, minor: Option<u32>, permissions: Permissions) -> DeviceRule {
        DeviceRule { kind: DeviceKind::Char, major, minor, permissions }
    }

    fn is_about(&self, other: &DeviceRule) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let kind = match self.kind {
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.permissions)
    }
}

impl FromStr for DeviceRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no device rule; one looks like \"c 1:3 rwm\"");
        let mut words = text.split(' ');
        let (Some(kind), Some(numbers), Some(letters), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(wrong());
        };
        let kind = match kind {
            "c" => DeviceKind::Char,
            "b" => DeviceKind::Block,
            _ => return Err(wrong()),
        };
        let number = |word: &str| match word {
            "*" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| wrong()),
        };
        let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
        Ok(DeviceRule { kind, major: number(major)?, minor: number(minor)?, permissions: letters.parse()? })
    }
}

impl TryFrom<String> for DeviceRule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceRule> for String {
    fn from(rule: DeviceRule) -> String {
        rule.to_string()
    }
}

/// All that is allowed; what no rule allows is not. At most one rule for the same devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<DeviceRule>", into = "Vec<DeviceRule>")]
pub struct DeviceRules(Vec<DeviceRule>);

/// What every container may do: open the devices that are in every `/dev`, terminals, and its console; and make any node, which does not open
/// it (whether it may make nodes at all is for CAP_MKNOD). The list of runc and containerd.
const DEFAULT: [DeviceRule; 11] = [
    DeviceRule::char(Some(1), Some(3), Permissions::ALL),
    DeviceRule::char(Some(1), Some(5), Permissions::ALL),
    DeviceRule::char(Some(1), Some(7), Permissions::ALL),
    DeviceRule::char(Some(1), Some(8), Permissions::ALL),
    DeviceRule::char(Some(1), Some(9), Permissions::ALL),
    DeviceRule::char(Some(5), Some(0), Permissions::ALL),
    DeviceRule::char(Some(5), Some(1), Permissions::ALL),
    DeviceRule::char(Some(5), Some(2), Permissions::ALL),
    DeviceRule::char(Some(136), None, Permissions::ALL),
    DeviceRule::char(None, None, Permissions::MKNOD),
    DeviceRule { kind: DeviceKind::Block, major: None, minor: None, permissions: Permissions::MKNOD },
];

impl DeviceRules {
    /// What a container may do that asks for nothing.
    pub fn container() -> DeviceRules {
        DeviceRules(DEFAULT.to_vec())
    }

    /// The rules, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &DeviceRule> {
        self.0.iter()
    }

    /// Allows one thing more.
    pub fn allow(&mut self, rule: DeviceRule) {
        match self.0.iter_mut().find(|known| known.is_about(&rule)) {
            Some(known) => known.permissions = known.permissions.and(rule.permissions),
            None => self.0.push(rule),
        }
    }

    /// What these rules allow and `other` does not, rule by rule.
    fn beyond(&self, other: &DeviceRules) -> Vec<DeviceRule> {
        let rest = |rule: &DeviceRule| match other.0.iter().find(|known| known.is_about(rule)) {
            Some(known) => {
                rule.permissions.without(known.permissions).map(|permissions| DeviceRule { permissions, ..*rule })
            }
            None => Some(*rule),
        };
        self.0.iter().filter_map(rest).collect()
    }

    /// The content of v1's `devices.list`; `None` when everything is allowed.
    ///
    /// # Errors
    /// The line that is no rule.
    fn from_list(text: &str) -> Result<Option<DeviceRules>, String> {
        if text.starts_with('a') {
            return Ok(None);
        }
        text.lines().map(str::parse).collect::<Result<_, _>>().map(Some)
    }
}

impl FromIterator<DeviceRule> for DeviceRules {
    fn from_iter<T: IntoIterator<Item = DeviceRule>>(rules: T) -> DeviceRules {
        let mut all = DeviceRules::default();
        rules.into_iter().for_each(|rule| all.allow(rule));
        all
    }
}

impl From<Vec<DeviceRule>> for DeviceRules {
    fn from(rules: Vec<DeviceRule>) -> DeviceRules {
        rules.into_iter().collect()
    }
}

impl From<DeviceRules> for Vec<DeviceRule> {
    fn from(rules: DeviceRules) -> Vec<DeviceRule> {
        rules.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> DeviceRules {
        lines.iter().map(|line| line.parse::<DeviceRule>().unwrap()).collect()
    }

    #[test]
    fn a_rule_is_written_as_the_kernel_reads_it() {
        for line in ["c 1:3 rwm", "b *:* m", "c 136:* rw", "b 7:0 r", "c *:4 wm"] {
            assert_eq!(line.parse::<DeviceRule>().unwrap().to_string(), line);
        }
        for bad in
            ["", "a *:* rwm", "c 1:3", "c 1:3 ", "c 1 rwm", "c 1:x r", "c -1:3 r", "c 1:3 rr", "c 1:3 rx", "c 1:3 r "]
        {
            assert!(bad.parse::<DeviceRule>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_default_list_has_each_device_once_and_none_of_the_hosts() {
        let all = DeviceRules::container();
        assert_eq!(all.iter().copied().collect::<DeviceRules>(), all);
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert!(lines.contains(&"c 1:3 rwm".to_owned()) && lines.contains(&"c *:* m".to_owned()));
        assert!(!lines.iter().any(|line| line.contains("10:200")), "tun is not for everybody");
    }

    #[test]
    fn rules_for_the_same_devices_are_one() {
        assert_eq!(rules(&["c 1:3 r", "c 1:* r", "c 1:3 w"]), rules(&["c 1:3 rw", "c 1:* r"]));
        let mut all = DeviceRules::container();
        all.allow("c 1:3 r".parse().unwrap());
        assert_eq!(all, DeviceRules::container());
    }

    #[test]
    fn a_record_has_rules_in_words() {
        let json = serde_json::to_string(&rules(&["c 1:3 rw", "b *:* m"])).unwrap();
        assert_eq!(json, r#"["c 1:3 rw","b *:* m"]"#);
        assert_eq!(serde_json::from_str::<DeviceRules>(&json).unwrap(), rules(&["c 1:3 rw", "b *:* m"]));
        assert!(serde_json::from_str::<DeviceRules>(r#"["c 1:3 x"]"#).is_err());
    }

    #[test]
    fn the_kernels_list_is_read() {
        assert_eq!(DeviceRules::from_list("a *:* rwm\n"), Ok(None));
        assert_eq!(DeviceRules::from_list(""), Ok(Some(DeviceRules::default())));
        assert_eq!(DeviceRules::from_list("c *:* m\nb 7:0 rw\n"), Ok(Some(rules(&["c *:* m", "b 7:0 rw"]))));
        assert!(DeviceRules::from_list("what?\n").is_err());
    }

    #[test]
    fn the_difference_is_what_has_to_be_written() {
        let (old, new) = (rules(&["c 1:3 rwm", "b 7:0 r"]), rules(&["c 1:3 rw", "c 10:1 r"]));
        assert_eq!(new.beyond(&old), rules(&["c 10:1 r"]).0);
        assert_eq!(old.beyond(&new), rules(&["c 1:3 m", "b 7:0 r"]).0);
        assert!(old.beyond(&old).is_empty());
    }
}
