//! The library is loaded into other people's programs: of memgov there is nothing in it but the client's side of the socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

#[test]
fn nothing_of_the_daemon_is_in_it() {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--package", "libmemgov", "--edges", "normal,build", "--prefix", "none"]);
    tree.args(["--offline", "--locked"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let said = tree.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // A package of this workspace is shown with its directory.
    let mut ours: Vec<&str> =
        said.lines().filter(|line| line.contains("(/")).filter_map(|line| line.split(' ').next()).collect();
    ours.sort_unstable();
    ours.dedup();
    assert_eq!(ours, ["libmemgov", "memgov-client"], "{said}");
}
