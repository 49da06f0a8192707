//! [`memgov_decide::kernel_memory`]: the properties its documentation states, each under its name, and the cases they come from.

use memgov_decide::kernel_memory::*;
use memgov_decide::snapshot::ProcessId;
use memgov_decide::units::{Bytes, Time};
use proptest::prelude::*;

const NAMED: usize = Kind::ALL.len() - 1;

fn breakdown(total: Option<u64>, kinds: &[Option<u64>]) -> Breakdown {
    let mut it = Breakdown::undivided(total.map(Bytes), None);
    for (kind, amount) in Kind::ALL.into_iter().zip(kinds) {
        if let Some(amount) = amount {
            it.set(kind, Bytes(*amount));
        }
    }
    it
}

/// Of a group in which only these kinds are.
fn with(total: u64, kinds: &[(Kind, u64)]) -> Breakdown {
    let mut it = breakdown(Some(total), &[Some(0); NAMED]);
    for (kind, amount) in kinds {
        it.set(*kind, Bytes(*amount));
    }
    it
}

fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

fn holding(pid: u32, name: &str, threads: u32, tables: u64, files: Option<u64>) -> Holding {
    let process = ProcessId { pid, start: u64::from(pid) };
    let stacks = Some(Bytes(u64::from(threads) * 16384));
    let page_tables = Some(Bytes(tables));
    Holding { process, comm: comm(name), threads, stacks, page_tables, descriptors: files }
}

fn first(offenders: &[Offender]) -> &Offender {
    &offenders[0]
}

#[test]
fn a_kernel_that_gives_a_total_alone_is_not_diagnosed() {
    let v1 = Breakdown::undivided(Some(Bytes::mib(9)), None);
    assert_eq!(diagnose(None, &v1), None);
    assert_eq!((v1.reclaimable(), v1.pinned(), v1.of(Kind::Other)), (None, None, None));
    assert_eq!(v1.kinds().count(), 0);
}

#[test]
fn names_of_the_kernel_are_understood_and_sums_are_not_counted_twice() {
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Other) {
        assert_eq!(Kind::named(kind.name().as_bytes()), Some(kind));
    }
    for no_kind in ["slab", "kernel", "sock", "zswapped", "other", "anon", "", "kernel_stack "] {
        assert_eq!(Kind::named(no_kind.as_bytes()), None, "{no_kind}");
    }
}

#[test]
fn what_grows_is_named_before_what_was_always_there() {
    let before = with(8 << 20, &[(Kind::SlabReclaimable, 6 << 20), (Kind::Stacks, 1 << 20)]);
    let now = with(10 << 20, &[(Kind::SlabReclaimable, 6 << 20), (Kind::Stacks, 3 << 20)]);
    let found = diagnose(Some(&before), &now).unwrap();
    assert_eq!((found.kind, found.basis, found.grew), (Kind::Stacks, Basis::Growth, Some(Bytes::mib(2))));
    assert!(found.is_pinned());
    let found = diagnose(None, &now).unwrap();
    assert_eq!((found.kind, found.basis, found.held), (Kind::SlabReclaimable, Basis::Holding, Bytes::mib(6)));
    assert!(!found.is_pinned());
    // Some pages more are no growth to speak of.
    let now = with(8 << 20, &[(Kind::SlabReclaimable, 6 << 20), (Kind::Stacks, (1 << 20) + 40_000)]);
    assert_eq!(diagnose(Some(&before), &now).unwrap().kind, Kind::SlabReclaimable);
}

#[test]
fn full_pipes_are_what_no_line_names() {
    let now = with(16 << 20, &[(Kind::SlabUnreclaimable, 1 << 20)]);
    let found = diagnose(None, &now).unwrap();
    assert_eq!((found.kind, found.held), (Kind::Other, Bytes::mib(15)));
}

#[test]
fn a_bomb_of_small_processes_stands_before_a_large_one() {
    let mut now: Vec<Holding> = (10..98).map(|pid| holding(pid, "bomb", 1, 32 << 10, Some(3))).collect();
    now.push(holding(5, "innocent", 1, 400 << 10, Some(60)));
    let ranked = offenders(None, &now, Some(Kind::Stacks));
    let bomb = first(&ranked);
    assert_eq!((bomb.comm, bomb.processes, bomb.oldest.pid), (comm("bomb"), 88, 10));
    assert_eq!(bomb.known(), Bytes(88 * (16384 + (32 << 10))));
    assert_eq!(first(&offenders(None, &now, Some(Kind::PageTables))).comm, comm("bomb"));
}

#[test]
fn who_grew_stands_before_who_holds() {
    let before = [holding(1, "database", 900, 1 << 20, None), holding(2, "bomb", 1, 0, None)];
    let more = [holding(1, "database", 900, 1 << 20, None), holding(2, "bomb", 1, 0, None)];
    let more: Vec<_> = more.into_iter().chain((3..9).map(|pid| holding(pid, "bomb", 1, 0, None))).collect();
    let ranked = offenders(Some(&before), &more, Some(Kind::Stacks));
    assert_eq!((first(&ranked).comm, first(&ranked).born), (comm("bomb"), 6));
    assert_eq!(first(&offenders(None, &more, Some(Kind::Stacks))).comm, comm("database"));
}

#[test]
fn open_files_count_where_slab_is_meant() {
    let now = [holding(1, "tables", 4, 9 << 20, Some(5)), holding(2, "hoarder", 1, 4096, Some(20_000))];
    assert_eq!(first(&offenders(None, &now, Some(Kind::SlabUnreclaimable))).comm, comm("hoarder"));
    assert_eq!(first(&offenders(None, &now, Some(Kind::Other))).comm, comm("hoarder"));
    // No kind is known: what is known of each, files at 1 KiB, which is less than any is.
    assert_eq!(first(&offenders(None, &now, None)).comm, comm("hoarder"));
    let few = [holding(1, "tables", 4, 9 << 20, Some(5)), holding(2, "hoarder", 1, 4096, Some(2000))];
    assert_eq!(first(&offenders(None, &few, None)).comm, comm("tables"));
    let hidden = [holding(1, "hidden", 1, 0, None)];
    assert_eq!(first(&offenders(None, &hidden, Some(Kind::Other))).descriptors, None, "unknown is not 0");
}

#[test]
fn a_peak_stays_until_it_is_reset() {
    let mut mark = Watermark::default();
    assert_eq!((mark.peak(), mark.since(), mark.hits()), (None, None, 0));
    for (at, value) in [(1, 5), (2, 9), (3, 9), (4, 2)] {
        mark.observe(Time(at), Bytes(value));
    }
    mark.hit();
    assert_eq!(mark.last(), Some((Bytes(2), Time(4))));
    assert_eq!((mark.peak(), mark.since()), (Some((Bytes(9), Time(2))), Some(Time(1))));
    assert_eq!(mark.hits(), 1);
    mark.reset(Time(5));
    assert_eq!((mark.peak(), mark.since(), mark.hits()), (Some((Bytes(2), Time(4))), Some(Time(5)), 0));
    assert!(mark.growth().is_some(), "what grows still does");
    let mut never = Watermark::default();
    never.reset(Time(6));
    assert_eq!((never.peak(), never.growth()), (None, None));
    never.observe(Time(7), Bytes(1));
    assert_eq!(never.growth(), None, "one reading has no growth");
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0u64..1 << 34, Just(u64::MAX)]
}

fn any_breakdown() -> impl Strategy<Value = Breakdown> {
    let kinds = proptest::collection::vec(proptest::option::weighted(0.95, amount()), NAMED);
    (proptest::option::weighted(0.95, amount()), kinds).prop_map(|(total, kinds)| breakdown(total, &kinds))
}

fn any_holdings() -> impl Strategy<Value = Vec<Holding>> {
    let one = (0usize..4, 0u32..100, 0u64..1 << 30, proptest::option::of(0u64..100_000));
    proptest::collection::vec(one, 0..30).prop_map(|all| {
        let holding = |(pid, (name, threads, tables, files)): (u32, (usize, u32, u64, Option<u64>))| {
            holding(pid, ["a", "b", "foo) Z ", "\n"][name], threads, tables, files)
        };
        (2..).zip(all).map(holding).collect()
    })
}

proptest! {
    #[test]
    fn the_kinds_never_say_more_than_the_total(it in any_breakdown()) {
        if let (Some(other), Some(total)) = (it.of(Kind::Other), it.total) {
            let named = Kind::ALL[..NAMED].iter().filter_map(|kind| it.of(*kind)).fold(Bytes(0), |a, b| a + b);
            prop_assert!(named + other == total || (other == Bytes(0) && named > total));
        }
    }

    #[test]
    fn what_can_be_reclaimed_and_what_is_pinned_are_the_whole(it in any_breakdown()) {
        prop_assert_eq!(it.reclaimable().is_some(), it.pinned().is_some());
        if let (Some(reclaimable), Some(pinned)) = (it.reclaimable(), it.pinned()) {
            prop_assert_eq!(Some(reclaimable + pinned), it.total);
        }
    }

    #[test]
    fn the_kind_named_is_the_one_that_grew_or_holds_most(before in any_breakdown(), now in any_breakdown()) {
        let grew = |kind| Some(now.of(kind)?.saturating_sub(before.of(kind)?));
        if let Some(found) = diagnose(Some(&before), &now) {
            let most = |key: &dyn Fn(Kind) -> Option<Bytes>| Kind::ALL.into_iter().filter_map(key).max();
            match found.basis {
                Basis::Growth => prop_assert_eq!(found.grew, most(&grew)),
                Basis::Holding => prop_assert_eq!(Some(found.held), most(&|kind| now.of(kind))),
            }
        } else {
            prop_assert!(now.kinds().all(|(_, held)| held == Bytes(0)));
        }
    }

    #[test]
    fn what_is_unknown_is_never_named(before in any_breakdown(), now in any_breakdown()) {
        for found in [diagnose(Some(&before), &now), diagnose(None, &now)].into_iter().flatten() {
            prop_assert_eq!(now.of(found.kind), Some(found.held));
            prop_assert!(found.held > Bytes(0));
        }
    }

    #[test]
    fn offenders_account_for_every_process_once(before in any_holdings(), now in any_holdings(), kind in 0usize..10) {
        let kind = Kind::ALL.get(kind).copied();
        let ranked = offenders(Some(&before), &now, kind);
        prop_assert_eq!(ranked.iter().map(|it| it.processes as usize).sum::<usize>(), now.len());
        let threads: u64 = now.iter().map(|one| u64::from(one.threads)).sum();
        prop_assert_eq!(ranked.iter().map(|it| it.threads).sum::<u64>(), threads);
        prop_assert!(ranked.iter().all(|it| it.born <= it.processes));
        let mut turned = now.clone();
        turned.reverse();
        prop_assert_eq!(offenders(Some(&before), &turned, kind), ranked, "order of reading does not matter");
    }
}
