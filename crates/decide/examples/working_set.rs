//! The search for a working set on the simulated memory, beside two laws that are published: a table, or with `curves` comma-separated values to be drawn.
//! `cargo run --release -p memgov-decide --example working_set [-- curves > curves.csv]`.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "it is a program: it has arguments and prints"
)]

#[path = "../tests/behaviour/memory/laws.rs"]
mod laws;
#[path = "../tests/behaviour/memory/reuse.rs"]
mod reuse;

use laws::*;
use memgov_decide::units::Bytes;
use memgov_decide::working_set::*;
use reuse::Memory;

/// As much pressure as senpai tolerates.
const AS_SENPAI: Tolerance = Tolerance { pressure: 1667, ..TOLERANCE };

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => table(),
        Some("curves") => curves(),
        Some(other) => eprintln!("{other}: unknown; `curves`, or nothing for the table"),
    }
}

/// Usage and what is lost over time, as comma-separated values: where a law settles, how far it goes under that, whether it swings, and how it takes a working set
/// that grows by half after half an hour and is back after an hour.
fn curves() {
    const EACH: usize = 10;
    println!("workload,law,second,usage_mib,lost_ppm");
    for (name, periods) in workloads().into_iter().chain([("change", hot_and_cold(200, 300))]) {
        let draw = |law: &str, one: &mut dyn FnMut(&mut Memory)| {
            let mut memory = Memory::new(&periods, 0);
            let mut all = Run::default();
            for (period, wanted) in [1000, 1000, 7_200_000].into_iter().enumerate() {
                if name == "change" && period > 0 {
                    memory.change(200..300, wanted);
                }
                let part = run(&mut memory, 1800, &mut *one);
                all.usage.extend(part.usage);
                all.lost.extend(part.lost);
            }
            for at in (0..all.usage.len()).step_by(EACH) {
                let lost = all.pressure(at, (at + EACH).min(all.lost.len()));
                println!("{name},{law},{at},{},{lost}", all.usage[at] >> 20);
            }
        };
        let (mut one, mut other) = (Search::default(), Search::default());
        draw("memgov", &mut search(&mut one, Bytes(0), TOLERANCE));
        draw("memgov at 1667", &mut search(&mut other, Bytes(0), AS_SENPAI));
        draw("senpai", &mut senpai());
        draw("tmo", &mut tmo());
    }
}

/// Where each settles, what it keeps and what it loses, beside the least that could be kept.
fn table() {
    const LONG: usize = 3600;
    println!(
        "workload      law      settled  mean  lowest  highest  (MiB, last half)  oracle  lost ppm: first 10 min, last half"
    );
    for (name, periods) in workloads() {
        let oracle = Memory::new(&periods, 0).oracle(TOLERANCE.pressure).0;
        let show = |law: &str, run: Run| {
            let (low, mean, high) = run.band(LONG / 2);
            let settled = run.settled(mean + mean / 10).map_or("-".into(), |at| format!("{at} s"));
            println!(
                "{name:<13} {law:<8} {settled:>7} {:>5} {:>7} {:>8} {:>25} {:>12} {:>10}",
                mean >> 20,
                low >> 20,
                high >> 20,
                oracle >> 20,
                run.pressure(0, 600),
                run.pressure(LONG / 2, LONG)
            );
        };
        let under = |tolerance| {
            let mut found = Search::default();
            run(&mut Memory::new(&periods, 0), LONG, search(&mut found, Bytes(0), tolerance))
        };
        show("memgov", under(TOLERANCE));
        show("at 1667", under(AS_SENPAI));
        show("senpai", run(&mut Memory::new(&periods, 0), LONG, senpai()));
        show("tmo", run(&mut Memory::new(&periods, 0), LONG, tmo()));
    }
}
