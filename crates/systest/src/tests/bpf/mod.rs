//! The eBPF tier against a real kernel: every hook by what it does to a real program, called through the library.

mod load;
mod rig;

use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    let themes: [fn() -> Vec<Test>; 1] = [load::tests];
    themes.iter().flat_map(|tests| tests()).collect()
}
