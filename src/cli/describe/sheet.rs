//! Lines of cells whose columns find their own width, as Go's `text/tabwriter` lays out what `kubectl describe` prints.

use std::fmt::Display;

use crate::cli::out::printable;

/// How far apart two columns are at least.
const GAP: usize = 2;

/// A page that is being filled.
#[derive(Debug, Default)]
pub struct Sheet {
    lines: Vec<Vec<String>>,
}

impl Sheet {
    /// One line: cells, the first one indented by two columns a level. Control characters are escaped.
    pub fn cells<T: AsRef<str>>(&mut self, level: usize, cells: impl IntoIterator<Item = T>) {
        let mut line: Vec<String> = cells.into_iter().map(|cell| printable(cell.as_ref()).into_owned()).collect();
        if let Some(first) = line.first_mut() {
            first.insert_str(0, &" ".repeat(2 * level));
        }
        self.lines.push(line);
    }

    /// A line without columns.
    pub fn line(&mut self, level: usize, text: impl Display) {
        self.cells(level, [text.to_string()]);
    }

    /// `name:` and its value in the next column.
    pub fn field(&mut self, level: usize, name: &str, value: impl Display) {
        self.cells(level, [format!("{name}:"), value.to_string()]);
    }

    /// The same, when there is a value.
    pub fn optional(&mut self, level: usize, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.field(level, name, value);
        }
    }

    /// `name:` and its values, one a line; `<none>` when there is none.
    pub fn list(&mut self, level: usize, name: &str, values: impl IntoIterator<Item = String>) {
        let mut values = values.into_iter();
        self.field(level, name, values.next().unwrap_or_else(|| "<none>".into()));
        values.for_each(|value| self.cells(level, [String::new(), value]));
    }

    /// The page as text, each line with a new line at its end.
    ///
    /// A column goes over the lines that follow each other and have one more cell behind it: all but the last cell of a line are padded to its width.
    pub fn text(&self) -> String {
        let mut widths: Vec<Vec<usize>> = self.lines.iter().map(|line| vec![0; line.len().saturating_sub(1)]).collect();
        let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
        for column in 0..columns {
            let mut from = 0;
            while from < self.lines.len() {
                let block = widths[from..].iter().take_while(|line| line.len() > column).count();
                let wide = |line: &Vec<String>| line[column].chars().count() + GAP;
                let width = self.lines[from..from + block].iter().map(wide).max().unwrap_or(0);
                widths[from..from + block].iter_mut().for_each(|line| line[column] = width);
                from += block.max(1);
            }
        }
        let mut text = String::new();
        for (line, widths) in self.lines.iter().zip(&widths) {
            let begin = text.len();
            for (index, cell) in line.iter().enumerate() {
                text.push_str(cell);
                let pad = widths.get(index).map_or(0, |width| width - cell.chars().count());
                text.extend(std::iter::repeat_n(' ', pad));
            }
            let end = begin + text[begin..].trim_end_matches(' ').len();
            text.truncate(end);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_the_lines_around_it_need() {
        let mut sheet = Sheet::default();
        sheet.field(0, "Name", "web");
        sheet.list(0, "Labels", ["a=b".into(), "c=d".into()]);
        sheet.line(0, "IPs:");
        sheet.field(1, "IP", "10.0.0.1");
        sheet.cells(1, ["Type", "Status", "Why"]);
        sheet.cells(1, ["PodReady", "True", ""]);
        sheet.list(0, "Empty", []);
        let expected = "Name:    web\nLabels:  a=b\n         c=d\nIPs:\n\
            \x20 IP:       10.0.0.1\n  Type      Status  Why\n  PodReady  True\nEmpty:      <none>\n";
        assert_eq!(sheet.text(), expected);
    }

    #[test]
    fn what_a_stranger_wrote_cannot_break_a_line() {
        let mut sheet = Sheet::default();
        sheet.field(0, "Message", "a\nb\tc\u{1b}[31m");
        assert_eq!(sheet.text(), "Message:  a\\nb\\tc\\x1b[31m\n");
    }
}
