//! The table at the end of the demo.

use super::act::{LINE, Line};
use crate::harness::{mib, millis};

const HEAD: [&str; 9] = [
    "action",
    "limit",
    "peak",
    "overshoot",
    "crossing to action",
    "by",
    "neighbour failures",
    "neighbour p99",
    "held",
];

/// Prints it, columns as wide as they must be.
pub fn print(lines: &[Line]) {
    for line in layout(lines) {
        println!("{line}");
    }
}

fn layout(lines: &[Line]) -> Vec<String> {
    let head = HEAD.map(str::to_owned);
    let rows: Vec<[String; 9]> = std::iter::once(head).chain(lines.iter().map(cells)).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let show = |row: &[String; 9]| {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    rows.iter().map(show).collect()
}

fn cells(line: &Line) -> [String; 9] {
    let held = match &line.held {
        Ok(how) => format!("yes: {how}"),
        Err(why) => format!("NO: {why}"),
    };
    [
        line.action.to_owned(),
        mib(LINE),
        mib(line.peak),
        mib(line.peak.saturating_sub(LINE)),
        line.reaction.map_or("-".to_owned(), millis),
        line.by.clone(),
        line.neighbour[1].to_string(),
        millis(line.neighbour[3] * 1000),
        held,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let line = |action, held| Line {
            action,
            peak: LINE + (3 << 20),
            reaction: Some(12_345_678),
            by: "rlimit".into(),
            neighbour: vec![1000, 0, 40, 2500, 9000],
            held,
        };
        let table = layout(&[line("deny", Ok("it lives".into())), line("kill", Err("no".into()))]);
        assert_eq!(table.len(), 3);
        let column = table[0].find("by").unwrap();
        assert!(table[1..].iter().all(|row| row[column..].starts_with("rlimit")));
        assert!(table[1].contains("64.0MiB") && table[1].contains("67.0MiB") && table[1].contains("3.0MiB"));
        assert!(
            table[1].contains("12.3ms") && table[1].contains("2.5ms") && table[1].ends_with("yes: it lives")
        );
        assert!(table[2].ends_with("NO: no"));
    }
}
