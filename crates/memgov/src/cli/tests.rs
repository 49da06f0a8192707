//! The command line as a definition: it is consistent, it teaches, and its codes are the documented ones.

use super::*;
use crate::serve::failure::FailureKind;

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_subcommand_has_help_and_the_codes_are_documented() {
    let command = Cli::command();
    let overview = command.clone().render_help().to_string();
    for code in
        ["0 done", "1 failed", "2 wrong", "3 config", "4 not perm", "5 no such", "6 the daemon", "7 busy"]
    {
        assert!(overview.contains(code), "{code}");
    }
    for subcommand in command.get_subcommands().filter(|c| c.get_name() != "help") {
        assert!(subcommand.get_about().is_some(), "{}", subcommand.get_name());
    }
    let documented = include_str!("../../../../docs/cli.md");
    for subcommand in command.get_subcommands().filter(|c| c.get_name() != "help") {
        assert!(
            documented.contains(&format!("memgov {}", subcommand.get_name())),
            "{}",
            subcommand.get_name()
        );
    }
    for kind in FailureKind::all() {
        assert!(documented.contains(&format!("`{}`", kind.name())), "{kind:?}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let refuse = |line: &str| {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert!(parsed.is_err(), "{line} was accepted");
    };
    refuse("memgov set");
    refuse("memgov set --pid 1 --group /x");
    refuse("memgov set --group /x --action deny");
    refuse("memgov set --pid 1 --climit 100");
    refuse("memgov set --pid 1 --action deny --rss swap");
    refuse("memgov set --pid 1 --memctl 1 --action deny");
    refuse("memgov get --group /x --memctl");
    refuse("memgov status --interval 1s");
    refuse("memgov status --kernel --interval 1");
    refuse("memgov status --kernel /a --interval 0s");
    refuse("memgov status --reset-peak");
    refuse("memgov status --kernel /a --costs");
    refuse("memgov exec");
    refuse("memgov exec --max 100 -- true");
    refuse("memgov exec --rfc-prctl --calls-to 3 -- true");
    assert!(Cli::try_parse_from(["memgov", "exec", "--rfc-prctl", "--", "true"]).is_ok());
    assert!(Cli::try_parse_from(["memgov", "set", "--pid", "1", "--memctl", "1 2 3"]).is_ok());
    assert!(Cli::try_parse_from(["memgov", "exec", "--max", "1GiB", "--", "true", "--max"]).is_ok());
}

#[test]
fn broken_pipes_are_recognised_however_deep() {
    let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
    assert!(is_broken_pipe(&broken().into()));
    assert!(is_broken_pipe(&anyhow::Error::from(ClientError::Io(broken()))));
    assert!(!is_broken_pipe(&anyhow::anyhow!("else")));
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    assert_eq!(socket_of(None), None);
    assert_eq!(socket_of(Some("".into())), None);
    assert_eq!(socket_of(Some("/s".into())), Some("/s".into()));
}

#[test]
fn parentheses_are_never_empty() {
    let process = |comm: &str| crate::serve::wire::Target::Process {
        pid: 7,
        start: 1,
        comm: comm.into(),
        group: Some("/x".into()),
        uid: None,
    };
    assert_eq!(output::target(&process("hog")), "pid 7 (hog) in /x");
    assert_eq!(output::target(&process("")), "pid 7 in /x");
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    assert_eq!(output::shown("foo) Z \u{1b}[2J\n"), "foo) Z \\u{1b}[2J\\n");
    let mut out = Vec::new();
    output::table(&mut out, &["A", "B"], &[vec!["é".into(), "x".into()], vec!["long".into(), String::new()]])
        .unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "A     B\né     x\nlong\n");
}

/// What the command line knows, and what comes in between.
const WORDS: [&str; 40] = [
    "run",
    "check",
    "exec",
    "set",
    "clear",
    "get",
    "shrink",
    "status",
    "events",
    "explain",
    "doctor",
    "replay",
    "answer",
    "restore",
    "reload",
    "rescue",
    "--json",
    "--group",
    "--pid",
    "--action",
    "--over",
    "--do",
    "--to",
    "--by",
    "--memctl",
    "--rss",
    "--priority",
    "--oom-reserve",
    "--config",
    "--files",
    "--no-files",
    "--",
    "-1",
    "0x10",
    "64M",
    "/a/b",
    "",
    "18446744073709551616",
    "\u{fffd}\n",
    "=",
];

proptest::proptest! {
    #[test]
    fn any_words_are_a_command_or_refused(words in proptest::collection::vec(0..WORDS.len(), 0..8)) {
        let words = words.iter().map(|&at| WORDS[at]);
        if let Err(error) = Cli::try_parse_from(["memgov"].into_iter().chain(words)) {
            proptest::prop_assert!(!error.to_string().is_empty());
        }
    }
}
