//! Tables for people. Pure: rows in, text out.

/// How a cell reads at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Look at this.
    Bad,
    /// On its way.
    Busy,
    /// Nothing to say.
    Plain,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a tone. Control characters are dropped: much of what is shown was written by strangers.
    pub fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        let text: String = text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text = if text.is_empty() { "-".to_owned() } else { text };
        Self { text, tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// A table with headings.
#[derive(Debug, Clone)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as there are headings.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.headings.len());
        self.rows.push(cells.into());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, every line ended.
    pub fn render(&self, colour: bool) -> String {
        let width = |column: usize| {
            let cells =
                self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            cells.chain([self.headings[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.headings.len()).map(width).collect();
        let headings: Vec<_> = self.headings.iter().map(Cell::from).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            line(&mut text, row, &widths, colour);
        }
        text
    }
}

fn line(text: &mut String, row: &[Cell], widths: &[usize], colour: bool) {
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        let last = index + 1 == row.len();
        let padding = if last { 0 } else { width - cell.text.chars().count() + 3 };
        let (on, off) = if colour { escape(cell.tone) } else { ("", "") };
        text.push_str(on);
        text.push_str(&cell.text);
        text.push_str(off);
        text.push_str(&" ".repeat(padding));
    }
    text.push('\n');
}

fn escape(tone: Tone) -> (&'static str, &'static str) {
    match tone {
        Tone::Good => ("\u{1b}[32m", "\u{1b}[0m"),
        Tone::Bad => ("\u{1b}[31m", "\u{1b}[0m"),
        Tone::Busy => ("\u{1b}[33m", "\u{1b}[0m"),
        Tone::Plain => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_colour_takes_no_width() {
        let mut table = Table::new(["NAME", "READY", "MESSAGE"]);
        table.row(["a".into(), Cell::new("True", Tone::Good), "fine".into()]);
        table.row(["longer-name".into(), Cell::new("False", Tone::Bad), "".into()]);
        let plain = "NAME          READY   MESSAGE\na             True    fine\nlonger-name   False   -\n";
        assert_eq!(table.render(false), plain);
        let coloured = table.render(true);
        assert!(coloured.contains("\u{1b}[32mTrue\u{1b}[0m    fine"));
    }

    #[test]
    fn strangers_cannot_steer_the_terminal() {
        let mut table = Table::new(["X"]);
        table.row([Cell::from("evil\u{1b}[2J\nline")]);
        assert_eq!(table.render(true), "X\nevil [2J line\n");
    }
}
