//! The handler of a group: when memgov finds the group short of memory and a rule has the step `handler`, a command is run that frees some, before anybody is killed for it. Start it in a
//! group beside the one it is for; with memory.min (v2) it keeps what it needs.
//!
//!     cargo run -p memgov-client --example handler SOCKET GROUP COMMAND

use std::process::Command;

use memgov_client::{Error, Memgov};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, group, command] = &arguments[..] else {
        eprintln!("usage: handler SOCKET GROUP COMMAND");
        std::process::exit(2);
    };
    if let Err(error) = run(&Memgov::at(socket), group, command) {
        eprintln!("handler: {error}");
        std::process::exit(1);
    }
}

fn run(memgov: &Memgov, group: &str, command: &str) -> Result<(), Error> {
    let mut handler = memgov.handler(group)?;
    println!("ready");
    loop {
        let shortage = handler.wait()?;
        println!("short {} {}", shortage.meter, shortage.group);
        if let Err(error) = Command::new("sh").args(["-c", command]).status() {
            eprintln!("handler: {error}");
        }
        // Too late is no reason to go: there will be another time.
        let word = if memgov.handled(shortage.number).is_ok() { "handled" } else { "late" };
        println!("{word}");
    }
}
