//! Programs to be governed. All of them are one agent that takes commands on standard input, one a line, and answers on
//! standard output; the named ones only start it with their commands already given. Nothing here knows memgov.

mod agent;
mod children;
mod command;
mod growth;
mod histogram;
mod hoard;
mod innocent;
mod net;
mod pace;
pub mod probe;
mod read;
mod text;

use clap::{Args, Subcommand};

/// Command line of `workload`.
#[derive(Args)]
pub struct Workload {
    #[command(subcommand)]
    program: Option<Program>,
}

#[derive(Subcommand)]
enum Program {
    /// Takes commands on standard input (`help` lists them).
    Agent {
        /// Commands to run first, each one argument.
        commands: Vec<String>,
    },
    /// Takes memory step by step.
    Hog {
        /// anon, populate, mlock, shmem or file.
        #[arg(long, default_value = "anon")]
        kind: String,
        /// Bytes a step.
        #[arg(long, default_value_t = 1 << 20)]
        step: u64,
        /// Microseconds between steps; 0 is full speed.
        #[arg(long, default_value_t = 10_000)]
        interval: u64,
        /// Stops growing there and holds.
        #[arg(long, default_value_t = u64::MAX)]
        upto: u64,
    },
    /// Small steady work, measured: a neighbour that should notice nothing.
    Innocent {
        /// Microseconds between two pieces of work.
        #[arg(long, default_value_t = 2000)]
        interval: u64,
    },
    /// Uses the processor and counts its progress.
    Spin,
    /// Tries every call that can be refused, once, and prints each errno.
    Probe,
}

/// Runs one; returns the exit code.
pub fn run(workload: &Workload) -> u8 {
    let commands = match workload.program.as_ref() {
        None => Vec::new(),
        Some(Program::Agent { commands }) => commands.clone(),
        Some(Program::Hog { kind, step, interval, upto }) => {
            vec![format!("grow {kind} {step} {interval} {upto}")]
        }
        Some(Program::Innocent { interval }) => vec![format!("innocent {interval}")],
        Some(Program::Spin) => vec!["spin".to_owned()],
        Some(Program::Probe) => vec!["probe".to_owned(), "exit 0".to_owned()],
    };
    agent::main(&commands)
}
