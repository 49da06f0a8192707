//! A group made smaller on purpose, as a supervisor does with one that idles: to so many bytes, or as far as it goes.
//!
//!     cargo run -p memgov-client --example shrink SOCKET GROUP BYTES

use memgov_client::{Error, Goal, Memgov};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, group, bytes] = &arguments[..] else { usage() };
    let Ok(bytes) = bytes.parse() else { usage() };
    match Memgov::at(socket).shrink(group, Goal::To(bytes)) {
        Ok(shrunk) => println!("usage {}", shrunk.usage_bytes),
        // What is left is in use, locked, or has nowhere to go.
        Err(Error::Hard { usage_bytes, .. }) => println!("busy {usage_bytes}"),
        Err(error) => {
            eprintln!("shrink: {error}");
            std::process::exit(1);
        }
    }
}

fn usage() -> ! {
    eprintln!("usage: shrink SOCKET GROUP BYTES");
    std::process::exit(2);
}
