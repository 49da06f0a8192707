//! How the governor, the meters and the control loops behave: stories and properties, a file each, in one program, so that it is built once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod memory;
mod world;

mod ask;
mod balance;
mod headroom;
mod hook;
mod host_ladder;
mod inside;
mod invariants;
mod jobs;
mod kernel;
mod kernel_memory;
mod ladders;
mod lend;
mod letter;
mod pace;
mod pressure;
mod shrink;
mod standing;
mod trial;
mod working_set;
