//! The injector: its handler alone, and the whole daemon under load, as an API server calls it.
//!
//! ```text
//!  load.rs ──HTTP/2 over TLS──▶ meshwright-injector ──watch──▶ api.rs (counts what it is asked)
//!                                      └──certificate──▶ control (the real controller port)
//! ```
//! Only numbers; nothing is asserted. All parts share the machine's cores.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bench::control::{self, Control};
use bench::process::{self, Running};
use bench::report;
use bench::world::World;
use clap::Parser;
use crds::labels;

mod api;
mod handler;
mod load;
mod review;

const REVISION: &str = "0.1.0";

/// Measures the injector.
#[derive(Parser)]
struct Flags {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// A Markdown file between whose marks the tables are put.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// Pods that are reviewed: how many containers they have, and how many of them come in a second under steady load, which
/// must be well below the most that two cores can take.
const PODS: [(usize, u32); 2] = [(1, 200), (100, 20)];

fn main() -> anyhow::Result<()> {
    runtime::install_default();
    let flags = Flags::parse();
    let time = Duration::from_secs(flags.seconds.max(1));
    let mut text = report::machine("shared by injector, API server and load");
    text.push_str(&handler::measure(time)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    text.push_str(&runtime.block_on(whole(time))?);
    print!("{text}");
    flags.write.map_or(Ok(()), |path| report::write(&path, "webhook", &text))
}

async fn whole(time: Duration) -> anyhow::Result<String> {
    let mut text = format!(
        "\n**The whole daemon**: HTTP/2 over TLS, {} connections; a steady load, then {} reviews at a time, without pause.\n\n\
         | pod | steady load | p50 | p99 | CPU per review | most reviews/s | p99 then |\n|---|---|---|---|---|---|---|\n",
        load::CONNECTIONS,
        load::CONNECTIONS * load::AT_A_TIME,
    );
    let api = api::Api::start().await?;
    let folder = tempfile::tempdir()?;
    let (mut injector, port, roots) = start(&api, folder.path()).await?;
    let load = load::Load::new(port, roots, &labels::injector_name(REVISION)).await;
    let load = match load {
        Ok(load) => load,
        Err(error) => {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            return Err(error.context(format!("the injector (ended: {}): {log}", injector.ended())));
        }
    };
    let asked = api.asked();
    for (containers, rate) in PODS {
        let review = review::bytes(containers);
        load.closed(&review, time / 4).await?;
        let before = process::processor_time(injector.pid())?;
        let mut steady = load.steady(&review, time, rate).await?;
        let cpu = (process::processor_time(injector.pid())? - before).as_secs_f64() * 1e6
            / steady.len().max(1) as f64;
        let begin = Instant::now();
        let mut closed = load.closed(&review, time).await?;
        let most = closed.len() as f64 / begin.elapsed().as_secs_f64();
        text.push_str(&format!(
            "| {} ({:.1} kB) | {rate}/s | {:.2} ms | {:.2} ms | {cpu:.0} µs | {most:.0} | {:.2} ms |\n",
            review::called(containers),
            review.len() as f64 / 1e3,
            report::percentile(&mut steady, 50),
            report::percentile(&mut steady, 99),
            report::percentile(&mut closed, 99),
        ));
    }
    let memory = process::memory(injector.pid())?;
    let (reads, writes) = api.asked();
    text.push_str(&format!(
        "\nThe API server was asked {} times while under load, {writes} times to write anything since the start. Private \
         memory afterwards: {:.1} MB.\n",
        reads + writes - asked.0 - asked.1,
        memory.private / 1e6
    ));
    Ok(text)
}

/// The real program; its port, and the root of trust.
async fn start(api: &api::Api, folder: &std::path::Path) -> anyhow::Result<(Running, u16, String)> {
    let world: World = "1x4/4".parse()?;
    let name = labels::injector_name(REVISION);
    let mut objects = world.objects()?;
    objects.push(review::injector_pod(&name)?);
    let control = Control::start(world.spec()?, objects).await?;
    let at = |file: &str| folder.join(file);
    std::fs::write(at("token"), control::token(labels::SYSTEM_NAMESPACE, &name, &name))?;
    std::fs::write(at("ca.crt"), &control.root)?;
    std::fs::write(at("kubeconfig"), api.kubeconfig())?;
    let (port, admin) = (envoys::free_port(), envoys::free_port());
    ensure!(port != admin, "two equal ports");
    let mut command = Command::new(process::program("meshwright-injector")?);
    command.args([
        "--mesh",
        control::MESH,
        "--revision",
        REVISION,
        "--image",
        "registry.example/sidecar:0.1.0",
    ]);
    command.args(["--controller", &format!("{}:{}", control::HOST, control.address.port())]);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin", &format!("127.0.0.1:{admin}")]);
    command.arg("--token").arg(at("token")).arg("--trust").arg(at("ca.crt"));
    command
        .env("KUBECONFIG", at("kubeconfig"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(at("log"))?);
    let mut injector = Running::start(&mut command)?;
    let log = at("log");
    let waited = tokio::task::spawn_blocking(move || {
        process::until_ready(&mut injector, admin, "/readyz", &log).map(|_| injector)
    });
    Ok((waited.await??, port, control.root))
}
