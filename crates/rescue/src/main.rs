//! `memgov-rescue`: a shell for root that was started, locked in memory and paid for before the trouble. When all memory is eaten and no process number is left, a
//! login, a fork and an exec fail; this one is there, and looks and acts with system calls alone. A program of its own, and small: all of it is locked,
//! and it does not depend on memgov being well.

mod act;
mod file;
mod look;
mod place;
mod serve;
mod shell;
mod sys;
mod terminal;
mod text;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A shell that needs neither memory nor a fork: for when there is none left
///
/// `memgov-rescue serve` waits, started at boot (memgov-rescue.service). `memgov-rescue`, as root, gives this terminal to it. From a shell that cannot fork any more:
/// `exec memgov-rescue`, which needs no other process, but the memory of a small program; one that is left connected in a terminal needs not even that.
#[derive(Parser)]
#[command(name = "memgov-rescue", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where it waits; nobody but root may connect
    #[arg(long, value_name = "PATH", default_value = "/run/memgov/rescue.sock", global = true)]
    socket: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Wait for somebody in need
    Serve,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Serve) => serve::serve(&arguments.socket),
        None => connect(&arguments.socket),
    }
}

/// Hands the terminal over and waits for the end.
fn connect(socket: &Path) -> Result<()> {
    let stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "no rescue shell answers at {}: `memgov-rescue serve` (memgov-rescue.service) has to be started, as root, before there is trouble",
            socket.display()
        )
    })?;
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let files = [input.as_fd(), output.as_fd(), errors.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(&stream, &[IoSlice::new(b"r")], &mut control, SendFlags::NOSIGNAL)
        .context("handing the terminal over")?;
    let mut byte = [0];
    // It says nothing here: the end is the end of the session. While another sits there, this one waits for his turn.
    std::io::Read::read(&mut &stream, &mut byte).context("waiting for the end")?;
    Ok(())
}
