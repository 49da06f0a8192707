//! [`memgov_decide::kernel_memory::Headroom`]: the properties its documentation states, each under its name.

use memgov_decide::kernel_memory::{Headroom, Tasks};
use memgov_decide::units::Bytes;
use proptest::prelude::*;

const THREAD: u64 = Headroom::THREAD.0;
const PROCESS: u64 = Headroom::PROCESS.0;
const SPARE: u64 = Headroom::SPARE;

fn look(kernel: u64, line: u64, tasks: u64, most: Option<u64>) -> Tasks {
    Tasks { kernel: Bytes(kernel), line: Bytes(line), tasks, most }
}

/// Looks of one group, whatever it does: kernel memory, tasks, and whether it is at its limit.
fn looks() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    proptest::collection::vec((0u64..1 << 32, 0u64..20_000, any::<bool>()), 1..20)
}

fn after(looks: &[(u64, u64, bool)], line: u64) -> Headroom {
    let mut headroom = Headroom::default();
    let mut most = None;
    for &(kernel, tasks, at_limit) in looks {
        let tasks = most.filter(|_| at_limit).unwrap_or(tasks);
        most = Some(headroom.most(look(kernel, line, tasks, most)));
    }
    headroom
}

/// A bomb that has made all it may whenever somebody looks, and the most it has had when it is over its line.
fn bomb(begins_with: u64, line: u64, each: u64) -> u64 {
    let (mut headroom, mut kernel, mut tasks, mut most) = (Headroom::default(), begins_with, 1, None);
    for _ in 0..1000 {
        let now = headroom.most(look(kernel, line, tasks, most));
        kernel += (now - tasks) * each;
        (tasks, most) = (now, Some(now));
        if kernel > line {
            return kernel;
        }
    }
    panic!("never over: {kernel} of {line}");
}

proptest! {
    /// What it may have still, each at what a task is thought to cost at the least, takes it over the line (but for the last of them).
    #[test]
    fn whoever_is_refused_would_be_over(before in looks(), kernel in 0u64..1 << 32, line in 0u64..1 << 32, tasks in 0u64..20_000) {
        let mut headroom = after(&before, line);
        let most = headroom.most(look(kernel, line, tasks, None));
        let taken = kernel + (most - tasks + 1) * headroom.cost().0;
        prop_assert!(taken > line, "{taken} of {line} with {most} tasks");
        prop_assert!((THREAD..=Headroom::DEAR.0).contains(&headroom.cost().0));
    }

    #[test]
    fn there_is_always_a_little(before in looks(), kernel in any::<u64>(), line in any::<u64>(), tasks in 0u64..20_000) {
        let mut headroom = after(&before, line);
        prop_assert!(headroom.most(look(kernel, line, tasks, None)) >= tasks + SPARE);
    }

    #[test]
    fn more_room_never_means_fewer(before in looks(), kernel in 0u64..1 << 32, less in 0u64..1 << 32, line in 0u64..1 << 32, tasks in 0u64..20_000) {
        // Judged by what it has had, not by this look.
        let headroom = after(&before, line);
        let most = |kernel| { headroom }.most(look(kernel, line, tasks, None));
        let (much, little) = (most(kernel), most(kernel.saturating_sub(less)));
        prop_assert!(little >= much);
    }

    /// At its limit with room left it gets more, and with room for many threads room for many.
    #[test]
    fn who_is_refused_under_the_line_is_let_on(before in looks(), kernel in 0u64..1 << 32, room in PROCESS..1 << 32, tasks in 0u64..20_000) {
        let line = kernel + room;
        let mut headroom = after(&before, line);
        let most = headroom.most(look(kernel, line, tasks, Some(tasks)));
        prop_assert!(most >= tasks + (room / THREAD).max(SPARE));
    }

    /// Nobody looks but when it has all it may: still it ends near its line, by what its tasks cost more than the least that any costs.
    #[test]
    fn a_bomb_ends_near_its_line(begins_with in 0u64..1 << 22, room in 1u64 << 20..1 << 30, each in 8u64 << 10..300 << 10) {
        let line = begins_with + room;
        let peak = bomb(begins_with, line, each);
        // Of tasks between a thread and a process: 3/8 of the room at the most.
        let part = (each * 1000 / PROCESS).saturating_sub(1000).max(380);
        let allowed = line + room / 1000 * part + room / 1000 + (SPARE + 1) * each;
        prop_assert!(peak <= allowed, "{peak} of {line}, allowed {allowed}, {each} each");
    }

    /// Whoever has it learnt that tasks are cheap, and then makes dear ones: of whatever kind they are and whenever somebody looks, no more than the line has room for at
    /// what a thread takes, and a few for each look near it. (Nobody has any that take less, so their kernel memory says how many there may be still.)
    #[test]
    fn a_bomb_of_threads_first_is_bounded_in_number(
        line in 1u64 << 20..1 << 30,
        steps in proptest::collection::vec((0u64..=1000, 0u64..=1000, any::<bool>()), 1..40),
    ) {
        let (mut headroom, mut most) = (Headroom::default(), None);
        let (mut threads, mut processes) = (1, 0);
        for (part, dead, dear) in steps {
            let tasks = threads + processes;
            let kernel = threads * THREAD + processes * 79 * 1024;
            if kernel > line {
                break; // Met: no more than there are, by an order.
            }
            let now = headroom.most(look(kernel, line, tasks, most));
            prop_assert!(now <= (line / THREAD).max(tasks + SPARE), "{now} of {line} with {tasks}");
            // All threads may go between two looks, and their places are anybody's.
            threads -= threads * dead / 1000;
            let more = (now - threads - processes) * part / 1000;
            *if dear { &mut processes } else { &mut threads } += more;
            most = Some(now);
        }
    }

    #[test]
    fn what_grows_shows_its_cost(kernel in 0u64..1 << 24, tasks in 1u64..500, more in 32u64..2000, each in 8u64 << 10..300 << 10) {
        let mut headroom = Headroom::default();
        let line = 1 << 40;
        headroom.most(look(kernel, line, tasks, None));
        headroom.most(look(kernel + more * each, line, tasks + more, None));
        let cost = headroom.cost().0;
        prop_assert!(cost <= each.max(PROCESS) && cost >= PROCESS.max(each / 2).min(Headroom::DEAR.0), "{cost} for {each}");
        // They have gone, and with them what was known of them.
        headroom.most(look(kernel, line, (tasks + more) / 2 - 1, None));
        prop_assert_eq!(headroom.cost(), Headroom::PROCESS);
    }
}

#[test]
fn a_few_tasks_and_a_cache_that_grows_teach_nothing() {
    let mut headroom = Headroom::default();
    let line = 16 << 20;
    for (kernel, tasks) in [(1 << 20, 5), (3 << 20, 5), (3 << 20, 30), (2 << 20, 20), (5 << 20, 36)] {
        headroom.most(look(kernel, line, tasks, None));
        assert_eq!(headroom.cost(), Headroom::PROCESS, "{kernel} {tasks}");
    }
}

#[test]
fn the_letters_bomb() {
    // 16 MiB, children of 79 KiB: with nobody looking in between.
    let peak = bomb(300 << 10, 16 << 20, 79 << 10);
    assert!(peak < 20 << 20, "{peak}");
}
