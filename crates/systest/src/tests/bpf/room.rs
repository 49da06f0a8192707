//! The room that a program has while it starts although its group is refused memory: enough to start in, and no way around the line.

use anyhow::{Context, Result, ensure};
use memgov::bpf::{GroupLimit, Hook};
use memgov_decide::units::Bytes;

use super::rig::{Rig, calls_refused};
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};
use crate::workload::probe::MUCH;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(120);
    vec![
        test("bpf_room_refuses_exec_nothing", exec),
        test("bpf_room_is_no_way_to_map_much_at_once", much_at_once),
        test("bpf_room_is_no_way_to_bring_much_along", bss),
    ]
}

/// Over its line whatever it has.
fn deny(rig: &Rig, group: &Group) -> Result<()> {
    let line = Some(Bytes(4096));
    rig.limit(group, GroupLimit { deny: line, tell: line, ..GroupLimit::default() }).map(drop)
}

/// More than a program may map while it starts, and less than the machine would grant anybody.
const MUCH_BYTES: u64 = 256 * MIB;

/// A program is started in a group that is refused memory, and asks at once for much.
fn much_at_once(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    let free = bench.agent(&group, "free")?.numbers(&format!("ask-much {MUCH_BYTES}"))?;
    ensure!(free == [0; MUCH.len()], "refused although nothing is denied: {free:?} of {MUCH:?}");
    let mut holder = bench.agent(&group, "holder")?;
    deny(&rig, &group)?;
    ensure!(calls_refused(&mut holder)?.len() == 5, "not refused");
    // It counts only while its room lasts, which the little that is allowed before and after shows.
    for tries in 1..=20 {
        let errnos = bench.agent(&group, "young")?.numbers(&format!("ask-much {MUCH_BYTES}"))?;
        if errnos.first() != Some(&0) || errnos.last() != Some(&0) {
            continue;
        }
        ensure!(errnos == [0, 12, 12, 12, 12, 12, 0], "{errnos:?} of {MUCH:?} for {}", mib(MUCH_BYTES));
        return Ok(format!("at try {tries}"));
    }
    anyhow::bail!("no program was fast enough to be young when it asked")
}

/// What it runs `path` ends with.
fn end_of(
    bench: &Bench<'_>,
    group: &Group,
    path: &std::path::Path,
    before: impl Fn() -> Result<()>,
) -> Result<i32> {
    let mut agent = bench.agent(group, "changing")?;
    before()?;
    agent.say(&format!("exec-file {}", path.display()))?;
    Ok(agent.wait_for_end(bench.patience())?.1)
}

fn program(bench: &Bench<'_>, name: &str, bss: u64) -> Result<std::path::PathBuf> {
    let path = bench.dir.join(name);
    std::fs::write(&path, tiny_program(bss)).with_context(|| format!("writing {}", path.display()))?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(path)
}

/// A program of which a part is never in its file.
fn bss(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let (group, neighbour) = (bench.group("job")?, bench.group("neighbour")?);
    let mut holder = bench.agent(&group, "holder")?;
    let (large, small) = (program(bench, "large", MUCH_BYTES)?, program(bench, "small", 16 * MIB)?);
    let free = end_of(bench, &group, &large, || Ok(()))?;
    ensure!(free == libc::SIGTERM, "nothing is denied, and it died of signal {free}");
    let denied = end_of(bench, &group, &large, || deny(&rig, &group))?;
    ensure!(calls_refused(&mut holder)?.len() == 5, "not refused");
    ensure!(
        denied == libc::SIGSEGV,
        "it died of signal {denied}, not of what ends an exec that is refused memory"
    );
    let ended = end_of(bench, &group, &small, || Ok(()))?;
    ensure!(ended == libc::SIGTERM, "a program with little of it died of signal {ended}");
    let ended = end_of(bench, &neighbour, &large, || Ok(()))?;
    ensure!(ended == libc::SIGTERM, "in another group it died of signal {ended}");
    Ok(String::new())
}

/// A program that needs no libraries runs; exec itself is refused nothing.
fn exec(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    let mut holder = bench.agent(&group, "holder")?;
    let tiny = program(bench, "tiny", 0)?;
    let signal = end_of(bench, &group, &tiny, || deny(&rig, &group))?;
    ensure!(calls_refused(&mut holder)?.len() == 5, "not refused");
    ensure!(signal == libc::SIGTERM, "died of signal {signal}, not of the one it sends itself");
    Ok(String::new())
}

/// An x86-64 program of one page, and of so many bytes of .bss, that sends itself SIGTERM: `getpid`, `kill`.
fn tiny_program(bss: u64) -> Vec<u8> {
    const CODE: [u8; 23] = [
        0xb8, 39, 0, 0, 0, 0x0f, 0x05, // eax = getpid()
        0x89, 0xc7, // edi = eax
        0xbe, 15, 0, 0, 0, // esi = SIGTERM
        0xb8, 62, 0, 0, 0, 0x0f, 0x05, // kill(edi, esi)
        0xeb, 0xfe, // until it is dead
    ];
    const BASE: u64 = 0x40_0000;
    let size = 64 + 56 + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    // entry, program headers at 64, no section headers; sizes of the headers
    [BASE + 120, 64, 0].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // one segment to be loaded, readable, writable and executable: the kernel clears the rest of the page that .bss begins in
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    [0, BASE, BASE, size, size + bss, 4096].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend(CODE);
    file
}
