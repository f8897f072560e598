//! Text to trees of values, one a document: double keys, deep nesting and expansion without end are refused while a tree grows.

use super::{ErrorKind, MAX_DEPTH};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Error as YamlError;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::granit_parser::ErrorKind as ScanErrorKind;
use serde_saphyr::localizer::ExternalMessageSource;
use std::fmt;

/// What the visitor says at [`MAX_DEPTH`]; told apart from a parser's words by being the whole message.
const TOO_DEEP: &str = "nested too deep";

/// The documents of a text that are not empty.
pub(super) fn documents(text: &str) -> Result<Vec<Value>, ErrorKind> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with('{') {
        return yaml(text);
    }
    // Almost always JSON; but `{kind: Pod}` is YAML. When it is neither, JSON's complaint is the one to show.
    match json(text) {
        Err(ErrorKind::Syntax { message }) => yaml(text).map_err(|e| match e {
            ErrorKind::Syntax { .. } => ErrorKind::Syntax { message },
            other => other,
        }),
        done => done,
    }
}

fn json(text: &str) -> Result<Vec<Value>, ErrorKind> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Tree>()
        .map(|r| r.map(|t| t.0))
        .collect::<Result<_, _>>()
        .map_err(|e| {
            let message = e.to_string();
            // serde_json has a limit of its own (128), which ours is below: what it says never reaches the user.
            if message.starts_with(TOO_DEEP) { ErrorKind::TooDeep } else { ErrorKind::Syntax { message } }
        })
}

fn yaml(text: &str) -> Result<Vec<Value>, ErrorKind> {
    let options = serde_saphyr::options! {
        // What a manifest of the largest size can need; an alias bomb stops here.
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 1000,
            max_aliases: 1000,
            max_merge_keys: 1000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
        // As Kubernetes' reader has it: `0644` is octal.
        legacy_octal_numbers: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let trees: Vec<Tree> = serde_saphyr::from_multiple_with_options(text, options).map_err(|e| yaml_error(&e))?;
    Ok(trees.into_iter().map(|t| t.0).collect())
}

fn yaml_error(e: &YamlError) -> ErrorKind {
    match e {
        YamlError::Budget { breach: BudgetBreach::Depth { .. }, .. } => return ErrorKind::TooDeep,
        // The scanner looks ahead of the budget.
        YamlError::ExternalMessage { source, .. } if matches!(&**source, ExternalMessageSource::Parser(e) if *e.kind() == ScanErrorKind::RecursionLimitExceeded) =>
        {
            return ErrorKind::TooDeep;
        }
        _ => {}
    }
    let text = e.to_string();
    if text.starts_with(TOO_DEEP) {
        return ErrorKind::TooDeep;
    }
    let mut message = text.lines().next().unwrap_or_default().to_owned();
    if let Some(at) = e.location().filter(|_| !message.contains("line ")) {
        message.push_str(&format!(" at line {} column {}", at.line(), at.column()));
    }
    ErrorKind::Syntax { message }
}

/// A value with unique keys.
struct Tree(Value);

impl<'de> de::Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Node { depth: 0 }.deserialize(d).map(Tree)
    }
}

#[derive(Clone, Copy)]
struct Node {
    depth: usize,
}

impl Node {
    fn inner<E: de::Error>(self) -> Result<Node, E> {
        if self.depth >= MAX_DEPTH { Err(E::custom(TOO_DEEP)) } else { Ok(Node { depth: self.depth + 1 }) }
    }
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        self.deserialize(d)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            let value = map.next_value_seed(inner)?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}
