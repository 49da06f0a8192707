//! Three jobs with priorities, each a group of its own below one, with a hog and a bystander in it: a job is killed as a whole.

use anyhow::Result;

use super::STEP;
use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, PACE};
use crate::harness::group::Group;

/// Priorities, the lowest first.
pub const PRIORITIES: [i32; 3] = [10, 20, 30];

pub struct Jobs {
    /// The group around them.
    pub parent: Group,
    pub groups: Vec<Group>,
    /// Of each job: the hog first.
    pub agents: Vec<Vec<Agent>>,
}

impl Jobs {
    pub fn start(bench: &Bench<'_>) -> Result<Self> {
        Self::start_below(bench, "jobs")
    }

    /// In a group of this name.
    pub fn start_below(bench: &Bench<'_>, name: &str) -> Result<Self> {
        let parent = bench.group(name)?;
        parent.delegate_memory()?;
        let mut jobs = Self { parent, groups: Vec::new(), agents: Vec::new() };
        for priority in PRIORITIES {
            let group = bench.group(&format!("{name}/p{priority}"))?;
            let hog = bench.agent(&group, &format!("hog{priority}"))?;
            let bystander = bench.agent(&group, &format!("by{priority}"))?;
            jobs.groups.push(group);
            jobs.agents.push(vec![hog, bystander]);
        }
        Ok(jobs)
    }

    /// What the configuration says of them; reservations in bytes, 0 for none.
    pub fn config(&self, reservations: [u64; 3]) -> String {
        let each = self.groups.iter().zip(PRIORITIES).zip(reservations);
        each.map(|((group, priority), reservation)| {
            let path = group.path();
            let reserved =
                if reservation > 0 { format!("reservation = \"{reservation}B\"\n") } else { String::new() };
            format!("[[group]]\nmatch = {path:?}\npriority = {priority}\n{reserved}")
        })
        .collect()
    }

    pub fn path(&self, at: usize) -> String {
        self.groups[at].path()
    }

    /// All hogs grow side by side to so much each.
    pub fn grow(&mut self, upto: u64) -> Result<()> {
        for agents in &mut self.agents {
            agents[0].grow("anon", STEP, PACE / 5, upto)?;
        }
        Ok(())
    }
}
