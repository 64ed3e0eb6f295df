//! Takes from this process everything that fetching a commit does not need, for ever.
//!
//! Without being root and without a helper: resource limits, Landlock (files and TCP; Linux 5.13, better with each
//! later one), seccomp (no new program, no other process), no new privileges, death with the parent. A kernel that
//! lacks one of them is no error; [`Confinement`] says what there is, and the operator tells people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

use crate::git::MAX_RECEIVED_BYTES;

/// What the kernel holds this process to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Confinement {
    /// Landlock: files and, from Linux 6.7 on, TCP ports.
    pub files: Enforced,
    /// seccomp: system calls.
    pub calls: Enforced,
}

/// How far something is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforced {
    /// All of it.
    Fully,
    /// What this kernel knows.
    Partly,
    /// Not at all.
    Not,
}

/// What a fetch needs.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Read and written.
    pub folder: PathBuf,
    /// A repository on this machine.
    pub repository: Option<PathBuf>,
    /// Port of the relay on the loopback interface.
    pub port: Option<u16>,
}

impl Needs {
    /// libgit2 packs what it takes from a repository on this machine, and that on several threads.
    fn threads(&self) -> bool {
        self.repository.is_some()
    }
}

/// Virtual memory: a pack of the largest size, mapped, and the largest object beside it.
const MEMORY: u64 = 1 << 30;
/// Seconds of the processor.
const PROCESSOR: u64 = 60;
const FILES: u64 = 128;
/// Tasks of our user on the machine; only where a repository of this machine is read.
const THREADS: u64 = 4096;

/// git's system-wide settings, for `safe.directory`.
const READ: [&str; 2] = ["/etc/gitconfig", "/dev/null"];

/// Enters the confinement: for the calling thread and everything after it, for ever. Call it while there is only one.
///
/// # Errors
/// In words, when the kernel refuses something that it knows.
pub fn enter(needs: &Needs) -> Result<Confinement, String> {
    // Nobody who has our user may look into this process, nor does it outlive who asked.
    let io = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io("dumpable"))?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io("parent's death"))?;
    limit(needs)?;
    let files = files(needs).map_err(|error| format!("Landlock: {error}"))?;
    let calls = calls(needs).map_err(|error| format!("seccomp: {error}"))?;
    Ok(Confinement { files, calls })
}

fn limit(needs: &Needs) -> Result<(), String> {
    let file = 2 * MAX_RECEIVED_BYTES as u64;
    let limits = [
        (Resource::As, MEMORY),
        (Resource::Cpu, PROCESSOR),
        (Resource::Fsize, file),
        (Resource::Nofile, FILES),
        (Resource::Nproc, if needs.threads() { THREADS } else { 0 }),
        (Resource::Core, 0),
    ];
    for (resource, most) in limits {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|error| format!("{resource:?}: {error}"))?;
    }
    Ok(())
}

fn files(needs: &Needs) -> Result<Enforced, RulesetError> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let readable: Vec<PathBuf> = READ.iter().map(PathBuf::from).chain(needs.repository.clone()).collect();
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(&readable, read))?
        .add_rules(path_beneath_rules([&needs.folder], AccessFs::from_all(abi) & !AccessFs::Execute))?;
    if let Some(port) = needs.port {
        rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

/// Calls that fetching never makes, and that a crafted pack could be after: programs, processes, the kernel's depths.
fn denied() -> Vec<libc::c_long> {
    vec![
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_prlimit64,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_kcmp,
        libc::SYS_setsid,
        libc::SYS_setpgid,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_memfd_create,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_open_by_handle_at,
        libc::SYS_name_to_handle_at,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_sendmmsg,
    ]
}

fn calls(needs: &Needs) -> Result<Enforced, seccompiler::Error> {
    let backend = seccompiler::Error::Backend;
    let Ok(arch) = seccompiler::TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(Enforced::Not);
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in denied() {
        rules.insert(call, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    for call in [libc::SYS_fork, libc::SYS_vfork] {
        rules.insert(call, Vec::new());
    }
    // No process, and a thread only where there must be some.
    let thread = SeccompCmpOp::MaskedEq(u64::from(libc::CLONE_THREAD.unsigned_abs()));
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, thread, 0).map_err(backend)?;
    let process = SeccompRule::new(vec![condition]).map_err(backend)?;
    rules.insert(libc::SYS_clone, if needs.threads() { vec![process] } else { Vec::new() });
    // TCP over IPv4 is all that leads to the relay.
    let kind = |operator, value: libc::c_int, argument| {
        let value = u64::from(value.unsigned_abs());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(backend)
    };
    let family = SeccompRule::new(vec![kind(SeccompCmpOp::Ne, libc::AF_INET, 0)?]).map_err(backend)?;
    let datagram = SeccompCmpOp::MaskedEq(0xf);
    let datagram = SeccompRule::new(vec![kind(datagram, libc::SOCK_DGRAM, 1)?]).map_err(backend)?;
    let raw =
        SeccompRule::new(vec![kind(SeccompCmpOp::MaskedEq(0xf), libc::SOCK_RAW, 1)?]).map_err(backend)?;
    rules.insert(libc::SYS_socket, vec![family, datagram, raw]);
    rules.insert(libc::SYS_socketpair, Vec::new());
    // What cannot be looked into is not there: the C library falls back to the call above.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for (rules, error) in [(rules, libc::EPERM), (unknown, libc::ENOSYS)] {
        let refused = SeccompAction::Errno(error.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(backend)?;
        let program: BpfProgram = filter.try_into().map_err(backend)?;
        match seccompiler::apply_filter(&program) {
            Ok(()) => {}
            // A kernel without it.
            Err(seccompiler::Error::Seccomp(error)) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Ok(Enforced::Not);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Enforced::Fully)
}

/// Whether a repository on this machine may be read at all: not the places where a process finds secrets or itself.
pub fn is_secret(path: &Path) -> bool {
    const SECRET: [&str; 6] = ["/var/run/secrets", "/run/secrets", "/proc", "/sys", "/dev", "/etc"];
    SECRET.iter().map(Path::new).any(|secret| path.starts_with(secret) || secret.starts_with(path))
}
