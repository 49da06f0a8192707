//! Trials of kernel memory against kernels of every kind.

use std::time::Duration;

use memgov_decide::kernel_memory::trial::*;
use memgov_decide::shrink::Answer;
use memgov_decide::units::Bytes;
use proptest::prelude::*;

const PAGE: Bytes = Bytes(4096);
const BATCH: u64 = 32 * 4096;

/// A kernel that gives back slab in twice the proportion in which it goes through user pages, as far as it is not in use.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    user: u64,
    free: u64,
    pinned: u64,
    press: Duration,
    interrupts: bool,
    /// What was given up is freed so long after the last ask.
    late: Duration,
    /// Given up, and not freed.
    limbo: u64,
}

const NONE: Kernel = Kernel {
    user: 0,
    free: 0,
    pinned: 0,
    press: Duration::ZERO,
    interrupts: false,
    late: Duration::ZERO,
    limbo: 0,
};

impl Kernel {
    fn kernel(&self) -> u64 {
        self.free + self.limbo + self.pinned
    }

    fn press(&mut self, amount: u64) -> Answer {
        if self.interrupts {
            return Answer::Interrupted;
        }
        let taken = amount.min(self.user);
        if taken < amount {
            // Nothing else to go through: everything is looked at.
            (self.user, self.free, self.limbo) = (0, 0, self.limbo + self.free);
            return Answer::Short;
        }
        let slab = u128::from(self.free) * 2 * u128::from(taken) / u128::from(self.user.max(1));
        let slab = low(slab).min(self.free);
        (self.free, self.limbo) = (self.free - slab, self.limbo + slab);
        self.user -= taken;
        Answer::Met
    }
}

struct Ended {
    verdict: Verdict,
    asked: u64,
    /// As it was at the beginning.
    part: u64,
    /// Of what there was at the end.
    last_part: u64,
    worked: Duration,
    short: bool,
    kernel: u64,
}

fn tried(mut kernel: Kernel, target: u64) -> Ended {
    let (held, all) = (kernel.kernel(), kernel.user + kernel.kernel());
    let part_of = |kernel: u64, all: u64| {
        low(u128::from(all) * u128::from(kernel.saturating_sub(target)) / u128::from(kernel.max(1)))
    };
    let part = part_of(held, all);
    let mut trial = Trial::new(Bytes(held), PAGE);
    let (mut asked, mut worked, mut short, mut waited) = (0, Duration::ZERO, false, Duration::ZERO);
    for asks in 0.. {
        assert!(asks < 100_000, "never ends");
        if waited >= kernel.late {
            kernel.limbo = 0;
        }
        let usage = Bytes(kernel.user + kernel.kernel());
        match trial.next(Bytes(kernel.kernel()), usage, Bytes(target), worked) {
            Next::Ask(amount) => {
                let answer = kernel.press(amount.0);
                if kernel.late.is_zero() {
                    kernel.limbo = 0;
                }
                trial.answered(answer, amount, Bytes(kernel.kernel()));
                asked += amount.0;
                worked += kernel.press;
                short |= answer == Answer::Short;
                waited = Duration::ZERO;
            }
            Next::Wait(time) => waited += time,
            Next::End(verdict) => {
                let last_part = part_of(kernel.kernel(), kernel.user + kernel.kernel());
                return Ended { verdict, asked, part, last_part, worked, short, kernel: kernel.kernel() };
            }
        }
    }
    unreachable!("a loop without an end")
}

fn low(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

fn any_kernel() -> impl Strategy<Value = Kernel> {
    let amount = || prop_oneof![Just(0u64), 0u64..1 << 34];
    (amount(), amount(), amount(), 1u64..400, proptest::bool::weighted(0.1)).prop_map(
        |(user, free, pinned, press, interrupts)| Kernel {
            user,
            free,
            pinned,
            press: Duration::from_millis(press),
            interrupts,
            ..NONE
        },
    )
}

proptest! {
    #[test]
    fn always_ends(kernel in any_kernel(), target in 0u64..1 << 35) {
        tried(kernel, target);
    }

    #[test]
    fn asks_no_more_than_its_part(user in 0u64..1 << 34, pinned in 1u64..1 << 32, part in 1u64..100) {
        let kernel = Kernel { user, pinned, press: Duration::from_millis(1), ..NONE };
        let ended = tried(kernel, pinned - (pinned * part / 100).max(1).min(pinned));
        // Pieces of 64 MiB do not come out even.
        assert!(ended.asked <= 2 * ended.part + 2 * BATCH + (64 << 20), "{} of {}", ended.asked, ended.part);
        assert!(matches!(ended.verdict, Verdict::Pinned { freed: Bytes(0), .. } | Verdict::Unsure));
    }

    #[test]
    fn pinned_only_after_a_fair_trial(kernel in any_kernel(), target in 0u64..1 << 35) {
        let ended = tried(kernel, target);
        if let Verdict::Pinned { freed, held } = ended.verdict {
            let fair = ended.short || ended.worked >= LONGEST || ended.asked >= 2 * ended.last_part;
            assert!(fair, "{} of {}", ended.asked, ended.last_part);
            assert_eq!(held.0 - freed.0, ended.kernel);
        }
        if ended.verdict == Verdict::Back {
            assert!(ended.kernel <= target);
        }
    }

    #[test]
    fn what_comes_back_is_not_pinned(user in 0u64..1 << 32, free in 1u64 << 20..1 << 32, part in 1u64..50) {
        let kernel = Kernel { user, free, press: Duration::from_millis(1), ..NONE };
        let ended = tried(kernel, free - free * part / 100);
        assert!(!matches!(ended.verdict, Verdict::Pinned { .. }), "{:?}", ended.verdict);
    }

    #[test]
    fn what_comes_back_late_is_not_pinned(free in 1u64 << 20..1 << 32, late in 0u64..=250, part in 1u64..50) {
        let kernel = Kernel { free, late: Duration::from_millis(late), ..NONE };
        assert_eq!(tried(kernel, free - free * part / 100).verdict, Verdict::Back);
    }
}

/// Between two asks the group takes as much anew as the ask had brought back.
#[test]
fn what_grows_while_nobody_asks_does_not_hide_what_came_back() {
    let (held, target) = (Bytes::mib(40), Bytes::mib(20));
    let mut trial = Trial::new(held, PAGE);
    for _ in 0..3 {
        let Next::Ask(amount) = trial.next(held, Bytes::mib(80), target, Duration::ZERO) else { break };
        trial.answered(Answer::Met, amount, Bytes::mib(30));
    }
    let verdict = trial.next(held, Bytes::mib(80), target, Duration::ZERO);
    assert!(!matches!(verdict, Next::End(Verdict::Pinned { .. })), "{verdict:?}");
}

#[test]
fn a_group_without_user_memory_is_tried_out_in_two_asks() {
    let pinned = Kernel { pinned: 31 << 20, ..NONE };
    let ended = tried(pinned, 16 << 20);
    assert_eq!(ended.verdict, Verdict::Pinned { freed: Bytes(0), held: Bytes::mib(31) });
    let negative = Kernel { free: 20 << 20, pinned: 1 << 20, ..pinned };
    assert_eq!(tried(negative, 16 << 20).verdict, Verdict::Back);
    let both = Kernel { free: 1 << 20, pinned: 20 << 20, ..pinned };
    let Verdict::Pinned { freed, .. } = tried(both, 16 << 20).verdict else { panic!() };
    assert_eq!(freed, Bytes::mib(1));
}
