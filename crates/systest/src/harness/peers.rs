//! Programs of the world outside that talk to each other over a link with a delay: two network namespaces, a pair of virtual interfaces between them
//! (veth(4)), and a queue at either end that holds each packet back and lets so many bytes pass a second (tc-netem(8)). All of it is gone with the
//! last descriptor and the last process in it.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::group::Group;
use super::host::on_path;
use super::{MIB, poll_until};
use crate::sys::net::{Bounds, bounds_of, namespace, start_in_namespace, unread_of};
use crate::sys::process::start_in_groups;

/// Bits a link lets pass a second in either direction. An emulated processor has several of them to carry, and it is the link that is to be the limit.
const RATE: u64 = 16_000_000;
/// More packets than can be under way: none is lost for want of a place.
const PLACES: &str = "20000";
/// Where the far side is, seen from the near one.
pub const FAR: &str = "10.99.0.2";
const NEAR: &str = "10.99.0.1";
/// The name of the interface on both sides.
const INTERFACE: &str = "eth0";

/// Why there can be none here, by trying.
pub fn missing() -> Option<String> {
    let absent = ["iperf3", "nginx", "curl", "ip", "tc"].into_iter().find(|name| !on_path(name));
    let why = match absent {
        Some(name) => format!("no {name}"),
        None => format!("no link with a delay: {:#}", Link::new(Duration::from_millis(1)).err()?),
    };
    Some(format!("{} (cargo xtask vm --peers)", why.lines().collect::<Vec<_>>().join(" ")))
}

/// One link.
pub struct Link {
    near: OwnedFd,
    far: OwnedFd,
    /// From one side to the other and back.
    pub round_trip: Duration,
}

/// A side of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where the groups under test are.
    Near,
    /// The other one.
    Far,
}

impl Link {
    /// A new one.
    pub fn new(round_trip: Duration) -> Result<Self> {
        let make = || namespace().map_err(|errno| anyhow!("making a network namespace: errno {errno}"));
        let link = Self { near: make()?, far: make()?, round_trip };
        let far = format!("/proc/{}/fd/{}", std::process::id(), link.far.as_raw_fd());
        let pair = ["link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", &far];
        link.set_up(Side::Near, "ip", &pair)?;
        let (delay, rate) = (format!("{}us", round_trip.as_micros() / 2), format!("{RATE}bit"));
        for (side, address) in [(Side::Near, NEAR), (Side::Far, FAR)] {
            link.set_up(side, "ip", &["address", "add", &format!("{address}/24"), "dev", INTERFACE])?;
            link.set_up(side, "ip", &["link", "set", INTERFACE, "up"])?;
            let queue = ["qdisc", "add", "dev", INTERFACE, "root", "netem"];
            let how = ["delay", &delay, "rate", &rate, "limit", PLACES];
            link.set_up(side, "tc", &[&queue[..], &how].concat())?;
        }
        Ok(link)
    }

    fn set_up(&self, side: Side, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments);
        self.enter(side, &mut command)?;
        let output = command.output().with_context(|| format!("starting {program}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
        Ok(())
    }

    fn enter(&self, side: Side, command: &mut Command) -> Result<()> {
        let namespace = if side == Side::Near { &self.near } else { &self.far };
        start_in_namespace(command, namespace.try_clone()?);
        Ok(())
    }

    /// Starts a program on one side of it, in a group.
    pub fn start(&self, side: Side, group: &Group, mut command: Command) -> Result<Peer> {
        start_in_groups(&mut command, group.doors()?, true);
        self.enter(side, &mut command)?;
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Peer { pid: i32::try_from(child.id())?, child })
    }

    /// The same of one that waits for others to connect; ready when this is back.
    pub fn serve(&self, side: Side, group: &Group, command: Command, within: Duration) -> Result<Peer> {
        let shown = format!("{command:?}");
        let mut peer = self.start(side, group, command)?;
        let listens = poll_until(within, Duration::from_millis(20), || {
            peer.listens().then_some(Ok(())).or_else(|| {
                let ended = peer.child.try_wait().ok().flatten()?;
                Some(Err(anyhow!("it ended ({ended})")))
            })
        });
        listens.unwrap_or_else(|| Err(anyhow!("it does not listen"))).context(shown)?;
        Ok(peer)
    }
}

/// `iperf3 -s`.
pub fn iperf_server() -> Command {
    let mut command = Command::new("iperf3");
    command.arg("-s").stdout(Stdio::null());
    command
}

/// `iperf3 -c`, which sends for longer than any test takes, or with `-R` is sent to.
pub fn iperf_client(more: &[&str]) -> Command {
    let mut command = Command::new("iperf3");
    command.args(["-c", FAR, "-t", "3600"]).args(more).stdout(Stdio::null());
    command
}

/// nginx in one process, which gives what is in `dir`, on port 80.
pub fn nginx(dir: &Path) -> Result<Command> {
    let own = |what: &str| format!("{what}_temp_path {};", dir.join(what).display());
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(own).join(" ");
    let config = dir.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {0}/nginx.pid; error_log {0}/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; sendfile on; {paths} server {{ listen 80; root {0}; }} }}\n",
        dir.display()
    );
    fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir).arg("-c").arg(config);
    command.stdout(Stdio::null());
    Ok(command)
}

/// curl, which writes a file of the far side's nginx to a pipe.
pub fn curl(file: &str, more: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--fail", "--no-buffer"]).args(more).arg(format!("http://{FAR}/{file}"));
    command.stdout(Stdio::piped());
    command
}

/// A running program; it ends with this.
pub struct Peer {
    /// Its process.
    pub pid: i32,
    child: Child,
}

impl Peer {
    /// What it writes.
    pub fn output(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("nobody hears it")
    }

    /// Whether it has ended well; `None`: it runs.
    pub fn ended_well(&mut self) -> Option<bool> {
        self.child.try_wait().ok().flatten().map(|status| status.success())
    }

    /// What bounds its TCP sockets.
    pub fn bounds(&self) -> Result<Vec<Bounds>> {
        bounds_of(self.pid).map_err(|errno| anyhow!("the sockets of {}: errno {errno}", self.pid))
    }

    /// What its TCP sockets have received and it has not read, as memory.
    pub fn unread(&self) -> Result<u64> {
        unread_of(self.pid).map_err(|errno| anyhow!("the sockets of {}: errno {errno}", self.pid))
    }

    /// Bytes that came over the link to its side, ever (proc_pid_net(5)).
    pub fn received(&self) -> Result<u64> {
        let path = format!("/proc/{}/net/dev", self.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(INTERFACE)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("{path} has no {INTERFACE}: {text}"))
    }

    /// A socket of its namespace is in the state LISTEN.
    fn listens(&self) -> bool {
        ["tcp", "tcp6"].iter().any(|file| {
            fs::read_to_string(format!("/proc/{}/net/{file}", self.pid))
                .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().nth(3) == Some("0A")))
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only of one that has ended and is reaped already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A file that does not repeat itself (xorshift, Marsaglia 2003), and its sha256.
pub fn large_file(path: &Path, mebibytes: u64) -> Result<String> {
    use std::io::Write as _;
    let (mut file, mut hash) = (fs::File::create(path)?, Hash::new()?);
    let (mut state, mut piece) = (0x9e37_79b9_7f4a_7c15_u64, vec![0; usize::try_from(MIB)?]);
    for _ in 0..mebibytes {
        for place in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            place.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&piece).with_context(|| format!("writing {}", path.display()))?;
        hash.add(&piece)?;
    }
    hash.end()
}

/// sha256sum(1), fed bit by bit.
pub struct Hash(Child);

impl Hash {
    /// Of nothing yet.
    pub fn new() -> Result<Self> {
        let mut command = Command::new("sha256sum");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().map(Self).context("starting sha256sum")
    }

    /// More.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        use std::io::Write as _;
        self.0.stdin.as_mut().context("no pipe to it")?.write_all(bytes).context("telling sha256sum")
    }

    /// Of all that was.
    pub fn end(mut self) -> Result<String> {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.split(' ').next().filter(|hash| hash.len() == 64).map(str::to_owned).context("no hash")
    }
}
