//! The handler of a group: when memgov finds the group short of memory and a rule has the step `handler`, a command is run that frees some, before anybody is killed for it. Start it in a
//! group beside the one it is for; with memory.min (v2) it keeps what it needs. RESERVE: so many bytes under the group's limit are kept for what the command has the group do.
//!
//!     cargo run -p memgov-client --example handler SOCKET GROUP COMMAND [RESERVE]

use std::process::Command;

use memgov_client::{Error, JobWords, Memgov};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (socket, group, command, reserve) = match &arguments[..] {
        [socket, group, command] => (socket, group, command, None),
        [socket, group, command, reserve] => (socket, group, command, Some(number(reserve))),
        _ => usage(),
    };
    if let Err(error) = run(&Memgov::at(socket), group, command, reserve) {
        eprintln!("handler: {error}");
        std::process::exit(1);
    }
}

fn usage() -> ! {
    eprintln!("usage: handler SOCKET GROUP COMMAND [RESERVE]");
    std::process::exit(2);
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| usage())
}

fn run(memgov: &Memgov, group: &str, command: &str, reserve: Option<u64>) -> Result<(), Error> {
    if reserve.is_some() {
        memgov.set_job(group, &JobWords { oom_reserve_bytes: reserve, ..JobWords::default() })?;
    }
    println!("reserve {}", memgov.job(group)?.oom_reserve_bytes);
    let mut handler = memgov.handler(group)?;
    println!("ready");
    loop {
        let shortage = handler.wait()?;
        let reserve = shortage.oom_reserve_bytes.unwrap_or(0);
        println!("short {} {} reserve {reserve}", shortage.meter, shortage.group);
        if let Err(error) = Command::new("sh").args(["-c", command]).status() {
            eprintln!("handler: {error}");
        }
        // Too late is no reason to go: there will be another time.
        let word = if memgov.handled(shortage.number).is_ok() { "handled" } else { "late" };
        println!("{word}");
    }
}
