//! A program that has memgov look after it: it is to be refused memory when its group is 8 MiB over its memory.high, and is told when a line of its group is crossed. Ends when it is relieved.
//!
//!     cargo run -p memgov-client --example frugal [SOCKET]

use memgov_client::{Action, Control, Error, Kind, Memgov};

fn main() {
    if let Err(error) = run() {
        eprintln!("frugal: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Error> {
    let memgov = std::env::args().nth(1).map_or_else(Memgov::new, Memgov::at);
    memgov.set_control(&Control { climit_bytes: 8 << 20, ..Control::of(Action::Deny) })?;
    let control = memgov.control()?;
    println!("control {:#x} {} {}", control.word(), control.climit_bytes, control.plimit_bytes);
    let mut watch = memgov.watch()?;
    println!("ready");
    loop {
        let notice = watch.wait()?;
        let group = notice.group.as_deref().unwrap_or("-");
        match notice.kind {
            // Here a program empties its caches.
            Kind::Warning => println!("warning {} {group}", notice.action),
            Kind::Over => println!("over {} {group}", notice.action),
            Kind::Relieved => {
                println!("relieved {} {group}", notice.action);
                return memgov.clear_control();
            }
            _ => {}
        }
    }
}
