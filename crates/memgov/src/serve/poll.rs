//! The serving thread: one poll(2) over the listener, the waker and at most 128 clients. Sleeps without a timeout when
//! there is no client.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::Governed;
use super::connection::{Connection, Patience, State};
use super::permit::Peer;
use crate::kernel::sys;

/// Bounds of the server. The defaults are what the daemon uses; tests use shorter times.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at one time.
    pub clients: usize,
    /// Of them, kept free for root: others can never lock the administrator out.
    pub for_root: usize,
    /// Clients of one user that is not root.
    pub per_user: usize,
    /// A request that has begun must be whole after so long.
    pub half: Duration,
    /// A client that asks nothing, or takes none of its reply, for so long is dropped.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 128,
            for_root: 16,
            per_user: 32,
            half: Duration::from_secs(5),
            idle: Duration::from_secs(60),
        }
    }
}

/// Tells the serving thread that there are new events. Cheap, never blocks, allocates nothing.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// New events are there.
    pub fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    turned_away: AtomicU64,
    dropped: AtomicU64,
}

/// A running server. Dropping it stops it and removes the socket.
#[derive(Debug)]
pub struct Serving {
    thread: Option<JoinHandle<()>>,
    waker: Waker,
    shared: Arc<Shared>,
    path: PathBuf,
}

impl Serving {
    /// To be called when there are new events.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
    /// Counts, for as long as anyone keeps it, the clients that were turned away or dropped.
    pub fn losses(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.turned_away.load(Ordering::Relaxed) + shared.dropped.load(Ordering::Relaxed)
    }

    /// Clients that were turned away.
    pub fn turned_away(&self) -> u64 {
        self.shared.turned_away.load(Ordering::Relaxed)
    }
    /// Clients that were dropped: rubbish, half a request, a reply not taken.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It holds nothing that a panic in it could have broken.
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens at `path` and serves on a thread of its own.
///
/// # Errors
/// Another memgov answers at `path`, or the socket cannot be made.
pub fn start(path: &Path, governed: Arc<dyn Governed>, limits: Limits) -> io::Result<Serving> {
    let listener = listen(path)?;
    let waker = Waker(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?));
    let shared = Arc::new(Shared::default());
    let mut server = Server {
        listener,
        waker: waker.clone(),
        shared: shared.clone(),
        limits,
        governed,
        clients: Vec::new(),
    };
    let thread = std::thread::Builder::new().name("serve".into()).spawn(move || server.run())?;
    Ok(Serving { thread: Some(thread), waker, shared, path: path.into() })
}

/// Anyone may connect; who it is decides what is allowed ([`super::permit`]). A socket left by a dead daemon is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Ok(meta) = fs::symlink_metadata(path) {
        let in_use = io::Error::new(io::ErrorKind::AddrInUse, "another memgov answers on this socket");
        if !meta.file_type().is_socket() {
            return Err(io::Error::other("there is something that is not a socket; not replacing it"));
        }
        match UnixStream::connect(path) {
            Ok(_) => return Err(in_use),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
        }
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Server {
    listener: UnixListener,
    waker: Waker,
    shared: Arc<Shared>,
    limits: Limits,
    governed: Arc<dyn Governed>,
    clients: Vec<Connection>,
}

/// More are accepted in the next round: a flood of connections does not starve those that are served.
const ACCEPTS_A_ROUND: usize = 64;
/// Time limits are looked at so often while there are clients.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

impl Server {
    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.wait() {
                Ok(ready) => self.round(&ready),
                // poll(2) fails for want of memory only; serving is not worth dying for.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Waits until somebody has something to say or to take. Gives what poll says of listener and clients.
    fn wait(&self) -> io::Result<Vec<PollFlags>> {
        let mut fds =
            vec![PollFd::new(&*self.waker.0, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        for client in &self.clients {
            let mut flags = PollFlags::RDHUP;
            flags.set(PollFlags::IN, client.wants_input());
            flags.set(PollFlags::OUT, client.owes());
            fds.push(PollFd::from_borrowed_fd(client.fd(), flags));
        }
        let more = self.clients.iter().any(Connection::may_have_call);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if more { Some(&now) } else { (!self.clients.is_empty()).then_some(&TICK) };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        if ready[0].contains(PollFlags::IN) {
            let mut count = [0u8; 8];
            let _ = rustix::io::read(&*self.waker.0, &mut count);
        }
        Ok(ready[1..].to_vec())
    }

    fn round(&mut self, ready: &[PollFlags]) {
        let now = Instant::now();
        let patience = Patience { half: self.limits.half, idle: self.limits.idle };
        let (governed, shared) = (&*self.governed, &self.shared);
        let mut flags = ready.iter().skip(1);
        let mut busy = false;
        self.clients.retain_mut(|client| {
            let flags = flags.next().copied().unwrap_or(PollFlags::empty());
            match turn(client, flags, governed, now, patience, &mut busy) {
                State::Open => true,
                State::Done => false,
                State::Dropped => {
                    shared.dropped.fetch_add(1, Ordering::Relaxed);
                    false
                }
            }
        });
        if ready.first().is_some_and(|flags| flags.contains(PollFlags::IN)) {
            self.accept(now);
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_A_ROUND {
            match self.listener.accept() {
                Ok((stream, _)) => match sys::peer_credentials(stream.as_fd()) {
                    Ok((uid, pid)) if self.has_room(uid) => {
                        let peer = Peer { uid, pid };
                        self.clients.push(Connection::new(stream.into(), peer, now));
                    }
                    _ => {
                        self.shared.turned_away.fetch_add(1, Ordering::Relaxed);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // No descriptor left, for example: do not spin on a listener that stays ready.
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
            }
        }
    }

    fn has_room(&self, uid: u32) -> bool {
        let Limits { clients, for_root, per_user, .. } = self.limits;
        let of_user = self.clients.iter().filter(|c| c.peer.uid == uid).count();
        if uid == 0 {
            return self.clients.len() < clients;
        }
        self.clients.len() < clients.saturating_sub(for_root) && of_user < per_user
    }
}

/// One client's turn: read, one answer, write.
fn turn(
    client: &mut Connection,
    flags: PollFlags,
    governed: &dyn Governed,
    now: Instant,
    patience: Patience,
    busy: &mut bool,
) -> State {
    if flags.intersects(PollFlags::ERR | PollFlags::NVAL) {
        return State::Done;
    }
    if flags.contains(PollFlags::HUP) && !flags.contains(PollFlags::IN) && !client.may_have_call() {
        return State::Done;
    }
    if flags.contains(PollFlags::RDHUP) && client.follows() {
        return State::Done;
    }
    let read = if flags.contains(PollFlags::IN) { client.read(now) } else { State::Open };
    if read != State::Open {
        return read;
    }
    let served = client.serve(governed, now, busy);
    if served != State::Open {
        return served;
    }
    if client.owes() {
        let written = client.write(now);
        if written != State::Open {
            return written;
        }
    }
    if client.overdue(now, patience) { State::Dropped } else { State::Open }
}
