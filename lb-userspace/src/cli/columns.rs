//! Lines of text in columns, fitted to a width. Pure.

/// A cell: its text, and the ANSI colour it is shown in, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    colour: Option<u8>,
    right: bool,
}

impl Cell {
    /// Text, at the left.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            colour: None,
            right: false,
        }
    }

    /// A number, at the right.
    pub fn number(number: impl ToString) -> Self {
        Self {
            right: true,
            ..Self::text(number.to_string())
        }
    }

    /// In a colour: 31 is red, 32 green, 33 yellow (ECMA-48, "select graphic rendition").
    #[must_use]
    pub fn colour(self, colour: Option<u8>) -> Self {
        Self { colour, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn draw(&self, width: usize) -> String {
        let text = shorten(&self.text, width);
        let blanks = " ".repeat(width.saturating_sub(text.chars().count()));
        let text = match self.colour {
            Some(colour) => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
            None => text,
        };
        if self.right {
            blanks + &text
        } else {
            text + &blanks
        }
    }
}

/// Two blanks between columns.
const GAP: usize = 2;

/// Draws rows; each column is as wide as its widest cell, and the last gets what is left of `width`.
pub fn draw(rows: &[Vec<Cell>], width: usize) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(Cell::width).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns).map(widest).collect();
    let taken = |widths: &[usize]| widths.iter().map(|w| w.saturating_add(GAP)).sum::<usize>();
    if let Some((last, others)) = widths.split_last_mut() {
        *last = (*last).min(width.saturating_sub(taken(others)));
    }
    let line = |row: &Vec<Cell>| {
        let cells = row.iter().zip(&widths).map(|(cell, w)| cell.draw(*w));
        let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP));
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Cuts what is too long and says so.
pub fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { kept } else { kept + "…" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_the_last_is_cut() {
        let rows = vec![
            vec![Cell::text("name"), Cell::number("n"), Cell::text("why")],
            vec![
                Cell::text("b"),
                Cell::number(1234),
                Cell::text("a long story").colour(Some(31)),
            ],
        ];
        assert_eq!(
            draw(&rows, 20),
            ["name     n  why", "b     1234  \u{1b}[31ma long …\u{1b}[0m"]
        );
    }
}
