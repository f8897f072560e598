//! The one door to standard output and standard error: colour, escaping, and a reader that went away.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, Write};

use super::Error;

/// ANSI colours of words in tables; chosen by meaning, not by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Not there yet, or over.
    Fair,
    /// Needs somebody.
    Bad,
}

/// Standard output, buffered until [`Out::flush`] or the end of the command.
pub struct Out {
    buffer: Vec<u8>,
    colour: bool,
}

/// Above this much the buffer is written without being asked.
const FLUSH_BYTES: usize = 64 * 1024;

impl Out {
    /// Standard output; coloured only on a terminal and when `NO_COLOR` is unset or empty.
    pub fn new() -> Out {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Out { buffer: Vec::new(), colour: io::stdout().is_terminal() && !no_color && !dumb }
    }

    /// One line; control characters in `text` are escaped.
    ///
    /// # Errors
    /// [`Error::ClosedOutput`] when nobody reads any more.
    pub fn line(&mut self, text: impl Display) -> Result<(), Error> {
        let text = text.to_string();
        self.buffer.extend_from_slice(printable(&text).as_bytes());
        self.buffer.push(b'\n');
        self.spill()
    }

    /// Bytes as they are: logs, JSON and YAML, which have their own escaping.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(bytes);
        self.spill()
    }

    /// Prints rows below a header, columns three spaces apart, the last column unpadded.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn table(&mut self, header: &[&str], rows: &[Vec<Cell>]) -> Result<(), Error> {
        let text = table(header, rows, &mut Vec::new(), self.colour);
        self.raw(text.as_bytes())
    }

    /// The rows of [`Out::table`], laid out the same, without the header.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn rows(&mut self, header: &[&str], rows: &[Vec<Cell>]) -> Result<(), Error> {
        self.more_rows(header, rows, &mut Vec::new())
    }

    /// [`Out::rows`] of a table that goes on: columns are as wide as those printed so far, which `widths` keeps.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn more_rows(&mut self, header: &[&str], rows: &[Vec<Cell>], widths: &mut Vec<usize>) -> Result<(), Error> {
        let text = table(header, rows, widths, self.colour);
        self.raw(text.split_once('\n').map_or("", |(_, rows)| rows).as_bytes())
    }

    /// [`Out::table`] of one that goes on.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn first_rows(&mut self, header: &[&str], rows: &[Vec<Cell>], widths: &mut Vec<usize>) -> Result<(), Error> {
        let text = table(header, rows, widths, self.colour);
        self.raw(text.as_bytes())
    }

    /// Hands everything to the kernel.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn flush(&mut self) -> Result<(), Error> {
        let result = {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&self.buffer).and_then(|()| stdout.flush())
        };
        self.buffer.clear();
        result.map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Error::ClosedOutput,
            _ => Error::failed(format!("write to standard output: {}", husk_oci::errno::io_text(&e))),
        })
    }

    fn spill(&mut self) -> Result<(), Error> {
        if self.buffer.len() >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }
}

/// Says something to the user on standard error: `husk: …`. A standard error that is closed is nobody to tell.
pub fn say(message: impl Display) {
    let message = message.to_string();
    let line = format!("husk: {}\n", printable(&message));
    // Nothing is left to report a failure to.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// One field of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// Adds a colour, used only on a terminal.
    pub fn tone(mut self, tone: Option<Tone>) -> Cell {
        self.tone = tone;
        self
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    /// Escapes; an empty text is shown as `<none>`, so that every row has all its fields.
    fn from(text: T) -> Cell {
        let text = text.as_ref();
        Cell { text: if text.is_empty() { "<none>".into() } else { printable(text).into_owned() }, tone: None }
    }
}

/// `widths` is what columns have at least, and then what they have.
fn table(header: &[&str], rows: &[Vec<Cell>], widths: &mut Vec<usize>, colour: bool) -> String {
    widths.resize(header.len(), 0);
    for (width, name) in widths.iter_mut().zip(header) {
        *width = (*width).max(name.len());
    }
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let mut text = String::new();
    let mut push_row = |cells: &mut dyn Iterator<Item = (&str, Option<Tone>)>| {
        let mut pad = 0;
        for ((word, tone), width) in cells.zip(&*widths) {
            text.extend(std::iter::repeat_n(' ', pad));
            match tone.filter(|_| colour) {
                Some(tone) => {
                    let code = match tone {
                        Tone::Good => 32,
                        Tone::Fair => 33,
                        Tone::Bad => 31,
                    };
                    // Writing to a String can't fail.
                    let _ = write!(text, "\x1b[{code}m{word}\x1b[0m");
                }
                None => text.push_str(word),
            }
            pad = width - word.chars().count() + 3;
        }
        text.push('\n');
    };
    push_row(&mut header.iter().map(|name| (*name, None)));
    for row in rows {
        push_row(&mut row.iter().map(|cell| (cell.text.as_str(), cell.tone)));
    }
    text
}

/// `text` with what would move the cursor, colour the screen or reorder the line written as an escape: `\n`, `\x1b`, `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if !needs_escape(c) {
            clean.push(c);
        } else if (c as u32) < 0x80 && !c.is_whitespace() {
            // Writing to a String can't fail.
            let _ = write!(clean, "\\x{:02x}", c as u32);
        } else {
            clean.extend(c.escape_default());
        }
    }
    Cow::Owned(clean)
}

/// Control characters, and the format characters that change how a terminal orders a line.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_to_the_widest_field_and_the_last_is_not() {
        let rows = vec![vec![Cell::from("a-long-name"), Cell::from("Running")], vec!["b".into(), "".into()]];
        assert_eq!(
            table(&["NAME", "STATUS"], &rows, &mut Vec::new(), false),
            "NAME          STATUS\na-long-name   Running\nb             <none>\n"
        );
    }

    #[test]
    fn a_table_that_goes_on_keeps_its_columns() {
        let mut widths = Vec::new();
        table(&["A", "B"], &[vec![Cell::from("wide"), Cell::from("x")]], &mut widths, false);
        assert_eq!(table(&["A", "B"], &[vec!["y".into(), "z".into()]], &mut widths, false), "A      B\ny      z\n");
    }

    #[test]
    fn colour_does_not_change_the_widths() {
        let rows = vec![vec![Cell::from("x").tone(Some(Tone::Bad)), Cell::from("y")]];
        assert_eq!(table(&["A", "B"], &rows, &mut Vec::new(), true), "A   B\n\x1b[31mx\x1b[0m   y\n");
    }

    #[test]
    fn control_and_bidi_characters_are_escaped() {
        assert_eq!(printable("plain ü"), "plain ü");
        assert_eq!(printable("a\x1b[31m\n\u{202e}\u{85}"), "a\\x1b[31m\\n\\u{202e}\\u{85}");
        assert_eq!(printable("\u{7f}\t"), "\\x7f\\t");
    }
}
