//! What groups are worth as jobs: by whose word.

use super::*;

impl worth::Weighing for Fake {
    fn job(&self, group: &GroupFacts) -> Result<worth::Job, Failure> {
        let jobs = self.jobs.lock().unwrap();
        let set = jobs.iter().find(|job| job.0 == group.path).map(|job| (job.1, job.2));
        let (said, _) = set.unwrap_or_default();
        let worth = memgov_decide::jobs::Worth {
            priority: said.priority.unwrap_or(-3),
            reservation: said.reservation.unwrap_or(Bytes::mib(1)),
        };
        let is_job = &*group.path == b"/user" || set.is_some();
        let oom_reserve = said.oom_reserve.unwrap_or_default();
        Ok(worth::Job { worth: is_job.then_some(worth), oom_reserve, said: set })
    }
    fn job_set(&self, group: &GroupFacts, said: worth::Said, by: u32, _: u32) -> Result<(), Failure> {
        let mut jobs = self.jobs.lock().unwrap();
        jobs.retain(|job| job.0 != group.path);
        if !said.is_nothing() {
            jobs.push((group.path.clone(), said, by));
        }
        Ok(())
    }
}

#[test]
fn what_groups_are_worth_is_said_by_root_and_below_by_their_owner() {
    let fake = Fake::default();
    let say = |peer, asked: Value| ask(&fake, peer, "SetJob", asked);
    let clear = |peer, asked: Value| ask(&fake, peer, "ClearJob", asked);
    let (user, below) = (json!({ "path": "/user" }), json!({ "path": "/user/below" }));
    let told = say(ROOT, json!({ "path": "/user", "priority": i32::MIN })).unwrap();
    let expected =
        json!({ "priority": i32::MIN, "reservation_bytes": 1 << 20, "set": ["priority"], "by": 0 });
    assert_eq!(told, expected);
    let told = say(ROOT, json!({ "path": "/user", "reservation_bytes": u64::MAX })).unwrap();
    assert_eq!((&told["priority"], &told["reservation_bytes"]), (&json!(i32::MIN), &json!(u64::MAX)));
    assert_eq!(ask(&fake, ROOT, "GetJob", user.clone()), Ok(told));
    let told = clear(ROOT, json!({ "path": "/user", "only": ["priority"] })).unwrap();
    assert_eq!((&told["priority"], &told["set"]), (&json!(-3), &json!(["reservation"])));
    assert!(clear(ROOT, user.clone()).is_ok());
    let no_rule = Err("org.memgov.NoSuchRule".to_owned());
    assert_eq!(clear(ROOT, user), no_rule, "nothing to clear is no success");

    assert_eq!(say(USER, json!({ "path": "/user/below", "priority": 9 })).unwrap()["by"], 1000);
    // Root's word takes the place of his: to join them would make his root's.
    let told = say(ROOT, json!({ "path": "/user/below", "reservation_bytes": 1 })).unwrap();
    assert_eq!((&told["set"], &told["by"]), (&json!(["reservation"]), &json!(0)));
    let denied = Err("org.memgov.PermissionDenied".to_owned());
    assert_eq!(say(USER, json!({ "path": "/user/below", "priority": 9 })), denied);
    assert_eq!(clear(USER, below.clone()), denied);
    assert!(
        clear(ROOT, below.clone()).is_ok()
            && say(USER, json!({ "path": "/user/below", "priority": 9 })).is_ok()
    );
    assert!(clear(USER, below).is_ok());

    assert_eq!(say(ROOT, json!({ "path": "/user" })), Err("org.memgov.InvalidRule".into()), "nothing said");
    let invalid = Err("org.varlink.service.InvalidParameter".to_owned());
    for wrong in [
        json!({ "path": "/user", "priority": 1u64 << 31 }),
        json!({ "path": "/user", "priority": "1" }),
        json!({ "path": "/user", "reservation_bytes": -1 }),
        json!({ "path": "/user", "priority": 1, "reserved": 1 }),
    ] {
        assert_eq!(say(ROOT, wrong.clone()), invalid, "{wrong}");
    }
    assert_eq!(clear(ROOT, json!({ "path": "/user", "only": ["high"] })), invalid);
    assert!(fake.jobs.lock().unwrap().is_empty());
}
