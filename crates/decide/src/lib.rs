//! The pure heart of memgov: a [`Snapshot`](snapshot::Snapshot) goes in, [`Decisions`](decision::Decisions) come out.
//!
//! Nothing here reads a clock, a file or the environment, starts anything, or fails. Time is a field of the snapshot;
//! what was not read is `None`, never 0. `clippy.toml` beside this crate forbids the rest.
//!
//! The one idea: a rule is *meter x limit x actions* ([`policy::Rule`]). Configuration, programs asking for
//! themselves ([`control::MemControl`]) and the letters' own files all become rules of that one shape.
#![forbid(unsafe_code)]

pub mod balance;
pub mod control;
pub mod decision;
pub mod governor;
pub mod hook;
pub mod jobs;
pub mod kernel_memory;
pub mod kin;
pub mod offender;
pub mod policy;
pub mod pool;
pub mod pressure;
pub mod question;
pub mod rise;
pub mod shrink;
pub mod slow;
pub mod snapshot;
pub mod trend;
pub mod units;
pub mod victim;
pub mod working_set;
