//! Compiles the programs of the eBPF tier (src/bpf/c) with clang, each *.bpf.c to one object, for the feature `bpf`. They are portable between kernels
//! (CO-RE), so nothing of the building machine's kernel goes in.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const SOURCES: &str = "src/bpf/c";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={SOURCES}");
    println!("cargo:rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_BPF").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // The libbpf that is linked in brings the headers for its programs.
    let headers = env::var_os("DEP_BPF_INCLUDE").ok_or("libbpf-sys says where its headers are")?;
    for entry in fs::read_dir(SOURCES).map_err(|error| format!("reading {SOURCES}: {error}"))? {
        let source = entry?.path();
        println!("cargo:rerun-if-changed={}", source.display());
        if source.to_string_lossy().ends_with(".bpf.c") {
            compile(&source, Path::new(&headers), &out)?;
        }
    }
    Ok(())
}

/// groups.bpf.c becomes OUT_DIR/groups.o.
fn compile(source: &Path, headers: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let object = out.join(source.file_stem().ok_or("a file has a name")?).with_extension("o");
    let mut command = Command::new(&clang);
    // v3: compare-and-exchange and 32-bit jumps, since Linux 5.12. -g is what makes BTF.
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]);
    command.arg(format!("-D__TARGET_ARCH_{}", kernel_name_of_target()));
    // Paths of the building machine do not belong into the program that is shipped.
    command.arg(format!("-fdebug-prefix-map={}=.", env::current_dir()?.display()));
    command.arg("-I").arg(headers).arg("-c").arg(source).arg("-o").arg(&object);
    let status = command.status().map_err(|error| {
        format!(
            "{clang}: {error}. The eBPF tier is compiled with clang: install the Debian packages clang, libelf-dev and \
             zlib1g-dev (cargo xtask setup), name another clang in CLANG, or build with --no-default-features"
        )
    })?;
    if !status.success() {
        return Err(format!("{}: {clang}: {status}", source.display()).into());
    }
    Ok(())
}

/// As the kernel calls it: bpf_tracing.h wants to know.
fn kernel_name_of_target() -> String {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    match arch.as_str() {
        "x86_64" | "x86" => "x86".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "riscv64" => "riscv".to_owned(),
        "s390x" => "s390".to_owned(),
        "powerpc64" => "powerpc".to_owned(),
        _ => arch,
    }
}
