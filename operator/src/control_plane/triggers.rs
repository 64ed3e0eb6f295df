//! What makes a mesh be reconciled: any change of a child, a namespace, a pod, an upgrade or the fleet.
//!
//! Reconciles never learn why they run, so all triggers are one: "look again". Bursts are one look, at most every
//! [`PAUSE`]; there is no debouncing that a busy cluster could keep from ever firing.

use std::sync::Arc;
use std::time::Duration;

use crds::{MeshUpgrade, PolicySource, labels};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::facts::BudgetApi;

/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks, as a stream for `Controller::reconcile_all_on`.
pub fn looks(notify: Arc<Notify>) -> impl Stream<Item = ()> + Send + 'static {
    stream::unfold((notify, false), |(notify, again)| async move {
        if again {
            tokio::time::sleep(PAUSE).await;
        }
        notify.notified().await;
        Some(((), (notify, true)))
    })
}

/// Starts every watch; they end with `stop`.
pub fn watch(client: &Client, budgets: BudgetApi, notify: &Arc<Notify>, stop: &CancellationToken) {
    let ours = || watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let all = watcher::Config::default;
    let start = Start { client, notify, stop };
    start.kind::<Deployment>(ours());
    start.kind::<Service>(ours());
    start.kind::<ServiceAccount>(ours());
    start.kind::<RoleBinding>(ours());
    start.kind::<NetworkPolicy>(ours());
    start.kind::<ClusterRoleBinding>(ours());
    start.kind::<MutatingWebhookConfiguration>(ours());
    start.kind::<ValidatingWebhookConfiguration>(ours());
    // The controllers' own ConfigMap carries no label of ours; its copies do.
    let bundle = all().fields(&format!("metadata.name={}", labels::TRUST_BUNDLE));
    start.kind::<ConfigMap>(bundle);
    start.kind::<Namespace>(all());
    start.kind::<Pod>(all().labels(labels::REVISION));
    start.kind::<PolicySource>(all());
    start.kind::<MeshUpgrade>(all());
    let version = budgets.version().trim_start_matches("policy/");
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("policy", version, "PodDisruptionBudget"));
    start.stream(watcher(Api::<DynamicObject>::all_with(client.clone(), &resource), ours()));
}

struct Start<'a> {
    client: &'a Client,
    notify: &'a Arc<Notify>,
    stop: &'a CancellationToken,
}

impl Start<'_> {
    /// Watches metadata only: what changed is read anew anyway.
    fn kind<K>(&self, config: watcher::Config)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    {
        self.stream(watcher(Api::<PartialObjectMeta<K>>::all(self.client.clone()), config));
    }

    fn stream<T: Send + 'static>(
        &self,
        events: impl Stream<Item = watcher::Result<watcher::Event<T>>> + Send + 'static,
    ) {
        let (notify, stop) = (self.notify.clone(), self.stop.clone());
        tokio::spawn(async move {
            let mut events = std::pin::pin!(events.default_backoff());
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    None => return,
                    Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => {}
                    Some(Ok(_)) => notify.notify_one(),
                    Some(Err(error)) => tracing::debug!(error = runtime::logging::chain(&error), "watch"),
                }
            }
        });
    }
}
