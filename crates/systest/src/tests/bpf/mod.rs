//! The eBPF tier against a real kernel: every hook by what it does to a real program, called through the library.

mod attacks;
mod both;
mod cost;
mod daemon;
mod deny;
mod feed;
mod groups;
mod groups_daemon;
mod instructions;
mod kernel;
mod kernel_attacks;
mod kernel_rig;
mod load;
mod overshoot;
mod process;
mod rig;
mod room;
mod rules;
mod send;
mod sockets;
mod swings;

use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    let themes: [fn() -> Vec<Test>; 19] = [
        load::tests,
        deny::tests,
        room::tests,
        process::tests,
        send::tests,
        sockets::tests,
        swings::tests,
        feed::tests,
        rules::tests,
        both::tests,
        overshoot::tests,
        kernel::tests,
        kernel_attacks::tests,
        attacks::tests,
        cost::tests,
        daemon::tests,
        groups::tests,
        groups_daemon::tests,
        instructions::tests,
    ];
    themes.iter().flat_map(|tests| tests()).collect()
}
