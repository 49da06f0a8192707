//! `cargo xtask`: set up a machine, test everything, boot a kernel, show the demo.
//!
//! Nothing of memgov is in here and nothing here is shipped. Verdicts about memgov come from `memgov-systest`; this
//! program builds, boots, counts and prints, and never turns "it did not run" into "it passed".

mod demo;
mod interrupt;
mod library;
mod progress;
mod setup;
mod supervise;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Set up, test and demonstrate memgov.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing (Debian packages) and fetch the kernels for the virtual machines
    Setup,
    /// Check, lint, test: on this machine and in every virtual machine
    Test(test::Arguments),
    /// Show memgov holding real runaway programs, on this machine or in a virtual machine
    Demo(demo::Arguments),
    /// Run a command, or a shell, in a virtual machine that has memgov in its PATH
    Vm(vm::Arguments),
    /// Install libmemgov: the C library, its header and its pkg-config file
    Library(library::Arguments),
}

fn main() -> ExitCode {
    progress::begin();
    let task = Arguments::parse().task;
    let done = interrupt::watch().and_then(|()| match task {
        Task::Setup => setup::everything().map(|()| ExitCode::SUCCESS),
        Task::Test(arguments) => test::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Vm(arguments) => vm::run(&arguments),
        Task::Library(arguments) => library::run(&arguments).map(|()| ExitCode::SUCCESS),
    });
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
