//! The dialogues of `docs/cri-json.md`, run as they stand there.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::Host;
use crate::common::image::Image;
use crate::talk::Talk;

const PAGE: &str = include_str!("../../docs/cri-json.md");

/// The lines of the block ```` ```dialogue NAME ````.
fn block(name: &str) -> Vec<&'static str> {
    let head = format!("```dialogue {name}");
    let lines: Vec<&str> =
        PAGE.lines().skip_while(|line| **line != head).skip(1).take_while(|line| *line != "```").collect();
    assert!(!lines.is_empty(), "there is no dialogue {name} on the page");
    lines
}

/// What the placeholders stand for.
type Bound = BTreeMap<String, String>;

/// Writes what is known for every placeholder.
fn fill(line: &str, bound: &Bound) -> String {
    bound.iter().fold(line.to_owned(), |line, (name, value)| line.replace(&format!("<{name}>"), value))
}

/// Whether `got` is what the page shows, and what that makes of the placeholders.
fn matches(shown: &Value, got: &Value, bound: &mut Bound) -> bool {
    match (shown, got) {
        (Value::String(shown), _) if shown == "<*>" => !got.is_null(),
        (Value::String(shown), Value::String(got)) => {
            let name = shown.strip_prefix('<').and_then(|name| name.strip_suffix('>'));
            match name.filter(|name| !name.contains(['<', '>', ' '])) {
                Some(name) if !bound.contains_key(name) => {
                    bound.insert(name.to_owned(), got.clone());
                    !got.is_empty()
                }
                _ => fill(shown, bound) == *got,
            }
        }
        (Value::Array(shown), Value::Array(got)) => {
            shown.len() == got.len() && shown.iter().zip(got).all(|(shown, got)| matches(shown, got, bound))
        }
        (Value::Object(shown), Value::Object(got)) => {
            let more = shown.contains_key("…");
            shown
                .iter()
                .filter(|(key, _)| *key != "…")
                .all(|(key, shown)| got.get(key).is_some_and(|got| matches(shown, got, bound)))
                && (more || got.keys().all(|key| shown.contains_key(key)))
        }
        _ => shown == got,
    }
}

/// Says and hears every line in its turn. An answer is known by its id; a notification by all of it, whatever comes before it.
fn run(host: &Host, name: &str) {
    let mut talk = Talk::start(host);
    let mut bound = Bound::from([("dir".to_owned(), host.dir.display().to_string())]);
    for line in block(name) {
        if let Some(request) = line.strip_prefix("→ ") {
            talk.say(&fill(request, &bound));
        } else if let Some(shown) = line.strip_prefix("← ") {
            let shown: Value = serde_json::from_str(shown).unwrap_or_else(|e| panic!("{e}: {shown}"));
            let got = talk.hear(line, |got| match shown.get("id") {
                Some(id) => got.get("id") == Some(id),
                None => matches(&shown, got, &mut bound.clone()),
            });
            assert!(matches(&shown, &got, &mut bound), "the page says\n{shown}\nand there came\n{got}\nwith {bound:?}");
        } else {
            panic!("not a line of a dialogue: {line}");
        }
    }
    let (rest, code) = talk.finish();
    assert!(rest.iter().all(|message| message.get("id").is_none()), "answers that the page does not show: {rest:?}");
    assert_eq!(code, Some(0));
}

#[test]
fn the_runtime_answers_as_the_page_says() {
    run(&Host::empty(), "runtime");
}

#[test]
fn the_pod_lives_as_the_page_says() {
    let host = Host::empty();
    quickstart_image(&host);
    std::fs::create_dir(host.dir.join("site")).expect("make the volume");
    std::fs::create_dir(host.dir.join("logs")).expect("make the log directory");
    run(&host, "pod");
}

/// The image of `scripts/quickstart`.
pub fn quickstart_image(host: &Host) {
    host.load(&Image::on_busybox("husk.example/busybox:1").write(&host.dir.join("image.tar")));
}

#[test]
fn placeholders_stand_for_one_thing() {
    let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let check = |shown: &str, got: &str| {
        let mut bound = Bound::from([("dir".to_owned(), "/d".to_owned())]);
        matches(&value(shown), &value(got), &mut bound)
    };
    assert!(check(r#"["<a>", "<a>", "<dir>/x"]"#, r#"["1", "1", "/d/x"]"#));
    assert!(!check(r#"["<a>", "<a>"]"#, r#"["1", "2"]"#));
    assert!(!check(r#"["<a>"]"#, r#"[""]"#));
    assert!(check(r#"{"a": "<*>", "…": "…"}"#, r#"{"a": 1, "b": 2}"#));
    assert!(!check(r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#));
    assert!(!check(r#"{"a": 1, "b": 2, "…": "…"}"#, r#"{"a": 1}"#));
    assert!(!check(r#"[1]"#, r#"[1, 2]"#));
    assert!(check(r#""<h1>Hi</h1>""#, r#""<h1>Hi</h1>""#));
}
