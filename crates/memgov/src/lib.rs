//! memgov: a memory governor for Linux. Data goes one way: observe -> decide -> act -> record; `daemon` is the only
//! module that knows all four.

pub mod act;
pub mod bpf;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod kernel;
pub mod observe;
pub mod record;
pub mod serve;

#[cfg(test)]
#[path = "../tests/counting/mod.rs"]
mod counting;
