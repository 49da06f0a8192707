//! The one binary.

fn main() -> std::process::ExitCode {
    memgov::cli::main()
}
