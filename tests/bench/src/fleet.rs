//! One server and its clients, through one case.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use controller::certificates::authority::Authority;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Client, Counts, Phase};
use crate::server::{Answer, Facts, Kind};
use bench::world::World;

/// All clients connecting.
#[derive(Default, Clone, Copy)]
pub struct Connecting {
    /// Until the last one holds everything.
    pub time: Duration,
    /// Processor time of the server, microseconds.
    pub cpu: u64,
    /// Bytes of responses.
    pub bytes: u64,
    /// Resources sent.
    pub resources: u64,
}

/// Changes of one kind.
#[derive(Default, Clone)]
pub struct Rounds {
    /// From the change to the last acknowledgement, microseconds, sorted.
    pub times: Vec<u64>,
    /// Responses of all rounds together: clients that a change concerned.
    pub pushes: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Processor time of the server, microseconds.
    pub cpu: u64,
}

/// What one case gave.
pub struct Numbers {
    /// Everybody for the first time.
    pub connect: Connecting,
    /// Everybody again, with what they hold.
    pub back: Connecting,
    /// Changes of one service's endpoints.
    pub endpoints: Rounds,
    /// Changes of a policy that concern everybody.
    pub policy: Rounds,
    /// Memory of the server per client, bytes.
    pub memory: u64,
    /// Memory of the server before a client came.
    pub base: u64,
    /// The most memory that it had, over what it had when all were connected.
    pub peak: f64,
    /// Connections and streams that failed, so that the client tried again.
    pub failures: u64,
}

/// The server's process and its answers.
pub struct Server {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Server {
    pub fn start(kind: Kind, world: World) -> anyhow::Result<Self> {
        // A connection is a file; the soft limit is often 1024.
        let script = "ulimit -n $(ulimit -Hn); exec \"$0\" --serve \"$1\" \"$2\"";
        let kind = match kind {
            Kind::Ours => "ours",
            Kind::Bare => "bare",
        };
        let mut process = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe()?)
            .args([kind, &world.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().context("standard input")?;
        let output = BufReader::new(process.stdout.take().context("standard output")?);
        Ok(Self { process, input, output })
    }

    pub fn hear(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("the server ended")
    }

    fn ask(&mut self, word: &str) -> anyhow::Result<Answer> {
        writeln!(self.input, "{word}")?;
        self.hear()
    }

    fn done(&mut self, word: &str) -> anyhow::Result<()> {
        match self.ask(word)? {
            Answer::Done => Ok(()),
            other => bail!("{word}: {other:?}"),
        }
    }

    fn facts(&mut self) -> anyhow::Result<Facts> {
        match self.ask("facts")? {
            Answer::Facts(facts) => Ok(facts),
            other => bail!("unexpected: {other:?}"),
        }
    }

    /// Makes changes of a kind.
    pub fn rounds(&mut self, word: &str, rounds: usize) -> anyhow::Result<Rounds> {
        let before = self.facts()?;
        let mut all = Rounds::default();
        for _ in 0..rounds {
            match self.ask(word)? {
                Answer::Round { time, clients } => {
                    all.times.push(time);
                    all.pushes += clients as u64;
                }
                other => bail!("a change was not acknowledged by all in time: {other:?}"),
            }
        }
        all.times.sort_unstable();
        let after = self.facts()?;
        all.bytes = after.bytes - before.bytes;
        all.cpu = after.cpu - before.cpu;
        Ok(all)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Takes a server through a case.
pub fn measure(kind: Kind, world: World, rounds: usize) -> anyhow::Result<Numbers> {
    let mut server = Server::start(kind, world)?;
    let Answer::Listening { address, root, key } = server.hear()? else { bail!("no address") };
    let authority = Arc::new(Authority::parse(&root, &key)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let phase = watch::Sender::new(Phase::Away);
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    for number in 0..world.clients {
        let (address, authority) = (address.as_str().into(), authority.clone());
        let (phase, counts) = (phase.subscribe(), counts.clone());
        let client = Client { number, world, address, authority, phase, counts };
        tasks.spawn_on(client.run(), runtime.handle());
    }
    while counts.prepared.load(Ordering::Relaxed) < world.clients as u64 && tasks.try_join_next().is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let base = server.facts()?.rss;
    let ended = |tasks: &mut JoinSet<_>| match tasks.try_join_next() {
        None => anyhow::Ok(()),
        Some(first) => bail!("a client ended: {first:?}"),
    };
    let connect = connect(&mut server, &phase).inspect_err(|_| {
        let _ = ended(&mut tasks).inspect_err(|error| eprintln!("{error:?}"));
    })?;
    let endpoints = server.rounds("endpoints", rounds)?;
    let policy = server.rounds("policy", rounds)?;
    let full = server.facts()?.rss;
    phase.send_replace(Phase::Away);
    server.done("empty")?;
    let back = self::connect(&mut server, &phase)?;
    let after = server.facts()?;
    ended(&mut tasks)?;
    runtime.shutdown_background();
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    let peak = after.peak as f64 / full.max(1) as f64;
    let memory = full.saturating_sub(base) / world.clients as u64;
    let failures = counts.failures.load(Ordering::Relaxed);
    Ok(Numbers { connect, back, endpoints, policy, memory, base, peak, failures })
}

/// Lets everybody connect.
pub fn connect(server: &mut Server, phase: &watch::Sender<Phase>) -> anyhow::Result<Connecting> {
    let before = server.facts()?;
    let begin = Instant::now();
    phase.send_replace(Phase::Connected);
    server.done("sync")?;
    let time = begin.elapsed();
    let after = server.facts()?;
    Ok(Connecting {
        time,
        cpu: after.cpu - before.cpu,
        bytes: after.bytes - before.bytes,
        resources: after.resources - before.resources,
    })
}
