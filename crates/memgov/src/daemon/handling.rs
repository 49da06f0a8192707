//! Handlers of groups, on the serving thread.

use memgov_decide::decision::DecisionId;
use memgov_decide::snapshot::ProcessId;
use memgov_decide::units::Limit;

use super::desk::Desk;
use crate::act::hook;
use crate::kernel::{Errno, sys};
use crate::serve::handling::{Handling, News, Post};
use crate::serve::{Failure, FailureKind, GroupFacts, wire};

impl Handling for Desk {
    fn handler_take(&self, group: &GroupFacts, who: ProcessId, by: u32) -> Result<Box<dyn Post>, Failure> {
        let (path, pid) = (wire::text(&group.path), who.pid);
        match self.handlers.take(&self.layout, (group.id, &group.path), who, by) {
            Ok(post) => Ok(Box::new(post)),
            Err(Errno::BUSY) => Err(FailureKind::HandlerTaken.because(format!("{path} has a handler already"))),
            Err(Errno::INVAL) => Err(FailureKind::InvalidHandler.because(format!(
                "process {pid} is in {path}, and would be out of memory itself when it is needed: start it in a group beside that (docs/rules.md, `handler`)"
            ))),
            Err(_) => Err(FailureKind::NoSuchProcess.because(format!("the group of process {pid} could not be read: has it ended?"))),
        }
    }

    fn handler_done(&self, number: u64, pid: Option<u32>) -> Result<(), Failure> {
        self.handlers.done(DecisionId(number), pid).map_err(|_| {
            let text =
                format!("nobody waits for word about {number} (any more), or another process was told of it");
            FailureKind::NoSuchShortage.because(text)
        })
    }
}

impl Post for hook::Post {
    fn news(&self) -> News {
        match hook::Post::news(self) {
            hook::News::Nothing => News::Nothing,
            hook::News::Over => News::Over,
            hook::News::Short(shortage) => News::Short(told(shortage)),
        }
    }
}

fn told(task: hook::Shortage) -> wire::Shortage {
    wire::Shortage {
        number: task.decision.0,
        path: wire::text(&task.path),
        meter: task.meter.into(),
        meter_bytes: task.value.0,
        line_bytes: task.line.0,
        usage_bytes: task.usage.map(|usage| usage.0),
        limit_bytes: task.limit.and_then(Limit::bytes).map(|limit| limit.0),
        oom_reserve_bytes: task.reserve.0,
        left_ns: task.until.0.saturating_sub(sys::now().0),
    }
}
