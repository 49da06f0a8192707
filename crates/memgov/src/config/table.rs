//! Reads a TOML table by a list of known keys: wrong types and unknown keys become errors at their place, with a
//! did-you-mean. Knows shapes, not meanings.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{At, Findings, Place};

/// The keys a table may have.
pub(crate) struct Schema {
    /// How messages call the table.
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static str],
    /// Keys that memgov's design knows and this version does not have yet.
    pub(crate) later: &'static [&'static str],
}

/// One table, its keys checked against a [`Schema`].
pub(crate) struct Fields<'t, 'i> {
    source: u16,
    pub(crate) at: Place,
    table: &'t DeTable<'i>,
}

impl<'t, 'i> Fields<'t, 'i> {
    pub(crate) fn new(
        source: u16,
        table: &'t DeTable<'i>,
        at: Place,
        schema: &Schema,
        findings: &mut Findings<'_>,
    ) -> Self {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !schema.keys.contains(&name) {
                unknown(Place::new(source, key.span()), name, schema, findings);
            }
        }
        Self { source, at, table }
    }

    fn value(&self, key: &str) -> Option<(&'t DeValue<'i>, Place)> {
        let (_, value) = self.table.iter().find(|(k, _)| k.get_ref() == key)?;
        Some((value.get_ref(), Place::new(self.source, value.span())))
    }

    /// A string, or a number taken as its text: the meaning decides whether a bare number will do.
    pub(crate) fn word(&self, key: &str, findings: &mut Findings<'_>) -> Option<At<String>> {
        let (value, at) = self.value(key)?;
        word_of(key, value, at, findings)
    }

    /// A string or a list of strings; numbers as in [`Fields::word`].
    pub(crate) fn words(&self, key: &str, findings: &mut Findings<'_>) -> Option<At<Vec<At<String>>>> {
        let (value, at) = self.value(key)?;
        let it = match value {
            DeValue::Array(items) => items
                .iter()
                .filter_map(|v| word_of(key, v.get_ref(), Place::new(self.source, v.span()), findings))
                .collect(),
            other => vec![word_of(key, other, at, findings)?],
        };
        Some(At { it, at })
    }

    pub(crate) fn boolean(&self, key: &str, findings: &mut Findings<'_>) -> Option<At<bool>> {
        match self.value(key)? {
            (DeValue::Boolean(it), at) => Some(At { it: *it, at }),
            (other, at) => {
                wrong(key, "true or false", other, at, findings);
                None
            }
        }
    }

    pub(crate) fn integer(&self, key: &str, findings: &mut Findings<'_>) -> Option<At<i64>> {
        let (value, at) = self.value(key)?;
        let parsed = value.as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
        if parsed.is_none() {
            wrong(key, "a whole number", value, at, findings);
        }
        parsed.map(|it| At { it, at })
    }

    pub(crate) fn table(
        &self,
        key: &str,
        schema: &Schema,
        findings: &mut Findings<'_>,
    ) -> Option<Fields<'t, 'i>> {
        match self.value(key)? {
            (DeValue::Table(table), at) => Some(Fields::new(self.source, table, at, schema, findings)),
            (other, at) => {
                wrong(key, "a table", other, at, findings);
                None
            }
        }
    }

    /// Every item of a list, or of `[[key]]` tables.
    pub(crate) fn items(&self, key: &str, findings: &mut Findings<'_>) -> Option<At<Vec<Item<'t, 'i>>>> {
        let (value, at) = self.value(key)?;
        let DeValue::Array(items) = value else {
            let expected =
                if matches!(value, DeValue::Table(_)) { "a list: write `[[…]]`" } else { "a list" };
            wrong(key, expected, value, at, findings);
            return None;
        };
        let source = self.source;
        let it = items.iter().map(|value| Item { source, value }).collect();
        Some(At { it, at })
    }
}

/// One item of a list that mixes words and tables.
pub(crate) struct Item<'t, 'i> {
    source: u16,
    value: &'t Spanned<DeValue<'i>>,
}

impl<'t, 'i> Item<'t, 'i> {
    pub(crate) fn at(&self) -> Place {
        Place::new(self.source, self.value.span())
    }
    pub(crate) fn as_word(&self) -> Option<At<String>> {
        Some(At { it: self.value.get_ref().as_str()?.to_owned(), at: self.at() })
    }
    pub(crate) fn as_table(&self, schema: &Schema, findings: &mut Findings<'_>) -> Option<Fields<'t, 'i>> {
        let table = self.value.get_ref().as_table()?;
        Some(Fields::new(self.source, table, self.at(), schema, findings))
    }
    pub(crate) fn wrong(&self, key: &str, expected: &str, findings: &mut Findings<'_>) {
        wrong(key, expected, self.value.get_ref(), self.at(), findings);
    }
}

fn word_of(key: &str, value: &DeValue<'_>, at: Place, findings: &mut Findings<'_>) -> Option<At<String>> {
    let it = match value {
        DeValue::String(text) => text.as_ref().to_owned(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        other => {
            wrong(key, "a text in quotes", other, at, findings);
            return None;
        }
    };
    Some(At { it, at })
}

fn wrong(key: &str, expected: &str, value: &DeValue<'_>, at: Place, findings: &mut Findings<'_>) {
    findings.error(at, format!("`{key}` must be {expected}, not {}", article(value.type_str())));
}

fn article(kind: &str) -> String {
    let an = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if an { "an" } else { "a" })
}

fn unknown(at: Place, name: &str, schema: &Schema, findings: &mut Findings<'_>) {
    let table = schema.name;
    if schema.later.contains(&name) {
        findings.error(at, format!("`{name}` of {table} is not in this version of memgov"));
        return;
    }
    let help = match nearest(name, schema.keys) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("{table} has: {}", schema.keys.join(", ")),
    };
    findings.error_with(at, format!("unknown key `{}` in {table}", cut(name)), Some(help));
}

/// The known word that was most likely meant, if any is near.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = word.to_ascii_lowercase().replace('_', "-");
    let plain = cut(&plain);
    let (score, best) =
        known.iter().map(|k| (strsim::jaro_winkler(&plain, k), *k)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score > 0.8).then_some(best)
}

/// Long words are somebody's mistake or joke; messages stay short.
pub(crate) fn cut(word: &str) -> String {
    let short: String =
        word.chars().take(60).map(|c| if crate::terminal::is_obeyed(c) { '?' } else { c }).collect();
    if short.len() < word.len() { format!("{short}…") } else { short }
}

/// The table a whole file is. After a syntax error only the syntax is reported: what recovery makes of the rest would be
/// complained about for no fault of the user's.
pub(crate) fn document<'t>(source: u16, text: &'t str, findings: &mut Findings<'_>) -> Option<DeTable<'t>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let sound = errors.is_empty();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        findings.error(Place::new(source, span), error.message().trim().to_owned());
    }
    sound.then(|| table.into_inner())
}
