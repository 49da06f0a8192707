//! One client: what it has sent, what it is owed, how long it has kept us waiting. Reads nothing while a reply is
//! still to be taken, so a client that does not read is slowed by the kernel and costs one reply of memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::handling::{News, Post};
use super::permit::Peer;
use super::requests::{Answer, Follow, answer, failed, stream};
use super::varlink::{Inbox, Reply, encode};
use super::{FailureKind, From, Governed};

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// Ended by the client, or after an error that was answered.
    Done,
    /// Ended by us: rubbish, or too slow.
    Dropped,
}

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the rest of a request that has begun.
    pub(crate) half: Duration,
    /// Without a request, or without taking any of a reply.
    pub(crate) idle: Duration,
}

#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    pub(crate) peer: Peer,
    inbox: Inbox,
    outbox: Vec<u8>,
    sent: usize,
    follow: Option<Follow>,
    post: Option<Box<dyn Post>>,
    half_since: Option<Instant>,
    /// The inbox may hold a whole call.
    unread: bool,
    progress: Instant,
    eof: bool,
    /// What is in the outbox is the last this client gets.
    last: bool,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, peer: Peer, now: Instant) -> Self {
        Self {
            socket,
            peer,
            inbox: Inbox::default(),
            outbox: Vec::new(),
            sent: 0,
            follow: None,
            post: None,
            half_since: None,
            unread: false,
            progress: now,
            eof: false,
            last: false,
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
    pub(crate) fn owes(&self) -> bool {
        self.sent < self.outbox.len()
    }
    /// Whether it is told, as things come, and asks for nothing more.
    pub(crate) fn follows(&self) -> bool {
        self.follow.is_some() || self.post.is_some()
    }
    pub(crate) fn wants_input(&self) -> bool {
        !self.owes() && !self.follows() && !self.eof && self.inbox.room() > 0
    }
    /// A whole call may wait in the inbox (pipelined): the next round must not sleep.
    pub(crate) fn may_have_call(&self) -> bool {
        !self.owes() && !self.follows() && !self.last && self.unread
    }

    /// Takes what has arrived, as far as there is room.
    pub(crate) fn read(&mut self, now: Instant) -> State {
        let mut buffer = [0u8; 8192];
        let room = self.inbox.room().min(buffer.len());
        match recv(&self.socket, &mut buffer[..room], RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.eof = true,
            Ok((n, _)) => {
                self.inbox.push(&buffer[..n]);
                // `half_since` stays: dripping a byte a second is no progress.
                self.progress = now;
                self.unread = true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return State::Done,
        }
        State::Open
    }

    /// Answers at most one call. `busy`: the loop has just not answered somebody else, so it is not asked again.
    pub(crate) fn serve(&mut self, governed: &dyn Governed, now: Instant, busy: &mut bool) -> State {
        if self.owes() || self.last {
            return State::Open;
        }
        if let Some(follow) = self.follow {
            return self.stream(follow, governed);
        }
        if let Some(post) = &self.post {
            match post.news() {
                News::Nothing => {}
                News::Short(shortage) => self.tell(serde_json::json!({ "shortage": shortage })),
                News::Over => return State::Done,
            }
            return State::Open;
        }
        match self.inbox.call() {
            Ok(Some(call)) => {
                self.half_since = None;
                self.progress = now;
                let reply = if *busy && call.method.starts_with("org.memgov.") && !is_a_word(&call.method) {
                    Answer::Reply(failed(&FailureKind::Busy.because("memgov is busy; try again")))
                } else {
                    answer(&call, self.peer, governed)
                };
                match reply {
                    Answer::Reply(reply) => {
                        *busy |= reply.error.as_deref() == Some("org.memgov.Busy");
                        if !call.oneway {
                            self.queue(&reply);
                        }
                    }
                    Answer::Handle(post) => {
                        self.post = Some(post);
                        // It knows then that it has the place.
                        self.tell(serde_json::json!({}));
                    }
                    Answer::Follow(follow) => {
                        self.follow = Some(follow);
                        return self.stream(follow, governed);
                    }
                }
                State::Open
            }
            Ok(None) if self.eof => State::Done,
            Ok(None) => {
                self.unread = false;
                self.half_since = if self.inbox.is_half() { self.half_since.or(Some(now)) } else { None };
                State::Open
            }
            Err(error) => {
                let parameters = serde_json::json!({ "parameter": error.to_string() });
                let name = Some("org.varlink.service.InvalidParameter".to_owned());
                self.queue(&Reply { parameters, error: name, continues: None });
                self.last = true;
                State::Open
            }
        }
    }

    /// The next events for a follower. It has a cursor and no queue: events it is too slow for are no longer kept one
    /// day, and are then counted in `missed`.
    fn stream(&mut self, follow: Follow, governed: &dyn Governed) -> State {
        match stream(follow, self.peer, governed) {
            Ok(page) => {
                self.follow = Some(Follow { from: From::Cursor(page.cursor), ..follow });
                let begins = follow.whose.is_some() && follow.from == From::Now;
                if begins || !page.events.is_empty() || page.missed > 0 {
                    self.tell(serde_json::to_value(&page).unwrap_or_default());
                }
            }
            Err(failure) if failure.kind == FailureKind::Busy => {}
            Err(failure) => {
                self.queue(&failed(&failure));
                self.follow = None;
            }
        }
        State::Open
    }

    /// One of many replies.
    fn tell(&mut self, parameters: serde_json::Value) {
        self.queue(&Reply { parameters, error: None, continues: Some(true) });
    }

    fn queue(&mut self, reply: &Reply) {
        self.outbox = encode(reply);
        self.sent = 0;
    }

    /// Sends what the socket takes.
    pub(crate) fn write(&mut self, now: Instant) -> State {
        while self.owes() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, &self.outbox[self.sent..], flags) {
                Ok(n) => {
                    self.sent += n;
                    self.progress = now;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return State::Open,
                Err(_) => return State::Done,
            }
        }
        self.outbox = Vec::new();
        self.sent = 0;
        if self.last { State::Dropped } else { State::Open }
    }

    /// Whether this client has used up its time.
    pub(crate) fn overdue(&self, now: Instant, patience: Patience) -> bool {
        let half = self.half_since.is_some_and(|since| now.duration_since(since) > patience.half);
        // A follower may wait for events for ever, but must take those that have come.
        let waits = self.owes() || !self.follows();
        half || (waits && now.duration_since(self.progress) > patience.idle)
    }
}

/// What takes nothing of the loop's: a handler's word is not to come too late because somebody else was not answered.
fn is_a_word(method: &str) -> bool {
    method == "org.memgov.Handled"
}
