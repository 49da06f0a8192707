//! What a program that is linked with the library asks for when it starts.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libmemgov.so.0");
    println!("cargo::rerun-if-changed=build.rs");
}
