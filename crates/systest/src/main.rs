//! memgov against a real kernel: the workloads to be governed, the acceptance criteria as named tests, and the demo. It
//! drives the `memgov` binary from outside, as an administrator does, and uses none of its code; only the `bpf_` tests, which are about
//! what happens inside the kernel, call the eBPF tier itself.

// An allocator that counts: that a pass over all groups allocates nothing can be shown only where programs can be loaded.
#[path = "../../memgov/tests/counting/mod.rs"]
mod counting;
mod demo;
mod harness;
mod sys;
mod tests;
mod workload;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use harness::host::{Host, Tier};
use harness::run::Test;

#[derive(Parser)]
#[command(about = "memgov against a real kernel: workloads, criteria as tests, the demo")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A program to be governed.
    Workload(workload::Workload),
    /// Runs the tests and prints each result as `@@TEST <name> <result> <millis> <tier> [reason]`.
    Run {
        /// The name of this machine in the table: host, 6.1-v2, 6.12-v2, 6.1-v1, uml.
        #[arg(long)]
        target: String,
        /// Only tests whose name contains this (or one of these, with commas between), also those left to another run otherwise.
        #[arg(long, value_delimiter = ',')]
        filter: Vec<String>,
        /// Also what is left to another target, so that a run of everything ends in its time.
        #[arg(long)]
        all: bool,
        /// The program under test; the default lies beside this one.
        #[arg(long)]
        memgov: Option<PathBuf>,
        /// Where enforcement is done; given twice, every test runs once for each.
        #[arg(long, value_enum, default_values_t = [Tier::Portable])]
        tier: Vec<Tier>,
    },
    /// Prints the names of all tests.
    List,
    /// Does nothing: a program that a workload starts.
    #[command(hide = true)]
    LeaveAtOnce,
    /// A runaway process for each action, held by the real daemon, and a neighbour beside it.
    Demo {
        /// The program to show; the default lies beside this one.
        #[arg(long)]
        memgov: Option<PathBuf>,
    },
}

fn main() -> std::process::ExitCode {
    let done = match CommandLine::parse().command {
        Command::Workload(workload) => return workload::run(&workload).into(),
        Command::Run { target, filter, all, memgov, tier } => run(&target, &filter, all, memgov, &tier),
        Command::List => {
            tests::all().iter().for_each(|test| println!("{}", test.name));
            Ok(true)
        }
        Command::LeaveAtOnce => Ok(true),
        Command::Demo { memgov } => demo::run(memgov.as_deref()),
    };
    match done {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("memgov-systest: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(target: &str, filter: &[String], all: bool, memgov: Option<PathBuf>, tiers: &[Tier]) -> Result<bool> {
    let host = Host::probe(target, memgov.as_deref())?;
    let wanted =
        |test: &Test| filter.is_empty() || filter.iter().any(|part| test.name.contains(part.as_str()));
    let tests: Vec<Test> = tests::all().into_iter().filter(wanted).collect();
    let good = harness::run::run(&host, &tests, tiers, all || !filter.is_empty());
    host.clean();
    Ok(good)
}
