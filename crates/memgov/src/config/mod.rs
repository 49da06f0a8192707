//! The configuration: TOML as typed ([`text`]), then what it means ([`meaning`]), two types, so that an error can point
//! at the line and a policy never holds anything unchecked. All errors are collected, not only the first.
//!
//! Reads files only in [`load`]; everything else is a function of text. Knows nothing of this host: what the host can
//! obey is `check --host`'s question.

pub mod ask;
pub mod describe;
pub mod error;
pub mod fits;
pub mod hook;
mod jobs;
pub mod lend;
pub mod meaning;
pub mod never;
pub mod passwd;
pub mod settings;
pub mod signals;
mod table;
pub mod text;
pub mod words;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use memgov_decide::policy::{Policy, Rule, Scope};

pub use error::{ConfigErrors, Problem};
pub use settings::{Files, Settings, Tier};

use error::{Findings, Source};
use passwd::Users;

/// No configuration file is larger; a larger one is a mistake, and reading it must not be memory's problem.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// At most so many drop-in files.
const MAX_DROP_INS: usize = 256;

/// A configuration that may be put in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is to be done.
    pub policy: Policy,
    /// About memgov itself.
    pub settings: Settings,
    /// What is allowed and may surprise.
    pub warnings: Vec<Problem>,
    /// The files it was read from, in order.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// Rules for groups that cover this group or an ancestor of it. The daemon leaves its own group and those above it
    /// alone whatever the rules say; this finds the rules of which that is worth saying.
    pub fn rules_covering<'a>(&'a self, own: &'a [u8]) -> impl Iterator<Item = &'a Rule> {
        let covers = move |rule: &&Rule| match &rule.scope {
            Scope::Groups(patterns) => ancestors(own).any(|path| patterns.iter().any(|p| p.matches(path))),
            Scope::Processes(_) | Scope::Host => false,
        };
        self.policy.rules.iter().filter(covers)
    }
}

/// `/a/b`, `/a`, without the root.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors((path.len() > 1).then_some(path), |path| {
        let parent = path.iter().rposition(|&b| b == b'/').map_or(&path[..0], |at| &path[..at]);
        (!parent.is_empty()).then_some(parent)
    })
}

/// Reads `path` and the drop-ins in `memgov.d/` beside it.
///
/// # Errors
/// Everything that is wrong, each with its file and line.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    load_with(path, Path::new("/etc/passwd"))
}

/// [`load`] with another user table, for tests and for images not yet booted.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, passwd: &Path) -> Result<Config, ConfigErrors> {
    let mut problems = Vec::new();
    let mut sources = Vec::new();
    let (drop_ins, unlisted) = drop_ins(path);
    problems.extend(unlisted);
    for file in std::iter::once(path.to_path_buf()).chain(drop_ins) {
        match read(&file) {
            Ok(text) => sources.push(Source { path: file, text }),
            Err(error) => problems.push(Problem::of_file(&file, format!("cannot be read: {error}"))),
        }
    }
    // A missing user table is only missed when a rule names a user; that rule then says so.
    let users = Users::parse(&fs::read(passwd).unwrap_or_default());
    match parse(sources, &users) {
        Ok(config) if problems.is_empty() => Ok(config),
        Ok(_) => Err(ConfigErrors { problems }),
        Err(errors) => {
            problems.extend(errors.problems);
            Err(ConfigErrors { problems })
        }
    }
}

/// The meaning of these files taken together. Never panics, whatever they hold.
///
/// # Errors
/// As [`load`].
pub fn parse(sources: Vec<Source>, users: &Users) -> Result<Config, ConfigErrors> {
    let mut findings = Findings::new(&sources);
    let mut files = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        files.push(text::File::read(u16::try_from(index).unwrap_or(u16::MAX), source, &mut findings));
    }
    let (policy, settings) = meaning::of(&files, users, &mut findings);
    let (problems, mut warnings) = findings.finish();
    if settings.tier != Tier::Portable {
        warnings.extend(policy.rules.iter().filter_map(|rule| {
            let file = sources.first().map_or(Path::new(""), |source| &source.path);
            let said = describe::only_from_outside(rule)?;
            Some(Problem::of_file(file, format!("rule `{}`: {said}", rule.name)))
        }));
    }
    if problems.is_empty() {
        let files = sources.into_iter().map(|s| s.path).collect();
        Ok(Config { policy, settings, warnings, files })
    } else {
        Err(ConfigErrors { problems })
    }
}

fn read(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    // Opening a FIFO would wait for a writer, for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("more than 1 MiB, which no configuration needs"));
    }
    Ok(text)
}

/// `memgov.d/*.toml` beside the file, sorted by name; nothing if there is no such directory.
fn drop_ins(path: &Path) -> (Vec<PathBuf>, Option<Problem>) {
    let folder = path.parent().unwrap_or(Path::new(".")).join("memgov.d");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), None),
        Err(error) => {
            return (Vec::new(), Some(Problem::of_file(&folder, format!("cannot be listed: {error}"))));
        }
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => files.push(entry.path()),
            Err(error) => {
                return (Vec::new(), Some(Problem::of_file(&folder, format!("cannot be listed: {error}"))));
            }
        }
    }
    files.retain(|file| {
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        file.extension().is_some_and(|e| e == "toml") && !hidden
    });
    files.sort();
    if files.len() > MAX_DROP_INS {
        let message = format!("holds {} files; at most {MAX_DROP_INS} are read", files.len());
        return (Vec::new(), Some(Problem::of_file(&folder, message)));
    }
    (files, None)
}

#[cfg(test)]
mod tests;
