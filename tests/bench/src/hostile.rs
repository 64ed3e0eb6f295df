//! The same fleet with and without hostile neighbours: sidecars with certificates of the mesh that do what they should
//! not, each service account one thing.
//!
//! ```text
//!  hostile-0 connects again and again     hostile-1 subscribes and unsubscribes without end
//!  hostile-2 refuses everything           hostile-3 reads and says nothing
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use bench::world::{self, World};
use controller::certificates::authority::Authority;
use controller::xds::wire::{DeltaRequest, DeltaResponse, Status};
use mesh::ResourceType;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::client::{self, Client, Counts, Phase};
use crate::fleet::{self, Rounds, Server};
use crate::server::{Answer, Kind};
use crate::table;

/// Rounds of a turn that are not counted: by then it is known who does not answer.
const WARM_UP: usize = 10;
/// How often each side has its turn: what the machine does meanwhile falls on both.
const TURNS: usize = 8;
/// Names in a request of one that floods.
const FLOOD: usize = 1000;

/// What one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Malice {
    /// Connects, takes what comes first, and goes.
    Loops,
    /// Subscribes to what is not there, and unsubscribes.
    Floods,
    /// Refuses whatever it is sent.
    Refuses,
    /// Reads and says nothing.
    Silent,
}

impl Malice {
    fn of(number: usize) -> Self {
        match number % world::HOSTILE_ACCOUNTS {
            0 => Self::Loops,
            1 => Self::Floods,
            2 => Self::Refuses,
            _ => Self::Silent,
        }
    }
}

/// Measures a fleet without and with them, by turns; the table.
pub fn measure(world: World, rounds: usize) -> anyhow::Result<String> {
    let mut server = Server::start(Kind::Ours, world)?;
    let Answer::Listening { address, root, key } = server.hear()? else { bail!("no address") };
    let authority = Arc::new(Authority::parse(&root, &key)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (phase, counts) = (watch::Sender::new(Phase::Away), Arc::new(Counts::default()));
    let mut tasks = JoinSet::new();
    for number in 0..world.clients {
        let (address, authority) = (address.as_str().into(), authority.clone());
        let (phase, counts) = (phase.subscribe(), counts.clone());
        tasks.spawn_on(Client { number, world, address, authority, phase, counts }.run(), runtime.handle());
    }
    while counts.prepared.load(Ordering::Relaxed) < world.clients as u64 && tasks.try_join_next().is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    fleet::connect(&mut server, &phase)?;
    let here = watch::Sender::new(false);
    for number in 0..world.hostile {
        let id = crds::labels::spiffe_id("cluster.local", world::NAMESPACE, &world::hostile_account(number));
        let (tls, address) = (client::tls(&authority, &id)?, Arc::<str>::from(address.as_str()));
        runtime.spawn(comes_back(number, tls, address, here.subscribe()));
    }
    let mut sides = [Side::default(), Side::default()];
    for turn in 0..2 * TURNS {
        // Neither side is always the first.
        let with = turn % 4 == 1 || turn % 4 == 2;
        here.send_replace(with);
        for (kind, word) in ["endpoints", "policy"].into_iter().enumerate() {
            server.rounds(word, WARM_UP)?;
            sides[usize::from(with)].turns[kind].push(server.rounds(word, rounds.div_ceil(TURNS))?);
        }
    }
    runtime.shutdown_background();
    let [without, with] = sides;
    Ok(table::hostile(world, &without, &with))
}

/// The fleet's rounds without them, or with them: of endpoints and of a policy, turn by turn.
#[derive(Default)]
pub struct Side {
    pub turns: [Vec<Rounds>; 2],
}

impl Side {
    /// All turns of a kind together.
    pub fn all(&self, kind: usize) -> Rounds {
        let mut all = Rounds::default();
        for turn in &self.turns[kind] {
            all.times.extend(&turn.times);
        }
        all.times.sort_unstable();
        all
    }
}

/// A hostile sidecar: as long as it may be here, it comes back at once whenever it is turned away or its stream ends.
async fn comes_back(
    number: usize,
    tls: Arc<rustls::ClientConfig>,
    address: Arc<str>,
    mut here: watch::Receiver<bool>,
) {
    while here.wait_for(|here| *here).await.is_ok() {
        let mut goes = here.clone();
        tokio::select! {
            _ = live(number, tls.clone(), address.clone()) => {}
            () = async { drop(goes.wait_for(|here| !here).await) } => {}
        }
        tokio::task::yield_now().await;
    }
}

/// One stream of a hostile sidecar.
async fn live(number: usize, tls: Arc<rustls::ClientConfig>, address: Arc<str>) -> anyhow::Result<()> {
    let malice = Malice::of(number);
    let channel = client::connect(tls, address).await?;
    let (out, requests) = mpsc::channel(64);
    let node = client::node(&world::hostile_pod(number), &world::hostile_account(number));
    for (at, kind) in ResourceType::ALL.into_iter().enumerate() {
        let names = if kind.wildcard() { Vec::new() } else { (0..3).map(world::resource).collect() };
        let request = DeltaRequest {
            node: (at == 0).then(|| node.clone()),
            resource_names_subscribe: names,
            ..of(kind)
        };
        out.send(request).await?;
    }
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let codec = ProstCodec::<DeltaRequest, DeltaResponse>::default();
    let stream = tonic::Request::new(ReceiverStream::new(requests));
    let path = http::uri::PathAndQuery::from_static(client::PATH);
    let mut responses = grpc.streaming(stream, path, codec).await?.into_inner();
    let flood = (malice == Malice::Floods).then(|| tokio::spawn(flood(out.clone())));
    while let Some(response) = responses.message().await? {
        match malice {
            Malice::Loops => break,
            Malice::Floods | Malice::Silent => {}
            Malice::Refuses => {
                let refusal = DeltaRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    error_detail: Some(Status { code: 13, message: "no".repeat(10_000) }),
                    ..DeltaRequest::default()
                };
                out.send(refusal).await?;
            }
        }
    }
    if let Some(flood) = flood {
        flood.abort();
    }
    Ok(())
}

async fn flood(out: mpsc::Sender<DeltaRequest>) -> anyhow::Result<()> {
    let names = || (0..FLOOD).map(|number| format!("out|{}|unknown-{number}|80", world::NAMESPACE)).collect();
    loop {
        out.send(DeltaRequest { resource_names_subscribe: names(), ..of(ResourceType::Route) }).await?;
        out.send(DeltaRequest { resource_names_unsubscribe: names(), ..of(ResourceType::Route) }).await?;
    }
}

fn of(kind: ResourceType) -> DeltaRequest {
    DeltaRequest { type_url: kind.type_url().to_owned(), ..DeltaRequest::default() }
}
