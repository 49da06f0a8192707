//! The tests, one file a theme. Each is a function that gets a scratch tree and says what it measured, or what it expected
//! and got instead. None decides by itself that it does not apply: what it needs stands beside its name.

mod bpf;
mod control_plane;
mod cost;
mod crash;
mod deny;
mod dr;
mod files;
mod gk;
mod hostile;
mod jw;
mod kernel_accounting;
mod kh;
mod kill;
mod library;
mod records;
mod reload;
mod rfc_prctl;
mod signal;
mod slow;
mod socket;
mod wl;

use crate::harness::run::Test;

/// Every test, in the order they run.
pub fn all() -> Vec<Test> {
    let themes: [fn() -> Vec<Test>; 21] = [
        wl::tests,
        deny::tests,
        slow::tests,
        signal::tests,
        kill::tests,
        kh::tests,
        crash::tests,
        reload::tests,
        hostile::tests,
        socket::tests,
        library::tests,
        rfc_prctl::tests,
        files::tests,
        records::tests,
        control_plane::tests,
        gk::tests,
        dr::tests,
        jw::tests,
        cost::tests,
        kernel_accounting::tests,
        bpf::tests,
    ];
    themes.iter().flat_map(|tests| tests()).collect()
}

#[cfg(test)]
mod unit {
    #[test]
    fn names_are_unique_and_every_criterion_has_a_test() {
        let mut names: Vec<&str> = super::all().iter().map(|test| test.name).collect();
        for criterion in 1..=10 {
            let prefix = format!("wl_{criterion:02}_");
            assert!(names.iter().any(|name| name.starts_with(&prefix)), "no test {prefix}");
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
