//! Who is to answer for a group's kernel memory. What lies in dentries, in pipes or in sockets belongs to no process, so the biggest holder that can be
//! seen may be a big innocent beside the one who hoards: what counts is who *has grown* it, as far as that is known, and nobody is chosen who cannot
//! have grown a good part of it.
//!
//! A fork bomb is many small ones, and it can give each of them a session or a name of its own. So those that have started since the growth began are
//! weighed together by one sign after another: session and name, session, name, and that they have started since. Taken is the smallest class that
//! holds most of it. Each is exact: however many classes there are, none is passed over.

use crate::decision::{Family, Take};
use crate::snapshot::ProcessId;
use crate::units::Bytes;

/// A class is most of it if it holds so many quarters of all that somebody is accused of.
const MOST_QUARTERS: u64 = 3;
/// Who has started so many of a class goes on doing so, and goes with them.
const MANY: usize = 4;

/// One that has started since the growth began.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    /// Who.
    pub who: ProcessId,
    /// Its parent's pid.
    pub parent: u32,
    /// Its session.
    pub session: u32,
    /// Its name.
    pub comm: [u8; 16],
    /// Its kernel memory: all of it is of the growth.
    pub held: Bytes,
}

/// What is known of the growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Not when it began: everybody is weighed with all that he holds, as a newcomer, but nobody for one sign alone.
    Unknown,
    /// It began at this clock tick since boot.
    Since {
        /// The tick.
        ticks: u64,
        /// Not long ago, so that having started since is a sign by itself.
        lately: bool,
    },
}

/// Whom a kill would take, and what they have grown it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offender {
    /// Whom: one, or a class.
    pub take: Take,
    /// Who that one is.
    pub one: Option<ProcessId>,
    /// How much of the growth.
    pub together: Bytes,
    /// How many of them are newcomers.
    count: usize,
}

/// By what they belong together, narrow signs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    SessionAndComm,
    Session,
    Comm,
    Since,
}

impl Sign {
    const fn key(self, newcomer: &Newcomer) -> (u32, [u8; 16]) {
        match self {
            Self::SessionAndComm => (newcomer.session, newcomer.comm),
            Self::Session => (newcomer.session, [0; 16]),
            Self::Comm => (0, newcomer.comm),
            Self::Since => (0, [0; 16]),
        }
    }

    /// Those of one session and name are taken whenever they have started: two signs accuse the older ones too.
    fn family(self, one: &Newcomer, since: Option<u64>) -> Family {
        let (session, comm) = (Some(one.session), Some(one.comm));
        match self {
            Self::SessionAndComm => Family { session, comm, ..Family::default() },
            Self::Session => Family { session, since, ..Family::default() },
            Self::Comm => Family { comm, since, ..Family::default() },
            Self::Since => Family { since, ..Family::default() },
        }
    }
}

/// Room for one choice, allocated once.
#[derive(Debug, Default)]
pub struct Offenders {
    newcomers: Vec<Newcomer>,
    /// Who alone has grown it most.
    one: Option<(Bytes, ProcessId)>,
    all: Bytes,
}

impl Offenders {
    /// For so many processes.
    pub fn with_capacity(processes: usize) -> Self {
        Self { newcomers: Vec::with_capacity(processes), ..Self::default() }
    }

    /// Empties it, keeping the room.
    pub fn clear(&mut self) {
        self.newcomers.clear();
        (self.one, self.all) = (None, Bytes(0));
    }

    /// One that was there before, and has grown by so much.
    pub fn grown(&mut self, who: ProcessId, by: Bytes) {
        self.all = self.all + by;
        let key = |(by, who): (Bytes, ProcessId)| (by, who.start, who.pid);
        if by > Bytes(0) && self.one.is_none_or(|one| key((by, who)) > key(one)) {
            self.one = Some((by, who));
        }
    }

    /// One that has started since.
    pub fn newcomer(&mut self, newcomer: Newcomer) {
        self.grown(newcomer.who, newcomer.held);
        // There is room for as many as there are rows.
        if self.newcomers.len() < self.newcomers.capacity() {
            self.newcomers.push(newcomer);
        }
    }

    /// The smallest class that holds most of it; if none does, the heaviest. `Err`: it does not hold what is needed, but so much.
    pub fn worst(&mut self, growth: Growth, needed: Bytes) -> Result<Offender, Bytes> {
        let (signs, since): (&[Sign], _) = match growth {
            Growth::Unknown => (&[Sign::SessionAndComm], None),
            Growth::Since { ticks, lately } => {
                let signs: &[Sign] = &[Sign::SessionAndComm, Sign::Session, Sign::Comm, Sign::Since];
                (&signs[..if lately { 4 } else { 3 }], Some(ticks))
            }
        };
        let one = self.one.map(|(by, who)| Offender {
            take: Take::One,
            one: Some(who),
            together: by,
            count: usize::from(by > Bytes(0)),
        });
        let mut best = one;
        for &sign in signs {
            let Some(class) = self.heaviest(sign, since) else { continue };
            if best.is_none_or(|best| self.is_better(&class, &best)) {
                best = Some(class);
            }
        }
        match best {
            Some(best) if best.together >= needed => Ok(best),
            best => Err(best.map_or(Bytes(0), |best| best.together)),
        }
    }

    /// Those that are equal are taken by the narrower sign, which came first.
    fn is_better(&self, new: &Offender, best: &Offender) -> bool {
        let is_most = |one: &Offender| {
            u128::from(one.together.0) * 4 >= u128::from(self.all.0) * u128::from(MOST_QUARTERS)
        };
        match (is_most(new), is_most(best)) {
            (true, true) => new.count < best.count,
            (false, false) => new.together > best.together,
            (new, _) => new,
        }
    }

    /// Of the classes by one sign the one that holds most; of equals the one of the younger session.
    fn heaviest(&mut self, sign: Sign, since: Option<u64>) -> Option<Offender> {
        self.newcomers.sort_unstable_by_key(|one| (sign.key(one), one.who.start, one.who.pid));
        let classes = self.newcomers.chunk_by(|a, b| sign.key(a) == sign.key(b)).map(|class| {
            let together = class.iter().fold(Bytes(0), |sum, one| sum + one.held);
            (together, class)
        });
        let (together, class) = classes.max_by_key(|(together, _)| *together)?;
        let take = Take::Family(sign.family(class.first()?, since));
        Some(Offender { take, one: None, together, count: class.len() })
    }

    /// Keeps the newcomers of a class, to be asked who has started them.
    pub fn keep(&mut self, family: &Family) {
        self.newcomers.retain(|one| family.holds(one.who, one.session, &one.comm));
        self.newcomers.sort_unstable_by_key(|one| (one.parent, one.who.start, one.who.pid));
    }

    /// How many of those kept this process has started, if they are many. A pid that was reused since is not mistaken for the parent's:
    /// only those who were there before are asked about.
    pub fn started_by(&self, pid: u32) -> Option<usize> {
        let upto = |below: &dyn Fn(u32) -> bool| self.newcomers.partition_point(|one| below(one.parent));
        let count = upto(&|parent| parent <= pid) - upto(&|parent| parent < pid);
        (count >= MANY).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LATELY: Growth = Growth::Since { ticks: 10, lately: true };
    const KIB_100: Bytes = Bytes::kib(100);

    fn newcomer(pid: u32, session: u32, comm: u8) -> Newcomer {
        let who = ProcessId { pid, start: 10 + u64::from(pid) };
        Newcomer { who, parent: 9, session, comm: [comm; 16], held: KIB_100 }
    }

    fn worst(newcomers: &[Newcomer], growth: Growth) -> Offender {
        let mut offenders = Offenders::with_capacity(newcomers.len());
        newcomers.iter().for_each(|&one| offenders.newcomer(one));
        offenders.worst(growth, Bytes(1)).unwrap()
    }

    #[test]
    fn no_class_is_passed_over_however_many_there_are() {
        // A thousand that have nothing to do with one another, and behind them those that have.
        let mut all: Vec<_> = (1..1000).map(|pid| newcomer(pid, pid, 1)).collect();
        all.iter_mut().for_each(|one| one.held = Bytes(1));
        all.extend((1000..1200).map(|pid| newcomer(pid, 7000, 2)));
        let found = worst(&all, LATELY);
        let expected = Family { session: Some(7000), comm: Some([2; 16]), ..Family::default() };
        assert_eq!((found.take, found.together), (Take::Family(expected), Bytes(200 * KIB_100.0)));
    }

    #[test]
    fn the_smallest_class_that_holds_most_goes() {
        // One session with two names, one of which elsewhere too.
        let mut all: Vec<_> = (1..41).map(|pid| newcomer(pid, 7, 1)).collect();
        all.extend((41..81).map(|pid| newcomer(pid, 7, 2)));
        all.extend((81..91).map(|pid| newcomer(pid, pid, 1)));
        let family = |found: Offender| match found.take {
            Take::Family(family) => (family.session, family.comm, family.since),
            take => panic!("{take:?}"),
        };
        assert_eq!(family(worst(&all, LATELY)), (Some(7), None, Some(10)));
        assert_eq!(
            family(worst(&all, Growth::Unknown)),
            (Some(7), Some([2; 16]), None),
            "two signs, or nobody"
        );
        // Among equals the narrower sign.
        assert_eq!(family(worst(&all[..40], LATELY)), (Some(7), Some([1; 16]), None));
    }

    #[test]
    fn who_has_grown_alone_goes_alone() {
        let mut offenders = Offenders::with_capacity(8);
        (1..5).for_each(|pid| offenders.newcomer(newcomer(pid, 7, 1)));
        let hog = ProcessId { pid: 99, start: 1 };
        offenders.grown(hog, Bytes::mib(7));
        let found = offenders.worst(LATELY, Bytes::mib(4)).unwrap();
        assert_eq!((found.take, found.one, found.together), (Take::One, Some(hog), Bytes::mib(7)));
        assert_eq!(offenders.worst(LATELY, Bytes::mib(8)), Err(Bytes::mib(7)));
    }

    #[test]
    fn nobody_is_accused_of_nothing() {
        let mut offenders = Offenders::with_capacity(8);
        offenders.grown(ProcessId { pid: 99, start: 1 }, Bytes(0));
        assert_eq!(offenders.worst(LATELY, Bytes(1)), Err(Bytes(0)));
    }

    proptest! {
        /// In whatever order they are found, the same are taken; what is taken holds what it is said to, and no class holds three quarters with fewer.
        #[test]
        fn the_choice_is_what_it_says(
            seeds in prop::collection::vec((1u32..6, 1u8..6, 0u64..50), 1..60), turn in 0usize..60, lately: bool,
        ) {
            let mut all: Vec<Newcomer> = (1u32..)
                .zip(&seeds)
                .map(|(pid, &(session, comm, held))| Newcomer { held: Bytes::kib(held), ..newcomer(pid, session, comm) })
                .collect();
            let growth = Growth::Since { ticks: 10, lately };
            let choose = |all: &[Newcomer]| {
                let mut offenders = Offenders::with_capacity(all.len());
                all.iter().for_each(|&one| offenders.newcomer(one));
                offenders.worst(growth, Bytes(1))
            };
            let found = choose(&all);
            let turn = turn % all.len();
            all.rotate_left(turn);
            prop_assert_eq!(found, choose(&all));
            let total: u64 = all.iter().map(|one| one.held.0).sum();
            let Ok(found) = found else { prop_assert_eq!(total, 0); return Ok(()) };
            let is_of = |family: Family| move |one: &&Newcomer| family.holds(one.who, one.session, &one.comm);
            let of = |take| match take {
                Take::Family(family) => all.iter().filter(is_of(family)).map(|one| one.held.0).sum(),
                _ => all.iter().filter(|one| Some(one.who) == found.one).map(|one| one.held.0).sum::<u64>(),
            };
            prop_assert_eq!(of(found.take), found.together.0);
            for one in &all {
                for sign in [Sign::SessionAndComm, Sign::Session, Sign::Comm] {
                    let family = sign.family(one, Some(10));
                    let (held, count) = (of(Take::Family(family)), all.iter().filter(is_of(family)).count());
                    prop_assert!(held * 4 < total * 3 || count >= found.count, "{family:?} before {found:?}");
                    prop_assert!(held * 4 >= total * 3 || held <= found.together.0);
                }
            }
        }
    }
}
