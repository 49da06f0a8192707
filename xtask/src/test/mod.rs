//! `cargo xtask test`: everything that decides whether a change is good, as one table and one exit status.
//! Steps go on after a failure, so that one run shows all of them; nothing that did not run counts as passed.

mod harness;
mod report;
mod results;
mod source;
mod summary;
mod system;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::{interrupt, setup};
use summary::{Failure, Summary};
use system::{Options, Target};
use table::Row;

#[derive(clap::Args)]
#[command(
    after_help = "The last line is exactly `N passed, N failed`; the exit status is 1 if any failed.\n\
    Tests that do not apply to a target are listed with the reason and counted apart."
)]
pub struct Arguments {
    /// Leave out the virtual machines: for the inner loop
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// Only this part (may be repeated)
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Only system tests whose name contains this; leaves out the other parts unless asked for with --only
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Every system test on every target that can run it, also those that a run leaves to another so that it ends in its
    /// time: hours
    #[arg(long)]
    thorough: bool,
    /// How many virtual machines at a time
    #[arg(long, default_value_t = 2, value_name = "N")]
    jobs: usize,
    /// A target's system tests may take this many seconds, booting included
    #[arg(
        long,
        default_value_t = 3600,
        value_name = "SECONDS",
        default_value_if("thorough", "true", "14400")
    )]
    limit: u64,
    /// Use KVM in the virtual machines; never assumed, because /dev/kvm may be there and not work
    #[arg(long)]
    kvm: bool,
}

/// A part of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// fmt, clippy, doc, the shipped configurations
    Source,
    /// cargo test --workspace
    Workspace,
    /// memgov-systest
    System(Target),
}

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Part; 2 + Target::ALL.len()] = {
            let mut all = [Part::Source; 2 + Target::ALL.len()];
            all[1] = Part::Workspace;
            let mut at = 0;
            while at < Target::ALL.len() {
                all[2 + at] = Part::System(Target::ALL[at]);
                at += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::Source => {
                Some(clap::builder::PossibleValue::new("source").help("fmt, clippy, doc, memgov check"))
            }
            Self::Workspace => {
                Some(clap::builder::PossibleValue::new("workspace").help("cargo test --workspace"))
            }
            Self::System(target) => target.to_possible_value(),
        }
    }
}

impl Arguments {
    /// Nothing was chosen, so nothing may be missing.
    fn is_everything(&self) -> bool {
        !self.quick && self.only.is_empty() && self.filter.is_none()
    }

    fn parts(&self) -> Vec<Part> {
        let wanted = |part: &&Part| match part {
            _ if !self.only.is_empty() => self.only.contains(part),
            Part::System(target) if target.waits() && !self.thorough => false,
            Part::Source | Part::Workspace => self.filter.is_none(),
            Part::System(target) => !self.quick || target.boots().is_none(),
        };
        Part::value_variants().iter().filter(wanted).copied().collect()
    }
}

/// `cargo xtask test`.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let parts = arguments.parts();
    let targets: Vec<_> = parts
        .iter()
        .filter_map(|part| if let Part::System(target) = part { Some(*target) } else { None })
        .collect();
    if !rustix::process::geteuid().is_root()
        && (targets.contains(&Target::Host) || parts.contains(&Part::Workspace))
    {
        bail!(
            "testing on this machine makes control groups, which needs root. Without root, in virtual machines: \
             cargo xtask test --only source --only 6.12-v2 --only 6.12-v2-bpf (and so on: --help)"
        );
    }
    ensure!(arguments.jobs > 0, "--jobs must be at least 1");
    set_up(&parts, &targets)?;
    let mut summary = Summary::default();
    if parts.contains(&Part::Source) {
        summary.add(source::checks()?);
    }
    if parts.contains(&Part::Workspace) {
        summary.add(source::unit_tests()?);
    }
    summary.add(with_release_build(arguments, &parts, &targets)?);
    if arguments.is_everything() {
        summary.nothing_is_left_to_nobody();
    }
    print!("\n{}", summary.render());
    let (passed, failed) = table::totals(&summary.rows);
    Ok(if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn set_up(parts: &[Part], targets: &[Target]) -> Result<()> {
    if parts.contains(&Part::Source) {
        setup::rust_components()?;
    }
    setup::packages(setup::FOR_BUILDING)?;
    if targets.contains(&Target::Host) {
        setup::packages(setup::FOR_CLIENTS)?;
    }
    if targets.iter().any(|target| target.has_peers()) {
        setup::peers::programs()?;
    }
    for (kernel, cgroup) in targets.iter().filter_map(|target| target.boots()) {
        interrupt::check()?;
        kernel.prepare(cgroup)?;
    }
    Ok(())
}

/// The parts that run memgov itself. When it cannot be built, each of them failed.
fn with_release_build(arguments: &Arguments, parts: &[Part], targets: &[Target]) -> Result<Summary> {
    let check = parts.contains(&Part::Source);
    if !check && targets.is_empty() {
        return Ok(Summary::default());
    }
    let built = source::build()?;
    let mut summary = built;
    if !summary.failures.is_empty() {
        for target in targets.iter().map(|target| target.name()) {
            summary.rows.push(Row::step(target, "not built", false, Duration::ZERO));
            let (name, reason) = ("(all)".to_owned(), "memgov was not built".to_owned());
            let target = target.to_owned();
            summary.failures.push(Failure { target, name, reason, printed: Vec::new() });
        }
        return Ok(summary);
    }
    if targets.contains(&Target::Host) {
        summary.add(source::clients()?);
    }
    if check {
        summary.add(source::shipped_configurations()?);
    }
    let options = Options {
        filter: arguments.filter.as_deref(),
        thorough: arguments.thorough,
        limit: Duration::from_secs(arguments.limit),
        kvm: arguments.kvm,
    };
    summary.add(system::run(targets, arguments.jobs, &options)?);
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parts(words: &[&str]) -> Vec<Part> {
        Line::parse_from(["test"].iter().chain(words)).arguments.parts()
    }

    #[test]
    fn without_options_nothing_is_left_out() {
        let all =
            Part::value_variants().iter().filter(|part| !matches!(part, Part::System(it) if it.waits()));
        assert_eq!(parts(&[]), all.copied().collect::<Vec<_>>());
        assert_eq!(parts(&[]).len(), 8);
    }

    #[test]
    fn thorough_waits_for_nothing() {
        assert_eq!(parts(&["--thorough"]), Part::value_variants());
    }

    #[test]
    fn quick_leaves_out_the_machines_only() {
        assert_eq!(parts(&["--quick"]), [Part::Source, Part::Workspace, Part::System(Target::Host)]);
    }

    #[test]
    fn only_and_filter_choose() {
        assert_eq!(parts(&["--only", "uml", "--only", "source"]), [Part::Source, Part::System(Target::Uml)]);
        assert_eq!(parts(&["--filter", "wl_1"]).len(), 6);
        assert_eq!(parts(&["--filter", "wl_1", "--quick"]), [Part::System(Target::Host)]);
    }
}
