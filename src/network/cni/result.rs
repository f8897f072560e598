//! What a plugin answers: the addresses of an interface, or an error. Everything in it is a stranger's.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::config::{Object, joined, raw};
use super::error::{Failure, printable};
use super::{Attachment, Version};

/// The most entries that any list of an answer may have.
const LIST_LIMIT: usize = 1024;

/// The answer of a plugin to ADD, checked.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As it was given, for the next plugin, for DEL and for CHECK.
    pub raw: Box<RawValue>,
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parsed {
    cni_version: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "null_is_empty")]
    ips: Vec<Ip>,
    #[serde(default, deserialize_with = "null_is_empty")]
    routes: Vec<Route>,
}

#[derive(Clone, Debug, Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Ip {
    address: Cidr,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    interface: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: Cidr,
    #[serde(default)]
    gw: Option<IpAddr>,
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address, host part included.
    pub address: IpAddr,
    /// Bits.
    pub prefix: u8,
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Cidr, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || {
            serde::de::Error::custom(format!(
                "\"{}\" is no address with a prefix length",
                printable(text.as_bytes(), 64)
            ))
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let digits = prefix.len() <= 3 && !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > widest { Err(wrong()) } else { Ok(Cidr { address, prefix }) }
    }
}

/// Go programs print a list without entries as `null`.
fn null_is_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Option::<Vec<T>>::deserialize(from)?.unwrap_or_default();
    if list.len() > LIST_LIMIT {
        return Err(serde::de::Error::custom(format!("{} entries, more than {LIST_LIMIT}", list.len())));
    }
    Ok(list)
}

fn wrong(field: impl Into<String>, what: impl AsRef<str>) -> Failure {
    Failure::Answer { field: field.into(), what: printable(what.as_ref().as_bytes(), 200) }
}

fn typed<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, Failure> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        wrong(printable(if path == "." { "" } else { &path }.as_bytes(), 100), e.inner().to_string())
    })?;
    json.end().map_err(|e| wrong("", e.to_string()))?;
    Ok(value)
}

impl Answer {
    /// Reads what a plugin has printed for ADD of a configuration of `version`.
    ///
    /// # Errors
    /// It is not what the specification says.
    pub fn parse(bytes: &[u8], version: Version) -> Result<Answer, Failure> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(wrong("", "it printed nothing"));
        }
        let parsed: Parsed = typed(bytes)?;
        let mut whole: Object = typed(bytes)?;
        match parsed.cni_version.as_deref() {
            Some(found) if found == version.name() => {}
            // Older plugins leave it out.
            None | Some("") => drop(whole.insert("cniVersion".into(), raw(&version.name().into()))),
            Some(found) => {
                let found = printable(found.as_bytes(), 32);
                return Err(wrong("cniVersion", format!("\"{found}\", the network has \"{}\"", version.name())));
            }
        }
        for (index, ip) in parsed.ips.iter().enumerate() {
            let at = |name: &str| format!("ips[{index}].{name}");
            // -1 stands for "none" in old plugins.
            if ip.interface.is_some_and(|n| n < -1 || n >= parsed.interfaces.len() as i64) {
                return Err(wrong(at("interface"), "there is no such interface in the answer"));
            }
            if ip.gateway.is_some_and(|gateway| gateway.is_ipv4() != ip.address.address.is_ipv4()) {
                return Err(wrong(at("gateway"), "is of another family than the address"));
            }
        }
        for (index, route) in parsed.routes.iter().enumerate() {
            if route.gw.is_some_and(|gw| gw.is_ipv4() != route.dst.address.is_ipv4()) {
                return Err(wrong(format!("routes[{index}].gw"), "is of another family than the destination"));
            }
        }
        let raw = RawValue::from_string(joined(&whole)).map_err(|e| wrong("", e.to_string()))?;
        Ok(Answer { raw, interfaces: parsed.interfaces, ips: parsed.ips })
    }

    /// The addresses of the pod: at most one of each family, the first of each in the answer's order. Those of host interfaces and of the pod's loopback are none.
    ///
    /// # Errors
    /// An address that no pod can have.
    pub fn addresses(&self, at: &Attachment) -> Result<Vec<IpAddr>, Failure> {
        let mut found: Vec<IpAddr> = Vec::new();
        for (index, ip) in self.ips.iter().enumerate() {
            let interface = ip.interface.and_then(|n| self.interfaces.get(usize::try_from(n).ok()?));
            let of_the_pod = match interface {
                Some(interface) => !interface.sandbox.is_empty() && interface.name == at.interface,
                // Who says nothing means the interface that was asked for.
                None => true,
            };
            if !of_the_pod {
                continue;
            }
            let address = ip.address.address;
            if let Some(why) = unusable(address) {
                return Err(wrong(
                    format!("ips[{index}].address"),
                    format!("{address} is {why}, which no pod can have"),
                ));
            }
            if !found.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
                found.push(address);
            }
        }
        Ok(found)
    }
}

fn unusable(address: IpAddr) -> Option<&'static str> {
    Some(match address {
        a if a.is_unspecified() => "the unspecified address",
        a if a.is_loopback() => "a loopback address",
        a if a.is_multicast() => "a multicast address",
        IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 notation",
        _ => return None,
    })
}

/// What a plugin printed that ended with an error, if it is an error of the specification.
pub fn parse_error(bytes: &[u8]) -> Option<Failure> {
    #[derive(Deserialize)]
    struct Reported {
        code: u64,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let it: Reported = typed(bytes).ok()?;
    Some(Failure::Reported {
        code: it.code,
        msg: printable(it.msg.as_bytes(), 500),
        details: printable(it.details.as_bytes(), 500),
    })
}

/// The versions that a plugin says it knows.
///
/// # Errors
/// It is not what the specification says.
pub fn parse_versions(bytes: &[u8]) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        supported_versions: Vec<String>,
    }
    let it: Versions = typed(bytes)?;
    Ok(it.supported_versions.iter().take(LIST_LIMIT).map(|v| printable(v.as_bytes(), 32)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Attachment {
        Attachment { interface: "eth0".into(), ..Attachment::default() }
    }

    fn addresses(text: &str) -> Result<Vec<String>, String> {
        let answer = Answer::parse(text.as_bytes(), Version::V1_0_0).map_err(|e| e.to_string())?;
        let found = answer.addresses(&at()).map_err(|e| e.to_string())?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_are_those_of_the_pods_own_interface() {
        let text = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"br"},{"name":"eth0","sandbox":"/n"},{"name":"lo","sandbox":"/n"}],
            "ips":[{"address":"127.0.0.1/8","interface":2},{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.9/24","interface":1},
                   {"address":"fd00::9/64","gateway":"fd00::1","interface":1},{"address":"10.0.0.8/24","interface":1}],"routes":null,"dns":{}}"#;
        assert_eq!(addresses(text).unwrap(), ["10.0.0.9", "fd00::9"]);
        assert_eq!(addresses(r#"{"ips":[{"address":"10.0.0.9/24","interface":-1}]}"#).unwrap(), ["10.0.0.9"]);
        assert_eq!(addresses("{}").unwrap(), [""; 0]);
    }

    #[test]
    fn a_missing_version_is_filled_in_for_the_next_plugin() {
        let answer = Answer::parse(b" {\"ips\":[ ]} ", Version::V0_4_0).unwrap();
        assert_eq!(answer.raw.get(), r#"{"cniVersion":"0.4.0","ips":[ ]}"#);
    }

    #[test]
    fn answers_that_make_no_sense_are_named_by_their_field() {
        for (text, wanted) in [
            ("", "it printed nothing"),
            ("\n", "it printed nothing"),
            ("{", "EOF"),
            ("null", "invalid type"),
            ("{} {}", "trailing"),
            (r#"{"cniVersion":"0.4.0"}"#, "cniVersion: \"0.4.0\", the network has \"1.0.0\""),
            (r#"{"ips":[{"address":"10.0.0.1"}]}"#, "ips[0].address: \"10.0.0.1\" is no address"),
            (r#"{"ips":[{"address":"10.0.0.1/33"}]}"#, "ips[0].address"),
            (r#"{"ips":[{"address":"10.0.0.1/+8"}]}"#, "ips[0].address"),
            (r#"{"ips":[{"address":"fd00::1/129"}]}"#, "ips[0].address"),
            (r#"{"ips":[{"address":"0.0.0.0/0"}]}"#, "ips[0].address: 0.0.0.0 is the unspecified"),
            (r#"{"ips":[{"address":"127.0.0.1/8"}]}"#, "loopback"),
            (r#"{"ips":[{"address":"ff02::1/8"}]}"#, "multicast"),
            (r#"{"ips":[{"address":"255.255.255.255/32"}]}"#, "broadcast"),
            (r#"{"ips":[{"address":"::ffff:10.0.0.1/128"}]}"#, "IPv4 address in IPv6"),
            (r#"{"ips":[{"address":"10.0.0.1/8","interface":0}]}"#, "ips[0].interface"),
            (r#"{"ips":[{"address":"10.0.0.1/8","interface":99999999999999999999}]}"#, "ips[0].interface"),
            (r#"{"ips":[{"address":"10.0.0.1/8","gateway":"::1"}]}"#, "ips[0].gateway"),
            (r#"{"routes":[{"dst":"0.0.0.0/0","gw":"::1"}]}"#, "routes[0].gw"),
            (r#"{"interfaces":[{"name":7}]}"#, "interfaces[0].name"),
        ] {
            let said = addresses(text).expect_err(text);
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }

    #[test]
    fn errors_and_versions_are_read_and_nothing_else_is() {
        let Some(Failure::Reported { code: 11, msg, details }) =
            parse_error(br#"{"code":11,"msg":"a\nb","details":"c"}"#)
        else {
            panic!("an error")
        };
        assert_eq!((msg.as_str(), details.as_str()), ("a b", "c"));
        assert!(parse_error(br#"{"msg":"x"}"#).is_none());
        assert!(parse_error(br#"{"code":-1}"#).is_none());
        assert!(parse_error(b"panic: x").is_none());
        assert_eq!(parse_versions(br#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0"]}"#).unwrap(), ["0.4.0"]);
        assert!(parse_versions(b"{}").is_err());
    }
}
