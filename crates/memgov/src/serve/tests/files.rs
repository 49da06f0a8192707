//! What the letters' files (memgov-files) ask for, and nobody else.

use super::*;

#[test]
fn the_letters_file_has_rules_of_its_own() {
    let fake = Fake::default();
    for (word, climit) in [(0, 4096), (0x0002_0001, 0)] {
        let mut asked = json!({ "word": word, "climit_bytes": climit, "plimit_bytes": 0 });
        let as_prctl = ask(&fake, USER, "SetControl", asked.clone());
        let text = format!("{word} {climit} 0");
        assert_ne!(as_prctl.map(|set| set["control"]["memctl"].clone()), Ok(json!(text)));
        asked["as_file"] = true.into();
        assert_eq!(ask(&fake, USER, "SetControl", asked).unwrap()["control"]["memctl"], json!(text));
    }
}

/// Of `/user`.
pub(super) fn mark() -> wire::KernelMark {
    wire::KernelMark {
        target: wire::Target::Group { path: "/user".into(), id: 1, owner: Some(1000) },
        line_bytes: 8 << 20,
        only_tracks: false,
        kernel_bytes: None,
        peak_bytes: Some(9 << 20),
        peak_by: None,
        peak_time: None,
        since: None,
        hits: 3,
        growth_bytes_per_second: None,
    }
}

#[test]
fn what_is_kept_of_one_group_is_its_owners_to_see() {
    let fake = Fake::default();
    let mark = |peer, path: &str| ask(&fake, peer, "GetKernelMark", json!({ "path": path }));
    for peer in [ROOT, USER] {
        assert_eq!(mark(peer, "/user").unwrap()["mark"], serde_json::to_value(self::mark()).unwrap());
    }
    assert_eq!(mark(USER, "/user/below").unwrap()["mark"], Value::Null, "no line");
    assert_eq!(mark(USER, "/root"), Err("org.memgov.PermissionDenied".into()));
    assert_eq!(mark(ROOT, "/no"), Err("org.memgov.NoSuchGroup".into()));
}
