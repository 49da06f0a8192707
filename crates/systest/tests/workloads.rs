//! The workloads must do what they say before they can show anything about memgov: here plain limits of this process's own
//! making refuse what memgov would refuse. No root and no groups are needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

struct Workload {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Workload {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memgov-systest"));
        let mut child = command
            .args(["workload", "agent"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut workload = Self { child, input, output };
        assert!(workload.line().starts_with("! ready "));
        arguments.iter().for_each(|_| assert!(workload.line().starts_with("= ")));
        workload
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "it is gone");
        line.trim_end().to_owned()
    }

    /// The next line that begins so; others are passed over.
    fn until(&mut self, begin: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        self.until("= ")
    }

    /// Errnos of the probe: brk, mmap, mlock, mlock2, mlockall, mprotect, mremap, shared.
    fn probe(&mut self) -> Vec<i32> {
        let answer = self.ask("probe");
        answer.split(' ').filter_map(|word| word.split_once('=')?.1.parse().ok()).collect()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ENOMEM: i32 = libc::ENOMEM;

#[test]
fn probe_shows_which_limit_refuses_what() {
    let mut workload = Workload::start(&[]);
    assert_eq!(workload.probe()[..2], [0, 0]);
    assert_eq!(workload.probe()[5..], [0, 0, 0]);
    workload.ask("limit data 1 inf");
    let data = workload.probe();
    assert_eq!(data[..2], [ENOMEM, ENOMEM], "RLIMIT_DATA refuses brk and private writable mmap");
    assert_eq!(data[5..], [ENOMEM, ENOMEM, 0], "and mprotect and mremap, but not shared mappings");
    workload.ask("limit data inf inf");
    workload.ask("limit as 4096 inf");
    let space = workload.probe();
    assert_eq!(space[..2], [ENOMEM, ENOMEM]);
    assert_eq!(
        space[5..],
        [0, ENOMEM, ENOMEM],
        "RLIMIT_AS refuses every new mapping and lets mprotect through"
    );
    workload.ask("limit data 1 inf");
    assert_eq!(workload.probe()[5], 0, "both together let mprotect through");
    workload.ask("limit as inf inf");
    workload.ask("limit data inf inf");
    assert_eq!(workload.probe()[..2], [0, 0], "put back, everything succeeds");
}

#[test]
fn probe_sees_memlock_only_without_the_capability() {
    let mut workload = Workload::start(&["drop-ipc-lock"]);
    workload.ask("limit memlock 4095 4095");
    assert_eq!(workload.probe()[2..5], [ENOMEM; 3], "mlock, mlock2 and mlockall");
}

#[test]
fn a_workload_lives_on_when_everything_is_refused() {
    let mut workload = Workload::start(&["limit data 1 inf", "grow anon 65536 100 1073741824"]);
    let refused = workload.until("! refused");
    assert!(refused.ends_with(" 0 12"), "{refused}");
    workload.ask("await refused 35");
    assert!(workload.until("! all-refused").contains("brk=12 mmap=12"));
    workload.ask("await allowed 35");
    workload.ask("limit data inf inf");
    workload.until("! all-allowed");
    workload.ask("stop");
    assert!(workload.ask("held").starts_with("= "));
}

#[test]
fn crossing_is_told_once_with_what_was_held() {
    let file = std::env::temp_dir().join(format!("memgov-usage-{}", std::process::id()));
    std::fs::write(&file, "1000\n").unwrap();
    let mut workload = Workload::start(&[&format!("watch {} 1000", file.display())]);
    workload.ask("grow anon 65536 1000 1073741824");
    std::thread::sleep(std::time::Duration::from_millis(30));
    std::fs::write(&file, "1001\n").unwrap();
    let crossed = workload.until("! crossed");
    assert_eq!(crossed.split(' ').nth(3), Some("1001"), "{crossed}");
    workload.ask("free");
    assert!(workload.ask("held").starts_with("= 0 "));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn signals_are_counted_blocked_and_yielded_to() {
    let mut workload = Workload::start(&["count 10", "block 10"]);
    let pid = workload.child.id().to_string();
    let send = |signal: &str| assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    send("-USR1");
    assert_eq!(workload.ask("counted 10"), "= 0");
    workload.ask("unblock 10");
    assert_eq!(workload.ask("counted 10"), "= 1");
    workload.ask("yield-on 12");
    workload.ask("grow anon 65536 0 655360");
    workload.until("! full");
    send("-USR2");
    assert!(workload.until("! yielded").ends_with(" 655360"));
    assert!(workload.ask("held").starts_with("= 0 "));
}

#[test]
fn a_neighbour_measures_itself() {
    let mut workload = Workload::start(&["innocent 500"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let figures: Vec<u64> =
        workload.ask("figures")[2..].split(' ').map(|word| word.parse().unwrap()).collect();
    let [pieces, failures, p50, p99, max] = figures[..] else { panic!("{figures:?}") };
    assert!(pieces > 50 && failures == 0 && p50 <= p99 && p99 <= max, "{figures:?}");
    workload.ask("limit data 1 inf");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let failures = workload.ask("figures")[2..].split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    assert!(failures > 0, "refused mappings are failures");
}

#[test]
fn exec_and_threads_keep_the_protocol() {
    let mut workload = Workload::start(&[]);
    writeln!(workload.input, "exec").unwrap();
    let again = workload.until("! ready");
    assert!(again.contains(&workload.child.id().to_string()), "the same process: {again}");
    assert_eq!(workload.probe()[..2], [0, 0]);
    writeln!(workload.input, "exit 7").unwrap();
    assert_eq!(workload.child.wait().unwrap().code(), Some(7));
}

#[test]
fn children_and_threads_speak_through_their_own_fifos() {
    let dir = std::env::temp_dir().join(format!("memgov-fifos-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for how in ["fork", "thread"] {
        let mut workload = Workload::start(&["count 17", "grow anon 65536 0 65536"]);
        let path = |end: &str| dir.join(format!("{how}-{end}"));
        for end in ["to", "from"] {
            assert!(Command::new("mkfifo").arg(path(end)).status().unwrap().success());
        }
        let open = |end: &str| std::fs::File::options().read(true).write(true).open(path(end)).unwrap();
        let (mut to, from) = (open("to"), BufReader::new(open("from")));
        workload.ask(&format!("{how} {} {}", path("to").display(), path("from").display()));
        let mut lines = from.lines().map(Result::unwrap);
        let ready = lines.next().unwrap();
        let pid = ready.split(' ').nth(2).unwrap();
        assert_eq!(how == "thread", pid == workload.child.id().to_string(), "{ready}");
        writeln!(to, "held").unwrap();
        let held = lines.next().unwrap();
        assert_eq!(held.starts_with("= 65536 "), how == "fork", "a child has its parent's memory: {held}");
        if how == "fork" {
            writeln!(to, "exit 0").unwrap();
            assert_eq!(workload.ask(&format!("reap {pid}")), "= 0");
            assert_eq!(workload.ask("jobs"), "= 0");
            assert_eq!(workload.ask("counted 17"), "= 1", "SIGCHLD");
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}
