//! What a sidecar costs its pod: memory, processor time when nothing happens, and the time from its start until it is
//! ready, next to an Envoy of the same version that is told to do nothing.
//!
//! ```text
//!  in a network namespace of its own (the sidecar's ports are fixed):
//!    control (the real controller port, a mesh of N services) ◀── meshwright-proxy run ──▶ Envoy
//!    Envoy with an admin port and nothing else: shares the program's pages, as another pod's does on a node
//! ```
//! Only numbers; nothing is asserted.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::control::{self, Control};
use bench::process::{self, Memory, Running};
use bench::report;
use bench::world::{self, World};
use clap::Parser;

/// Service account and pod of the sidecar that is measured: the first of its world.
const SIDECAR: usize = 0;
/// `proxy::constants`.
const READY_PORT: u16 = 15020;
const BARE_ADMIN_PORT: u16 = 16000;
/// Release of the sidecar's image, which only slots ask for.
const VERSION: &str = "0.1.0";

/// Measures what sidecars cost their pods.
#[derive(Parser)]
struct Flags {
    /// Envoy.
    #[arg(long, default_value = "1.40.0")]
    envoy: String,
    /// Services that the sidecar may call, in each case.
    #[arg(default_values_t = [5, 50, 500])]
    services: Vec<usize>,
    /// How often each is started; medians are printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of doing nothing in which processor time is counted.
    #[arg(long, default_value_t = 4)]
    idle_seconds: u64,
    /// A Markdown file between whose marks the table is put.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Used by the bench itself: the Envoy to measure with, in a network namespace of its own.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

/// One start of something.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    ready: Duration,
    /// Processor time until then.
    start: Duration,
    envoy: Memory,
    launcher: Memory,
    /// Share of one core.
    idle: f64,
}

fn main() -> anyhow::Result<()> {
    runtime::install_default();
    let flags = Flags::parse();
    if let Some(envoy) = &flags.inside {
        return inside(&flags, envoy);
    }
    let envoy = envoys::binary(&flags.envoy);
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe()?)
        .arg("--inside")
        .arg(&envoy)
        .args(["--envoy", &flags.envoy, "--rounds", &flags.rounds.to_string()])
        .args(["--idle-seconds", &flags.idle_seconds.to_string()])
        .args(flags.services.iter().map(ToString::to_string))
        .stderr(Stdio::inherit())
        .output()
        .context("unshare (util-linux)")?;
    ensure!(output.status.success(), "measuring failed (a network namespace needs root): {}", output.status);
    let table = String::from_utf8(output.stdout)?;
    print!("{table}");
    flags.write.map_or(Ok(()), |path| report::write(&path, "footprint", &table))
}

fn inside(flags: &Flags, envoy: &Path) -> anyhow::Result<()> {
    ensure!(Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success(), "ip link set lo up");
    // Slots meet in shared memory, which is the pod's own on a node.
    let own = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/dev/shm"]).status()?;
    ensure!(own.success(), "mount a tmpfs at /dev/shm");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let machine = report::machine("shared by sidecar and controller");
    println!("{machine}\nEnvoy {}, one worker thread; a second Envoy runs beside.\n", flags.envoy);
    println!(
        "| | start → ready | CPU until ready | private memory: Envoy + launcher | PSS of both | CPU when idle |"
    );
    println!("|---|---|---|---|---|---|");
    let folder = tempfile::tempdir()?;
    let (_beside, _) = start_bare(envoy, folder.path(), BARE_ADMIN_PORT)?;
    let idle = Duration::from_secs(flags.idle_seconds.max(1));
    let repeat = |name: &str, one: &dyn Fn(&Path) -> anyhow::Result<(Running, Duration)>| {
        let mut samples = Vec::new();
        for _ in 0..flags.rounds.max(1) {
            let folder = tempfile::tempdir()?;
            let (running, ready) = one(folder.path())?;
            samples.push(Sample::of(&running, ready, idle)?);
        }
        print_row(name, &samples);
        anyhow::Ok(())
    };
    repeat("bare Envoy", &|folder| start_bare(envoy, folder, BARE_ADMIN_PORT + 1))?;
    for services in &flags.services {
        let world: World = format!("1x{services}/{services}").parse()?;
        let control = runtime.block_on(Control::start(world.spec()?, world.objects()?))?;
        let name = format!("sidecar, {services} services reachable");
        repeat(&name, &|folder| {
            start_sidecar(&mut sidecar(envoy, folder, world, &control, None)?, &folder.join("log"))
        })?;
    }
    let world: World = "1x50/50".parse()?;
    let control = runtime.block_on(Control::start(world.spec()?, world.objects()?))?;
    parked(envoy, folder.path(), world, &control, idle)
}

/// What the second slot of a sidecar costs that can be swapped in place, while it waits.
fn parked(
    envoy: &Path,
    folder: &Path,
    world: World,
    control: &Control,
    idle: Duration,
) -> anyhow::Result<()> {
    let (live, log) = (folder.join("pod"), folder.join("log"));
    std::fs::create_dir(&live)?;
    std::fs::write(live.join("live-slot"), "a")?;
    std::fs::write(live.join("release"), VERSION)?;
    let mut second = Running::start(&mut sidecar(envoy, folder, world, control, Some("b"))?)?;
    let (_first, ready) = start_sidecar(&mut sidecar(envoy, folder, world, control, Some("a"))?, &log)?;
    let sample = Sample::of(&second, ready, idle)?;
    ensure!(!second.ended(), "the second slot has ended: {}", std::fs::read_to_string(&log)?);
    ensure!(process::child(second.pid()).is_none(), "the second slot has an Envoy");
    println!(
        "\nThe idle slot of a sidecar that can be swapped in place: private memory {:.1} MB, PSS {:.1} MB, CPU {:.2} % of \
         a core.",
        sample.envoy.private / 1e6,
        sample.envoy.proportional / 1e6,
        sample.idle * 100.0,
    );
    Ok(())
}

/// An Envoy that serves nothing, and how long it took to be ready.
fn start_bare(envoy: &Path, folder: &Path, port: u16) -> anyhow::Result<(Running, Duration)> {
    let (config, log) = (folder.join("bootstrap.json"), folder.join("log"));
    let address = serde_json::json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    std::fs::write(&config, serde_json::json!({"admin": {"address": address}}).to_string())?;
    let mut command = Command::new(envoy);
    command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "--config-path"]);
    command.arg(&config).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
    let mut running = Running::start(&mut command)?;
    let ready = process::until_ready(&mut running, port, "/ready", &log)?;
    Ok((running, ready))
}

/// The sidecar as its container runs it; one of two slots when it has a name.
fn sidecar(
    envoy: &Path,
    folder: &Path,
    world: World,
    control: &Control,
    slot: Option<&str>,
) -> anyhow::Result<Command> {
    let at = |name: &str| folder.join(name);
    let (pod, account) = (world::pod(SIDECAR), world.account(SIDECAR));
    std::fs::write(at("token"), control::token(world::NAMESPACE, &account, &pod))?;
    std::fs::write(at("ca.crt"), &control.root)?;
    let mut command = Command::new(process::program("meshwright-proxy")?);
    command.arg("run").arg("--run-dir").arg(folder).arg("--token-file").arg(at("token"));
    command.arg("--trust-file").arg(at("ca.crt")).arg("--envoy").arg(envoy);
    let log = std::fs::File::options().create(true).append(true).open(at("log"))?;
    command.stdout(Stdio::null()).stderr(log);
    if let Some(slot) = slot {
        command.arg("--pod-dir").arg(at("pod"));
        command.envs([("MESHWRIGHT_SLOT", slot), ("MESHWRIGHT_VERSION", VERSION)]);
    }
    command.envs([
        ("MESHWRIGHT_MESH", control::MESH),
        ("MESHWRIGHT_TRUST_DOMAIN", "cluster.local"),
        ("MESHWRIGHT_REVISION", "0.1.0"),
        ("MESHWRIGHT_CONTROLLER", &format!("{}:{}", control::HOST, control.address.port())),
        ("POD_NAME", &pod),
        ("POD_NAMESPACE", world::NAMESPACE),
        ("POD_UID", &pod),
        ("POD_IP", "127.0.0.1"),
        ("SERVICE_ACCOUNT", &account),
        ("MESHWRIGHT_LOG_LEVEL", "warning"),
        ("MESHWRIGHT_CONCURRENCY", "1"),
        ("MESHWRIGHT_GRACE_SECONDS", "1"),
    ]);
    Ok(command)
}

fn start_sidecar(command: &mut Command, log: &Path) -> anyhow::Result<(Running, Duration)> {
    let mut running = Running::start(command)?;
    let ready = process::until_ready(&mut running, READY_PORT, "/readyz", log)?;
    Ok((running, ready))
}

impl Sample {
    /// Of a process that has just become ready; a launcher's child is the Envoy.
    fn of(running: &Running, ready: Duration, idle: Duration) -> anyhow::Result<Self> {
        let launcher = process::child(running.pid()).map(|_| running.pid());
        let envoy = process::child(running.pid()).unwrap_or(running.pid());
        let spent = || -> anyhow::Result<Duration> {
            let launcher = launcher.map(process::processor_time).transpose()?.unwrap_or_default();
            Ok(process::processor_time(envoy)? + launcher)
        };
        let start = spent()?;
        // What the start left behind is done by then.
        std::thread::sleep(idle / 2);
        let before = spent()?;
        std::thread::sleep(idle);
        let idle = (spent()? - before).as_secs_f64() / idle.as_secs_f64();
        let launcher = launcher.map(process::memory).transpose()?.unwrap_or_default();
        Ok(Self { ready, start, envoy: process::memory(envoy)?, launcher, idle })
    }
}

fn print_row(name: &str, samples: &[Sample]) {
    let of =
        |value: &dyn Fn(&Sample) -> f64| report::median(&mut samples.iter().map(value).collect::<Vec<_>>());
    println!(
        "| {name} | {:.0} ms | {:.0} ms | {:.1} + {:.1} MB | {:.1} MB | {:.2} % of a core |",
        of(&|sample| sample.ready.as_secs_f64() * 1e3),
        of(&|sample| sample.start.as_secs_f64() * 1e3),
        of(&|sample| sample.envoy.private / 1e6),
        of(&|sample| sample.launcher.private / 1e6),
        of(&|sample| (sample.envoy + sample.launcher).proportional / 1e6),
        of(&|sample| sample.idle * 100.0),
    );
}
