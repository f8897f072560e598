//! Label selectors, as `-l` takes them.

use super::validate::names;
use std::collections::BTreeMap;
use std::fmt;

/// All of its requirements must hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    /// The selector as given.
    pub selector: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "selector {:?}: {}", self.selector, self.message)
    }
}

impl std::error::Error for SelectorError {}

/// Parses `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas.
///
/// # Errors
/// Anything else, and keys and values that no label can have.
pub fn selector(s: &str) -> Result<Selector, SelectorError> {
    let fail = |message: String| SelectorError { selector: s.to_owned(), message };
    if s.trim().is_empty() {
        return Ok(Selector::default());
    }
    let requirements = terms(s).into_iter().map(requirement).collect::<Result<_, _>>().map_err(fail)?;
    Ok(Selector { requirements })
}

/// Cuts at the commas outside of parentheses.
fn terms(s: &str) -> Vec<&str> {
    let mut open = false;
    s.split(|c| {
        open = (open || c == '(') && c != ')';
        c == ',' && !open
    })
    .map(str::trim)
    .collect()
}

fn requirement(term: &str) -> Result<Requirement, String> {
    if let Some(key) = term.strip_prefix('!') {
        return Ok(Requirement::Absent(key_of(key)?));
    }
    if let Some((head, values)) = term.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(|| format!("{term:?} lacks its closing parenthesis"))?;
        let values = values.split(',').map(value_of).collect::<Result<Vec<_>, _>>()?;
        let (key, operator) = head.trim_end().rsplit_once(char::is_whitespace).unwrap_or_default();
        return match operator {
            "in" => Ok(Requirement::In(key_of(key)?, values)),
            "notin" => Ok(Requirement::NotIn(key_of(key)?, values)),
            _ => Err(format!("{term:?} must be `key in (a,b)` or `key notin (a,b)`")),
        };
    }
    match term.split_once('=') {
        None => Ok(Requirement::Exists(key_of(term)?)),
        Some((key, value)) => match key.strip_suffix('!') {
            Some(key) => Ok(Requirement::NotIn(key_of(key)?, vec![value_of(value)?])),
            None => Ok(Requirement::In(key_of(key)?, vec![value_of(value.strip_prefix('=').unwrap_or(value))?])),
        },
    }
}

fn key_of(key: &str) -> Result<String, String> {
    let key = key.trim();
    names::qualified(key).map(|()| key.to_owned()).map_err(|e| format!("key {key:?} {e}"))
}

fn value_of(value: &str) -> Result<String, String> {
    let value = value.trim();
    names::label_value(value).map(|()| value.to_owned()).map_err(|e| format!("value {value:?} {e}"))
}

impl Selector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|r| match r {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(s: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        selector(s).unwrap_or_else(|e| panic!("{e}")).matches(&labels)
    }

    #[test]
    fn equality_and_sets_match_as_in_kubernetes() {
        let labels = [("app", "web"), ("tier", ""), ("example.com/x", "1")];
        for (s, want) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web ", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("none!=x", true),
            ("none=x", false),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("!app", false),
            ("tier=", true),
            ("app in (web,db)", true),
            ("app in (db)", false),
            ("app notin (db, cache)", true),
            ("none notin (db)", true),
            ("app in (web, db),example.com/x=1,!none", true),
            ("app=web,app=db", false),
        ] {
            assert_eq!(selects(s, &labels), want, "{s:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for s in [
            "=x",
            "a=b=c",
            "a,,b",
            "a,",
            "a in b",
            "a in (b",
            "a within (b)",
            "in (a)",
            "a b",
            "!",
            "a>1",
            "-a",
            "a=-",
            "a=b c",
            "/x",
            "a in (b))",
        ] {
            assert!(selector(s).is_err(), "{s:?}");
        }
        assert_eq!(
            selector("a>1").expect_err("refused").to_string(),
            "selector \"a>1\": key \"a>1\" must consist of letters, digits, '-', '_' and '.', and begin and end with a letter or digit"
        );
    }
}
