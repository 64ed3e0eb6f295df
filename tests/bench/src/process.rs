//! Processes as the kernel counts them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// A child that ends when this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        Ok(Self(command.spawn().with_context(|| format!("starting {command:?}"))?))
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The launcher ends its Envoy when it is asked to; a kill would leave it behind.
        let _ = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        let begin = Instant::now();
        while !self.ended() && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Memory of a process, bytes (`proc_pid_smaps(5)`).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// What only this process has and has written: what one more such process costs a node.
    pub private: f64,
    /// The same and its share of what several processes have in common, such as the program.
    pub proportional: f64,
}

impl std::ops::Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { private: self.private + other.private, proportional: self.proportional + other.proportional }
    }
}

/// See [`Memory`].
///
/// # Errors
/// When the process has ended.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("smaps_rollup")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.map(|number| number * 1024.0).with_context(|| format!("no {name} in smaps_rollup"))
    };
    Ok(Memory { private: field("Private_Dirty:")?, proportional: field("Pss:")? })
}

/// Processor time of a process's living threads so far (`/proc/PID/task/*/schedstat`: nanoseconds first).
///
/// # Errors
/// When the process has ended.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The first child of a process, when it has one.
#[must_use]
pub fn child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A program of ours, built with the same profile.
///
/// # Errors
/// When it is not there.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().context("this program's folder")?.join(name);
    ensure!(
        path.exists(),
        "{} is not built: cargo build --release -p bench -p proxy -p injector",
        path.display()
    );
    Ok(path)
}

/// Asks a port of this machine for a page; `None` without an answer.
#[must_use]
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some((text.split(' ').nth(1)?.parse().ok()?, text))
}

/// Waits until the process answers a page with 200; how long that took.
///
/// # Errors
/// When it ends, or does not answer within a minute; what it wrote to `log` is told.
pub fn until_ready(process: &mut Running, port: u16, path: &str, log: &Path) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    loop {
        let answer = get(port, path);
        if answer.as_ref().is_some_and(|(status, _)| *status == 200) {
            return Ok(begin.elapsed());
        }
        let told = || format!("{answer:?}; {}", std::fs::read_to_string(log).unwrap_or_default());
        ensure!(!process.ended(), "it has ended: {}", told());
        ensure!(begin.elapsed() < Duration::from_secs(60), "it is not ready: {}", told());
        std::thread::sleep(Duration::from_millis(1));
    }
}
