//! The bytes of the ledger: a header slot, then entries of one slot or, where a cgroup path is long, of several in a row.
//! Pure: no file is touched here. Nothing is believed that does not carry its magic, its own place and its checksum.

use memgov_decide::snapshot::ProcessId;

use crate::kernel::rlimit::Pair;
use crate::kernel::socket::Bounds;

/// Bytes of a slot. A page holds eight, so no slot straddles one.
pub const SLOT: usize = 512;
/// Changes whenever a byte changes its meaning: a ledger of another version is moved aside, never read.
pub const VERSION: u32 = 1;
/// Where the state byte stands: last, so that a slot half written is not in force.
const STATE: usize = SLOT - 1;
/// The state byte of a slot that counts. Any other value is free.
const IN_FORCE: u8 = 0xA5;

const FILE_MAGIC: [u8; 8] = *b"memgovLD";
const SLOT_MAGIC: [u8; 4] = *b"slot";
const SUM: usize = 8;
/// Of a group's limit: how what was set before differs from what is set. So nothing is the same, also in what was written before there was this.
const WAS: usize = 56;
const HEAD_PATH: usize = 64;
const HEAD_ROOM: usize = STATE - HEAD_PATH;
const TAIL_PATH: usize = 32;
const TAIL_ROOM: usize = STATE - TAIL_PATH;
/// The longest path that `/proc/PID/cgroup` can show, and a mount point before it.
pub const MAX_PATH: usize = 8192;

/// Which file stops the processes of a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Freezer {
    /// `cgroup.freeze` of the unified hierarchy.
    V2,
    /// `freezer.state` of the v1 freezer.
    V1,
}

/// One soft limit that was lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// What the process had, and gets back.
    pub before: Pair,
    /// The soft limit it has now, if nobody else has changed it.
    pub set: u64,
}

/// Which limit of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupLimit {
    /// `memory.limit_in_bytes` of v1.
    Max,
    /// `memory.high` of v2.
    High,
    /// `pids.max`, of either version.
    Pids,
    /// `memory.max` of v2.
    Hard,
    /// `memory.kmem.tcp.limit_in_bytes` of v1.
    Tcp,
    /// `memory.oom_control` of v1: 1 while the kernel kills when the group is out of memory, 0 while it is held off.
    OomKiller,
}

/// What was lowered of the limits: RLIMIT_DATA, RLIMIT_AS, RLIMIT_MEMLOCK.
pub type LoweredLimits = [Option<Lowered>; 3];

/// A reversible change, as it is written down before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Soft limits lowered.
    Limits {
        /// Whose.
        who: ProcessId,
        /// Which, from what, to what.
        lowered: LoweredLimits,
    },
    /// A group made to hold processes; those in it belong to its parent.
    Hold {
        /// Whose file freezes it.
        freezer: Freezer,
        /// Its absolute path; the last component starts with [`HOLD_PREFIX`].
        path: &'a [u8],
        /// Its inode; 0 before it is made.
        inode: u64,
    },
    /// A group that is not memgov's, frozen by it.
    Frozen {
        /// Its absolute path.
        path: &'a [u8],
        /// Its inode.
        inode: u64,
        /// Whether it is memgov that has it frozen at this moment of the duty cycle.
        now: bool,
    },
    /// A process stopped by SIGSTOP.
    Stopped {
        /// Who.
        who: ProcessId,
        /// Whether it is memgov that has it stopped at this moment of the duty cycle.
        now: bool,
    },
    /// A limit of a group that is not memgov's. Lowered: of memory for moments while the group is shrunk, of processes while it is refused
    /// kernel memory. Raised: of memory, while the group is lent some.
    GroupLimit {
        /// Its absolute path.
        path: &'a [u8],
        /// Its inode.
        inode: u64,
        /// Which limit.
        which: GroupLimit,
        /// Bytes, or processes, it had, and gets back; `u64::MAX`: none.
        before: u64,
        /// What it has meanwhile.
        set: u64,
        /// What it had of memgov before that: whoever dies between writing this down and changing it leaves that. Where it is the first, `set`.
        was: u64,
    },
    /// A socket whose buffers stopped growing.
    Socket {
        /// Who had it open.
        who: ProcessId,
        /// As which descriptor.
        fd: i32,
        /// Its inode, to be found by elsewhere.
        inode: u32,
        /// Which one it is.
        cookie: u64,
        /// What bounded it, and is to bound it again.
        before: Bounds,
    },
}

/// Names of hold groups start so.
pub const HOLD_PREFIX: &[u8] = b"memgov.hold-";

/// [`Entry`] as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedEntry {
    /// See [`Entry::Limits`].
    Limits {
        /// Whose.
        who: ProcessId,
        /// What.
        lowered: LoweredLimits,
    },
    /// See [`Entry::Hold`].
    Hold {
        /// Whose file freezes it.
        freezer: Freezer,
        /// Absolute path.
        path: Box<[u8]>,
        /// Inode, 0 if it may not have been made.
        inode: u64,
    },
    /// See [`Entry::Frozen`].
    Frozen {
        /// Absolute path.
        path: Box<[u8]>,
        /// Inode.
        inode: u64,
        /// Frozen at the moment of writing.
        now: bool,
    },
    /// See [`Entry::Stopped`].
    Stopped {
        /// Who.
        who: ProcessId,
        /// Stopped at the moment of writing.
        now: bool,
    },
    /// See [`Entry::GroupLimit`].
    GroupLimit {
        /// Absolute path.
        path: Box<[u8]>,
        /// Inode.
        inode: u64,
        /// Which limit.
        which: GroupLimit,
        /// What it had; `u64::MAX`: none.
        before: u64,
        /// What it was set to.
        set: u64,
        /// What it was set to before that.
        was: u64,
    },
    /// See [`Entry::Socket`].
    Socket {
        /// Who had it open.
        who: ProcessId,
        /// As which descriptor.
        fd: i32,
        /// Its inode.
        inode: u32,
        /// Which one it is.
        cookie: u64,
        /// What bounded it.
        before: Bounds,
    },
}

impl Entry<'_> {
    fn path(&self) -> &[u8] {
        match self {
            Self::Hold { path, .. } | Self::Frozen { path, .. } | Self::GroupLimit { path, .. } => path,
            Self::Limits { .. } | Self::Stopped { .. } | Self::Socket { .. } => &[],
        }
    }

    /// How many slots in a row it takes; `None` if its path is longer than any can be.
    pub fn slots(&self) -> Option<usize> {
        let length = self.path().len();
        (length <= MAX_PATH).then(|| 1 + length.saturating_sub(HEAD_ROOM).div_ceil(TAIL_ROOM))
    }

    /// The bytes of its `part`th slot, to stand at `place`. Part 0 is the one that puts it in force, so it is written last.
    pub fn encode(&self, part: usize, place: u32) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        let path = self.path();
        put(&mut slot, 0, &SLOT_MAGIC);
        put(&mut slot, 18, &u16::try_from(part).unwrap_or(u16::MAX).to_le_bytes());
        put(&mut slot, 20, &place.to_le_bytes());
        if part > 0 {
            slot[4] = 5;
            let rest = path.get(HEAD_ROOM + (part - 1) * TAIL_ROOM..).unwrap_or_default();
            put(&mut slot, TAIL_PATH, &rest[..rest.len().min(TAIL_ROOM)]);
            return sealed(slot);
        }
        put(&mut slot, 16, &u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
        put(&mut slot, 48, &checksum(&[path]).to_le_bytes());
        put(&mut slot, HEAD_PATH, &path[..path.len().min(HEAD_ROOM)]);
        match *self {
            Self::Limits { who, lowered } => {
                slot[4] = 1;
                put_process(&mut slot, who);
                put_limits(&mut slot, &lowered);
            }
            Self::Hold { freezer, inode, .. } => {
                slot[4] = 2;
                slot[5] = if freezer == Freezer::V2 { 2 } else { 1 };
                put(&mut slot, 40, &inode.to_le_bytes());
            }
            Self::Frozen { inode, now, .. } => {
                (slot[4], slot[6]) = (3, now.into());
                put(&mut slot, 40, &inode.to_le_bytes());
            }
            Self::Stopped { who, now } => {
                (slot[4], slot[6]) = (4, now.into());
                put_process(&mut slot, who);
            }
            Self::Socket { who, fd, inode, cookie, before } => {
                slot[4] = 7;
                put_process(&mut slot, who);
                put(&mut slot, 40, &cookie.to_le_bytes());
                put(&mut slot, HEAD_PATH, &fd.to_le_bytes());
                let bounds = [inode, before.receive, before.send, before.unsent, before.locks];
                for (number, at) in bounds.iter().zip((HEAD_PATH + 4..).step_by(4)) {
                    put(&mut slot, at, &number.to_le_bytes());
                }
            }
            Self::GroupLimit { inode, which, before, set, was, .. } => {
                slot[4] = 6;
                slot[5] = match which {
                    GroupLimit::Max => 1,
                    GroupLimit::High => 2,
                    GroupLimit::Pids => 3,
                    GroupLimit::Hard => 4,
                    GroupLimit::Tcp => 5,
                    GroupLimit::OomKiller => 6,
                };
                put(&mut slot, 24, &before.to_le_bytes());
                put(&mut slot, 32, &set.to_le_bytes());
                put(&mut slot, 40, &inode.to_le_bytes());
                put(&mut slot, WAS, &(was ^ set).to_le_bytes());
            }
        }
        sealed(slot)
    }
}

impl OwnedEntry {
    /// Borrowed, to be written again.
    pub fn borrow(&self) -> Entry<'_> {
        match self {
            Self::Limits { who, lowered } => Entry::Limits { who: *who, lowered: *lowered },
            Self::Hold { freezer, path, inode } => Entry::Hold { freezer: *freezer, path, inode: *inode },
            Self::Frozen { path, inode, now } => Entry::Frozen { path, inode: *inode, now: *now },
            Self::Stopped { who, now } => Entry::Stopped { who: *who, now: *now },
            Self::Socket { who, fd, inode, cookie, before } => {
                Entry::Socket { who: *who, fd: *fd, inode: *inode, cookie: *cookie, before: *before }
            }
            Self::GroupLimit { path, inode, which, before, set, was } => Entry::GroupLimit {
                path,
                inode: *inode,
                which: *which,
                before: *before,
                set: *set,
                was: *was,
            },
        }
    }
}

/// The entry whose head stands at `place` in `slots` (all slots after the header), and how many slots it has.
/// `None` for a free slot, a continuation, and everything that is not whole.
pub fn decode(slots: &[u8], place: u32) -> Option<(OwnedEntry, usize)> {
    let head = slot_at(slots, place)?;
    if take(head, 18) != 0u16.to_le_bytes() {
        return None;
    }
    let entry = match head[4] {
        1 => OwnedEntry::Limits { who: get_process(head), lowered: get_limits(head) },
        2 => OwnedEntry::Hold {
            freezer: match head[5] {
                1 => Freezer::V1,
                2 => Freezer::V2,
                _ => return None,
            },
            path: get_path(slots, place, head)?,
            inode: u64::from_le_bytes(take(head, 40)),
        },
        3 => OwnedEntry::Frozen {
            path: get_path(slots, place, head)?,
            inode: u64::from_le_bytes(take(head, 40)),
            now: head[6] == 1,
        },
        4 => OwnedEntry::Stopped { who: get_process(head), now: head[6] == 1 },
        // 5 is the rest of a long path.
        6 => OwnedEntry::GroupLimit {
            path: get_path(slots, place, head)?,
            inode: u64::from_le_bytes(take(head, 40)),
            which: match head[5] {
                1 => GroupLimit::Max,
                2 => GroupLimit::High,
                3 => GroupLimit::Pids,
                4 => GroupLimit::Hard,
                5 => GroupLimit::Tcp,
                6 => GroupLimit::OomKiller,
                _ => return None,
            },
            before: u64::from_le_bytes(take(head, 24)),
            set: u64::from_le_bytes(take(head, 32)),
            was: u64::from_le_bytes(take(head, WAS)) ^ u64::from_le_bytes(take(head, 32)),
        },
        7 => {
            let number = |i: usize| u32::from_le_bytes(take(head, HEAD_PATH + 4 * i));
            OwnedEntry::Socket {
                who: get_process(head),
                fd: i32::from_le_bytes(take(head, HEAD_PATH)),
                inode: number(1),
                cookie: u64::from_le_bytes(take(head, 40)),
                before: Bounds { receive: number(2), send: number(3), unsent: number(4), locks: number(5) },
            }
        }
        _ => return None,
    };
    let slots = entry.borrow().slots()?;
    Some((entry, slots))
}

/// A slot that carries its magic, its place and its checksum, and is in force.
fn slot_at(slots: &[u8], place: u32) -> Option<&[u8; SLOT]> {
    let from = (place as usize).checked_mul(SLOT)?;
    let slot: &[u8; SLOT] = slots.get(from..from.checked_add(SLOT)?)?.try_into().ok()?;
    let whole = slot[STATE] == IN_FORCE
        && take(slot, 0) == SLOT_MAGIC
        && take(slot, 20) == place.to_le_bytes()
        && take(slot, SUM) == sum_of(slot);
    whole.then_some(slot)
}

fn get_path(slots: &[u8], place: u32, head: &[u8; SLOT]) -> Option<Box<[u8]>> {
    let length = usize::from(u16::from_le_bytes(take(head, 16)));
    if length > MAX_PATH {
        return None;
    }
    let mut path = Vec::with_capacity(length);
    path.extend_from_slice(&head[HEAD_PATH..HEAD_PATH + length.min(HEAD_ROOM)]);
    let mut part: u16 = 1;
    while path.len() < length {
        let tail = slot_at(slots, place.checked_add(u32::from(part))?)?;
        if tail[4] != 5 || take(tail, 18) != part.to_le_bytes() {
            return None;
        }
        path.extend_from_slice(&tail[TAIL_PATH..TAIL_PATH + (length - path.len()).min(TAIL_ROOM)]);
        part += 1;
    }
    (take(head, 48) == checksum(&[&path]).to_le_bytes()).then(|| path.into())
}

fn put_process(slot: &mut [u8; SLOT], who: ProcessId) {
    put(slot, 24, &who.pid.to_le_bytes());
    put(slot, 32, &who.start.to_le_bytes());
}

fn get_process(slot: &[u8; SLOT]) -> ProcessId {
    ProcessId { pid: u32::from_le_bytes(take(slot, 24)), start: u64::from_le_bytes(take(slot, 32)) }
}

fn put_limits(slot: &mut [u8; SLOT], lowered: &LoweredLimits) {
    for (i, lowered) in lowered.iter().enumerate() {
        let Some(Lowered { before, set }) = *lowered else { continue };
        let at = HEAD_PATH + i * 32;
        slot[at] = 1 | u8::from(before.soft.is_none()) << 1 | u8::from(before.hard.is_none()) << 2;
        put(slot, at + 8, &before.soft.unwrap_or(0).to_le_bytes());
        put(slot, at + 16, &before.hard.unwrap_or(0).to_le_bytes());
        put(slot, at + 24, &set.to_le_bytes());
    }
}

fn get_limits(slot: &[u8; SLOT]) -> LoweredLimits {
    std::array::from_fn(|i| {
        let at = HEAD_PATH + i * 32;
        let value = |offset| u64::from_le_bytes(take(slot, at + offset));
        let bound = |bit: u8, offset| (slot[at] & bit == 0).then(|| value(offset));
        let before = Pair { soft: bound(2, 8), hard: bound(4, 16) };
        (slot[at] & 1 == 1).then(|| Lowered { before, set: value(24) })
    })
}

/// Changes [`Entry::Frozen`] or [`Entry::Stopped`] in its head slot.
pub fn set_now(head: &mut [u8; SLOT], now: bool) {
    head[6] = now.into();
    *head = sealed(*head);
}

/// Changes [`Entry::Hold`] in its head slot.
pub fn set_inode(head: &mut [u8; SLOT], inode: u64) {
    put(head, 40, &inode.to_le_bytes());
    *head = sealed(*head);
}

/// Changes [`Entry::GroupLimit`] in its head slot; what was set until now stays known.
pub fn set_group_limit(head: &mut [u8; SLOT], before: u64, set: u64) {
    let was = u64::from_le_bytes(take(head, 32));
    put(head, 24, &before.to_le_bytes());
    put(head, 32, &set.to_le_bytes());
    put(head, WAS, &(was ^ set).to_le_bytes());
    *head = sealed(*head);
}

/// The header slot.
pub fn header(slots: u32, boot: &[u8; 36]) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    put(&mut slot, 0, &FILE_MAGIC);
    put(&mut slot, 16, &VERSION.to_le_bytes());
    put(&mut slot, 20, &slots.to_le_bytes());
    put(&mut slot, 32, boot);
    sealed(slot)
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A ledger of this version, with so many slots.
    Ours {
        /// Slots after the header.
        slots: u32,
        /// Written since this boot.
        this_boot: bool,
    },
    /// Something else: another version, or no ledger at all.
    Foreign,
}

/// Reads a header.
pub fn read_header(slot: &[u8], boot: &[u8; 36], most: u32) -> Header {
    let Ok(slot): Result<&[u8; SLOT], _> = slot.try_into() else { return Header::Foreign };
    let slots = u32::from_le_bytes(take(slot, 20));
    let ours = take(slot, 0) == FILE_MAGIC
        && take(slot, 16) == VERSION.to_le_bytes()
        && take(slot, SUM) == sum_of(slot)
        && (1..=most).contains(&slots);
    if ours { Header::Ours { slots, this_boot: take(slot, 32) == *boot } } else { Header::Foreign }
}

fn sealed(mut slot: [u8; SLOT]) -> [u8; SLOT] {
    let sum = sum_of(&slot);
    put(&mut slot, SUM, &sum);
    slot[STATE] = IN_FORCE;
    slot
}

/// Over everything but itself and the state byte.
fn sum_of(slot: &[u8; SLOT]) -> [u8; 8] {
    checksum(&[&slot[..SUM], &slot[SUM + 8..STATE]]).to_le_bytes()
}

/// FNV-1a: against half-written slots and strangers' bytes, not against an enemy (the file is root's, mode 0600).
fn checksum(parts: &[&[u8]]) -> u64 {
    let step = |sum: u64, &byte: &u8| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    parts.iter().flat_map(|part| part.iter()).fold(0xcbf2_9ce4_8422_2325, step)
}

fn put(slot: &mut [u8; SLOT], at: usize, bytes: &[u8]) {
    slot[at..at + bytes.len()].copy_from_slice(bytes);
}

fn take<const N: usize>(slot: &[u8; SLOT], at: usize) -> [u8; N] {
    std::array::from_fn(|i| slot[at + i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(entry: &Entry<'_>, place: u32, total: u32) -> Vec<u8> {
        let mut slots = vec![0; total as usize * SLOT];
        for part in 0..entry.slots().unwrap() {
            let at = (place as usize + part) * SLOT;
            slots[at..at + SLOT].copy_from_slice(&entry.encode(part, place + u32::try_from(part).unwrap()));
        }
        slots
    }

    fn pairs() -> impl Strategy<Value = Option<Lowered>> {
        any::<Option<(Option<u64>, Option<u64>, u64)>>()
            .prop_map(|l| l.map(|(soft, hard, set)| Lowered { before: Pair { soft, hard }, set }))
    }

    fn entries() -> impl Strategy<Value = OwnedEntry> {
        let who = any::<(u32, u64)>().prop_map(|(pid, start)| ProcessId { pid, start });
        let path = || proptest::collection::vec(any::<u8>(), 0..6000).prop_map(Vec::into_boxed_slice);
        prop_oneof![
            (who.clone(), any::<(i32, u32, u64)>(), any::<[u32; 4]>()).prop_map(
                |(who, (fd, inode, cookie), [receive, send, unsent, locks])| OwnedEntry::Socket {
                    who,
                    fd,
                    inode,
                    cookie,
                    before: Bounds { receive, send, unsent, locks },
                }
            ),
            (who.clone(), [pairs(), pairs(), pairs()])
                .prop_map(|(who, lowered)| OwnedEntry::Limits { who, lowered }),
            (any::<bool>(), path(), any::<u64>()).prop_map(|(v1, path, inode)| OwnedEntry::Hold {
                freezer: if v1 { Freezer::V1 } else { Freezer::V2 },
                path,
                inode
            }),
            (path(), any::<u64>(), any::<bool>()).prop_map(|(path, inode, now)| OwnedEntry::Frozen {
                path,
                inode,
                now
            }),
            (who, any::<bool>()).prop_map(|(who, now)| OwnedEntry::Stopped { who, now }),
            (path(), 0usize..5, any::<[u64; 4]>()).prop_map(|(path, which, [inode, before, set, was])| {
                let which =
                    [GroupLimit::Max, GroupLimit::High, GroupLimit::Pids, GroupLimit::Hard, GroupLimit::Tcp]
                        [which];
                OwnedEntry::GroupLimit { path, inode, which, before, set, was }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entry in entries(), place in 0u32..4) {
            let slots = write(&entry.borrow(), place, 20);
            prop_assert_eq!(decode(&slots, place), Some((entry.clone(), entry.borrow().slots().unwrap())));
            // A continuation is no entry.
            prop_assert_eq!(decode(&slots, place + 1), None);
        }

        #[test]
        fn a_damaged_entry_is_not_believed(entry in entries(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let used = entry.borrow().slots().unwrap();
            let mut slots = write(&entry.borrow(), 0, 20);
            let at = at.index(used * SLOT);
            slots[at] ^= 1 << bit;
            prop_assert_eq!(decode(&slots, 0), None);
        }

        #[test]
        fn rubbish_is_never_an_entry(bytes in proptest::collection::vec(any::<u8>(), 0..4 * SLOT), place in any::<u32>()) {
            prop_assert_eq!(decode(&bytes, place), None);
            prop_assert_eq!(read_header(&bytes, &[b'x'; 36], 100), Header::Foreign);
        }
    }

    #[test]
    fn an_entry_copied_to_another_place_is_not_believed() {
        let who = ProcessId { pid: 7, start: 9 };
        let mut slots = write(&Entry::Stopped { who, now: true }, 0, 2);
        slots.copy_within(..SLOT, SLOT);
        assert!(decode(&slots, 0).is_some() && decode(&slots, 1).is_none());
    }

    #[test]
    fn a_limit_that_is_changed_remembers_the_one_before() {
        let path = b"/x".as_slice();
        let entry = Entry::GroupLimit { path, inode: 1, which: GroupLimit::Pids, before: 9, set: 5, was: 5 };
        let mut slots = write(&entry, 0, 1);
        let mut head: [u8; SLOT] = slots[..SLOT].try_into().unwrap();
        set_group_limit(&mut head, 9, 7);
        slots.copy_from_slice(&head);
        let (found, _) = decode(&slots, 0).unwrap();
        assert_eq!(
            found.borrow(),
            Entry::GroupLimit { path, inode: 1, which: GroupLimit::Pids, before: 9, set: 7, was: 5 }
        );
    }

    #[test]
    fn a_header_says_whose_it_is() {
        let slot = header(64, &[b'a'; 36]);
        assert_eq!(read_header(&slot, &[b'a'; 36], 64), Header::Ours { slots: 64, this_boot: true });
        assert_eq!(read_header(&slot, &[b'b'; 36], 64), Header::Ours { slots: 64, this_boot: false });
        assert_eq!(read_header(&slot, &[b'a'; 36], 63), Header::Foreign);
        let mut newer = slot;
        newer[16] += 1;
        assert_eq!(read_header(&newer, &[b'a'; 36], 64), Header::Foreign);
    }
}
