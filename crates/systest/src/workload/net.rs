//! Sockets at work: connections that nobody reads and somebody fills, and a stream that is checked byte by byte. Threads do it, so that the agent goes on listening.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::sys::connection::set;
use crate::sys::{Errno, hoard};

/// What is written at once.
const PIECE: usize = 64 << 10;
/// Between two rounds of a flood.
const ROUND: Duration = Duration::from_millis(5);

/// What is going on.
#[derive(Default)]
pub struct Net {
    flood: Option<Flood>,
    fetch: Option<Arc<Fetched>>,
    kept: Vec<(TcpStream, TcpStream)>,
    datagrams: Vec<UdpSocket>,
}

struct Flood {
    over: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

/// How far a stream has come.
#[derive(Default)]
struct Fetched {
    bytes: AtomicU64,
    /// Bytes that were not what was sent, or the end of the stream before it was asked for.
    wrong: AtomicU64,
    over: AtomicBool,
}

fn raw(error: &std::io::Error) -> Errno {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl Net {
    /// So many connections to itself, each given so much every few milliseconds for as long as it takes anything. Nobody reads.
    pub fn flood(&mut self, connections: u64, most: u64) -> std::result::Result<(), Errno> {
        hoard::raise_descriptors()?;
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            let (writer, reader) = pair().map_err(|error| raw(&error))?;
            writers.push(writer);
            readers.push(reader);
        }
        let (over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count) = (Arc::clone(&over), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                for writer in &mut writers {
                    let mut left = usize::try_from(most).unwrap_or(usize::MAX);
                    while let Ok(more @ 1..) = writer.write(&[1; PIECE][..left.min(PIECE)]) {
                        count.fetch_add(more as u64, Ordering::Relaxed);
                        left -= more;
                    }
                }
                std::thread::sleep(ROUND);
            }
            drop(readers);
        });
        self.flood = Some(Flood { over, written, thread });
        Ok(())
    }

    /// What the flood has got rid of so far.
    pub fn flooded(&self) -> u64 {
        self.flood.as_ref().map_or(0, |flood| flood.written.load(Ordering::Relaxed))
    }

    /// Closes all of it; when this is back it is closed.
    pub fn end_flood(&mut self) {
        if let Some(flood) = self.flood.take() {
            flood.over.store(true, Ordering::Release);
            // A thread that has panicked has closed its sockets too.
            let _ended = flood.thread.join();
        }
    }

    /// Streams to whoever connects: the numbers from 0 on, eight bytes each, and rests after each piece. Its port.
    pub fn serve(rest: Duration) -> std::result::Result<u16, Errno> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| raw(&error))?;
        let port = listener.local_addr().map_err(|error| raw(&error))?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || send(stream, rest));
            }
        });
        Ok(port)
    }

    /// Reads such a stream from now on, and checks it.
    pub fn fetch(&mut self, port: u16) -> std::result::Result<(), Errno> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect(address).map_err(|error| raw(&error))?;
        let fetched = Arc::new(Fetched::default());
        self.fetch = Some(Arc::clone(&fetched));
        std::thread::spawn(move || receive(stream, &fetched));
        Ok(())
    }

    /// Bytes so far, and how many of them were wrong.
    pub fn fetched(&self) -> (u64, u64) {
        let of = |fetched: &Arc<Fetched>| {
            (fetched.bytes.load(Ordering::Relaxed), fetched.wrong.load(Ordering::Relaxed))
        };
        self.fetch.as_ref().map_or((0, 0), of)
    }

    /// A connection with itself that is kept, its ends with sizes of their own (0: the system's), and so much written as it takes of it.
    pub fn keep(
        &mut self,
        [receive, send]: [u64; 2],
        unsent: u64,
        bytes: u64,
    ) -> std::result::Result<(), Errno> {
        let (mut writer, reader) = pair().map_err(|error| raw(&error))?;
        let options = [
            (libc::SOL_SOCKET, libc::SO_RCVBUF, receive),
            (libc::SOL_SOCKET, libc::SO_SNDBUF, send),
            (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, unsent),
        ];
        for (level, name, value) in options.into_iter().filter(|(.., value)| *value > 0) {
            let value = i32::try_from(value).map_err(|_| libc::EINVAL)?;
            set(writer.as_raw_fd(), level, name, value)?;
            set(reader.as_raw_fd(), level, name, value)?;
        }
        let mut left = usize::try_from(bytes).map_err(|_| libc::EINVAL)?;
        while left > 0
            && let Ok(more @ 1..) = writer.write(&[1; PIECE][..left.min(PIECE)])
        {
            left -= more;
        }
        self.kept.push((writer, reader));
        Ok(())
    }

    /// Datagrams that lie in a socket.
    pub fn datagrams(&mut self, count: u64, bytes: usize) -> std::result::Result<(), Errno> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| raw(&error))?;
        let address = socket.local_addr().map_err(|error| raw(&error))?;
        let datagram = vec![1; bytes];
        for _ in 0..count {
            socket.send_to(&datagram, address).map_err(|error| raw(&error))?;
        }
        self.datagrams.push(socket);
        Ok(())
    }

    /// Ends it.
    pub fn end_fetch(&mut self) {
        if let Some(fetched) = self.fetch.take() {
            fetched.over.store(true, Ordering::Release);
        }
    }
}

fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let writer = TcpStream::connect(listener.local_addr()?)?;
    let (reader, _) = listener.accept()?;
    writer.set_nonblocking(true)?;
    Ok((writer, reader))
}

/// Until the other side has enough.
fn send(mut stream: TcpStream, rest: Duration) {
    let (mut next, mut piece) = (0u64, vec![0; PIECE]);
    loop {
        for place in piece.chunks_exact_mut(8) {
            place.copy_from_slice(&next.to_le_bytes());
            next += 1;
        }
        if stream.write_all(&piece).is_err() {
            return;
        }
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
    }
}

/// How many bytes of a piece that begins at `at` of the stream are not what was sent. Whole numbers at a time, or it would be this that is measured.
fn wrong(piece: &[u8], at: u64) -> usize {
    let byte = |at: u64| (at / 8).to_le_bytes()[usize::try_from(at % 8).unwrap_or(0)];
    let head = usize::try_from(at.next_multiple_of(8) - at).unwrap_or(0).min(piece.len());
    let mut wrong = piece[..head].iter().zip(at..).filter(|(got, at)| **got != byte(*at)).count();
    let (mut next, rest) = (at.div_ceil(8), piece[head..].chunks_exact(8));
    let tail = rest.remainder();
    for number in rest {
        wrong += if number == next.to_le_bytes() { 0 } else { 8 };
        next += 1;
    }
    wrong + tail.iter().zip(next * 8..).filter(|(got, at)| **got != byte(*at)).count()
}

fn receive(mut stream: TcpStream, fetched: &Fetched) {
    let (mut at, mut piece) = (0u64, vec![0; PIECE]);
    while !fetched.over.load(Ordering::Acquire) {
        let count = match stream.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => {
                fetched.wrong.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(count) => count,
        };
        let wrong = wrong(&piece[..count], at);
        at += count as u64;
        fetched.wrong.fetch_add(wrong as u64, Ordering::Relaxed);
        fetched.bytes.store(at, Ordering::Relaxed);
    }
}
