//! `memgov check`: what a configuration means, and everything that is wrong with it. Offline, unless `--host` asks what this
//! host can obey.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use memgov_decide::hook::{Helper, Hook};
use memgov_decide::policy::{Action, Meter, Over, Reclaim, Rule, Scope, Takes, Victim};
use serde::Serialize;

use super::{check_program, output};
use crate::config::{self, Config, Problem, describe};
use crate::kernel::capabilities::{Facts, Feature, State, features};
use crate::kernel::layout::Layout;
use crate::serve::failure::exit;

#[derive(Debug, Args)]
#[command(after_help = "\
Prints each rule as a sentence, then notes. Ends with 3 if the configuration is not valid. Drop-ins in memgov.d/ beside
FILE are read too. With --host it also ends with 3 if a rule asks for what this kernel or these privileges do not allow.")]
pub(crate) struct Check {
    /// The configuration.
    #[arg(default_value = "/etc/memgov/memgov.toml")]
    file: PathBuf,
    /// Say which rules this host cannot obey.
    #[arg(long)]
    host: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Default, Serialize)]
struct Report {
    valid: bool,
    files: Vec<String>,
    rules: Vec<RuleReport>,
    errors: Vec<Finding>,
    notes: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    host: Vec<HostFinding>,
}

#[derive(Serialize)]
struct RuleReport {
    name: String,
    meaning: String,
}

#[derive(Serialize)]
struct Finding {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

/// A rule and something this host lacks for it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct HostFinding {
    rule: String,
    feature: &'static str,
    /// The rule cannot be obeyed; otherwise it can, less well.
    refused: bool,
    why: String,
    how_to_get: &'static str,
}

impl Check {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<u8> {
        let config = match config::load(&self.file) {
            Ok(config) => config,
            Err(errors) if self.json => {
                let errors = errors.problems.iter().map(finding).collect();
                output::json(out, &Report { errors, ..Report::default() })?;
                return Ok(exit::CONFIG);
            }
            Err(errors) => {
                let count = errors.problems.len();
                writeln!(out, "{errors}")?;
                writeln!(out, "{count} error{}", if count == 1 { "" } else { "s" })?;
                return Ok(exit::CONFIG);
            }
        };
        let host = if self.host { on_this_host(&config) } else { Vec::new() };
        let valid = !host.iter().any(|finding| finding.refused);
        if self.json {
            output::json(out, &report(&config, host, valid))?;
        } else {
            write!(out, "{}", describe::report(&config))?;
            for finding in &host {
                let verdict =
                    if finding.refused { "cannot be obeyed here" } else { "is obeyed less well here" };
                writeln!(
                    out,
                    "host: rule `{}` {verdict}: {}: {}",
                    finding.rule, finding.feature, finding.why
                )?;
                writeln!(out, "      = {}", finding.how_to_get)?;
            }
            let verdict = if valid { "valid" } else { "valid, but not on this host" };
            let (files, rules) = (config.files.len(), config.policy.rules.len());
            writeln!(out, "{verdict}: {rules} rules in {files} file{}", if files == 1 { "" } else { "s" })?;
        }
        Ok(if valid { 0 } else { exit::CONFIG })
    }
}

fn finding(problem: &Problem) -> Finding {
    Finding {
        file: problem.file.to_string_lossy().into_owned(),
        line: problem.position.as_ref().map(|p| p.line),
        column: problem.position.as_ref().map(|p| p.column),
        message: problem.message.clone(),
        help: problem.help.clone(),
    }
}

fn report(config: &Config, host: Vec<HostFinding>, valid: bool) -> Report {
    Report {
        valid,
        files: config.files.iter().map(|f| f.to_string_lossy().into_owned()).collect(),
        rules: config
            .policy
            .rules
            .iter()
            .map(|rule| RuleReport { name: rule.name.clone(), meaning: describe::rule(rule) })
            .collect(),
        errors: Vec::new(),
        notes: config.warnings.iter().map(finding).collect(),
        host,
    }
}

fn on_this_host(config: &Config) -> Vec<HostFinding> {
    let mut findings = lacking(config, &features(&Facts::probe(Path::new("/"))));
    findings.extend(programs(config));
    let layout = Layout::detect(Path::new("/")).ok();
    if let Some(own) = layout.as_ref().and_then(|l| l.own.memory.as_deref()) {
        for rule in config.rules_covering(own) {
            findings.push(HostFinding {
                rule: rule.name.clone(),
                feature: "own-group",
                refused: false,
                why: "it takes in the group this runs in or one above it, which memgov leaves alone".into(),
                how_to_get: "run memgov in a group of its own that no rule names (systemd: memgov.service)",
            });
        }
    }
    findings
}

/// Programs that cannot be run, or that others could have root run in their place.
fn programs(config: &Config) -> impl Iterator<Item = HostFinding> + '_ {
    config.policy.rules.iter().flat_map(|rule| {
        rule.steps.iter().filter_map(|step| {
            let Action::Hook(Hook { by: Helper::Program(program), .. }) = &step.action else { return None };
            let why = check_program::fault(Path::new(&**program.run.first()?))?;
            Some(HostFinding {
                rule: rule.name.clone(),
                feature: "hook-program",
                refused: true,
                why,
                how_to_get: "an executable that root owns and nobody else may write to, in directories like that (chown root, chmod go-w)",
            })
        })
    })
}

/// What each rule needs, against what there is. Pure, so that it is tested on invented hosts.
fn lacking(config: &Config, features: &[Feature]) -> Vec<HostFinding> {
    let virtual_high = config.policy.groups.iter().any(|g| g.high.is_some());
    let mut findings = Vec::new();
    for rule in &config.policy.rules {
        for need in needs(rule, virtual_high) {
            let Some(feature) = features.iter().find(|f| f.name == need) else { continue };
            let (refused, why) = match &feature.state {
                State::Available => continue,
                State::Degraded(why) => (false, why.clone()),
                State::Unavailable(why) => (true, why.clone()),
            };
            let how_to_get = feature.how_to_get;
            findings.push(HostFinding {
                rule: rule.name.clone(),
                feature: feature.name,
                refused,
                why,
                how_to_get,
            });
        }
    }
    findings
}

fn needs(rule: &Rule, virtual_high: bool) -> Vec<&'static str> {
    let each_process = rule.when.rss.is_some() || matches!(rule.scope, Scope::Processes(_));
    let mut needs = Vec::new();
    let host = rule.scope == Scope::Host;
    if !host && rule.when.group.is_some() || matches!(rule.scope, Scope::Groups(_)) {
        needs.push("group-meter");
    }
    if each_process {
        needs.push("process-meter");
    }
    if matches!(rule.when.group, Some(Over::High { .. })) && !virtual_high {
        needs.push("high");
    }
    let kernel = rule.when.meter() == Meter::Kernel;
    if kernel {
        needs.push("kernel-meter");
    }
    if rule.when.group.is_some_and(Over::asks_for_sockets) {
        needs.push("sockets-meter");
    }
    for step in &rule.steps {
        let need = match step.action {
            // A group with a meter has a limit that may be written.
            Action::Record | Action::Lend(_) | Action::Hook(_) => continue,
            Action::Squeeze => "squeeze",
            Action::Deny if kernel => "deny-kernel",
            Action::Deny => "deny",
            Action::Freeze | Action::Ask(_) if each_process => "slow-process",
            Action::Freeze | Action::Ask(_) => "slow-group",
            Action::Slow(_) if each_process => "slow-process",
            Action::Slow(_) => "slow-group",
            Action::Reclaim(Reclaim { tolerance: Some(_), .. }) => "working-set",
            Action::Reclaim(_) => "reclaim",
            Action::Kill { victim: Victim::Group | Victim::LowestPriority(Takes::Job) } if !each_process => {
                "kill-group"
            }
            Action::Signal { .. } | Action::Kill { .. } => "signal",
        };
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::error::Source;
    use crate::config::passwd::Users;

    fn config(text: &str) -> Config {
        config::parse(vec![Source { path: "x".into(), text: text.into() }], &Users::default()).unwrap()
    }

    #[test]
    fn a_poor_host_refuses_what_it_cannot_do_and_nothing_else() {
        let poor = features(&Facts::default());
        let rule = "[[rule]]\nname = \"r\"\ngroups = \"/x\"\nover = \"1GiB\"\ndo = [\"kill\"]\n";
        let found = lacking(&config(rule), &poor);
        assert!(found.iter().any(|f| f.feature == "group-meter" && f.refused), "{found:?}");
        assert!(found.iter().all(|f| f.rule == "r" && !f.why.is_empty()));
        let record = "[[rule]]\nprocesses = { comm = \"x\" }\nmeter = \"rss.anon\"\nover = \"1GiB\"\ndo = [\"record\"]\n";
        assert!(lacking(&config(record), &poor).iter().all(|f| f.feature == "process-meter"));
    }

    #[test]
    fn every_need_is_the_name_of_a_feature() {
        let all = features(&Facts::default());
        let text = "[[rule]]\ngroups = \"/x\"\nmeter = \"usage+sockets\"\nover = \"1GiB\"\ndo = [\"deny\"]\n\
            [[rule]]\ngroups = \"/x\"\nover = \"high\"\ndo = [\"deny\", \"slow\", \"kill\"]\n\
            [[rule]]\nprocesses = { comm = \"x\" }\nmeter = \"rss.anon\"\nover = \"1GiB\"\ngroup-over = \"high\"\n\
            do = [\"slow\", { action = \"signal\", signal = 10 }]\n";
        for rule in &config(text).policy.rules {
            for need in needs(rule, false) {
                assert!(all.iter().any(|f| f.name == need), "{need}");
            }
        }
    }
}
