//! From a varlink call to an answer: parse the parameters, check the permission, ask [`Governed`]. One function a method;
//! no socket is touched here.

use memgov_decide::control::MemControl;
use memgov_decide::policy::{Condition, Meter, Over, Pattern, RssOver, Rule, Scope, Step};
use memgov_decide::snapshot::ProcessId;
use memgov_decide::units::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::permit::{self, Peer};
use super::varlink::{Call, Reply};
use super::{
    Failure, FailureKind, From, Governed, GroupRule, INTERFACE, handling, questions, shrink, wire, worth,
};
use crate::config::{fits, words};

/// At most so many events in one reply.
pub const EVENTS_A_REPLY: usize = 64;

/// What a call leads to.
#[derive(Debug)]
pub enum Answer {
    /// The place of a group's handler: what it is to be told of, as it comes.
    Handle(Box<dyn handling::Post>),
    /// One reply.
    Reply(Reply),
    /// Events from there on, as they come.
    Follow(Follow),
}

/// A stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// From where.
    pub from: From,
    /// Only what concerns this process and its groups ([`permit::concerns`]), and the first reply at once, with or without events: its reader knows then that
    /// it is told.
    pub whose: Option<ProcessId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pid {
    #[serde(default)]
    pid: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetControl {
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    pub(crate) word: u64,
    pub(crate) climit_bytes: u64,
    pub(crate) plimit_bytes: u64,
    /// By the rules of the letter's file, not of its prctl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) as_file: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Path {
    pub(super) path: String,
}

#[derive(Deserialize)]
struct SetGroupRule {
    rule: wire::GroupRule,
}

#[derive(Deserialize)]
struct Id {
    id: u64,
}

#[derive(Deserialize)]
struct Shrink {
    shrink: shrink::Request,
}

#[derive(Deserialize)]
struct EventsFrom {
    #[serde(default)]
    since: Option<u64>,
    #[serde(default)]
    cursor: Option<u64>,
}

/// A varlink error that is no [`Failure`]: the call itself is wrong.
fn service_error(name: &str, parameters: Value) -> Reply {
    Reply { parameters, error: Some(format!("org.varlink.service.{name}")), continues: None }
}

/// The reply that tells of a failure.
pub fn failed(failure: &Failure) -> Reply {
    let parameters = json!({ "text": failure.text, "errno": failure.kind.errno() });
    Reply { parameters, error: Some(format!("org.memgov.{}", failure.kind.name())), continues: None }
}

/// What this call of this peer leads to. Never panics and never takes longer than [`Governed`] does.
pub fn answer(call: &Call, peer: Peer, governed: &dyn Governed) -> Answer {
    if call.upgrade {
        return Answer::Reply(service_error("InvalidParameter", json!({ "parameter": "upgrade" })));
    }
    let (interface, method) = call.method.rsplit_once('.').unwrap_or(("", &call.method));
    let reply = match interface {
        "org.varlink.service" => service(method, &call.parameters),
        "org.memgov" => {
            if method == "Events" && call.more {
                return follow(&call.parameters);
            }
            if method == "Watch" {
                return watch(call, peer, governed).unwrap_or_else(|failure| Answer::Reply(failed(&failure)));
            }
            if method == "Handle" {
                return handle(call, peer, governed).unwrap_or_else(Answer::Reply);
            }
            ours(method, &call.parameters, peer, governed)
        }
        _ => Err(service_error("InterfaceNotFound", json!({ "interface": interface }))),
    };
    Answer::Reply(reply.unwrap_or_else(|error| error))
}

fn ok(parameters: Value) -> Reply {
    Reply { parameters, error: None, continues: None }
}

/// The parameters of a call; what is wrong with them is named, as far as serde says.
fn parameters<T: DeserializeOwned>(value: &Value) -> Result<T, Reply> {
    let value = if value.is_null() { json!({}) } else { value.clone() };
    if !value.is_object() {
        return Err(service_error("InvalidParameter", json!({ "parameter": "parameters: an object" })));
    }
    serde_json::from_value(value).map_err(|error| {
        let text: String = error.to_string().chars().take(200).collect();
        service_error("InvalidParameter", json!({ "parameter": text }))
    })
}

fn service(method: &str, value: &Value) -> Result<Reply, Reply> {
    #[derive(Deserialize)]
    struct Interface {
        interface: String,
    }
    match method {
        "GetInfo" => Ok(ok(json!({
            "vendor": "memgov",
            "product": "memgov",
            "version": env!("CARGO_PKG_VERSION"),
            "url": env!("CARGO_PKG_REPOSITORY"),
            "interfaces": ["org.varlink.service", "org.memgov"],
        }))),
        "GetInterfaceDescription" => match parameters::<Interface>(value)?.interface.as_str() {
            "org.memgov" => Ok(ok(json!({ "description": INTERFACE }))),
            "org.varlink.service" => Ok(ok(json!({ "description": SERVICE }))),
            other => Err(service_error("InterfaceNotFound", json!({ "interface": other }))),
        },
        _ => Err(not_found("org.varlink.service", method)),
    }
}

fn not_found(interface: &str, method: &str) -> Reply {
    service_error("MethodNotFound", json!({ "method": format!("{interface}.{method}") }))
}

fn ours(method: &str, value: &Value, peer: Peer, governed: &dyn Governed) -> Result<Reply, Reply> {
    let result = match method {
        "Status" => status(peer, governed),
        "GetControl" => get_control(parameters(value)?, peer, governed),
        "SetControl" => set_control(&parameters(value)?, peer, governed),
        "ClearControl" => clear_control(parameters(value)?, peer, governed),
        "GetGroupRule" => get_group_rule(&parameters(value)?, peer, governed),
        "SetGroupRule" => set_group_rule(parameters(value)?, peer, governed),
        "ClearGroupRule" => clear_group_rule(&parameters(value)?, peer, governed),
        "GetJob" => worth::get(&parameters(value)?, peer, governed),
        "SetJob" => worth::set(&parameters(value)?, peer, governed),
        "ClearJob" => worth::clear(&parameters(value)?, peer, governed),
        "GetSocketRefusals" => socket_refusals(&parameters(value)?, peer, governed),
        "GetKernelMark" => kernel_mark(&parameters(value)?, peer, governed),
        "ResetKernelPeak" => reset_kernel_peak(&parameters(value)?, peer, governed),
        "Events" => {
            let from = parameters::<EventsFrom>(value)?.place();
            events(from, peer, governed).map(|page| encoded(&page))
        }
        "Explain" => explain(parameters(value)?, peer, governed),
        "Reload" => reload(peer, governed),
        "Shrink" => begin_shrink(&parameters(value)?, peer, governed),
        "GetShrink" => own_shrink(parameters(value)?, peer, governed),
        "ListShrinks" => list_shrinks(peer, governed),
        "CancelShrink" => cancel_shrink(parameters(value)?, peer, governed),
        "Questions" => questions::list(peer, governed),
        "Answer" => questions::answer(&parameters(value)?, peer, governed),
        "Handled" => handling::done(&parameters(value)?, peer, governed),
        _ => return Err(not_found("org.memgov", method)),
    };
    result.map(ok).map_err(|failure| failed(&failure))
}

fn encoded(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn status(peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let mut status = governed.status()?;
    if !peer.is_root() {
        status.episodes.retain(|e| permit::may_see(peer, &e.target));
        status.questions.retain(|q| permit::may_see(peer, &q.target));
        status.kernel.retain(|k| permit::may_see(peer, &k.target));
        status.denials.retain(|d| permit::may_see(peer, &d.target));
        status.holds.retain(|h| permit::may_see(peer, &h.target));
        status.jobs.retain(|job| permit::may_see(peer, &job.target));
        status.controls.retain(|c| {
            let facts = governed.process(c.pid);
            facts.is_ok_and(|f| f.id.start == c.start && permit::process(peer, &f).is_ok())
        });
    }
    Ok(json!({ "status": status }))
}

/// Whose control is meant: no pid says the caller's own, which in a container does not know its pid outside.
pub(super) fn whose(asked: Option<u32>, peer: Peer) -> Result<u32, Failure> {
    let unseen = "your process has no pid that memgov can see: it is in a pid namespace beside memgov's";
    asked.or(peer.pid).ok_or_else(|| FailureKind::NoSuchProcess.because(unseen))
}

fn get_control(asked: Pid, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.process(whose(asked.pid, peer)?)?;
    permit::process(peer, &facts)?;
    let control = governed.control_get(facts.id)?;
    Ok(json!({ "control": wire::Control::new(facts.id.pid, facts.id.start, control) }))
}

fn set_control(asked: &SetControl, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let (climit, plimit) = (Bytes(asked.climit_bytes), Bytes(asked.plimit_bytes));
    let checked = if asked.as_file == Some(true) { MemControl::from_file } else { MemControl::from_word };
    let control = checked(asked.word, climit, plimit, governed.page())
        .map_err(|error| FailureKind::InvalidControl.because(error.to_string()))?;
    let facts = governed.process(whose(asked.pid, peer)?)?;
    permit::process(peer, &facts)?;
    governed.control_set(facts.id, control, peer.uid)?;
    Ok(json!({ "control": wire::Control::new(facts.id.pid, facts.id.start, control) }))
}

fn clear_control(asked: Pid, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.process(whose(asked.pid, peer)?)?;
    permit::process(peer, &facts)?;
    governed.control_clear(facts.id)?;
    Ok(json!({}))
}

fn get_group_rule(asked: &Path, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.group(path(&asked.path)?)?;
    permit::group(peer, &facts)?;
    Ok(json!({ "rule": governed.group_rule_get(&facts)? }))
}

fn set_group_rule(asked: SetGroupRule, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let rule = group_rule(asked.rule)?;
    let facts = governed.group(path(&rule.request.path)?)?;
    permit::group_set(peer, &facts, Some(&rule.rule), rule.high)?;
    governed.group_rule_set(&facts, rule, peer.uid)?;
    Ok(json!({}))
}

fn clear_group_rule(asked: &Path, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.group(path(&asked.path)?)?;
    permit::group_clear(peer, &facts)?;
    if governed.group_rule_get(&facts)?.is_none() {
        let text = format!(
            "no rule is set on {}: there is nothing to clear; rules of the configuration go by `memgov reload`",
            asked.path
        );
        return Err(FailureKind::NoSuchRule.because(text));
    }
    governed.group_rule_clear(&facts)?;
    Ok(json!({}))
}

fn kernel_mark(asked: &Path, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.group(path(&asked.path)?)?;
    permit::group(peer, &facts)?;
    Ok(json!({ "mark": governed.kernel_mark(&facts)? }))
}

fn socket_refusals(asked: &Path, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.group(path(&asked.path)?)?;
    permit::group(peer, &facts)?;
    Ok(json!({ "refused": governed.socket_refusals(&facts)? }))
}

fn reset_kernel_peak(asked: &Path, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.group(path(&asked.path)?)?;
    permit::group(peer, &facts)?;
    governed.kernel_peak_reset(&facts)?;
    Ok(json!({}))
}

fn reload(peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    permit::administer(peer)?;
    governed.reload().map(|done| encoded(&done))
}

fn begin_shrink(asked: &Shrink, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let request = &asked.shrink;
    shrink::refuse_root(&request.path)?;
    request.meaning()?;
    let path = path(&request.path).map_err(|f| FailureKind::InvalidShrink.because(f.text))?;
    let facts = governed.group(path)?;
    permit::group(peer, &facts)?;
    Ok(json!({ "job": governed.shrink(&facts, request, peer.uid)? }))
}

fn own_shrink(asked: Id, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let job = governed.shrink_get(asked.id)?;
    if !job.concerns(peer) {
        return Err(FailureKind::PermissionDenied.because("this shrink is not yours, nor is its group"));
    }
    Ok(json!({ "job": job }))
}

fn list_shrinks(peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let mut jobs = governed.shrinks()?;
    jobs.retain(|job| job.concerns(peer));
    Ok(json!({ "jobs": jobs }))
}

fn cancel_shrink(asked: Id, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    own_shrink(Id { id: asked.id }, peer, governed)?;
    Ok(json!({ "job": governed.shrink_cancel(asked.id)? }))
}

fn explain(asked: Id, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let explanation = governed.explain(asked.id)?;
    if !permit::may_see(peer, &explanation.event.target) {
        let text = "this decision concerns a process or group that is not yours";
        return Err(FailureKind::PermissionDenied.because(text));
    }
    Ok(json!({ "explanation": explanation }))
}

impl EventsFrom {
    fn place(&self) -> From {
        match (self.cursor, self.since) {
            (Some(cursor), _) => From::Cursor(cursor),
            (None, Some(id)) => From::After(id),
            (None, None) => From::Start,
        }
    }
}

fn follow(value: &Value) -> Answer {
    match parameters::<EventsFrom>(value) {
        Ok(from) => Answer::Follow(Follow { from: from.place(), whose: None }),
        Err(reply) => Answer::Reply(reply),
    }
}

/// What gives a stream must be asked for as one.
fn a_stream(call: &Call) -> Result<(), Reply> {
    let (_, method) = call.method.rsplit_once('.').unwrap_or(("", &call.method));
    let told = json!({ "parameter": format!("more: {method} gives a stream") });
    if call.more { Ok(()) } else { Err(service_error("InvalidParameter", told)) }
}

/// The caller's place as the handler of a group.
fn handle(call: &Call, peer: Peer, governed: &dyn Governed) -> Result<Answer, Reply> {
    a_stream(call)?;
    let asked = parameters(&call.parameters)?;
    handling::take(&asked, peer, governed).map(Answer::Handle).map_err(|failure| failed(&failure))
}

/// What happens to the caller from now on.
fn watch(call: &Call, peer: Peer, governed: &dyn Governed) -> Result<Answer, Failure> {
    if let Err(reply) = a_stream(call) {
        return Ok(Answer::Reply(reply));
    }
    let whose = Some(governed.process(whose(None, peer)?)?.id);
    Ok(Answer::Follow(Follow { from: From::Now, whose }))
}

/// The next events of a stream.
pub(crate) fn stream(follow: Follow, peer: Peer, governed: &dyn Governed) -> Result<wire::Events, Failure> {
    let Some(who) = follow.whose else { return events(follow.from, peer, governed) };
    let mut page = governed.events(follow.from, EVENTS_A_REPLY)?;
    let group = governed.group_of(who);
    page.events.retain(|event| permit::concerns(&event.target, who, group.as_deref()));
    Ok(page)
}

/// The next events this peer may see.
pub(crate) fn events(from: From, peer: Peer, governed: &dyn Governed) -> Result<wire::Events, Failure> {
    let mut page = governed.events(from, EVENTS_A_REPLY)?;
    page.events.retain(|event| permit::may_see(peer, &event.target));
    Ok(page)
}

/// A path that names one group, and not the root.
pub(super) fn path(text: &str) -> Result<&[u8], Failure> {
    let invalid = |why: String| FailureKind::InvalidRule.because(why);
    words::group_pattern(text, true).map_err(invalid)?;
    if text.contains(['*', '?', '\0']) {
        // A pattern would match more than this group, perhaps somebody else's.
        return Err(invalid("one group is named by its path, without `*` and `?`".into()));
    }
    Ok(text.as_bytes())
}

/// The meaning of a rule for a running group: the same words as in the configuration.
///
/// # Errors
/// Names the key that is wrong.
pub fn group_rule(request: wire::GroupRule) -> Result<GroupRule, Failure> {
    let invalid = |key: &str, why: String| FailureKind::InvalidRule.because(format!("`{key}`: {why}"));
    path(&request.path)?;
    let meter = words::meter(request.meter.as_deref().unwrap_or("usage")).map_err(|e| invalid("meter", e))?;
    let group_over = request.group_over.as_deref().map(words::line).transpose();
    let group_over = group_over.map_err(|e| invalid("group_over", e))?;
    let when = match meter {
        Meter::Usage if group_over.is_some() => {
            return Err(invalid("group_over", "goes with an rss meter; `over` is the group's line".into()));
        }
        Meter::Usage => {
            let line = words::line(&request.over).map_err(|e| invalid("over", e))?;
            Condition { group: Some(line), rss: None }
        }
        Meter::Kernel | Meter::Sockets | Meter::Pool | Meter::Pressure if group_over.is_some() => {
            return Err(invalid("group_over", "goes with an rss meter".into()));
        }
        Meter::Kernel => {
            let line = words::size(&request.over).map_err(|e| invalid("over", e))?;
            Condition { group: Some(Over::Kernel(line)), rss: None }
        }
        Meter::Sockets | Meter::Pool => {
            let line = words::size(&request.over).map_err(|e| invalid("over", e))?;
            let over = if meter == Meter::Pool { Over::Pool(line) } else { Over::Sockets(line) };
            Condition { group: Some(over), rss: None }
        }
        Meter::Pressure => {
            let over =
                words::stalled(&request.over, request.until.as_deref()).map_err(|e| invalid("over", e))?;
            Condition { group: Some(over), rss: None }
        }
        Meter::Available => {
            let why = "what is available has a line `under` it, which only the configuration can give";
            return Err(invalid("meter", why.into()));
        }
        Meter::Rss(kinds) => {
            let over = words::size(&request.over).map_err(|e| invalid("over", e))?;
            Condition { group: group_over, rss: Some(RssOver { kinds, over }) }
        }
    };
    let until = request.until.as_deref().filter(|_| meter != Meter::Pressure);
    let until = until.map(words::size).transpose().map_err(|e| invalid("until", e))?;
    if let Some(until) = until {
        let invalid = |why| FailureKind::InvalidRule.because(why);
        words::until_fits(until, &when).map_err(invalid)?;
    }
    if when.rss.is_some() && request.steps.iter().any(|step| step.victim.is_some()) {
        return Err(invalid("do", words::NO_VICTIM.into()));
    }
    let steps = steps(&request.steps)?;
    if let Some(why) =
        steps.iter().find_map(|step| fits::why_not(&step.action, Some(when.meter()), when.rss.is_some()))
    {
        return Err(invalid("do", why.into()));
    }
    if fits::second_loan(&steps).is_some() {
        return Err(invalid("do", words::LEND_TWICE.into()));
    }
    let high = request.high.as_deref().map(words::limit).transpose().map_err(|e| invalid("high", e))?;
    let rule = Rule {
        name: format!("set {}", request.path),
        scope: Scope::Groups(vec![Pattern::new(&request.path)]),
        when,
        until,
        steps,
        log: request.log.unwrap_or(true),
    };
    Ok(GroupRule { request, rule, high })
}

fn steps(typed: &[wire::Step]) -> Result<Vec<Step>, Failure> {
    let most = memgov_decide::policy::MAX_STEPS;
    if typed.is_empty() || typed.len() > most {
        return Err(FailureKind::InvalidRule.because(format!("`do`: a ladder has 1 to {most} steps")));
    }
    let each = |(i, step): (usize, &wire::Step)| {
        let detail = |key: &'static str| match key {
            "after" => step.after.as_deref(),
            "signal" => step.signal.as_deref(),
            "repeat" => step.repeat.as_deref(),
            "victim" => step.victim.as_deref(),
            "budget" => step.budget.as_deref(),
            "share" => step.share.as_deref(),
            "pressure" => step.pressure.as_deref(),
            "swap-out" => step.swap_out.as_deref(),
            "when" => step.when.as_deref(),
            "amount" => step.amount.as_deref(),
            "keep" => step.keep.as_deref(),
            "within" => step.within.as_deref(),
            "takes" => step.takes.as_deref(),
            "timeout" => step.timeout.as_deref(),
            "default" => step.default.as_deref(),
            "floor" => step.floor.as_deref(),
            _ => None,
        };
        words::step(&step.action, i == 0, detail)
            .map_err(|e| FailureKind::InvalidRule.because(format!("`do`, step {}: {}", i + 1, e.message)))
    };
    typed.iter().enumerate().map(each).collect()
}

/// Varlink's own interface.
pub(super) const SERVICE: &str = "\
# The Varlink Service Interface is provided by every varlink service.
interface org.varlink.service

method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)
method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
";
