//! Each file of fixtures/config is read and compared whole with the text beside it. `MEMGOV_BLESS=1` writes the texts
//! anew, to be read in the diff.

use std::fmt::Write;

use memgov_decide::units::Limit;
use proptest::prelude::*;

use super::*;

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/config").join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    assert!(files.len() >= 5, "{kind}: the fixtures are not where they should be");
    files
}

fn users() -> Users {
    Users::parse(b"root:x:0:0::/root:/bin/sh\nbuild:x:1001:1001::/:/bin/sh\n")
}

fn read_fixture(path: &Path) -> Result<Config, ConfigErrors> {
    let name = PathBuf::from(path.file_name().unwrap());
    let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    parse(vec![Source { path: name, text }], &users())
}

fn compare(path: &Path, got: &str) {
    let expected = path.with_extension("txt");
    if std::env::var_os("MEMGOV_BLESS").is_some() {
        fs::write(&expected, got).unwrap();
    }
    let want = fs::read_to_string(&expected).unwrap_or_else(|e| panic!("{}: {e}", expected.display()));
    assert_eq!(got, want, "{}", path.display());
}

#[test]
fn good_files_mean_what_stands_beside_them() {
    for path in fixtures("good") {
        let config = read_fixture(&path).unwrap_or_else(|e| panic!("{}:\n{e}", path.display()));
        let mut got = describe::report(&config);
        let policy = &config.policy;
        let _ = writeln!(got, "{:?}", config.settings);
        let _ = writeln!(got, "{:?} {:?}", policy.pace, policy.kills);
        let built_in = never::defaults();
        for own in policy.never.iter().filter(|m| !built_in.contains(m)) {
            let _ = writeln!(got, "never {own:?}");
        }
        let _ = writeln!(got, "built-in never-list: {}", policy.never.iter().any(|m| built_in.contains(m)));
        for rule in &policy.rules {
            // The scope stands in the sentence.
            let Rule { name, when, until, steps, log, .. } = rule;
            let _ = writeln!(got, "{name}: {when:?} until {until:?} log {log}\n  {steps:?}");
        }
        compare(&path, &got);
    }
}

#[test]
fn bad_files_are_refused_with_every_error_in_its_place() {
    for path in fixtures("bad") {
        match read_fixture(&path) {
            Ok(_) => panic!("{} was accepted", path.display()),
            Err(errors) => compare(&path, &format!("{errors}\n")),
        }
    }
}

#[test]
fn shipped_examples_are_valid_and_say_what_they_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let config = load(&path).unwrap_or_else(|e| panic!("{e}"));
        assert!(!config.policy.rules.is_empty(), "{}", path.display());
        assert!(config.warnings.is_empty(), "{}: {:?}", path.display(), config.warnings);
        seen += 1;
    }
    assert!(seen >= 4);
}

#[test]
fn drop_ins_are_read_in_order_and_names_are_unique_over_all() {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("memgov.toml");
    let rule = |name: &str| {
        format!("[[rule]]\nname = \"{name}\"\ngroups = \"/a\"\nover = \"1GiB\"\ndo = [\"record\"]\n")
    };
    fs::write(&main, format!("[memgov]\nmax-groups = 100\ndry-run = true\n{}", rule("main"))).unwrap();
    fs::create_dir(folder.path().join("memgov.d")).unwrap();
    let drop_in =
        |name: &str, text: &str| fs::write(folder.path().join("memgov.d").join(name), text).unwrap();
    drop_in("20-b.toml", &format!("[memgov]\nmax-groups = 200\n{}", rule("b")));
    drop_in("10-a.toml", &rule("a"));
    drop_in(".hidden.toml", "not toml at all");
    drop_in("readme.txt", "not toml at all");
    let config = load(&main).unwrap();
    let names: Vec<_> = config.policy.rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["main", "a", "b"]);
    assert_eq!((config.settings.max_groups, config.settings.dry_run), (200, true));
    assert_eq!(config.files.len(), 3);

    drop_in("30-c.toml", &rule("a"));
    let errors = load(&main).unwrap_err().to_string();
    assert!(errors.contains("30-c.toml:2:8: there is a rule `a` already, at "), "{errors}");
    assert!(errors.contains("10-a.toml:2"), "{errors}");
}

#[test]
fn unreadable_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.toml");
    assert!(load(&missing).unwrap_err().to_string().contains("none.toml: cannot be read: No such file"));
    fs::write(&missing, [0xff, 0xfe]).unwrap();
    assert!(load(&missing).unwrap_err().to_string().contains("valid UTF-8"));
    fs::write(&missing, " ".repeat((1 << 20) + 1)).unwrap();
    assert!(load(&missing).unwrap_err().to_string().contains("more than 1 MiB"));
}

#[test]
fn rules_that_cover_memgov_itself_are_found() {
    let text = |groups: &str| format!("[[rule]]\ngroups = \"{groups}\"\nover = \"1GiB\"\ndo = [\"kill\"]\n");
    let covering = |groups: &str| {
        let source = Source { path: "x".into(), text: text(groups) };
        let config = parse(vec![source], &users()).unwrap();
        config.rules_covering(b"/system.slice/memgov.service").count()
    };
    assert_eq!(covering("/system.slice"), 1);
    assert_eq!(covering("/*"), 1);
    assert_eq!(covering("/system.slice/*"), 1);
    assert_eq!(covering("/user.slice/**"), 0);
    assert_eq!(covering("/system.slice/memgov.service/*"), 0);
}

#[test]
fn words_read_back_as_they_are_written() {
    for text in ["high", "high+8MiB", "100MiB"] {
        assert_eq!(words::line_text(words::line(text).unwrap()), text);
    }
    assert_eq!(words::limit("max"), Ok(Limit::Max));
    assert_eq!((words::share("1%"), words::share("0.5%"), words::share("100%")), (Ok(10), Ok(5), Ok(1000)));
    for bad in ["", "0%", "1", "101%", "0.05%", "-1%", "1.%", ".5%", "1e2%", "9999999%", "1.5.5%"] {
        assert!(words::share(bad).is_err(), "{bad}");
    }
    assert_eq!(words::duration("1m 30s").map(|d| d.as_secs()), Ok(90));
    for bad in ["", "10", "1.5", "-1s", "1 parsec", "10000 years", "99999999999999999999s"] {
        assert!(words::duration(bad).is_err(), "{bad}");
    }
    let (action, details) = words::short_step("kill:largest@10s").unwrap();
    assert_eq!(
        (action.as_str(), details),
        ("kill", vec![("after", "10s".into()), ("victim", "largest".into())])
    );
    assert!(words::short_step("deny:1").is_err());
    assert_eq!(words::short_step("lend:96MiB").unwrap().1, [("amount", "96MiB".to_owned())]);
    assert_eq!(words::short_step("handler:5s").unwrap().1, [("within", "5s".to_owned())]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The parser never panics and every error can be shown.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Err(errors) = parse(vec![Source { path: "f".into(), text }], &users()) {
            prop_assert!(!errors.problems.is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    /// Nor on text that looks like a configuration.
    #[test]
    fn shuffled_configuration_never_panics(parts in proptest::collection::vec(0usize..TOKENS.len(), 0..60)) {
        let text: String = parts.iter().map(|i| TOKENS[*i]).collect();
        match parse(vec![Source { path: "f".into(), text }], &users()) {
            Ok(config) => { describe::report(&config); }
            Err(errors) => prop_assert!(!errors.to_string().is_empty()),
        }
    }

    /// Every word grammar takes any text without a panic.
    #[test]
    fn words_never_panic(text in ".{0,40}") {
        let _ = (words::size(&text), words::limit(&text), words::line(&text), words::meter(&text));
        let _ = (words::duration(&text), words::share(&text), signals::parse(&text), users().uid(&text));
        let _ = (words::group_pattern(&text, true), words::exe_pattern(&text), words::comm_pattern(&text));
        if let Ok((action, details)) = words::short_step(&text) {
            let _ = words::step(&action, false, |key| details.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str()));
        }
    }
}

const TOKENS: &[&str] = &[
    "[memgov]\n",
    "[[rule]]\n",
    "[[group]]\n",
    "[rule]\n",
    "groups = ",
    "processes = ",
    "do = ",
    "meter = ",
    "over = ",
    "until = ",
    "never = ",
    "kills = ",
    "\"/a/*\"\n",
    "\"usage\"\n",
    "\"rss.anon\"\n",
    "\"8GiB\"\n",
    "\"high+1MiB\"\n",
    "[\"deny\", \"kill\"]\n",
    "[{ action = \"signal\", signal = 10 }]\n",
    "{ exe = \"/b\", uid = \"build\" }\n",
    "1\n",
    "true\n",
    "[]\n",
    "{}\n",
    "\"é\u{1f600}\"\n",
    "=",
    "'",
    "\"\"\"",
    "\n",
    "name = \"x\"\n",
    "# c\n",
    "match = ",
];

#[test]
fn a_rule_that_no_kernel_carries_out_is_said_to_be_so_where_one_could() {
    let parsed = |tier: &str| {
        let text = format!(
            "[memgov]\ntier = \"{tier}\"\n[[rule]]\nname = \"out\"\ngroups = \"/x\"\nover = \"1GiB\"\ndo = [\"kill\"]\n\
             [[rule]]\nname = \"in\"\ngroups = \"/x\"\nover = \"1GiB\"\ndo = [\"deny\", {{ action = \"kill\", after = \"9s\" }}]\n"
        );
        let config = parse(vec![Source { path: "m.toml".into(), text }], &users()).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(parsed("portable"), [""; 0]);
    for tier in ["bpf", "auto"] {
        let notes = parsed(tier);
        assert!(
            notes.len() == 1 && notes[0].contains("`out`") && notes[0].contains("from outside"),
            "{notes:?}"
        );
    }
}
