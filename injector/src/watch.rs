//! What the webhooks need to know of the cluster, kept in memory: the MeshConfig and the mesh's namespaces.
//!
//! Last good wins (DESIGN rule 1): a MeshConfig that is deleted or cannot be used leaves the settings as they were, also
//! when this process is a new one ([`injector::config`]).

use std::sync::Arc;
use std::time::Duration;

use crds::{MeshConfig, labels};
use futures::{Stream, StreamExt};
use injector::config::{self, Taken};
use injector::{NamespaceMeta, Settings};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher::Config};
use kube::{Api, Client, ResourceExt};
use runtime::admin::Readiness;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The API server waits for us; a namespace that cannot be read by then is assumed to be watched.
const LOOKUP: Duration = Duration::from_secs(2);
const MESH_CONFIG: &str = "mesh-config";
const NAMESPACES: &str = "namespaces";

/// What the webhooks know.
#[derive(Clone)]
pub struct Facts {
    settings: watch::Receiver<Arc<Settings>>,
    namespaces: Store<Namespace>,
    api: Api<Namespace>,
}

/// Starts to watch; returns at once.
pub fn start(client: Client, settings: Settings, readiness: &Readiness, stop: &CancellationToken) -> Facts {
    readiness.not_ready(MESH_CONFIG, format!("MeshConfig {} not seen yet", settings.mesh));
    readiness.not_ready(NAMESPACES, "not listed yet");
    let api: Api<Namespace> = Api::all(client.clone());
    let (store, writer) = reflector::store();
    let selector = Config::default().labels(&format!("{}={}", labels::MESH, settings.mesh));
    let namespaces = watcher(api.clone(), selector).default_backoff().reflect(writer);
    spawn(stop, follow_namespaces(namespaces, readiness.clone()));

    let (sender, receiver) = watch::channel(Arc::new(settings.clone()));
    let by_name = Config::default().fields(&format!("metadata.name={}", settings.mesh));
    let kind = ApiResource::erase::<MeshConfig>(&());
    let configs = watcher(Api::<DynamicObject>::all_with(client, &kind), by_name).default_backoff();
    spawn(stop, follow_config(configs, settings, sender, readiness.clone()));
    Facts { settings: receiver, namespaces: store, api }
}

fn spawn(stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
}

async fn follow_namespaces(
    events: impl Stream<Item = Result<Event<Namespace>, watcher::Error>>,
    readiness: Readiness,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitDone) => readiness.ready(NAMESPACES),
            Ok(_) => {}
            Err(error) => tracing::warn!(error = runtime::logging::chain(&error), "watching namespaces"),
        }
    }
}

async fn follow_config(
    events: impl Stream<Item = Result<Event<DynamicObject>, watcher::Error>>,
    base: Settings,
    sender: watch::Sender<Arc<Settings>>,
    readiness: Readiness,
) {
    let mut events = std::pin::pin!(events);
    let mut known = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(config) | Event::InitApply(config)) => {
                let taken = config::take(&base, known, &config);
                known = obey(taken, &config.name_any(), known, &sender, &readiness);
            }
            Ok(Event::Delete(config)) => {
                tracing::warn!(mesh = config.name_any(), "MeshConfig is gone, keeping its last settings");
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => tracing::warn!(error = runtime::logging::chain(&error), "watching MeshConfig"),
        }
    }
}

/// Puts settings into force; tells whether any are.
fn obey(
    taken: Taken,
    mesh: &str,
    known: bool,
    sender: &watch::Sender<Arc<Settings>>,
    readiness: &Readiness,
) -> bool {
    let settings = match taken {
        Taken::Spec(settings) => settings,
        Taken::LastGood(settings, bad) => {
            tracing::warn!(mesh, %bad, "MeshConfig cannot be used, taking the last good settings from its status");
            settings
        }
        Taken::Kept(bad) => {
            tracing::warn!(mesh, %bad, "MeshConfig cannot be used, keeping the last settings");
            return known;
        }
        Taken::Nothing(bad) => {
            tracing::warn!(mesh, %bad, "MeshConfig cannot be used, and no good settings are known");
            readiness.not_ready(MESH_CONFIG, format!("MeshConfig {mesh} cannot be used: {bad}"));
            return known;
        }
    };
    readiness.ready(MESH_CONFIG);
    publish(sender, settings);
    true
}

fn publish(sender: &watch::Sender<Arc<Settings>>, settings: Settings) {
    sender.send_if_modified(|current| {
        let changed = **current != settings;
        if changed {
            tracing::info!("the MeshConfig's settings are in use");
            *current = Arc::new(settings);
        }
        changed
    });
}

impl Facts {
    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// A namespace from memory, else from the API server, else assumed to be watched: the API server only asks
    /// about namespaces that carry the mesh's label, and a pod without sidecar is the worse mistake.
    pub async fn namespace(&self, name: &str) -> NamespaceMeta {
        if let Some(namespace) = self.namespaces.get(&ObjectRef::new(name)) {
            return NamespaceMeta::of(&namespace);
        }
        match tokio::time::timeout(LOOKUP, self.api.get_opt(name)).await {
            Ok(Ok(Some(namespace))) => NamespaceMeta::of(&namespace),
            _ => NamespaceMeta::assumed(name, &self.settings().mesh),
        }
    }

    /// For `/debug/state`, sorted.
    pub fn debug(&self) -> serde_json::Value {
        let settings = self.settings();
        let mut namespaces: Vec<_> =
            self.namespaces.state().iter().map(|namespace| namespace.name_any()).collect();
        namespaces.sort();
        serde_json::json!({
            "mesh": settings.mesh,
            "revision": settings.revision,
            "image": settings.image,
            "controller": settings.controller,
            "trustDomain": settings.trust_domain,
            "concurrency": settings.concurrency,
            "namespaces": namespaces,
        })
    }
}
