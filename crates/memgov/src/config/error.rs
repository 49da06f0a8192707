//! Where something stands and what is wrong with it: file, line, column, the line itself, and the way out.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::terminal;

/// One file as it was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it was read from.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

/// A stretch of text in one of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) source: u16,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Place {
    pub(crate) fn new(source: u16, span: Range<usize>) -> Self {
        Self { source, start: span.start, end: span.end }
    }
}

/// A value and where it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub it: T,
    /// Where.
    pub at: Place,
}

/// Line and column, from 1, and what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
    /// How many characters are meant.
    pub width: usize,
    /// The line, made safe for a terminal and cut to a sane length.
    pub excerpt: String,
}

/// One thing that is wrong, or (in [`super::Config::warnings`]) that may surprise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Where in it; `None` if it is about the whole file.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// The way out, where there is one to name.
    pub help: Option<String>,
}

impl Problem {
    /// About a whole file.
    pub fn of_file(file: &Path, message: String) -> Self {
        Self { file: file.into(), position: None, message, help: None }
    }
}

/// As compilers print it.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = terminal::shown(&self.file.to_string_lossy());
        let message = terminal::lines(&self.message);
        match &self.position {
            None => write!(f, "{file}: {message}")?,
            Some(p) => {
                writeln!(f, "{file}:{}:{}: {message}", p.line, p.column)?;
                writeln!(f, "{:5} | {}", p.line, p.excerpt)?;
                let room = MAX_EXCERPT.saturating_sub(p.column).max(1);
                let marks = "^".repeat(p.width.clamp(1, room));
                write!(f, "      | {}{marks}", " ".repeat((p.column - 1).min(MAX_EXCERPT)))?;
            }
        }
        match &self.help {
            Some(help) => write!(f, "\n      = {}", terminal::lines(help)),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    /// In the order of the text; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Errors beyond this many are counted, not kept: a binary file must not make a report of a million lines.
const MAX_PROBLEMS: usize = 100;
const MAX_EXCERPT: usize = 160;

/// Collects what is found while reading.
pub(crate) struct Findings<'s> {
    sources: &'s [Source],
    errors: Vec<(Option<Place>, Problem)>,
    notes: Vec<(Option<Place>, Problem)>,
    beyond: usize,
}

impl<'s> Findings<'s> {
    pub(crate) fn new(sources: &'s [Source]) -> Self {
        Self { sources, errors: Vec::new(), notes: Vec::new(), beyond: 0 }
    }

    pub(crate) fn error(&mut self, at: Place, message: impl Into<String>) {
        self.error_with(at, message, None);
    }

    pub(crate) fn error_with(&mut self, at: Place, message: impl Into<String>, help: Option<String>) {
        if self.errors.len() >= MAX_PROBLEMS {
            self.beyond += 1;
            return;
        }
        let problem = self.problem(at, message.into(), help);
        self.errors.push((Some(at), problem));
    }

    pub(crate) fn note(&mut self, at: Place, message: impl Into<String>, help: Option<String>) {
        if self.notes.len() < MAX_PROBLEMS {
            let problem = self.problem(at, message.into(), help);
            self.notes.push((Some(at), problem));
        }
    }

    /// `file:line`, to name another place in a message.
    pub(crate) fn name(&self, at: Place) -> String {
        let problem = self.problem(at, String::new(), None);
        let line = problem.position.map_or(0, |p| p.line);
        format!("{}:{line}", problem.file.display())
    }

    /// `Ok` as it is; an `Err` becomes an error at this place.
    pub(crate) fn check<T>(&mut self, at: Place, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error(at, message)).ok()
    }

    fn problem(&self, at: Place, message: String, help: Option<String>) -> Problem {
        let Some(source) = self.sources.get(usize::from(at.source)) else {
            return Problem { file: PathBuf::new(), position: None, message, help };
        };
        let position = Some(position(&source.text, at.start, at.end));
        Problem { file: source.path.clone(), position, message, help }
    }

    /// Errors and notes, each in the order of the text.
    pub(crate) fn finish(mut self) -> (Vec<Problem>, Vec<Problem>) {
        let order = |(at, _): &(Option<Place>, Problem)| at.map(|p| (p.source, p.start));
        self.errors.sort_by_key(order);
        self.notes.sort_by_key(order);
        let mut errors: Vec<Problem> = self.errors.into_iter().map(|(_, p)| p).collect();
        errors.dedup();
        if self.beyond > 0
            && let Some(last) = errors.last_mut()
        {
            last.help = Some(format!("{} more errors are not shown", self.beyond));
        }
        (errors, self.notes.into_iter().map(|(_, p)| p).collect())
    }
}

fn position(text: &str, start: usize, end: usize) -> Position {
    let start = floor_boundary(text, start.min(text.len()));
    let end = floor_boundary(text, end.clamp(start, text.len()));
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[..line_start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;
    let width = text[start..end.min(line_end).max(start)].chars().count().max(1);
    let excerpt: String = shown(text[line_start..line_end].trim_end()).chars().take(MAX_EXCERPT).collect();
    Position { line, column, width, excerpt }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// What a terminal would obey, replaced one for one, so that neither a terminal nor the caret below is led astray.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .map(|c| if terminal::is_obeyed(c) { '?' } else { c })
        .collect()
}
