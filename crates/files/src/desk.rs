//! What reading and writing a file comes to: one or two requests to the daemon, or a figure of the kernel's own.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::Errno;
use memgov_client::{Error, Memgov};
use memgov_decide::units::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::events::{Counts, Seen};
use crate::groups::Groups;
use crate::node::{File, Metered};
use crate::processes;
use crate::text::{Command, unlimited};

/// The daemon answers in 2 s, or says that it is busy.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// memgov calls a shrink off that nobody has asked for in 10 s.
const ASKED_EVERY: Duration = Duration::from_millis(50);
/// One that takes long is asked about less often: as many as may wait at a time would be a load of their own.
const AT_LAST: Duration = Duration::from_millis(200);

/// Whom an open file is about, with what tells him from another of the same name.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A group and the inode of its directory.
    Group(&'a [u8], u64),
    /// A process and when it started.
    Process(u32, u64),
    /// One of a process's threads (pid, tid) and when that started. What it is told its process is told, but only while the thread is there.
    Thread(u32, u32, u64),
}

/// Where everything is asked.
#[derive(Debug)]
pub struct Desk {
    /// The daemon.
    pub memgov: Memgov,
    /// The hierarchy.
    pub groups: Groups,
    /// What happened.
    pub counts: Arc<Counts>,
    /// The page size.
    pub page: u64,
}

#[derive(Deserialize)]
struct Mark {
    line_bytes: u64,
    #[serde(default)]
    peak_bytes: Option<u64>,
    hits: u64,
}

#[derive(Deserialize)]
struct Job {
    #[serde(default)]
    job: Option<u64>,
    state: String,
    #[serde(default)]
    errno: Option<i32>,
}

impl Desk {
    /// Fails if the subject is not there any more, though another may have its name: as the kernel's own files do, ENODEV of a group and ESRCH of a process.
    fn confirm(&self, subject: Subject<'_>) -> Result<(), Errno> {
        use std::os::unix::fs::MetadataExt as _;
        match subject {
            Subject::Group(path, id) => {
                let is = std::fs::symlink_metadata(self.groups.dir(path)).is_ok_and(|now| now.ino() == id);
                is.then_some(()).ok_or(Errno::ENODEV)
            }
            Subject::Process(pid, start) => {
                (processes::start(pid)? == start).then_some(()).ok_or(Errno::ESRCH)
            }
            Subject::Thread(pid, tid, start) => {
                (processes::thread_start(pid, tid)? == start).then_some(()).ok_or(Errno::ESRCH)
            }
        }
    }

    /// The text of a file, and how far a text of events goes.
    pub fn read(&self, file: File, subject: Subject<'_>) -> Result<(String, Seen), (Errno, Seen)> {
        let early = |errno| (errno, 0);
        self.confirm(subject).map_err(early)?;
        if let (File::Events, Subject::Group(path, id)) = (file, subject) {
            return self.events(&daemons_path(path).map_err(early)?, id);
        }
        let text = match subject {
            Subject::Group(path, _) => self.read_group(file, path).map_err(early)?,
            Subject::Process(pid, _) | Subject::Thread(pid, ..) => {
                let answer = self.call("GetControl", &json!({ "pid": pid })).map_err(early)?;
                let memctl = answer.pointer("/control/memctl").and_then(Value::as_str);
                memctl.map(|text| format!("{text}\n")).ok_or((Errno::EPROTO, 0))?
            }
        };
        Ok((text, 0))
    }

    /// Counts as they are now, and not as they were when a daemon stopped that has not spoken since.
    fn events(&self, path: &str, id: u64) -> Result<(String, Seen), (Errno, Seen)> {
        if self.counts.is_quiet() {
            // After the last decision there can be: none is sent, and the loop is not asked.
            let none = json!({ "since": i64::MAX });
            self.call("Events", &none).map_err(|errno| (errno, 0))?;
            self.counts.heard();
        }
        let (text, seen) = self.counts.text(path, id, PATIENCE);
        text.map(|text| (text, seen)).map_err(|errno| (errno, seen))
    }

    fn read_group(&self, file: File, path: &[u8]) -> Result<String, Errno> {
        let number = match file {
            File::Priority | File::Reservation | File::OomReserve => {
                return self.job(file, &daemons_path(path)?);
            }
            // As of every file of a group that has no way to be read.
            File::Shrink | File::Memctl | File::Events => return Err(Errno::EINVAL),
            File::KernelStat => return self.groups.kernel_stat(path),
            File::KernelUsage => self.groups.kernel_usage(path)?,
            File::SocketUsage => self.groups.socket_usage(path)?,
            File::Limit(of) => self.limit(of, &daemons_path(path)?)?,
            File::KernelFailures => self.mark(&daemons_path(path)?)?.map_or(0, |mark| mark.hits),
            File::KernelPeak => {
                let kept = self.mark(&daemons_path(path)?)?.and_then(|mark| mark.peak_bytes);
                kept.map_or_else(|| self.groups.kernel_peak(path), Ok)?
            }
        };
        Ok(format!("{number}\n"))
    }

    /// Carries a write out. `stop`: whether who writes has been interrupted.
    pub fn write(
        &self,
        command: Command,
        subject: Subject<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Errno> {
        self.confirm(subject)?;
        match (command, subject) {
            (Command::Shrink(bytes), Subject::Group(path, _)) => {
                self.shrink(&daemons_path(path)?, bytes, stop)
            }
            (Command::Limit(of, limit), Subject::Group(path, _)) => {
                self.set_limit(of, &daemons_path(path)?, limit)
            }
            (Command::Priority(priority), Subject::Group(path, _)) => {
                let asked = json!({ "path": daemons_path(path)?, "priority": priority });
                self.call("SetJob", &asked).map(|_| ())
            }
            (Command::Reservation(reservation), Subject::Group(path, _)) => {
                self.reserve(&daemons_path(path)?, ("reservation", "reservation_bytes"), reservation)
            }
            (Command::OomReserve(reserve), Subject::Group(path, _)) => {
                self.reserve(&daemons_path(path)?, ("oom-reserve", "oom_reserve_bytes"), reserve)
            }
            (Command::ResetKernel, Subject::Group(path, _)) => {
                let asked = json!({ "path": daemons_path(path)? });
                match self.ask("ResetKernelPeak", &asked) {
                    Err(Error::Refused { name, .. }) if name == "NoSuchRule" => {
                        self.groups.reset_kernel_peak(path)
                    }
                    other => other.map(|_| ()).map_err(|error| errno(&error)),
                }
            }
            (Command::Control(control), Subject::Process(pid, _) | Subject::Thread(pid, ..)) => {
                let (climit, plimit) = (control.climit.0, control.plimit.0);
                let asked = json!({
                    "pid": pid, "word": control.word(), "climit_bytes": climit, "plimit_bytes": plimit, "as_file": true,
                });
                self.call("SetControl", &asked).map(|_| ())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// One request. A connection that was closed before its answer says nothing of the daemon: it is asked once more whether it runs.
    fn ask(&self, method: &str, parameters: &Value) -> Result<Value, Error> {
        match self.memgov.call(method, parameters.clone()) {
            Err(Error::Closed) => self.memgov.call(method, parameters.clone()),
            other => other,
        }
    }

    fn call(&self, method: &str, parameters: &Value) -> Result<Value, Errno> {
        self.ask(method, parameters).map_err(|error| errno(&error))
    }

    /// What the daemon keeps of this group's kernel memory, if a rule has a line for it.
    fn mark(&self, path: &str) -> Result<Option<Mark>, Errno> {
        let answer = self.call("GetKernelMark", &json!({ "path": path }))?;
        let mark = answer.get("mark").unwrap_or(&Value::Null);
        Option::<Mark>::deserialize(mark).map_err(|_| Errno::EPROTO)
    }

    /// What is not set need not be taken back: as of a line.
    fn reserve(&self, path: &str, (key, field): (&str, &str), size: Option<u64>) -> Result<(), Errno> {
        let Some(bytes) = size else {
            return match self.ask("ClearJob", &json!({ "path": path, "only": [key] })) {
                Err(Error::Refused { name, .. }) if name == "NoSuchRule" => Ok(()),
                other => other.map(|_| ()).map_err(|error| errno(&error)),
            };
        };
        self.call("SetJob", &json!({ "path": path, field: bytes })).map(|_| ())
    }

    /// What the group is worth as a job (ENODATA: it is none), and what is kept under its limit (0 where nothing is).
    fn job(&self, file: File, path: &str) -> Result<String, Errno> {
        let answer = self.call("GetJob", &json!({ "path": path }))?;
        let (key, none) = match file {
            File::Priority => ("priority", None),
            File::Reservation => ("reservation_bytes", None),
            _ => ("oom_reserve_bytes", Some(&Value::from(0))),
        };
        let number = answer.get(key).filter(|number| !number.is_null()).or(none).ok_or(Errno::ENODATA)?;
        Ok(format!("{number}\n"))
    }

    /// The rule that was set on the group, if it has this meter; if another: EBUSY, for a group has one rule.
    fn rule_of(&self, of: Metered, path: &str) -> Result<Option<Value>, Errno> {
        let answer = self.call("GetGroupRule", &json!({ "path": path }))?;
        let rule = answer.get("rule").filter(|rule| !rule.is_null());
        match rule.map(|rule| (rule, rule.get("meter").and_then(Value::as_str))) {
            None => Ok(None),
            Some((rule, Some(meter))) if meter == of.name() => Ok(Some(rule.clone())),
            Some(_) => Err(Errno::EBUSY),
        }
    }

    fn limit(&self, of: Metered, path: &str) -> Result<u64, Errno> {
        let set = match self.rule_of(of, path) {
            Err(Errno::EBUSY) => None,
            other => other?,
        };
        let over = set.as_ref().and_then(|rule| rule.get("over")?.as_str()?.parse::<Bytes>().ok());
        match (over, of) {
            (Some(Bytes(line)), _) => Ok(line),
            // One of the configuration's; of lines for sockets the daemon does not tell.
            (None, Metered::Kernel) => {
                Ok(self.mark(path)?.map_or(unlimited(self.page), |mark| mark.line_bytes))
            }
            (None, Metered::Sockets) => Ok(unlimited(self.page)),
        }
    }

    fn set_limit(&self, of: Metered, path: &str, limit: Option<u64>) -> Result<(), Errno> {
        let rule = self.rule_of(of, path)?;
        let Some(bytes) = limit else {
            return match rule {
                None => Ok(()),
                Some(_) => self.call("ClearGroupRule", &json!({ "path": path })).map(|_| ()),
            };
        };
        // What was set by other means, a ladder or a relief level, stays.
        let plain = || json!({ "path": path, "meter": of.name(), "do": [{ "action": of.action() }] });
        let mut rule = rule.unwrap_or_else(plain);
        if let Some(fields) = rule.as_object_mut() {
            fields.insert("over".into(), json!(format!("{bytes}B")));
        }
        self.call("SetGroupRule", &json!({ "rule": rule })).map(|_| ())
    }

    fn shrink(&self, path: &str, bytes: u64, stop: &dyn Fn() -> bool) -> Result<(), Errno> {
        let goal = json!({ "path": path, "to_bytes": bytes, "attended": true });
        let mut answer = self.call("Shrink", &json!({ "shrink": goal }))?;
        let mut pause = ASKED_EVERY;
        loop {
            let job =
                Job::deserialize(answer.get("job").unwrap_or(&Value::Null)).map_err(|_| Errno::EPROTO)?;
            let Some(id) = job.job.filter(|_| job.state == "running") else { return ended(&job) };
            thread::sleep(pause);
            pause = (pause * 2).min(AT_LAST);
            if stop() {
                // If that fails it is called off anyhow, for nobody asks for it any more.
                let _late = self.call("CancelShrink", &json!({ "id": id }));
                return Err(Errno::EINTR);
            }
            answer = loop {
                match self.call("GetShrink", &json!({ "id": id })) {
                    // Busy is no reason to give up what is under way.
                    Err(Errno::EAGAIN) if !stop() => thread::sleep(ASKED_EVERY),
                    other => break other?,
                }
            };
        }
    }
}

fn ended(job: &Job) -> Result<(), Errno> {
    match job.state.as_str() {
        "reached" | "already" | "emptied" => Ok(()),
        "hard" => Err(Errno::EBUSY),
        "cancelled" => Err(Errno::ECANCELED),
        "gone" => Err(Errno::ENODEV),
        "failed" => Err(Errno::from_i32(job.errno.unwrap_or(0))),
        _ => Err(Errno::EPROTO),
    }
}

/// A group as the daemon names it. One whose name is no text cannot be named to it.
pub fn daemons_path(path: &[u8]) -> Result<String, Errno> {
    std::str::from_utf8(path).map(|path| format!("/{path}")).map_err(|_| Errno::EINVAL)
}

fn errno(error: &Error) -> Errno {
    match error {
        // As of a file of a group that has been removed.
        Error::Refused { name, .. } if name == "NoSuchGroup" => Errno::ENODEV,
        other => Errno::from_i32(other.errno()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use memgov_decide::control::MemControl;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn ends_are_errnos() {
        let job = |state: &str, errno| Job { job: Some(1), state: state.into(), errno };
        for good in ["reached", "already", "emptied"] {
            assert_eq!(ended(&job(good, None)), Ok(()));
        }
        let table = [
            ("hard", None, Errno::EBUSY),
            ("cancelled", None, Errno::ECANCELED),
            ("gone", None, Errno::ENODEV),
            ("failed", Some(13), Errno::EACCES),
            ("failed", None, Errno::EIO),
            ("new", None, Errno::EPROTO),
        ];
        for (state, number, expected) in table {
            assert_eq!(ended(&job(state, number)), Err(expected), "{state}");
        }
    }

    /// A desk over a hierarchy that has one group, `g`, and that.
    fn desk(answers: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) -> Rig {
        let (fake, top) = (Fake::start(answers), tempfile::tempdir().unwrap());
        std::fs::create_dir(top.path().join("g")).unwrap();
        let mounts = format!("30 23 0:26 / {} rw - cgroup2 cgroup2 rw\n", top.path().display());
        let groups = Groups::find(&mounts, "").unwrap();
        let memgov = fake.memgov(Duration::from_secs(5));
        let desk = Desk { memgov, groups, counts: Arc::default(), page: 4096 };
        Rig { desk, top, _fake: fake }
    }

    struct Rig {
        desk: Desk,
        top: tempfile::TempDir,
        _fake: Fake,
    }

    impl Rig {
        fn read(&self, file: File) -> Result<String, Errno> {
            use std::os::unix::fs::MetadataExt as _;
            let id = self.top.path().join("g").metadata().unwrap().ino();
            self.desk.read(file, Subject::Group(b"g", id)).map(|(text, _)| text).map_err(|(errno, _)| errno)
        }
    }

    #[test]
    fn kernel_memory_is_asked_of_the_one_group() {
        let rig = desk(|method, asked| match (method, asked["path"].as_str()) {
            // As of the 513th group that has a line.
            ("Status", _) => Some(json!({ "status": { "kernel": [], "truncated": 1 } })),
            ("GetGroupRule", _) => Some(json!({ "rule": null })),
            ("GetKernelMark", Some("/g")) => {
                Some(json!({ "mark": { "line_bytes": 8 << 20, "hits": 3, "peak_bytes": 9 << 20, "new": 1 } }))
            }
            _ => None,
        });
        assert_eq!(rig.read(File::KernelFailures), Ok("3\n".into()));
        assert_eq!(rig.read(File::Limit(Metered::Kernel)), Ok("8388608\n".into()));
        assert_eq!(rig.read(File::KernelPeak), Ok("9437184\n".into()));
    }

    /// Takes as long as a stream may be quiet.
    #[test]
    fn a_daemon_that_stops_after_its_stream_stands() {
        let stopped = Arc::new(AtomicBool::new(false));
        let rig = desk({
            let stopped = Arc::clone(&stopped);
            move |_, _| {
                let page = json!({ "events": [], "missed": 0, "cursor": 0 });
                (!stopped.load(Ordering::SeqCst)).then_some(page)
            }
        });
        rig.desk.counts.follow(rig.desk.memgov.clone()).unwrap();
        assert!(rig.read(File::Events).unwrap().starts_with("warning 0\n"));
        let patient = rig.desk.memgov.clone();
        let rig =
            Rig { desk: Desk { memgov: patient.patience(Duration::from_millis(50)), ..rig.desk }, ..rig };
        stopped.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(2100));
        for _ in 0..2 {
            assert_eq!(rig.read(File::Events), Err(Errno::ETIMEDOUT));
        }
        stopped.store(false, Ordering::SeqCst);
        // So little patience may be too little on a busy machine.
        assert!((0..200).any(|_| rig.read(File::Events).is_ok()));
    }

    #[test]
    fn without_a_line_for_kernel_memory() {
        let rig = desk(|method, _| match method {
            "GetGroupRule" => Some(json!({ "rule": null })),
            _ => Some(json!({ "mark": null })),
        });
        assert_eq!(rig.read(File::KernelFailures), Ok("0\n".into()));
        assert_eq!(rig.read(File::Limit(Metered::Kernel)), Ok("9223372036854771712\n".into()));
        assert_eq!(rig.read(File::KernelPeak), Err(Errno::ENODATA), "nobody keeps it");
    }

    #[test]
    fn who_has_another_start_is_another() {
        let rig = desk(|_, _| Some(json!({ "control": { "memctl": "0 0 0" } })));
        let pid = std::process::id();
        let (start, control) = (processes::start(pid).unwrap(), Command::Control(MemControl::default()));
        let write = |subject| rig.desk.write(control, subject, &|| false);
        assert_eq!(write(Subject::Thread(pid, pid, start)), Ok(()));
        for gone in [
            Subject::Process(pid, start + 1),
            Subject::Thread(pid, pid, start + 1),
            Subject::Thread(pid, u32::MAX, start),
        ] {
            assert_eq!(write(gone), Err(Errno::ESRCH), "{gone:?}");
            assert_eq!(rig.desk.read(File::Memctl, gone), Err((Errno::ESRCH, 0)), "{gone:?}");
        }
    }

    #[test]
    fn a_daemon_that_is_silent_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let silent = dir.path().join("silent");
        // Nobody accepts.
        let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
        let ask = |socket: &std::path::Path| {
            let memgov = Memgov::at(socket).patience(Duration::from_millis(20));
            memgov.call("Status", json!({})).map_err(|error| errno(&error))
        };
        assert_eq!(ask(&silent), Err(Errno::ETIMEDOUT));
        assert_eq!(ask(&dir.path().join("nobody")), Err(Errno::ENOTCONN));
    }
}
