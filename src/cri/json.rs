//! JSON to messages and back, by the rules of proto3's JSON form and a little stricter.
//!
//! Reading accepts field names in camelCase and as they are in the definition, 64-bit integers as strings or numbers, enum values by
//! name or number, `null` for a field that is not set. It refuses fields that there are not, fields and keys that come twice, and says where.
//!
//! Between serde_json and the generated code stands [`Raw`], a deserializer over one JSON value that is still text. It
//! sees a field's value before the generated code does, which knows neither `null` nor what a good complaint is.

use std::cell::Cell;
use std::collections::{BTreeSet, btree_map};

use serde::Serialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde_json::value::RawValue;

/// Most lists and objects within one another in a line. The deepest message has nine.
pub const MAX_DEPTH: usize = 64;

/// Most characters of a complaint: it may quote what it complains of.
const MAX_COMPLAINT: usize = 600;

/// Whether more than [`MAX_DEPTH`] lists and objects are open at once in this text, JSON or not.
pub fn too_deep(text: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// A message out of its JSON form; `null` is an empty one.
///
/// # Errors
/// One sentence that begins with the path of the field, itself beginning with `root`: `params.config.metadata: unknown field "nmae"; …`.
pub fn decode<T: DeserializeOwned + Default>(root: &str, raw: &RawValue) -> Result<T, String> {
    if raw.get() == "null" {
        return Ok(T::default());
    }
    serde_path_to_error::deserialize(Raw { value: raw, number: None }).map_err(|e| {
        let path = e.path().to_string();
        // A name that there is not has no place of its own: the question mark stands for it.
        let place = match path.strip_suffix(".?").unwrap_or(&path) {
            "." | "?" => root.to_owned(),
            path => format!("{root}.{path}"),
        };
        short(&format!("{place}: {}", complaint(e.inner())))
    })
}

/// The JSON form of a message, on one line.
///
/// # Errors
/// An enum field holds a number that the definition does not know.
pub fn encode<T: Serialize>(message: &T) -> Result<Box<RawValue>, String> {
    serde_json::value::to_raw_value(message).map_err(|e| format!("encode the response: {e}"))
}

/// serde_json's words without the place, which counts from the beginning of a value that nobody sees.
pub(super) fn complaint(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    short(text.strip_suffix(&place).unwrap_or(&text))
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_COMPLAINT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// An object's members in the order in which they stand, also when a name comes twice.
pub(super) struct Members<'de>(pub Vec<(String, &'de RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// One JSON value, known to be well-formed.
struct Raw<'de, 'n> {
    value: &'de RawValue,
    /// Set when the value is a number for a field that takes strings, too: whatever then goes wrong is the number's fault.
    number: Option<&'n Cell<bool>>,
}

/// Reads one value with `seed`.
fn read<'de, S: DeserializeSeed<'de>>(value: &'de RawValue, seed: S) -> Read<S::Value> {
    let number = Cell::new(false);
    seed.deserialize(Raw { value, number: Some(&number) }).map_err(|e| match number.get() {
        // The generated code's own complaint speaks of its innards.
        true => serde_json::Error::custom(format!("{} is not a value that this field can have", value.get())),
        false => e,
    })
}

/// What every step of reading gives.
type Read<T> = Result<T, serde_json::Error>;

impl<'de> Raw<'de, '_> {
    /// serde_json's own deserializer, for what it does well.
    fn plain(&self) -> serde_json::Deserializer<serde_json::de::StrRead<'de>> {
        serde_json::Deserializer::from_str(self.value.get())
    }

    fn members(&self) -> Read<Vec<(String, &'de RawValue)>> {
        Ok(serde_json::from_str::<Members<'de>>(self.value.get())?.0)
    }

    fn is_null(&self) -> bool {
        self.value.get() == "null"
    }
}

/// A number as the visitor of an integer wants it: `1.0` and `1e3` are whole numbers, too.
fn visit_number<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Read<V::Value> {
    /// Beyond this not every whole number is a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Ok(number) = text.parse::<u64>() {
        return visitor.visit_u64(number);
    }
    if let Ok(number) = text.parse::<i64>() {
        return visitor.visit_i64(number);
    }
    match text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number that fits")]
        Ok(number) if number.fract() == 0.0 && number.abs() <= EXACT => match u64::try_from(number as i64) {
            Ok(number) => visitor.visit_u64(number),
            Err(_) => visitor.visit_i64(number as i64),
        },
        Ok(number) if number.is_finite() => visitor.visit_f64(number),
        _ => Err(serde_json::Error::custom("beyond what a double can hold")),
    }
}

impl<'de> Deserializer<'de> for Raw<'de, '_> {
    type Error = serde_json::Error;

    /// Only numbers and enum values come this way: the generated code cannot tell beforehand whether a string or a number is coming.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let text = self.value.get();
        let kind = match text.as_bytes().first() {
            Some(b'"') => return self.plain().deserialize_any(visitor),
            Some(b'{') => Unexpected::Map,
            Some(b'[') => Unexpected::Seq,
            Some(b't') => Unexpected::Bool(true),
            Some(b'f') => Unexpected::Bool(false),
            Some(b'n') => Unexpected::Other("null"),
            _ => {
                if let Some(number) = self.number {
                    number.set(true);
                }
                return visit_number(text, visitor);
            }
        };
        Err(serde_json::Error::invalid_type(kind, &"a number or a string"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        visitor.visit_map(Fields { members: self.members()?.into_iter(), fields, value: None })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let members = self.members()?;
        let mut seen = BTreeSet::new();
        if let Some((twice, _)) = members.iter().find(|(key, _)| !seen.insert(key)) {
            return Err(serde_json::Error::custom(format!("key {twice:?} comes twice")));
        }
        let sorted: std::collections::BTreeMap<_, _> = members.into_iter().collect();
        visitor.visit_map(Entries { entries: sorted.into_iter(), value: None })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let items: Vec<&'de RawValue> = serde_json::from_str(self.value.get())?;
        visitor.visit_seq(Items(items.into_iter()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        self.plain().deserialize_bool(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        // Only bytes come this way; text is asked for as a String.
        let result = self.plain().deserialize_str(visitor);
        match self.value.get().as_bytes().first() {
            Some(b'"') => result.map_err(|_| serde_json::Error::custom("not base64")),
            _ => result,
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        self.plain().deserialize_string(visitor)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct
        enum identifier ignored_any
    }
}

/// The fields of a message.
struct Fields<'de> {
    members: std::vec::IntoIter<(String, &'de RawValue)>,
    /// Every name that is accepted.
    fields: &'static [&'static str],
    value: Option<&'de RawValue>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        for (key, value) in self.members.by_ref() {
            if !self.fields.contains(&key.as_str()) {
                return Err(serde_json::Error::custom(unknown(&key, self.fields)));
            }
            if value.get() == "null" {
                // As if it were not there.
                continue;
            }
            self.value = Some(value);
            let key: StrDeserializer<'_, serde_json::Error> = key.as_str().into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Read<V::Value> {
        read(taken(&mut self.value)?, seed)
    }
}

fn unknown(key: &str, fields: &[&str]) -> String {
    let key: String = key.chars().take(64).collect();
    // The names in camelCase are enough: those of the definition stand beside them.
    let names: Vec<&str> = fields.iter().copied().filter(|name| !name.contains('_')).collect();
    match names.as_slice() {
        [] => format!("unknown field {key:?}; this message has no fields"),
        names => format!("unknown field {key:?}; there are {}", names.join(", ")),
    }
}

fn taken<'de>(value: &mut Option<&'de RawValue>) -> Read<&'de RawValue> {
    value.take().ok_or_else(|| serde_json::Error::custom("a value was asked for before its key"))
}

/// The entries of a map, by key.
struct Entries<'de> {
    entries: btree_map::IntoIter<String, &'de RawValue>,
    value: Option<&'de RawValue>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Read<V::Value> {
        read(taken(&mut self.value)?, seed)
    }
}

/// The items of a list.
struct Items<'de>(std::vec::IntoIter<&'de RawValue>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = serde_json::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        self.0.next().map(|item| read(item, seed)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        // No more than the bytes that a client really sent may be allocated at once.
        Some(self.0.len().min(1024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::messages::*;

    fn read<T: DeserializeOwned + Default>(text: &str) -> Result<T, String> {
        decode("params", &RawValue::from_string(text.to_owned()).unwrap())
    }

    #[track_caller]
    fn refused<T: DeserializeOwned + Default + std::fmt::Debug>(text: &str, sentence: &str) {
        assert_eq!(read::<T>(text).unwrap_err(), sentence);
    }

    #[test]
    fn both_spellings_of_a_field_are_one_field() {
        let camel: RunPodSandboxRequest = read(
            r#"{"config": {"metadata": {"name": "a"}, "logDirectory": "/l", "dnsConfig": {"servers": ["::1"]},
                "linux": {"cgroupParent": "/c", "securityContext": {"namespaceOptions": {"pid": "CONTAINER"}}}}}"#,
        )
        .unwrap();
        let snake: RunPodSandboxRequest = read(
            r#"{"config": {"metadata": {"name": "a"}, "log_directory": "/l", "dns_config": {"servers": ["::1"]},
                "linux": {"cgroup_parent": "/c", "security_context": {"namespace_options": {"pid": 1}}}}}"#,
        )
        .unwrap();
        assert_eq!(camel, snake);
        assert_eq!(camel.config.unwrap().log_directory, "/l");
        refused::<StopContainerRequest>(
            r#"{"containerId": "a", "container_id": "a"}"#,
            "params: duplicate field `containerId`",
        );
    }

    #[test]
    fn whole_numbers_come_as_numbers_or_strings() {
        for text in ["9007199254740993", "\"9007199254740993\""] {
            let read: StopContainerRequest = read(&format!(r#"{{"timeout": {text}}}"#)).unwrap();
            assert_eq!(read.timeout, 9_007_199_254_740_993);
        }
        for (text, value) in [("-1", -1), ("\"-1\"", -1), ("1e3", 1000), ("5.0", 5), ("-0", 0), ("null", 0)] {
            assert_eq!(
                read::<StopContainerRequest>(&format!(r#"{{"timeout": {text}}}"#)).unwrap().timeout,
                value,
                "{text}"
            );
        }
        for text in ["5.5", "9223372036854775808", "1e300", "1e400"] {
            refused::<StopContainerRequest>(
                &format!(r#"{{"timeout": {text}}}"#),
                &format!("params.timeout: {text} is not a value that this field can have"),
            );
        }
        refused::<StopContainerRequest>(r#"{"timeout": "x"}"#, "params.timeout: invalid digit found in string");
        refused::<StopContainerRequest>(
            r#"{"timeout": [1]}"#,
            "params.timeout: invalid type: sequence, expected a number or a string",
        );
        refused::<PodSandboxMetadata>(
            r#"{"attempt": -1}"#,
            "params.attempt: -1 is not a value that this field can have",
        );
        let groups: LinuxSandboxSecurityContext =
            read(r#"{"supplementalGroups": [1, "2"], "runAsUser": {"value": "3"}}"#).unwrap();
        assert_eq!((groups.supplemental_groups, groups.run_as_user.unwrap().value), (vec![1, 2], 3));
    }

    #[test]
    fn enum_values_come_by_name_or_number() {
        for text in ["\"SIGNAL_SIGTERM\"", "23"] {
            let config: ContainerConfig = read(&format!(r#"{{"stopSignal": {text}}}"#)).unwrap();
            assert_eq!(config.stop_signal(), Signal::Sigterm);
        }
        refused::<PortMapping>(
            r#"{"protocol": "ICMP"}"#,
            "params.protocol: unknown variant `ICMP`, expected one of `TCP`, `UDP`, `SCTP`",
        );
        refused::<PortMapping>(r#"{"protocol": 7}"#, "params.protocol: 7 is not a value that this field can have");
        refused::<PortMapping>(
            r#"{"protocol": true}"#,
            "params.protocol: invalid type: boolean `true`, expected a number or a string",
        );
    }

    #[test]
    fn bytes_are_base64() {
        for text in ["/+8=", "/+8", "_-8="] {
            assert_eq!(read::<KeyValue>(&format!(r#"{{"value": "{text}"}}"#)).unwrap().value, [0xff, 0xef], "{text}");
        }
        refused::<KeyValue>(r#"{"value": "?"}"#, "params.value: not base64");
        refused::<KeyValue>(r#"{"value": 5}"#, "params.value: invalid type: integer `5`, expected a base64 string");
    }

    #[test]
    fn null_is_a_field_that_is_not_set() {
        let nulls = r#"{"metadata": null, "command": null, "labels": null, "workingDir": null, "tty": null, "stopSignal": null}"#;
        assert_eq!(read::<ContainerConfig>(nulls).unwrap(), ContainerConfig::default());
        assert_eq!(read::<ContainerConfig>("null").unwrap(), ContainerConfig::default());
        refused::<ContainerConfig>(r#"{"comand": null}"#, &read::<ContainerConfig>(r#"{"comand": 1}"#).unwrap_err());
        refused::<ContainerConfig>(
            r#"{"labels": {"a": null}}"#,
            "params.labels.a: invalid type: null, expected a string",
        );
        refused::<ContainerConfig>(
            r#"{"command": [null]}"#,
            "params.command[0]: invalid type: null, expected a string",
        );
    }

    #[test]
    fn unknown_names_and_double_keys_are_refused_by_path() {
        refused::<RunPodSandboxRequest>(
            r#"{"config": {"metadata": {"nmae": "x"}}}"#,
            "params.config.metadata: unknown field \"nmae\"; there are name, uid, namespace, attempt",
        );
        refused::<RunPodSandboxRequest>(r#"{"x": 1}"#, "params: unknown field \"x\"; there are config, runtimeHandler");
        refused::<ImageFsInfoRequest>(r#"{"x": 1}"#, "params: unknown field \"x\"; this message has no fields");
        refused::<CreateContainerRequest>(
            r#"{"config": {"mounts": [{}, {"hostPaht": "/"}]}}"#,
            "params.config.mounts[1]: unknown field \"hostPaht\"; there are containerPath, hostPath, readonly, selinuxRelabel, \
             propagation, uidMappings, gidMappings, recursiveReadOnly, image, imageSubPath, mountOptions",
        );
        refused::<ContainerConfig>(r#"{"labels": {"a": "", "a": ""}}"#, "params.labels: key \"a\" comes twice");
        refused::<ContainerConfig>(
            r#"{"metadata": []}"#,
            "params.metadata: invalid type: sequence, expected an object",
        );
        let long = read::<ContainerConfig>(&format!(r#"{{"tty": "{}"}}"#, "ä".repeat(10_000))).unwrap_err();
        assert!(long.starts_with("params.tty: invalid type: string \"ä") && long.len() < 2 * MAX_COMPLAINT, "{long}");
    }

    #[test]
    fn responses_are_written_in_full_and_read_back_as_themselves() {
        let status = ContainerStatus {
            id: "c".to_owned(),
            state: ContainerState::ContainerCreated.into(),
            created_at: 1_700_000_000_000_000_001,
            labels: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            ..ContainerStatus::default()
        };
        let text = encode(&status).unwrap();
        assert_eq!(
            text.get(),
            r#"{"id":"c","state":"CONTAINER_CREATED","createdAt":"1700000000000000001","startedAt":"0","finishedAt":"0","exitCode":0,"#
                .to_owned()
                + r#""imageRef":"","reason":"","message":"","labels":{"a":"1","b":"2"},"annotations":{},"mounts":[],"logPath":"","#
                + r#""imageId":"","stopSignal":"SIGNAL_RUNTIME_DEFAULT"}"#
        );
        assert_eq!(read::<ContainerStatus>(text.get()).unwrap(), status);
        let stats = PsiData { total: u64::MAX, avg10: 0.5, ..PsiData::default() };
        let text = encode(&stats).unwrap();
        assert_eq!(text.get(), r#"{"Total":"18446744073709551615","Avg10":0.5,"Avg60":0.0,"Avg300":0.0}"#);
        assert_eq!(read::<PsiData>(text.get()).unwrap(), stats);
        assert_eq!(
            read::<PsiData>(r#"{"Avg10": -1e400}"#).unwrap_err(),
            "params.Avg10: -1e400 is not a value that this field can have"
        );
        assert!(encode(&PodSandbox { state: 9, ..PodSandbox::default() }).is_err());
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n)).into_bytes();
        assert!(!too_deep(&nested(MAX_DEPTH)));
        assert!(too_deep(&nested(MAX_DEPTH + 1)));
        assert!(!too_deep("[]".repeat(1000).as_bytes()));
        assert!(!too_deep(format!("\"{}\"", "[".repeat(1000)).as_bytes()));
        assert!(!too_deep(format!("\"\\\"{}\"", "[".repeat(1000)).as_bytes()));
        assert!(too_deep(format!("\"\\\\\"{}", "[".repeat(1000)).as_bytes()));
        assert!(!too_deep(b"]]]]"));
    }
}
