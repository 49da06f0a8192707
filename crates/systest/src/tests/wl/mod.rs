//! Criteria WL 1 to 10: the over-high series. One file for each group of criteria, named after them.

mod inherit;
mod log;
mod refuse;
mod rss;
mod settings;
mod signals;
mod slowdown;
mod threshold;
mod two_tasks;

use crate::harness::run::Test;

/// All of them.
pub fn tests() -> Vec<Test> {
    let parts: [fn() -> Vec<Test>; 9] = [
        settings::tests,
        refuse::tests,
        threshold::tests,
        rss::tests,
        slowdown::tests,
        signals::tests,
        inherit::tests,
        log::tests,
        two_tasks::tests,
    ];
    parts.iter().flat_map(|tests| tests()).collect()
}
