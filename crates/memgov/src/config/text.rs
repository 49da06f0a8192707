//! What the user typed, with the place of every word, and nothing checked but shape: known keys and types.

use super::error::{At, Findings, Place, Source};
use super::table::{Fields, Item, Schema, cut, document, nearest};

/// One file.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) settings: Option<SettingsText>,
    pub(crate) groups: Vec<GroupText>,
    pub(crate) rules: Vec<RuleText>,
}

/// `[memgov]`.
#[derive(Debug, Default)]
pub(crate) struct SettingsText {
    pub(crate) state_dir: Option<At<String>>,
    pub(crate) socket: Option<At<String>>,
    pub(crate) trace: Option<At<String>>,
    pub(crate) dry_run: Option<At<bool>>,
    pub(crate) lease: Option<At<String>>,
    pub(crate) max_groups: Option<At<i64>>,
    pub(crate) max_processes: Option<At<i64>>,
    pub(crate) kills_count: Option<At<i64>>,
    pub(crate) kills_window: Option<At<String>>,
    pub(crate) fastest: Option<At<String>>,
    pub(crate) slowest: Option<At<String>>,
    pub(crate) never: Vec<MatchText>,
    pub(crate) never_defaults: Option<At<bool>>,
    pub(crate) tier: Option<At<String>>,
    pub(crate) files: Option<At<String>>,
}

/// Words that name processes.
#[derive(Debug)]
pub(crate) struct MatchText {
    pub(crate) at: Place,
    pub(crate) groups: Vec<At<String>>,
    pub(crate) exe: Vec<At<String>>,
    pub(crate) comm: Vec<At<String>>,
    pub(crate) uid: Vec<At<String>>,
}

/// `[[group]]`.
#[derive(Debug)]
pub(crate) struct GroupText {
    pub(crate) at: Place,
    pub(crate) groups: Option<At<Vec<At<String>>>>,
    pub(crate) high: Option<At<String>>,
    pub(crate) priority: Option<At<i64>>,
    pub(crate) reservation: Option<At<String>>,
    pub(crate) oom_reserve: Option<At<String>>,
    pub(crate) oom_delay: Option<At<String>>,
}

/// `[[rule]]`.
#[derive(Debug)]
pub(crate) struct RuleText {
    pub(crate) at: Place,
    pub(crate) name: Option<At<String>>,
    pub(crate) groups: Option<At<Vec<At<String>>>>,
    pub(crate) processes: Option<MatchText>,
    pub(crate) host: Option<At<bool>>,
    pub(crate) meter: Option<At<String>>,
    pub(crate) over: Option<At<String>>,
    pub(crate) under: Option<At<String>>,
    pub(crate) exhausted_in: Option<At<String>>,
    pub(crate) group_over: Option<At<String>>,
    pub(crate) until: Option<At<String>>,
    pub(crate) log: Option<At<bool>>,
    pub(crate) steps: Option<At<Vec<StepText>>>,
}

/// One entry of `do`.
#[derive(Debug)]
pub(crate) struct StepText {
    pub(crate) at: Place,
    pub(crate) action: At<String>,
    /// Key, value: the keys that [`super::words::STEP_KEYS`] lists.
    pub(crate) details: Vec<(&'static str, At<String>)>,
    /// Of `hook`: the program and its arguments.
    pub(crate) run: Option<At<Vec<At<String>>>>,
}

const FILE: Schema = Schema {
    name: "the configuration",
    keys: &["memgov", "group", "rule"],
    later: &["host", "hook", "metrics", "balance"],
};
const SETTINGS: Schema = Schema {
    name: "[memgov]",
    keys: &[
        "state-dir",
        "socket",
        "dry-run",
        "never",
        "never-defaults",
        "max-groups",
        "max-processes",
        "kills",
        "pace",
        "lease",
        "trace",
        "tier",
        "files",
    ],
    later: &["metrics", "journal", "hooks"],
};
const KILLS: Schema = Schema { name: "`kills`", keys: &["count", "window"], later: &[] };
const PACE: Schema = Schema { name: "`pace`", keys: &["fastest", "slowest"], later: &[] };
const NEVER: Schema = Schema { name: "`never`", keys: &["exe", "comm", "uid"], later: &["groups"] };
const GROUP: Schema = Schema {
    name: "[[group]]",
    keys: &["match", "high", "priority", "reservation", "oom-reserve", "oom-delay"],
    later: &["low", "watermark"],
};
const RULE: Schema = Schema {
    name: "[[rule]]",
    keys: &[
        "name",
        "groups",
        "processes",
        "host",
        "meter",
        "over",
        "under",
        "exhausted-in",
        "group-over",
        "until",
        "log",
        "do",
    ],
    later: &["to", "for", "some", "full"],
};
const PROCESSES: Schema = Schema { name: "`processes`", keys: &["exe", "comm", "uid", "groups"], later: &[] };
const STEP: Schema = Schema {
    name: "a step of `do`",
    keys: &[
        "action", "after", "signal", "repeat", "victim", "budget", "floor", "share", "pressure", "swap-out",
        "when", "takes", "amount", "keep", "timeout", "default", "run", "within", "memory",
    ],
    later: &["to", "swappiness"],
};

impl File {
    /// Reads a whole file; what cannot be understood is in `findings` and left out here.
    pub(crate) fn read(index: u16, source: &Source, findings: &mut Findings<'_>) -> Self {
        let Some(table) = document(index, &source.text, findings) else { return Self::default() };
        let top = Fields::new(index, &table, Place::new(index, 0..0), &FILE, findings);
        let mut file = Self::default();
        if let Some(fields) = top.table("memgov", &SETTINGS, findings) {
            file.settings = Some(settings(&fields, findings));
        }
        for item in top.items("group", findings).map(|l| l.it).unwrap_or_default() {
            match item.as_table(&GROUP, findings) {
                Some(fields) => file.groups.push(GroupText {
                    at: fields.at,
                    groups: fields.words("match", findings),
                    high: fields.word("high", findings),
                    priority: fields.integer("priority", findings),
                    reservation: fields.word("reservation", findings),
                    oom_reserve: fields.word("oom-reserve", findings),
                    oom_delay: fields.word("oom-delay", findings),
                }),
                None => item.wrong("group", "tables: write `[[group]]`", findings),
            }
        }
        for item in top.items("rule", findings).map(|l| l.it).unwrap_or_default() {
            match item.as_table(&RULE, findings) {
                Some(fields) => file.rules.push(rule(&fields, findings)),
                None => item.wrong("rule", "tables: write `[[rule]]`", findings),
            }
        }
        file
    }
}

fn settings(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> SettingsText {
    let kills = fields.table("kills", &KILLS, findings);
    let pace = fields.table("pace", &PACE, findings);
    SettingsText {
        state_dir: fields.word("state-dir", findings),
        socket: fields.word("socket", findings),
        trace: fields.word("trace", findings),
        dry_run: fields.boolean("dry-run", findings),
        lease: fields.word("lease", findings),
        max_groups: fields.integer("max-groups", findings),
        max_processes: fields.integer("max-processes", findings),
        kills_count: kills.as_ref().and_then(|t| t.integer("count", findings)),
        kills_window: kills.as_ref().and_then(|t| t.word("window", findings)),
        fastest: pace.as_ref().and_then(|t| t.word("fastest", findings)),
        slowest: pace.as_ref().and_then(|t| t.word("slowest", findings)),
        never: never(fields, findings),
        never_defaults: fields.boolean("never-defaults", findings),
        tier: fields.word("tier", findings),
        files: fields.word("files", findings),
    }
}

/// `never = ["name", { exe = … }]`.
fn never(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> Vec<MatchText> {
    let mut list = Vec::new();
    for item in fields.items("never", findings).map(|l| l.it).unwrap_or_default() {
        if let Some(word) = item.as_word() {
            list.push(MatchText {
                at: word.at,
                groups: Vec::new(),
                exe: Vec::new(),
                comm: vec![word],
                uid: Vec::new(),
            });
        } else if let Some(table) = item.as_table(&NEVER, findings) {
            list.push(process_match(&table, findings));
        } else {
            item.wrong("never", "names or tables", findings);
        }
    }
    list
}

fn process_match(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> MatchText {
    let mut words = |key| fields.words(key, findings).map(|l| l.it).unwrap_or_default();
    MatchText {
        at: fields.at,
        groups: words("groups"),
        exe: words("exe"),
        comm: words("comm"),
        uid: words("uid"),
    }
}

fn rule(fields: &Fields<'_, '_>, findings: &mut Findings<'_>) -> RuleText {
    RuleText {
        at: fields.at,
        name: fields.word("name", findings),
        groups: fields.words("groups", findings),
        processes: fields.table("processes", &PROCESSES, findings).map(|t| process_match(&t, findings)),
        host: fields.boolean("host", findings),
        meter: fields.word("meter", findings),
        over: fields.word("over", findings),
        under: fields.word("under", findings),
        exhausted_in: fields.word("exhausted-in", findings),
        group_over: fields.word("group-over", findings),
        until: fields.word("until", findings),
        log: fields.boolean("log", findings),
        steps: fields.items("do", findings).map(|list| At {
            it: list.it.iter().filter_map(|item| step(item, findings)).collect(),
            at: list.at,
        }),
    }
}

fn step(item: &Item<'_, '_>, findings: &mut Findings<'_>) -> Option<StepText> {
    if let Some(action) = item.as_word() {
        return Some(StepText { at: action.at, action, details: Vec::new(), run: None });
    }
    let Some(fields) = item.as_table(&STEP, findings) else {
        item.wrong("do", "a list of action names and tables", findings);
        return None;
    };
    let Some(action) = fields.word("action", findings) else {
        findings
            .error(fields.at, "a step needs `action`, for example { action = \"kill\", after = \"10s\" }");
        return None;
    };
    let mut details = Vec::new();
    for key in super::words::STEP_KEYS {
        if let Some(value) = fields.word(key, findings) {
            details.push((*key, value));
        }
    }
    let run = fields.items("run", findings).map(|list| At { it: arguments(&list.it, findings), at: list.at });
    Some(StepText { at: fields.at, action, details, run })
}

/// Not a line for a shell: each argument by itself.
fn arguments(list: &[Item<'_, '_>], findings: &mut Findings<'_>) -> Vec<At<String>> {
    let mut words = Vec::new();
    for item in list {
        match item.as_word() {
            Some(word) => words.push(word),
            None => item.wrong("run", "a list of texts in quotes", findings),
        }
    }
    words
}

/// A message for a word that is none of the known ones.
pub(crate) fn none_of(what: &str, word: &str, known: &[&str], later: &[&str]) -> String {
    let shown = cut(word);
    if later.contains(&word) {
        return format!("{what} `{shown}` is not in this version of memgov");
    }
    match nearest(word, known) {
        Some(near) => format!("unknown {what} `{shown}`; did you mean `{near}`?"),
        None => format!("unknown {what} `{shown}`; there are: {}", known.join(", ")),
    }
}
