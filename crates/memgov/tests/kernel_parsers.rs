//! The parsers of `kernel` on hostile, cut-off and arbitrary bytes, and against the `procfs` and `cgroupfs` crates: whatever both
//! understand must mean the same to both. No privileges.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use memgov::kernel::cgroup::{v1, v2};
use memgov::kernel::forks::{ProcessEvent, parse_datagram};
use memgov::kernel::{Reading, freeze, proc, psi};
use memgov_decide::snapshot::{Events, ProcessId, Rss};
use memgov_decide::units::{Bytes, Limit};
use procfs::FromRead as _;
use proptest::prelude::*;
use std::time::Duration;

fn stat_text(comm: &[u8]) -> Vec<u8> {
    let rest = b") R 8852 8852 3823 0 -1 4194304 99 0 0 0 0 0 0 0 20 0 3 0 142155 3133440 388 18446744073709551615 \
        93841463640064 93841463659945 140726631115936 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 93841463675952 93841463677568 \
        93841787158528 140726631119371 140726631119408 140726631119408 140726631120875 0\n";
    [b"8854 (", comm, rest].concat()
}

const STATUS: &str = "Name:\tfoo) Z \\n\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t8854\nNgid:\t0\nPid:\t8854\nPPid:\t8852\n\
    TracerPid:\t0\nUid:\t1000\t1001\t1002\t1003\nGid:\t0\t0\t0\t0\nFDSize:\t256\nGroups:\t4 24 27 \nNStgid:\t8854\nNSpid:\t8854\n\
    NSpgid:\t8852\nNSsid:\t3823\nVmPeak:\t    3060 kB\nVmSize:\t    3060 kB\nVmLck:\t      16 kB\nVmPin:\t       0 kB\n\
    VmHWM:\t    1764 kB\nVmRSS:\t    1764 kB\nRssAnon:\t     112 kB\nRssFile:\t    1652 kB\nRssShmem:\t       4 kB\n\
    VmData:\t     360 kB\nVmStk:\t     132 kB\nVmExe:\t      20 kB\nVmLib:\t    1528 kB\nVmPTE:\t      48 kB\nVmSwap:\t       8 kB\n\
    HugetlbPages:\t       0 kB\nCoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t1\nSigQ:\t0/96365\n\
    SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n\
    SigCgt:\t0000000000000000\nCapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000004000\n\
    CapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\nCpus_allowed:\t3\n\
    Cpus_allowed_list:\t0-1\nMems_allowed:\t00000000,00000001\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\n\
    nonvoluntary_ctxt_switches:\t0\n";

#[test]
fn a_comm_may_be_anything() {
    for comm in [
        &b"cat"[..],
        b"foo) Z ",
        b"foo) Z 1 1 1 (",
        b"a\nb\nc",
        b")",
        b"",
        b"(((",
        b"\xff\xfe",
        b"kworker/u8:2-events_unbound",
    ] {
        let stat = proc::parse_stat(&stat_text(comm)).unwrap();
        let mut expected = [0; 16];
        let len = comm.len().min(15);
        expected[..len].copy_from_slice(&comm[..len]);
        assert_eq!(stat.comm, expected);
        assert_eq!((stat.pid, stat.state, stat.ppid, stat.threads), (8854, b'R', 8852, 3));
        assert_eq!(stat.id(), ProcessId { pid: 8854, start: 142_155 });
        assert!(!stat.kernel_thread && !stat.has_ended());
    }
}

#[test]
fn a_stat_cut_off_before_the_end_of_the_start_time_is_none() {
    let text = stat_text(b"foo) Z ");
    let end = text.windows(7).position(|w| w == b"142155 ").unwrap() + 7;
    for cut in 0..end {
        assert_eq!(proc::parse_stat(&text[..cut]), None, "{cut}");
    }
    let whole = proc::parse_stat(&text).unwrap();
    assert!(whole.resident.is_some());
    for cut in end..=text.len() {
        let stat = proc::parse_stat(&text[..cut]).unwrap();
        assert!(stat.resident.is_none() || stat.resident == whole.resident, "{cut}");
        assert_eq!(proc::Stat { resident: whole.resident, ..stat }, whole, "{cut}");
    }
}

#[test]
fn stat_agrees_with_procfs() {
    for comm in [&b"cat"[..], b"foo) Z ", b"a b (c", b"x) R 1 1 1"] {
        let text = stat_text(comm);
        let theirs = procfs::process::Stat::from_read(&text[..]).unwrap();
        let ours = proc::parse_stat(&text).unwrap();
        assert_eq!(i64::from(ours.pid), i64::from(theirs.pid));
        assert_eq!(i64::from(ours.ppid), i64::from(theirs.ppid));
        assert_eq!(char::from(ours.state), theirs.state);
        assert_eq!((ours.start, i64::from(ours.threads)), (theirs.starttime, theirs.num_threads));
        assert_eq!((ours.resident, ours.exiting), (Some(theirs.rss), theirs.flags & 4 != 0));
        assert_eq!(&ours.comm[..comm.len()], theirs.comm.as_bytes());
    }
}

#[test]
fn status_agrees_with_procfs() {
    let ours = proc::parse_status(STATUS.as_bytes());
    let theirs = procfs::process::Status::from_read(STATUS.as_bytes()).unwrap();
    let kib = |n: Option<u64>| n.map(|n| Bytes(n * 1024));
    assert_eq!(ours.uids, Some([theirs.ruid, theirs.euid, theirs.suid, theirs.fuid]));
    assert_eq!(ours.tgid.map(i64::from), Some(i64::from(theirs.tgid)));
    let rss = Rss { anon: kib(theirs.rssanon), file: kib(theirs.rssfile), shmem: kib(theirs.rssshmem) };
    assert_eq!(ours.rss, rss);
    assert_eq!((ours.vm_size, ours.vm_data), (kib(theirs.vmsize), kib(theirs.vmdata)));
    assert_eq!((ours.vm_locked, ours.vm_swap), (kib(theirs.vmlck), kib(theirs.vmswap)));
    assert_eq!(ours.cap_ipc_lock, Some(theirs.capeff & 1 << 14 != 0));
}

#[test]
fn status_of_a_kernel_thread_has_no_memory_and_a_cut_line_says_nothing() {
    let kthread = proc::parse_status(b"Name:\tkthreadd\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n");
    assert_eq!(kthread.rss, Rss::default());
    assert_eq!((kthread.vm_size, kthread.cap_ipc_lock), (None, Some(true)));
    let cut = STATUS.find("1652 kB").unwrap() + 3;
    let rss = proc::parse_status(&STATUS.as_bytes()[..cut]).rss;
    assert_eq!(rss, Rss { anon: Some(Bytes(112 * 1024)), file: None, shmem: None });
    for bad in [
        "Uid:\t1\t2\t3\n",
        "Uid:\t1\t2\t3\t4\t5\n",
        "Uid:\t-1\t0\t0\t0\n",
        "RssAnon:\t5 MB\n",
        "RssAnon:\t5\n",
    ] {
        assert_eq!(proc::parse_status(bad.as_bytes()), proc::Status::default(), "{bad:?}");
    }
}

#[test]
fn small_files_are_all_or_nothing() {
    assert_eq!(proc::parse_oom_score_adj(b"-1000\n"), Some(-1000));
    assert_eq!(proc::parse_oom_score_adj(b"1000\n"), Some(1000));
    for bad in ["", "\n", "-100", "1001\n", "-1001\n", "--1\n", "1 \n"] {
        assert_eq!(proc::parse_oom_score_adj(bad.as_bytes()), None, "{bad:?}");
    }
    let statm = proc::parse_statm(b"765 432 404 5 0 123 0\n").unwrap();
    let theirs = procfs::process::StatM::from_read(&b"765 432 404 5 0 123 0\n"[..]).unwrap();
    assert_eq!((statm.size, statm.resident, statm.shared), (theirs.size, theirs.resident, theirs.shared));
    assert_eq!(proc::parse_statm(b"765 432 404 5 0 123 0"), None);
    assert_eq!(freeze::parse_v1_state(b"FROZEN\n"), Some(freeze::FreezeState::Frozen));
    assert_eq!(freeze::parse_v1_state(b"FREEZ"), None);
}

#[test]
fn v2_texts() {
    assert_eq!(v2::parse_usage(b"104861696\n"), Some(Bytes(104_861_696)));
    assert_eq!(v2::parse_usage(b"10486"), None);
    assert_eq!(v2::parse_limit(b"max\n"), Some(Limit::Max));
    assert_eq!(v2::parse_limit(b"0\n"), Some(Limit::At(Bytes(0))));
    for bad in ["", "ma", "max", "-1\n", "max\n1\n", "1 \n"] {
        assert_eq!(v2::parse_limit(bad.as_bytes()), None, "{bad:?}");
    }
    // 4.x kernels know no oom_group_kill, early ones no oom_kill.
    let events = v2::parse_events(b"low 0\nhigh 3\nmax 2\noom 1\n");
    assert_eq!(events, Events { high: Some(3), max: Some(2), oom: Some(1), oom_kill: None });
    assert_eq!(v2::parse_events(b"high 12\nmax 1"), Events { high: Some(12), ..Events::default() });
    assert_eq!(v2::parse_oom_group(b"1\n"), Some(true));
    assert_eq!(v2::parse_oom_group(b"2\n"), None);
}

#[test]
fn v1_texts() {
    assert_eq!(v1::parse_limit(b"9223372036854771712\n", 4096), Some(Limit::Max));
    assert_eq!(v1::parse_limit(b"9223372036854710272\n", 65536), Some(Limit::Max));
    let most = 9_223_372_036_854_771_712 - 4096;
    assert_eq!(v1::parse_limit(b"9223372036854767616\n", 4096), Some(Limit::At(Bytes(most))));
    assert_eq!(v1::parse_limit(b"max\n", 4096), None);
    assert_eq!(v1::parse_limit(b"1\n", 0), None);
    assert_eq!(v1::parse_failcnt(b"761\n"), Some(761));
    let mut reading = Reading::default();
    v1::parse_oom_control(b"oom_kill_disable 0\nunder_oom 1\noom_kill 3\n", &mut reading);
    assert_eq!((reading.under_oom, reading.events.oom_kill), (Some(true), Some(3)));
    v1::parse_oom_control(b"oom_kill_disable 0\nunder_oom 0\n", &mut reading);
    assert_eq!((reading.under_oom, reading.events.oom_kill), (Some(false), None));
}

#[test]
fn pressure_agrees_with_procfs() {
    let text = b"some avg10=1.53 avg60=0.42 avg300=100.00 total=157656722\nfull avg10=0.00 avg60=0.01 avg300=0.06 total=1\n";
    let ours = psi::parse(text);
    let theirs = procfs::MemoryPressure::from_read(&text[..]).unwrap();
    for (ours, theirs) in [(ours.some.unwrap(), theirs.some), (ours.full.unwrap(), theirs.full)] {
        for (hundredths, percent) in
            [(ours.avg10, theirs.avg10), (ours.avg60, theirs.avg60), (ours.avg300, theirs.avg300)]
        {
            assert!((f64::from(hundredths) / 100.0 - f64::from(percent)).abs() < 1e-5);
        }
        assert_eq!(ours.total, Duration::from_micros(theirs.total));
    }
    // On these procfs panics; here a line that is not whole is None.
    for bad in ["some", "some \n", "some avg10=1.5 avg60=0.00 avg300=0.00 total=0\n", "some avg10=\n", "full"]
    {
        assert_eq!(psi::parse(bad.as_bytes()), psi::Pressure::default(), "{bad:?}");
    }
}

/// A netlink datagram of one proc event.
fn datagram(what: u32, data: &[u32]) -> Vec<u8> {
    let mut event = Vec::new();
    for word in [1u32, 1, 7, 0] {
        event.extend(word.to_ne_bytes());
    }
    event.extend(40u16.to_ne_bytes());
    event.extend([0; 2]);
    event.extend(what.to_ne_bytes());
    event.extend([0; 12]);
    event.extend(data.iter().flat_map(|word| word.to_ne_bytes()));
    let mut message = u32::try_from(event.len() + 16).unwrap().to_ne_bytes().to_vec();
    message.extend([3, 0, 0, 0]);
    message.extend([0; 8]);
    message.extend(event);
    message
}

fn events(bytes: &[u8]) -> Vec<ProcessEvent> {
    let mut events = Vec::new();
    parse_datagram(bytes, &mut |event| events.push(event));
    events
}

#[test]
fn births_of_threads_are_no_forks() {
    let fork = datagram(1, &[10, 9, 20, 20]);
    assert_eq!(events(&fork), [ProcessEvent::Fork { parent: 9, child: 20 }]);
    assert_eq!(events(&datagram(1, &[10, 9, 21, 9])), []);
    assert_eq!(events(&datagram(2, &[20, 20])), [ProcessEvent::Exec { pid: 20 }]);
    let exit = datagram(0x8000_0000, &[20, 20, 0, 17]);
    assert_eq!(events(&exit), [ProcessEvent::Exit { pid: 20 }]);
    assert_eq!(events(&datagram(0x8000_0000, &[21, 20, 0, 17])), []);
    assert_eq!(events(&datagram(0, &[0])), []);
    let two = [fork.clone(), exit].concat();
    assert_eq!(events(&two).len(), 2);
    for cut in 0..fork.len() {
        assert_eq!(events(&two[..cut]), []);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        proc::parse_stat(&bytes);
        proc::parse_status(&bytes);
        proc::parse_statm(&bytes);
        proc::parse_oom_score_adj(&bytes);
        psi::parse(&bytes);
        v1::parse_limit(&bytes, 4096);
        v1::parse_oom_control(&bytes, &mut Reading::default());
        v2::parse_limit(&bytes);
        v2::parse_events(&bytes);
        freeze::parse_v1_state(&bytes);
        events(&bytes);
    }

    /// Near misses: valid texts with bytes changed and ends cut.
    #[test]
    fn nor_do_damaged_texts(at in 0usize..1600, byte: u8, cut in 0usize..1600, what in 0usize..3) {
        let mut text = match what {
            0 => stat_text(b"foo) Z "),
            1 => STATUS.as_bytes().to_vec(),
            _ => datagram(1, &[10, 9, 20, 20]),
        };
        let at = at % text.len();
        text[at] = byte;
        text.truncate(cut);
        proc::parse_stat(&text);
        proc::parse_status(&text);
        psi::parse(&text);
        events(&text);
    }

    #[test]
    fn any_comm_is_read_back(comm in proptest::collection::vec(1u8.., 0..16)) {
        let stat = proc::parse_stat(&stat_text(&comm)).unwrap();
        prop_assert_eq!(stat.start, 142_155);
        let len = comm.len().min(15);
        prop_assert_eq!(&stat.comm[..len], &comm[..len]);
    }

    #[test]
    fn numbers_are_read_back(n: u64, page in prop_oneof![Just(4096u64), Just(16384), Just(65536)]) {
        let text = format!("{n}\n");
        prop_assert_eq!(v2::parse_usage(text.as_bytes()), Some(Bytes(n)));
        prop_assert_eq!(v2::parse_limit(text.as_bytes()), Some(Limit::At(Bytes(n))));
        let most = i64::MAX.unsigned_abs() / page * page;
        let expected = if n >= most { Limit::Max } else { Limit::At(Bytes(n)) };
        prop_assert_eq!(v1::parse_limit(text.as_bytes(), page), Some(expected));
        prop_assert_eq!(v2::parse_usage(&text.as_bytes()[..text.len() - 1]), None);
    }
}
