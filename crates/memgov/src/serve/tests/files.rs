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
