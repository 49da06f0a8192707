//! When a rule or a control acts: meter and line.

use std::time::Duration;

use crate::control::{ControlAction, Flags, MemControl};
use crate::pressure::Share;
use crate::snapshot::{Group, Process};
use crate::units::{Bytes, Limit};

/// Resident memory kinds whose sum is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kinds {
    /// Anonymous pages.
    pub anon: bool,
    /// File pages.
    pub file: bool,
    /// Shared memory and tmpfs pages.
    pub shmem: bool,
}

impl Kinds {
    /// The kinds whose RSS flags are set.
    pub const fn of(flags: Flags) -> Self {
        Self {
            anon: flags.has(Flags::RSS_ANON),
            file: flags.has(Flags::RSS_FILE),
            shmem: flags.has(Flags::RSS_SHMEM),
        }
    }
    /// Whether any kind is selected.
    pub const fn any(self) -> bool {
        self.anon || self.file || self.shmem
    }
}

/// What a condition compares with its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meter {
    /// A group's usage.
    Usage,
    /// A group's kernel memory.
    Kernel,
    /// The buffers of a group's sockets.
    Sockets,
    /// A group's usage with the buffers of its sockets, where the kernel counts those apart (v1).
    Pool,
    /// What the host, or a group under its limit, can still give.
    Available,
    /// How much of the time somebody waits for memory.
    Pressure,
    /// The sum of these kinds of a process's resident memory.
    Rss(Kinds),
}

/// When to act. Both parts must hold if both are given; one is given at least. Every comparison is strict: at the line is not over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The group's usage, or kernel memory (for a process: of the nearest group above it whose line is not `max`, or any ancestor).
    pub group: Option<Over>,
    /// The process's resident memory.
    pub rss: Option<RssOver>,
}

impl Condition {
    /// What is compared: of two parts the process's own.
    pub fn meter(&self) -> Meter {
        match (self.rss, self.group) {
            (Some(rss), _) => Meter::Rss(rss.kinds),
            (None, Some(Over::Kernel(_))) => Meter::Kernel,
            (None, Some(Over::Sockets(_))) => Meter::Sockets,
            (None, Some(Over::Pool(_))) => Meter::Pool,
            (None, Some(Over::Available { .. })) => Meter::Available,
            (None, Some(Over::Pressure { .. })) => Meter::Pressure,
            (None, _) => Meter::Usage,
        }
    }
}

/// A line for what a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// A given amount.
    Amount(Bytes),
    /// `memory.high` and so much on top (the letter's climit). Never over where high is `max` or unknown.
    High {
        /// climit.
        plus: Bytes,
    },
    /// A given amount of kernel memory; of groups as wholes only.
    Kernel(Bytes),
    /// A given amount in the buffers of sockets; of groups as wholes only.
    Sockets(Bytes),
    /// A given amount of all memory in one pool, sockets included where the kernel counts them apart; of groups as wholes only.
    Pool(Bytes),
    /// Less than so much is left: of the host's memory, or of a group's under its `memory.max`. What is compared is what cannot be had back
    /// (all that is used, less what the kernel can reclaim) with what there is less this, so that more is worse here too.
    Available {
        /// So much.
        under: Under,
        /// And at the rate of the last moments nothing would be left in less than this; of the host only.
        exhausted_in: Option<Duration>,
    },
    /// Somebody waits for memory for more than this part of the time: in a group whose limit (or one above it, or the machine's memory) was met meanwhile, or
    /// on the machine. No amount: it is compared by [`crate::pressure`], and has neither line nor meter here.
    Pressure {
        /// So much.
        over: Share,
        /// Relieved at or under this.
        until: Share,
    },
}

/// How much has to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// An amount.
    Amount(Bytes),
    /// Thousandths of what there is in all: the host's memory, a group's `memory.max`.
    Share(u16),
}

impl Under {
    /// As an amount, of so much in all.
    pub fn of(self, all: Bytes) -> Bytes {
        match self {
            Self::Amount(bytes) => bytes,
            Self::Share(thousandths) => {
                let part = u128::from(all.0) * u128::from(thousandths) / 1000;
                Bytes(u64::try_from(part).unwrap_or(u64::MAX))
            }
        }
    }

    /// Usage at which so much is left under a hard limit whose last part is not available.
    pub fn line(self, max: Bytes, oom_reserve: Bytes) -> Bytes {
        max - oom_reserve - self.of(max)
    }
}

impl Over {
    /// Where the line lies for this group; `None` where there is none or it is not known.
    pub fn line(self, group: &Group) -> Option<Bytes> {
        self.line_with(group, Bytes(0))
    }
    /// The same where the last part under the group's hard limit is not available.
    pub fn line_with(self, group: &Group, oom_reserve: Bytes) -> Option<Bytes> {
        match self {
            Self::Amount(bytes) | Self::Kernel(bytes) | Self::Sockets(bytes) | Self::Pool(bytes) => {
                Some(bytes)
            }
            Self::High { plus } => group.high?.bytes().map(|high| high + plus),
            Self::Available { under, .. } => Some(under.line(group.max?.bytes()?, oom_reserve)),
            Self::Pressure { .. } => None,
        }
    }
    /// Whether it is not known where the line lies; else there is one, or there is none.
    pub const fn line_is_unknown(self, group: &Group) -> bool {
        match self {
            Self::Amount(_) | Self::Kernel(_) | Self::Sockets(_) | Self::Pool(_) | Self::Pressure { .. } => {
                false
            }
            Self::High { .. } => group.high.is_none(),
            Self::Available { .. } => group.max.is_none(),
        }
    }
    /// What is compared with it; `None`: not known.
    pub fn meter(self, group: &Group) -> Option<Bytes> {
        match self {
            Self::Kernel(_) => group.kernel,
            Self::Sockets(_) => group.sockets,
            Self::Pool(_) => group.pool(),
            Self::Amount(_) | Self::High { .. } => group.usage,
            Self::Pressure { .. } => None,
            Self::Available { .. } => {
                let (usage, line) = (group.usage?, self.line(group)?);
                match group.reclaimable {
                    Some(reclaimable) => Some(usage - reclaimable),
                    // What can be had back makes it less, and this is not over already.
                    None => (usage <= line).then_some(usage),
                }
            }
        }
    }
    /// A line on kernel memory at or above the limit of the group itself: there is one limit then, for both kinds, and the line only keeps count. That kernel memory cannot
    /// come over it is not all: the limit may be lowered under what is there, and nobody is to be refused beforehand for a line that is none.
    pub fn only_tracks(self, group: &Group) -> bool {
        matches!(self, Self::Kernel(line) if group.max.and_then(Limit::bytes).is_some_and(|max| line >= max))
    }
    /// Whether it is about kernel memory and not about usage.
    pub const fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel(_))
    }
    /// Whether the buffers of sockets are part of what is compared, so that they have to be known.
    pub const fn asks_for_sockets(self) -> bool {
        matches!(self, Self::Sockets(_) | Self::Pool(_))
    }
}

/// A line for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssOver {
    /// Which kinds are summed.
    pub kinds: Kinds,
    /// The line (the letter's plimit).
    pub over: Bytes,
}

impl RssOver {
    /// The sum of the selected kinds; `None` if one of them is unknown.
    pub fn meter(self, process: &Process) -> Option<Bytes> {
        let mut sum = Bytes(0);
        for (wanted, value) in [
            (self.kinds.anon, process.rss.anon),
            (self.kinds.file, process.rss.file),
            (self.kinds.shmem, process.rss.shmem),
        ] {
            if wanted {
                sum = sum + value?;
            }
        }
        Some(sum)
    }
}

impl MemControl {
    /// When this control acts; `None` for NONE, for a signal already spent, and where there is nothing to compare.
    pub fn condition(&self) -> Option<Condition> {
        let acts = match self.action {
            ControlAction::None => false,
            ControlAction::Signal => self.signal != 0,
            _ => true,
        };
        let kinds = Kinds::of(self.flags);
        let rss = kinds.any().then_some(RssOver { kinds, over: self.plimit });
        let group = (!self.flags.has(Flags::DIRECT)).then_some(Over::High { plus: self.climit });
        // DIRECT without a kind, which the letter's file takes: of no memory at all there is never more than the plimit.
        (acts && (rss.is_some() || group.is_some())).then_some(Condition { group, rss })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_with_nothing_to_compare_never_acts() {
        let of =
            |word: u64| MemControl::from_file(word, Bytes(0), Bytes(0), Bytes(4096)).unwrap().condition();
        assert_eq!(of(0x0002_0004), None, "DIRECT without a kind");
        let all = RssOver { kinds: Kinds::of(Flags::RSS_ANON), over: Bytes(0) };
        assert_eq!(of(0x0102_0004), Some(Condition { group: None, rss: Some(all) }));
    }
}
