//! Waterfalls and comparisons as text.

use std::io::IsTerminal;

use serde::Serialize;

use super::{Shown, ShownStep};
use crate::cli::Error;
use crate::cli::out::{Cell, Out};
use crate::cli::terminal;

/// As wide as we draw when nobody says how wide it is.
const PLAIN_WIDTH: usize = 100;
/// No bar is drawn on less.
const LEAST_BAR: usize = 10;

/// Microseconds as milliseconds: `12.345`.
pub(super) fn ms(us: f64) -> String {
    format!("{:.3}", us / 1000.0)
}

/// One step a line: when it began, how long it took, what it was, and a bar in its place.
pub(super) fn waterfall(out: &mut Out, play: &Shown) -> Result<(), Error> {
    let tty = std::io::stdout().is_terminal();
    let width =
        if tty { terminal::size().map_or(PLAIN_WIDTH, |(_, columns)| usize::from(columns)) } else { PLAIN_WIDTH };
    out.line(play.title())?;
    for line in lines(play, width, tty) {
        out.line(line)?;
    }
    Ok(())
}

/// The table of [`waterfall`], no line longer than `width` unless its words are.
fn lines(play: &Shown, width: usize, blocks: bool) -> Vec<String> {
    let numbers: Vec<[String; 2]> = play.steps.iter().map(|s| [ms(s.from_us), ms(s.took_us)]).collect();
    let column = |at: usize, head: &str| numbers.iter().map(|n| n[at].len()).max().unwrap_or(0).max(head.len());
    let (from, took) = (column(0, "FROM ms"), column(1, "TOOK ms"));
    let words = play.steps.iter().map(|s| s.step.chars().count()).max().unwrap_or(0).max("STEP".len());
    let used = from + 3 + took + 3 + words + 3;
    let room = width.saturating_sub(used);
    let mut lines = vec![format!("{:>from$}   {:>took$}   STEP", "FROM ms", "TOOK ms")];
    for (step, [began, lasted]) in play.steps.iter().zip(&numbers) {
        let mut line = format!("{began:>from$}   {lasted:>took$}   {}", step.step);
        if room >= LEAST_BAR {
            let pad = words - step.step.chars().count() + 3;
            line.extend(std::iter::repeat_n(' ', pad));
            line.push_str(&bar(step, play.took_us, room, blocks));
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// A step's place in the whole: at least one character, as what took no time has a place too.
fn bar(step: &ShownStep, whole_us: f64, room: usize, blocks: bool) -> String {
    let at = |us: f64| if whole_us > 0.0 { (us / whole_us * room as f64).round() as usize } else { 0 };
    let from = at(step.from_us).min(room - 1);
    let to = at(step.from_us + step.took_us).clamp(from + 1, room);
    let (full, moment) = if blocks { ("█", "▏") } else { ("#", "|") };
    let mut bar = " ".repeat(from);
    if step.took_us > 0.0 {
        bar.push_str(&full.repeat(to - from))
    } else {
        bar.push_str(moment)
    }
    bar
}

/// Two starts, step by step.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Comparison<'a> {
    a: &'a Shown,
    b: &'a Shown,
    steps: Vec<Pair>,
    total_difference_us: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pair {
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    a_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference_us: Option<f64>,
}

impl<'a> Comparison<'a> {
    /// Steps of the same kind stand beside one another: of containers of one name, or, where names differ, of containers in the same place.
    pub(super) fn new(a: &'a Shown, b: &'a Shown) -> Comparison<'a> {
        let places = |play: &Shown| {
            let mut names: Vec<String> = Vec::new();
            for name in play.steps.iter().filter_map(|s| s.container.clone()) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            names
        };
        let (of_a, of_b) = (places(a), places(b));
        let by_name = of_a.iter().any(|name| of_b.contains(name));
        let same = |x: &ShownStep, y: &ShownStep| {
            x.kind == y.kind
                && match (&x.container, &y.container) {
                    (Some(x), Some(y)) if !by_name => {
                        of_a.iter().position(|n| n == x) == of_b.iter().position(|n| n == y)
                    }
                    (x, y) => x == y,
                }
        };
        let mut left: Vec<Option<&ShownStep>> = b.steps.iter().map(Some).collect();
        let mut steps: Vec<Pair> = a
            .steps
            .iter()
            .map(|x| {
                let y = left.iter_mut().find(|y| y.is_some_and(|y| same(x, y))).and_then(Option::take);
                Pair {
                    step: x.step.clone(),
                    a_us: Some(x.took_us),
                    b_us: y.map(|y| y.took_us),
                    difference_us: y.map(|y| y.took_us - x.took_us),
                }
            })
            .collect();
        steps.extend(left.into_iter().flatten().map(|y| Pair {
            step: y.step.clone(),
            a_us: None,
            b_us: Some(y.took_us),
            difference_us: None,
        }));
        Comparison { a, b, steps, total_difference_us: b.took_us - a.took_us }
    }
}

/// Two starts as a table: how long each step took, and by how much the second took longer.
pub(super) fn comparison(out: &mut Out, a: &Shown, b: &Shown, names: (&str, &str)) -> Result<(), Error> {
    let compared = Comparison::new(a, b);
    let number = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), ms);
    let difference = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:+.3}", us / 1000.0));
    let mut rows: Vec<Vec<Cell>> = compared
        .steps
        .iter()
        // Moments take no time.
        .filter(|pair| pair.a_us.unwrap_or(0.0) > 0.0 || pair.b_us.unwrap_or(0.0) > 0.0)
        .map(|pair| {
            vec![
                pair.step.as_str().into(),
                number(pair.a_us).into(),
                number(pair.b_us).into(),
                difference(pair.difference_us).into(),
            ]
        })
        .collect();
    rows.push(vec![
        "all of it".into(),
        ms(a.took_us).into(),
        ms(b.took_us).into(),
        difference(Some(compared.total_difference_us)).into(),
    ]);
    let (x, y) = (format!("{} ms", names.0), format!("{} ms", names.1));
    out.table(&["STEP", &x, &y, "DIFFERENCE ms"], &rows)
}

#[cfg(test)]
mod tests {
    use super::super::Words;
    use super::*;
    use crate::state::timeline::Kind;

    fn step(kind: Kind, container: Option<&str>, from_us: f64, took_us: f64) -> ShownStep {
        ShownStep {
            kind,
            container: container.map(str::to_owned),
            attempt: 0,
            step: format!("{kind:?}"),
            from_us,
            took_us,
        }
    }

    fn play(steps: Vec<ShownStep>) -> Shown {
        let took_us = steps.iter().map(|s| s.from_us + s.took_us).fold(0.0, f64::max);
        let what = Words { of: "start", container: None, attempt: None };
        Shown { pod: "p".into(), what, begun_at: None, took_us, steps }
    }

    #[test]
    fn bars_stand_where_their_steps_were_and_fit_the_width() {
        let play = play(vec![
            step(Kind::Parse, None, 0.0, 500.0),
            step(Kind::Launch, None, 500.0, 1500.0),
            step(Kind::Answer, None, 2000.0, 0.0),
        ]);
        assert_eq!(
            lines(&play, 52, false),
            [
                "FROM ms   TOOK ms   STEP",
                "  0.000     0.500   Parse    ######",
                "  0.500     1.500   Launch         #################",
                "  2.000     0.000   Answer                         |",
            ]
        );
        // No room for bars: numbers alone, whatever the width.
        assert_eq!(lines(&play, 20, false)[1], "  0.000     0.500   Parse");
        for width in 40..200 {
            assert!(lines(&play, width, true).iter().all(|line| line.chars().count() <= width), "{width}");
        }
    }

    #[test]
    fn steps_are_compared_by_container_and_what_only_one_has_is_shown() {
        let a = play(vec![step(Kind::Create, Some("x"), 0.0, 10.0), step(Kind::Execute, Some("x"), 10.0, 5.0)]);
        let b = play(vec![step(Kind::Create, Some("y"), 0.0, 14.0), step(Kind::Places, None, 14.0, 1.0)]);
        let compared = Comparison::new(&a, &b);
        let pairs: Vec<_> = compared.steps.iter().map(|p| (p.a_us, p.b_us, p.difference_us)).collect();
        assert_eq!(pairs, [(Some(10.0), Some(14.0), Some(4.0)), (Some(5.0), None, None), (None, Some(1.0), None)]);
        assert_eq!(compared.total_difference_us, 0.0);
    }
}
