//! Who may do what: root everything; anyone else only their own processes, and groups delegated to them, never beyond a
//! limit set above them. Pure: facts in, verdict out. The facts are read when the request is handled, and bound to an
//! identity (start time, inode), not to a pid or path that may be another's a moment later.

use memgov_decide::policy::{Action, Over, Reclaim, Rule, Step};
use memgov_decide::snapshot::{GroupId, ProcessId};
use memgov_decide::units::Limit;

use super::failure::{Failure, FailureKind};
use super::wire::Target;

/// Who asks, from SO_PEERCRED: the credentials at connect(2), which a later setuid does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective uid.
    pub uid: u32,
    /// Its pid, where memgov can see it (not of a process in a pid namespace beside memgov's).
    pub pid: Option<u32>,
}

/// What must be known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Who it is now.
    pub id: ProcessId,
    /// Real, effective, saved, file system uid; `None` if they could not be read.
    pub uids: Option<[u32; 4]>,
}

/// What must be known of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFacts {
    /// Path from the root of the memory hierarchy.
    pub path: Box<[u8]>,
    /// Which group has this path now.
    pub id: GroupId,
    /// Owner of its directory; `None` if it could not be read.
    pub owner: Option<u32>,
    /// Owner of the directory above it; `None` if it could not be read.
    pub owner_above: Option<u32>,
    /// The least of `memory.high` (or its virtual kin) and `memory.max` of the group and all above it; `None` if one could not be read.
    pub limit: Option<Limit>,
    /// Who set the rule it has by `memgov set`, if it has one.
    pub ruled_by: Option<u32>,
    /// Who has said by `memgov set` what it is worth as a job, if anybody has.
    pub said_by: Option<u32>,
}

impl Peer {
    /// Root.
    pub const fn is_root(self) -> bool {
        self.uid == 0
    }
}

fn denied(text: impl Into<String>) -> Result<(), Failure> {
    Err(FailureKind::PermissionDenied.because(text))
}

/// May this peer get and set the control of this process? All three uids must be his: a setuid program that he started is
/// not his to signal, and neither is one that has taken on his uid for a while.
///
/// # Errors
/// Why not.
pub fn process(peer: Peer, facts: &ProcessFacts) -> Result<(), Failure> {
    let pid = facts.id.pid;
    match facts.uids {
        _ if peer.is_root() => Ok(()),
        Some([real, effective, saved, _]) if [real, effective, saved] == [peer.uid; 3] => Ok(()),
        Some(_) => denied(format!(
            "process {pid} is not yours: its real, effective and saved uid must be {}",
            peer.uid
        )),
        None => denied(format!("the uids of process {pid} could not be read")),
    }
}

/// May this peer see the rule of this group?
///
/// # Errors
/// Why not.
pub fn group(peer: Peer, facts: &GroupFacts) -> Result<(), Failure> {
    match facts.owner {
        _ if peer.is_root() => Ok(()),
        Some(owner) if owner == peer.uid => Ok(()),
        Some(_) => denied("the group is not delegated to you: its directory has another owner"),
        None => denied("the owner of the group could not be read"),
    }
}

/// May this peer replace or clear the rule this group has?
///
/// # Errors
/// Why not.
pub fn group_clear(peer: Peer, facts: &GroupFacts) -> Result<(), Failure> {
    group(peer, facts)?;
    match facts.ruled_by {
        Some(by) if !peer.is_root() && by != peer.uid => {
            denied("the rule of this group was set by another user")
        }
        _ => Ok(()),
    }
}

/// May this peer set this rule on this group, and this virtual high?
///
/// # Errors
/// Why not.
pub fn group_set(
    peer: Peer,
    facts: &GroupFacts,
    rule: Option<&Rule>,
    high: Option<Limit>,
) -> Result<(), Failure> {
    group_clear(peer, facts)?;
    if peer.is_root() {
        return Ok(());
    }
    // It is memgov's time, which nobody else accounts for.
    let most = Reclaim::default().share;
    let steps = rule.into_iter().flat_map(|rule| &rule.steps);
    let asks = |step: &Step| matches!(step.action, Action::Reclaim(Reclaim { share, .. }) if share > most);
    if steps.into_iter().any(asks) {
        return denied(format!("a share of more than {}% for reclaim is root's to give", most / 10));
    }
    // The limit was set on him.
    if rule.is_some_and(Rule::lends) {
        return denied("raising the limit of a group is root's to ask for");
    }
    // No request can say it; should one ever come to be able to, it is not his.
    if rule.is_some_and(Rule::has_program) {
        return denied("`hook` has root run a program, and only root's configuration says which");
    }
    // It has root's own ladder of that group wait, too: one at a time is waited for.
    if rule.is_some_and(Rule::asks_handler) {
        return denied(
            "`handler` has a kill wait, which is root's to set; you may be the handler that is waited for",
        );
    }
    // It writes to other people's terminals.
    if rule.is_some_and(|rule| rule.steps.iter().any(|step| matches!(step.action, Action::Ask(_)))) {
        return denied("`ask` is root's to set: it speaks to everybody who is logged in");
    }
    let lines = rule.into_iter().flat_map(|rule| {
        let usage = match rule.when.group {
            Some(Over::Amount(line) | Over::Kernel(line) | Over::Sockets(line) | Over::Pool(line)) => {
                Some(line)
            }
            _ => None,
        };
        [usage, rule.when.rss.map(|rss| rss.over)]
    });
    let asked = lines.flatten().map(Limit::At).chain(high).max();
    match (asked, facts.limit) {
        (None, _) => Ok(()),
        (Some(_), None) => denied("the limits above this group could not be read"),
        (Some(asked), Some(limit)) if asked > limit => {
            denied(format!("{asked} is beyond the limit set on this group or above it, {limit}"))
        }
        (Some(_), Some(_)) => Ok(()),
    }
}

/// May this peer say what this group is worth as a job? Who goes first among his own is an owner's to say, and not what all that is his is worth among
/// others: so only of groups below one that is his. ([`memgov_decide::policy::Policy::users_worth`] sees to it that his word counts nowhere else.)
///
/// # Errors
/// Why not.
pub fn job(peer: Peer, facts: &GroupFacts) -> Result<(), Failure> {
    group(peer, facts)?;
    if peer.is_root() {
        return Ok(());
    }
    if facts.owner_above != Some(peer.uid) {
        return denied(
            "what this group is worth among others is root's to say: you may say it of groups below one that is yours",
        );
    }
    match facts.said_by {
        Some(by) if by != peer.uid => denied("what this group is worth was set by another user"),
        _ => Ok(()),
    }
}

/// May this peer do what concerns memgov itself?
///
/// # Errors
/// Why not.
pub fn administer(peer: Peer) -> Result<(), Failure> {
    if peer.is_root() { Ok(()) } else { denied("only root may do this") }
}

/// Is this peer shown what happened to this target?
pub fn may_see(peer: Peer, target: &Target) -> bool {
    let owner = match target {
        Target::Group { owner, .. } => owner,
        Target::Process { uid, .. } => uid,
        Target::Host {} => &None,
    };
    peer.is_root() || *owner == Some(peer.uid)
}

/// Does this concern the process itself, or a group that it is in? Such events are its own to see, whoever owns the group: usage, limits and events
/// of a group are files that everybody in it may read.
pub fn concerns(target: &Target, who: ProcessId, group: Option<&str>) -> bool {
    match target {
        Target::Process { pid, start, .. } => (*pid, *start) == (who.pid, who.start),
        Target::Group { path, .. } => group
            .and_then(|at| at.strip_prefix(path.as_str()))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        Target::Host {} => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memgov_decide::policy::{Condition, Kinds, RssOver, Scope};
    use memgov_decide::units::Bytes;

    const ROOT: Peer = Peer { uid: 0, pid: None };
    const USER: Peer = Peer { uid: 1000, pid: None };

    #[test]
    fn processes() {
        let facts = |uids| ProcessFacts { id: ProcessId { pid: 7, start: 1 }, uids };
        let table = [
            (Some([1000, 1000, 1000, 1000]), true),
            (Some([1000, 1000, 1000, 0]), true),
            (Some([0, 1000, 1000, 1000]), false),
            (Some([1000, 0, 1000, 1000]), false),
            (Some([1000, 1000, 0, 1000]), false),
            (Some([1001; 4]), false),
            (Some([0; 4]), false),
            (None, false),
        ];
        for (uids, allowed) in table {
            assert_eq!(process(USER, &facts(uids)).is_ok(), allowed, "{uids:?}");
            assert!(process(ROOT, &facts(uids)).is_ok());
        }
        let error = process(USER, &facts(None)).unwrap_err();
        assert_eq!(error.kind, FailureKind::PermissionDenied);
    }

    #[test]
    fn a_process_is_concerned_by_itself_and_by_the_groups_above_it() {
        let me = ProcessId { pid: 7, start: 1 };
        let group = |path: &str| Target::Group { path: path.into(), id: 1, owner: Some(0) };
        let process =
            |pid, start| Target::Process { pid, start, comm: "x".into(), group: None, uid: Some(0) };
        let table = [
            (group("/a/b"), true),
            (group("/a"), true),
            (group("/a/b/c"), false),
            (group("/a/bc"), false),
            (group("/a/"), false),
            (process(7, 1), true),
            (process(7, 2), false),
            (process(8, 1), false),
            (Target::Host {}, false),
        ];
        for (target, expected) in table {
            assert_eq!(concerns(&target, me, Some("/a/b")), expected, "{target:?}");
        }
        assert!(!concerns(&group("/a"), me, None), "a group that is not known concerns nobody");
    }

    fn group_facts(owner: Option<u32>, limit: Option<Limit>, ruled_by: Option<u32>) -> GroupFacts {
        let (path, id) = ((*b"/x").into(), GroupId(1));
        GroupFacts { path, id, owner, owner_above: None, limit, ruled_by, said_by: None }
    }

    #[test]
    fn groups() {
        let table = [
            (Some(1000), None, true, true),
            (Some(1000), Some(1000), true, true),
            (Some(1000), Some(0), true, false),
            (Some(0), None, false, false),
            (Some(1001), Some(1000), false, false),
            (None, None, false, false),
        ];
        for (owner, ruled_by, sees, clears) in table {
            let facts = group_facts(owner, Some(Limit::Max), ruled_by);
            assert_eq!(group(USER, &facts).is_ok(), sees, "{facts:?}");
            assert_eq!(group_clear(USER, &facts).is_ok(), clears, "{facts:?}");
            assert!(group_clear(ROOT, &facts).is_ok());
        }
    }

    #[test]
    fn what_groups_are_worth_is_said_below_ones_own() {
        let facts = |owner, owner_above, said_by| GroupFacts {
            owner_above,
            said_by,
            ..group_facts(owner, Some(Limit::Max), None)
        };
        let (his, roots, others) = (Some(1000), Some(0), Some(1001));
        let table = [
            (facts(his, his, None), true),
            (facts(his, his, his), true),
            (facts(his, his, roots), false),
            (facts(his, his, others), false),
            // Where what is his begins.
            (facts(his, roots, None), false),
            (facts(his, others, None), false),
            (facts(his, None, None), false),
            (facts(roots, his, None), false),
            (facts(others, his, None), false),
            (facts(None, his, None), false),
        ];
        for (facts, allowed) in table {
            assert_eq!(job(USER, &facts).is_ok(), allowed, "{facts:?}");
            assert!(job(ROOT, &facts).is_ok());
        }
    }

    #[test]
    fn never_beyond_a_limit_above() {
        let rule = |group, rss: Option<u64>| Rule {
            name: "x".into(),
            scope: Scope::Groups(Vec::new()),
            when: Condition {
                group,
                rss: rss.map(|mib| RssOver { kinds: Kinds::default(), over: Bytes::mib(mib) }),
            },
            until: None,
            steps: Vec::new(),
            log: true,
        };
        let amount = |mib| Some(Over::Amount(Bytes::mib(mib)));
        let at = |mib| Some(Limit::At(Bytes::mib(mib)));
        let high = Some(Over::High { plus: Bytes::mib(500) });
        let table = [
            (rule(amount(100), None), None, at(100), true),
            (rule(amount(101), None), None, at(100), false),
            (rule(amount(50), Some(101)), None, at(100), false),
            (rule(amount(50), Some(10)), at(99), at(100), true),
            (rule(amount(50), None), at(101), at(100), false),
            (rule(amount(50), None), Some(Limit::Max), at(100), false),
            (rule(high, None), None, at(100), true),
            (rule(amount(9999), None), Some(Limit::Max), Some(Limit::Max), true),
            (rule(amount(1), None), None, None, false),
        ];
        for (rule, high, limit, allowed) in table {
            let facts = group_facts(Some(1000), limit, None);
            assert_eq!(
                group_set(USER, &facts, Some(&rule), high).is_ok(),
                allowed,
                "{rule:?} {high:?} {limit:?}"
            );
            assert!(group_set(ROOT, &facts, Some(&rule), high).is_ok());
        }
    }

    #[test]
    fn no_more_of_memgovs_time_than_its_default() {
        for (share, allowed) in
            [(1, true), (Reclaim::default().share, true), (Reclaim::default().share + 1, false)]
        {
            let rule = that_does(Action::Reclaim(Reclaim { share, ..Reclaim::default() }));
            let facts = group_facts(Some(1000), Some(Limit::Max), None);
            assert_eq!(group_set(USER, &facts, Some(&rule), None).is_ok(), allowed, "{share}");
            assert!(group_set(ROOT, &facts, Some(&rule), None).is_ok());
        }
    }

    /// A rule for groups that does this.
    fn that_does(action: Action) -> Rule {
        Rule {
            name: "x".into(),
            scope: Scope::Groups(Vec::new()),
            when: Condition { group: Some(Over::Amount(Bytes::mib(1))), rss: None },
            until: None,
            steps: vec![Step { action, after: std::time::Duration::ZERO }],
            log: true,
        }
    }

    #[test]
    fn nobody_but_root_has_root_run_a_program() {
        let run = ["/bin/true".into()].into();
        let action = Action::Hook(memgov_decide::hook::Hook::program(run));
        let rule = that_does(action);
        let facts = group_facts(Some(1000), Some(Limit::Max), None);
        let error = group_set(USER, &facts, Some(&rule), None).unwrap_err();
        assert_eq!(error.kind, FailureKind::PermissionDenied);
        assert!(error.text.contains("hook"), "{}", error.text);
        assert!(group_set(USER, &facts, Some(&Rule { steps: Vec::new(), ..rule }), None).is_ok());
    }

    #[test]
    fn nobody_but_root_has_a_ladder_wait_for_a_handler() {
        let action = Action::Hook(memgov_decide::hook::Hook::by(memgov_decide::hook::Helper::Handler));
        let rule = that_does(action);
        let facts = group_facts(Some(1000), Some(Limit::Max), None);
        let error = group_set(USER, &facts, Some(&rule), None).unwrap_err();
        assert!(error.text.contains("handler"), "{}", error.text);
        assert!(group_set(ROOT, &facts, Some(&rule), None).is_ok());
    }

    #[test]
    fn sight() {
        let group = |owner| Target::Group { path: "/x".into(), id: 1, owner };
        assert!(may_see(ROOT, &group(None)));
        assert!(may_see(USER, &group(Some(1000))));
        assert!(!may_see(USER, &group(Some(0))) && !may_see(USER, &group(None)));
        assert!(administer(ROOT).is_ok() && administer(USER).is_err());
    }
}
