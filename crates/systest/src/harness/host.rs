//! Facts of this machine, found by trying, and the rules about which test they allow. A test is applicable or not before
//! it begins; none gives up on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sys::process::{CAP_SYS_RESOURCE, has_capability};

/// Which interface carries the memory controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// `memory.limit_in_bytes` and no high.
    V1,
    /// `memory.max`, `memory.high`.
    V2,
}

/// Where the daemon under test enforces: `memgov run --tier`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Tier {
    /// By limits, signals and the freezer.
    Portable,
    /// Inside the kernel.
    Bpf,
}

impl Tier {
    /// As on the command line and in the results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Bpf => "bpf",
        }
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where the daemons of this run enforce.
    pub tier: Tier,
    /// The name given to this run.
    pub target: String,
    /// The program under test, where every user can execute it.
    pub memgov: PathBuf,
    /// `memgov-files`, beside it.
    pub files: PathBuf,
    /// Which interface.
    pub version: Version,
    /// Mount point of the memory hierarchy.
    pub memory: PathBuf,
    /// Mount points of the other hierarchies memgov may use: v1 freezer, pids and cpu, unified tree.
    pub others: Vec<PathBuf>,
    /// Whether there is a freezer of either kind.
    pub freezer: bool,
    /// CAP_SYS_RESOURCE.
    pub sys_resource: bool,
    /// A directory where mapped pages count as file pages, or why there is none.
    pub file_memory: Result<PathBuf, String>,
    /// A file of [`CACHE_SIZE`] bytes that fills the page cache with pages that can go at any time, or why there is none.
    pub clean_cache: Result<PathBuf, String>,
    /// Whether the pid of the next process can be chosen.
    pub choose_pid: bool,
    /// The kernel was not told to leave kernel memory out of its accounts.
    pub kernel_accounting: bool,
    /// The kernel counts what sockets hold: v1 does, whatever it was told.
    pub socket_accounting: bool,
    /// The machine is there for the tests and nothing else.
    pub own_machine: bool,
    /// The clock counts instructions: what is measured is exact.
    pub counts_instructions: bool,
    /// Directory of this run, removed at its end.
    pub dir: PathBuf,
    /// How much longer than on plain hardware things may take here, where a criterion does not say.
    pub patience: u32,
}

/// What a test needs beyond a memory controller and root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// cgroup v2 memory.
    V2,
    /// A freezer of either kind.
    Freezer,
    /// Limits of other users' processes may be changed.
    SysResource,
    /// They may not.
    NoSysResource,
    /// Mapped file pages that count as such.
    FileMemory,
    /// Page cache that can be reclaimed.
    CleanCache,
    /// A pid can be had again on purpose.
    ChoosePid,
    /// The daemon enforces inside the kernel.
    Bpf,
    /// The daemon enforces from outside.
    Portable,
    /// The memory controller on cgroup v1.
    V1,
    /// A machine whose clock counts instructions.
    InstructionClock,
    /// Programs that use libmemgov.
    Clients,
    /// A machine that is not emulated: speed itself is what is shown.
    Speed,
    /// A machine whose memory may be used up.
    OwnMachine,
    /// A kernel that accounts kernel memory.
    KernelAccounting,
    /// One that was told not to.
    NoKernelAccounting,
    /// One that was told not to count sockets.
    NoSocketAccounting,
    /// iperf3, nginx and curl, and links between network namespaces with a delay in them.
    Peers,
    /// One that charges attributes of tmpfs to whoever sets them.
    ChargedAttributes,
    /// An ext4 file system can be made in a file and mounted.
    Ext4,
    /// The kernel tells how long tasks wait for memory.
    Psi,
    /// File systems of programs.
    Fuse,
    /// Swap in compressed memory.
    Zram,
    /// A disk that the tests may do with as they like.
    Disk,
    /// Who is not root may make a user namespace.
    UserNamespaces,
}

impl Need {
    /// Why this machine cannot, if it cannot.
    pub fn unmet(self, host: &Host) -> Option<String> {
        let (met, why) = match self {
            Self::V2 => (host.version == Version::V2, "the memory controller is on cgroup v1 here"),
            Self::V1 => (host.version == Version::V1, "about cgroup v1, which counts TCP apart"),
            Self::Freezer => (host.freezer, "no freezer, neither cgroup.freeze nor v1"),
            Self::SysResource => {
                (host.sys_resource, "no CAP_SYS_RESOURCE: limits of other users' processes are out of reach")
            }
            Self::NoSysResource => (!host.sys_resource, "CAP_SYS_RESOURCE is there, so nothing is refused"),
            Self::ChoosePid => (host.choose_pid, "/proc/sys/kernel/ns_last_pid cannot be written"),
            Self::Bpf => {
                (host.tier == Tier::Bpf, "about enforcement inside the kernel: shown with --tier bpf")
            }
            Self::Portable => {
                (host.tier == Tier::Portable, "about enforcement from outside: shown with --tier portable")
            }
            Self::InstructionClock => (
                host.counts_instructions,
                "shown on a machine whose clock counts instructions: 6.12-v2-cost and 6.1-v2-cost",
            ),
            Self::Speed => (host.is_bare(), "about speed: shown on a machine that is not emulated"),
            Self::Clients => (host.is_bare(), "shown on the machine that builds them"),
            Self::OwnMachine => {
                (host.own_machine, "uses up all memory: shown in machines of the tests' own (cargo xtask vm)")
            }
            Self::KernelAccounting => (
                host.kernel_accounting,
                "this kernel was started with cgroup.memory=nokmem and accounts no kernel memory",
            ),
            Self::NoKernelAccounting => (
                !host.kernel_accounting,
                "shown on a kernel started with cgroup.memory=nokmem (cargo xtask vm --append cgroup.memory=nokmem)",
            ),
            Self::NoSocketAccounting => (
                !host.socket_accounting,
                "shown on v2 of a kernel started with cgroup.memory=nosocket (cargo xtask vm --append cgroup.memory=nosocket)",
            ),
            Self::Peers => return super::peers::missing(),
            Self::ChargedAttributes => {
                (kernel() >= (6, 6), "before Linux 6.6 attributes of tmpfs are charged to nobody")
            }
            Self::Ext4 => (
                ext4(),
                "no loop device, no ext4 in /proc/filesystems or no mke2fs (cargo xtask vm --module crc32c_generic --module ext4 --module loop)",
            ),
            Self::Fuse => (
                fuse(),
                "no fuse in /proc/filesystems or no /dev/fuse (cargo xtask vm --kernel 6.1 --module fuse)",
            ),
            Self::Psi => (
                std::iter::once(&host.memory)
                    .chain(&host.others)
                    .any(|mount| mount.join("memory.pressure").exists()),
                "nobody tells how long the tasks of a group wait: no PSI (CONFIG_PSI, psi=1), or no unified hierarchy",
            ),
            Self::Zram => {
                (super::zram::Zram::is_there(), "no /sys/block/zram0 (cargo xtask vm --module zram)")
            }
            Self::Disk => (
                host.own_machine && super::swap::Swap::has_disk(),
                "no disk of the tests' own (cargo xtask vm --module virtio_pci --module virtio_blk)",
            ),
            Self::UserNamespaces => {
                (user_namespaces(), "who is not root may make no user namespace (user_namespaces(7))")
            }
            Self::CleanCache => return host.clean_cache.as_ref().err().cloned(),
            Self::FileMemory => return host.file_memory.as_ref().err().cloned(),
        };
        (!met).then(|| why.to_owned())
    }
}

/// The version of this kernel, its first two numbers.
pub fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let mut numbers =
        name.release().to_str().unwrap_or_default().split('.').map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Tried, for several switches and security modules forbid it.
fn user_namespaces() -> bool {
    use std::os::unix::process::CommandExt as _;
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["-U", "-r", "true"]).uid(NOBODY).gid(NOBODY).stderr(std::process::Stdio::null());
    unshare.status().is_ok_and(|status| status.success())
}

impl Host {
    /// Looks around and makes the directory of this run.
    pub fn probe(target: &str, memgov: Option<&Path>) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("root is needed: groups are made and removed");
        }
        let mounts = Mounts::read()?;
        let (version, memory) = mounts.memory()?;
        let dir = std::env::temp_dir().join(format!("memgov-t-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        open_to_all(&dir)?;
        // With a share of the processors of its own, as a service has it: hundreds of forking processes that each get as much as the kernel's
        // thread for grace periods keep it from freeing what refused forks have left (delayed_free_task in kernel/fork.c).
        let others: Vec<PathBuf> = [&mounts.freezer, &mounts.unified, &mounts.pids, &mounts.cpu]
            .into_iter()
            .flatten()
            .filter(|at| **at != memory)
            .cloned()
            .collect();
        let freezer = mounts.freezer.is_some() || mounts.unified.is_some();
        Ok(Self {
            tier: Tier::Portable,
            target: target.to_owned(),
            memgov: executable_by_all(memgov, &dir)?,
            files: built(memgov)?.with_file_name("memgov-files"),
            version,
            memory,
            others,
            freezer,
            sys_resource: has_capability(CAP_SYS_RESOURCE),
            file_memory: file_memory(&dir),
            clean_cache: clean_cache(&dir),
            choose_pid: fs::OpenOptions::new().write(true).open("/proc/sys/kernel/ns_last_pid").is_ok(),
            kernel_accounting: !fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("nokmem")),
            socket_accounting: version == Version::V1
                || !fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("nosocket")),
            own_machine: fs::read_to_string("/proc/cmdline")
                .is_ok_and(|line| line.contains("memgov.machine=own")),
            counts_instructions: fs::read_to_string("/proc/cmdline")
                .is_ok_and(|line| line.contains("memgov.clock=instructions")),
            dir,
            patience: if target == "host" { 1 } else { 8 },
        })
    }

    /// Not a virtual machine: what else was built is beside the program.
    fn is_bare(&self) -> bool {
        self.target == "host"
    }

    /// Removes the directory of this run.
    pub fn clean(&self) {
        if let Ok(dir) = &self.file_memory
            && dir.starts_with(&self.dir)
        {
            // Not mounted on a real file system: then this fails, and the directory goes with the rest.
            let _not_a_mount = rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH);
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("removing {}: {error}", self.dir.display());
        }
    }

    /// All hierarchies groups are made in, memory first.
    pub fn hierarchies(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.memory).chain(&self.others)
    }
}

/// Mount points by what they carry.
#[derive(Default, Debug, PartialEq)]
struct Mounts {
    memory_v1: Option<PathBuf>,
    freezer: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
    unified: Option<PathBuf>,
}

impl Mounts {
    fn read() -> Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?))
    }

    /// `36 35 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory`
    fn parse(mountinfo: &str) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.lines() {
            let Some((front, back)) = line.split_once(" - ") else { continue };
            let Some(place) = front.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut back = back.split(' ');
            let (kind, options) = (back.next(), back.nth(1).unwrap_or(""));
            let has = |name| options.split(',').any(|option| option == name);
            let slot = match kind {
                Some("cgroup2") => &mut mounts.unified,
                Some("cgroup") if has("memory") => &mut mounts.memory_v1,
                Some("cgroup") if has("freezer") => &mut mounts.freezer,
                Some("cgroup") if has("pids") => &mut mounts.pids,
                Some("cgroup") if has("cpu") => &mut mounts.cpu,
                _ => continue,
            };
            slot.get_or_insert(place);
        }
        mounts
    }

    /// Where memory is, switched on for the children of the root on v2.
    fn memory(&self) -> Result<(Version, PathBuf)> {
        if let Some(place) = &self.memory_v1 {
            return Ok((Version::V1, place.clone()));
        }
        let Some(place) = &self.unified else { bail!("no cgroup hierarchy is mounted") };
        let offered =
            fs::read_to_string(place.join("cgroup.controllers")).context("reading cgroup.controllers")?;
        if !offered.split_whitespace().any(|controller| controller == "memory") {
            bail!("neither cgroup v1 nor v2 offers the memory controller");
        }
        let control = place.join("cgroup.subtree_control");
        fs::write(&control, "+memory")
            .with_context(|| format!("writing +memory to {}", control.display()))?;
        // Not every kernel has it; whoever needs it fails without.
        let _none = fs::write(&control, "+pids");
        Ok((Version::V2, place.clone()))
    }
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).with_context(|| format!("opening {} to all", path.display()))
}

/// memgov where it was built: as named, or beside this program.
fn built(memgov: Option<&Path>) -> Result<PathBuf> {
    let beside = || Ok(std::env::current_exe()?.with_file_name("memgov"));
    let program = memgov.map_or_else(beside, |path| anyhow::Ok(path.to_owned()))?;
    program.canonicalize().with_context(|| format!("no memgov at {}", program.display()))
}

/// memgov as any user can run it: copied if it lies in a directory that others may not enter.
fn executable_by_all(memgov: Option<&Path>, dir: &Path) -> Result<PathBuf> {
    let program = built(memgov)?;
    let nobody = |path: &Path| {
        use std::os::unix::process::CommandExt;
        Command::new(path).arg("--version").uid(NOBODY).gid(NOBODY).output().is_ok()
    };
    if nobody(&program) {
        return Ok(program);
    }
    let copy = dir.join("memgov");
    fs::copy(&program, &copy).with_context(|| format!("copying {}", program.display()))?;
    open_to_all(&copy)?;
    Ok(copy)
}

/// An unprivileged user.
pub const NOBODY: u32 = 65534;

fn fuse() -> bool {
    let knows = fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\tfuse\n"));
    knows && Path::new("/dev/fuse").exists()
}

fn ext4() -> bool {
    let knows = fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\text4\n"));
    knows && Path::new("/dev/loop-control").exists() && on_path("mke2fs") && on_path("mount")
}

/// Whether there is such a program.
pub fn on_path(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).exists()))
}

/// Pages of tmpfs count as shared memory; where the run's directory is on one, a ramfs serves.
fn file_memory(dir: &Path) -> Result<PathBuf, String> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let place = dir.join("files");
    fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    let kind = rustix::fs::statfs(&place).map_err(|error| error.to_string())?.f_type;
    if kind == TMPFS_MAGIC {
        rustix::mount::mount("none", &place, "ramfs", rustix::mount::MountFlags::empty(), None)
            .map_err(|error| format!("only tmpfs here, and mounting ramfs: {error}"))?;
    }
    Ok(place)
}

/// Bytes of [`Host::clean_cache`].
pub const CACHE_SIZE: u64 = 64 << 30;

/// A file with nothing but a hole on a real file system, whose pages cost no disk; in a machine without one, the null block
/// device (drivers/block/null_blk), which reads as nothing.
fn clean_cache(dir: &Path) -> Result<PathBuf, String> {
    let device = PathBuf::from("/dev/nullb0");
    if device.exists() {
        return Ok(device);
    }
    let kind = rustix::fs::statfs(dir).map_err(|error| error.to_string())?.f_type;
    const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    if IN_MEMORY.contains(&kind) {
        return Err("no block device: files here are memory that cannot be reclaimed".to_owned());
    }
    let path = dir.join("hole");
    fs::File::create(&path).and_then(|file| file.set_len(CACHE_SIZE)).map_err(|error| error.to_string())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_apart() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            37 31 0:34 / /sys/fs/cgroup/freezer rw shared:9 - cgroup cgroup rw,freezer\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(
            Mounts::parse(hybrid),
            Mounts {
                memory_v1: at("/sys/fs/cgroup/memory"),
                freezer: at("/sys/fs/cgroup/freezer"),
                unified: at("/sys/fs/cgroup/unified"),
                ..Mounts::default()
            }
        );
        let v2 =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        assert_eq!(Mounts::parse(v2), Mounts { unified: at("/sys/fs/cgroup"), ..Mounts::default() });
        assert_eq!(Mounts::parse("garbage\n1 2 3\n"), Mounts::default());
    }
}
