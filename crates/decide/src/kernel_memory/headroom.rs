//! How many more processes and threads there is room for under a line on kernel memory: what a `pids.max` that stands before the line is met may be,
//! so that a fork bomb is bounded also while nobody looks.
//!
//! The count of tasks stands in for the bytes they are going to take, so it is only as good as what a task is thought to cost. Too much, and
//! somebody is refused while there is room: a false denial. Too little, and a bomb goes far over its line. So the cost is less than any process was measured to
//! take ([`Headroom::PROCESS`]), until the group shows what its own take. Whoever is refused would be over his line with what so many *processes* take. Threads
//! take a third: a burst of them that comes between two looks, of more than there is room for processes, meets the limit with room left. That is found at the
//! next look, and from then on counts as what it is ([`Headroom::THREAD`]).
//!
//! Properties, each a test of its name in `tests/behaviour/headroom.rs`: `whoever_is_refused_would_be_over`, `there_is_always_a_little`,
//! `more_room_never_means_fewer`, `who_is_refused_under_the_line_is_let_on`, `a_bomb_ends_near_its_line`, `a_bomb_of_threads_first_is_bounded_in_number`,
//! `what_grows_shows_its_cost`.

use crate::units::Bytes;

/// What is known of what the tasks (processes and threads) of one group cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    cost: Bytes,
    /// So many tasks there were when that was seen.
    seen_with: u64,
    /// Kernel memory and tasks from which on growth is judged.
    since: Option<(Bytes, u64)>,
}

impl Default for Headroom {
    fn default() -> Self {
        Self { cost: Self::PROCESS, seen_with: 0, since: None }
    }
}

/// One look at a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tasks {
    /// Its kernel memory.
    pub kernel: Bytes,
    /// Its line.
    pub line: Bytes,
    /// Its tasks, as `pids.current` counts them.
    pub tasks: u64,
    /// What it may have of them now; `None`: nothing stands.
    pub most: Option<u64>,
}

impl Headroom {
    /// Less than any process of its own address space takes: a static program that forks and waits took 73 to 79 KiB a child on 6.18, more on 6.1 and 6.12, a
    /// shell 88 KiB.
    pub const PROCESS: Bytes = Bytes::kib(64);
    /// Less than any thread takes: a stack of 16 KiB and a `struct task_struct` (22.6 KiB on 6.18, 25.0 KiB on 6.1 and 6.12).
    pub const THREAD: Bytes = Bytes::kib(20);
    /// More than this a task is not thought to cost, whatever came with it.
    pub const DEAR: Bytes = Bytes::kib(256);
    /// So many more there may be in any case. Ordinary work near the line (a pipeline, a login) is not disturbed, and who wants more than that crosses the
    /// line, which is when the rule begins.
    pub const SPARE: u64 = 16;
    /// Growth by fewer tasks says nothing: other things grow and shrink too, and v2 adds up late.
    const MANY: u64 = 32;

    /// Takes a look in; how many tasks there may be until the next one.
    pub fn most(&mut self, look: Tasks) -> u64 {
        self.learn(look);
        let room = look.line.saturating_sub(look.kernel);
        look.tasks.saturating_add((room.0 / self.cost.0).max(Self::SPARE))
    }

    fn learn(&mut self, look: Tasks) {
        let Tasks { kernel, line, tasks, most } = look;
        // Of those who showed it half are gone: who comes now may be anybody.
        if tasks < self.seen_with / 2 {
            (self.cost, self.seen_with) = (Self::PROCESS, 0);
        }
        // At its limit with a process's room left under the line: what it has of tasks costs less than it was thought to.
        if most.is_some_and(|most| tasks >= most) && kernel + Self::PROCESS <= line {
            self.learnt(Self::THREAD.0, tasks);
            self.since = Some((kernel, tasks));
            return;
        }
        let (from, at) = *self.since.get_or_insert((kernel, tasks));
        let grown = tasks.saturating_sub(at);
        if tasks >= at && grown < Self::MANY {
            return;
        }
        self.since = Some((kernel, tasks));
        // What the dead leave behind goes only after them, so that who comes then may seem to cost nothing: that nobody is cheap is learnt from growth, that
        // somebody is not.
        let Some(each) = kernel.saturating_sub(from).0.checked_div(grown) else { return };
        if each >= Self::PROCESS.0 {
            // Something is always taken besides.
            self.learnt((each / 4 * 3).clamp(Self::PROCESS.0, Self::DEAR.0), tasks);
        } else if self.cost > Self::PROCESS {
            self.learnt(Self::PROCESS.0, tasks);
        }
    }

    fn learnt(&mut self, cost: u64, tasks: u64) {
        (self.cost, self.seen_with) = (Bytes(cost), tasks);
    }

    /// What a task is thought to cost at the least.
    pub const fn cost(&self) -> Bytes {
        self.cost
    }
}
