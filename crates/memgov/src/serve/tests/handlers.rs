//! Handlers of groups: who may be one, what it is told, and when its place is free.

use super::*;
use crate::serve::handling::{Handling, News, Post};

impl Handling for Fake {
    fn handler_take(&self, group: &GroupFacts, who: ProcessId, _: u32) -> Result<Box<dyn Post>, Failure> {
        match (&*group.path, who.pid) {
            (b"/user", 8) => Err(FailureKind::InvalidHandler.because("process 8 is in it")),
            (b"/user", _) => {
                self.places.fetch_add(1, Ordering::Relaxed);
                Ok(Box::new(FakePost { told: AtomicBool::new(false), places: Arc::clone(&self.places) }))
            }
            _ => Err(FailureKind::HandlerTaken.because("there is one")),
        }
    }
    fn handler_done(&self, number: u64, pid: Option<u32>) -> Result<(), Failure> {
        let waits = (number, pid) == (2, Some(7));
        waits.then_some(()).ok_or_else(|| FailureKind::NoSuchShortage.because("nobody waits for that"))
    }
}

/// A place at which there is one shortage to tell of.
#[derive(Debug)]
struct FakePost {
    told: AtomicBool,
    places: Arc<AtomicU64>,
}

impl Drop for FakePost {
    fn drop(&mut self) {
        self.places.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Post for FakePost {
    fn news(&self) -> News {
        if self.told.swap(true, Ordering::Relaxed) {
            return News::Nothing;
        }
        News::Short(wire::Shortage {
            number: 2,
            path: "/user".into(),
            meter: "usage".into(),
            meter_bytes: 9,
            line_bytes: 8,
            usage_bytes: None,
            limit_bytes: Some(16),
            oom_reserve_bytes: 4,
            left_ns: 1,
        })
    }
}

#[test]
fn a_handler_is_told_and_its_place_is_free_when_it_hangs_up() {
    let rig = rig();
    let mut stream = rig.raw();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
        .write_all(b"{\"method\":\"org.memgov.Handle\",\"more\":true,\"parameters\":{\"path\":\"/user\"}}\0")
        .unwrap();
    let mut said = Vec::new();
    while said.iter().filter(|&&byte| byte == 0).count() < 2 {
        let mut buffer = [0; 512];
        let got = stream.read(&mut buffer).unwrap();
        assert!(got > 0, "it was hung up on: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..got]);
    }
    let replies: Vec<Value> =
        said.split(|&byte| byte == 0).take(2).map(|text| serde_json::from_slice(text).unwrap()).collect();
    assert_eq!(replies[0], json!({ "parameters": {}, "continues": true }), "it has the place");
    let shortage = &replies[1]["parameters"]["shortage"];
    assert_eq!((&shortage["number"], &shortage["limit_bytes"]), (&json!(2), &json!(16)));
    assert_eq!(shortage["oom_reserve_bytes"], json!(4));
    assert!(shortage.get("usage_bytes").is_none(), "what is not known is absent");
    let places = || rig.fake.places.load(Ordering::Relaxed);
    assert_eq!(places(), 1);
    drop(stream);
    let end = Instant::now() + Duration::from_secs(5);
    while places() > 0 {
        assert!(Instant::now() < end, "the place is not free");
        std::thread::sleep(Duration::from_millis(5));
    }
    rig.still_serves();
}

#[test]
fn who_may_be_a_handler_and_who_is_believed() {
    let fake = Fake::default();
    let handle = |peer, more, path: &str| {
        let (method, parameters) = ("org.memgov.Handle".to_owned(), json!({ "path": path }));
        match answer(&Call { method, parameters, more, oneway: false, upgrade: false }, peer, &fake) {
            Answer::Handle(_) => Ok(()),
            Answer::Reply(reply) => Err(reply.error.unwrap_or_default()),
            Answer::Follow(_) => panic!("a stream of events"),
        }
    };
    let refused = |name: &str| Err(format!("org.memgov.{name}"));
    let (inside, other) = (Peer { uid: 1000, pid: Some(8) }, Peer { uid: 1001, pid: Some(7) });
    assert_eq!(handle(USER, true, "/user"), Ok(()));
    assert_eq!(handle(USER, false, "/user"), Err("org.varlink.service.InvalidParameter".into()));
    assert_eq!(handle(USER, true, "/root"), refused("PermissionDenied"));
    assert_eq!(handle(other, true, "/user"), refused("PermissionDenied"));
    assert_eq!(handle(inside, true, "/user"), refused("InvalidHandler"));
    assert_eq!(handle(ROOT, true, "/no"), refused("NoSuchGroup"));
    assert_eq!(handle(USER, true, "/us*"), refused("InvalidRule"));
    let done = |peer, number: u64| ask(&fake, peer, "Handled", json!({ "number": number })).map(drop);
    assert_eq!(done(USER, 2), Ok(()));
    assert_eq!(done(USER, 3), refused("NoSuchShortage"));
    assert_eq!(
        done(Peer { pid: None, ..USER }, 2),
        refused("NoSuchShortage"),
        "not the process that was told"
    );
}
