//! One kind, from the API server to the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use kube::api::ObjectMeta;
use kube::core::{DeserializeGuard, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use mesh::{Kind, Object, ObjectRef, Problem, Reason};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::Syncing;
use super::current::Seen;
use super::pulse::{HEARTBEAT, Pulse};
use crate::snapshots::{Input, Snapshots};

/// Watches one kind.
pub struct Feed {
    pub(super) kind: Kind,
    pub(super) snapshots: Snapshots,
    pub(super) syncing: Syncing,
    /// Where versions are noted, of kinds that decide who may do what.
    pub(super) seen: Option<Seen>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) stop: CancellationToken,
}

/// What the API server sent, decoded as far as it goes.
pub trait Decoded: Send + 'static {
    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;
    /// The object.
    ///
    /// # Errors
    /// Why it cannot be decoded.
    fn object(self) -> Result<Object, String>;
}

impl<K> Decoded for DeserializeGuard<K>
where
    K: Resource<DynamicType = ()> + Into<Object> + Send + 'static,
{
    fn metadata(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(invalid) => &invalid.metadata,
        }
    }

    fn object(self) -> Result<Object, String> {
        self.0.map(Into::into).map_err(|invalid| invalid.error)
    }
}

/// A v1beta1 EndpointSlice: field by field what v1 has, but for `topology`, which v1 calls `deprecatedTopology` and
/// which is not read.
impl Decoded for DynamicObject {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn object(self) -> Result<Object, String> {
        let mut data = self.data;
        let Some(fields) = data.as_object_mut() else { return Err("not an object".to_owned()) };
        fields.insert("apiVersion".to_owned(), "discovery.k8s.io/v1".into());
        fields.insert("kind".to_owned(), "EndpointSlice".into());
        let metadata = serde_json::to_value(&self.metadata).map_err(|error| error.to_string())?;
        fields.insert("metadata".to_owned(), metadata);
        let slice: k8s_openapi::api::discovery::v1::EndpointSlice =
            serde_json::from_value(data).map_err(|error| error.to_string())?;
        Ok(slice.into())
    }
}

/// Namespace and name.
type Key = (String, String);

/// What is known of a kind, so that a relist can be applied as a difference.
#[derive(Default)]
pub(super) struct Known {
    present: BTreeSet<Key>,
    listed: BTreeSet<Key>,
}

/// What an event means.
#[derive(Default)]
pub(super) struct Meaning {
    /// Changes of the mesh.
    pub(super) inputs: Vec<Input>,
    /// Versions that are known then; `None`: it is gone.
    pub(super) versions: BTreeMap<Key, Option<String>>,
    /// Whether a list is complete.
    pub(super) complete: bool,
}

impl Known {
    /// Turns an event into what it means.
    pub(super) fn event<D: Decoded>(&mut self, kind: Kind, event: Event<D>) -> Meaning {
        match event {
            Event::Init => {
                self.listed.clear();
                Meaning::default()
            }
            Event::InitApply(object) => {
                self.listed.insert(key(&object));
                self.apply(kind, object)
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let before = std::mem::replace(&mut self.present, listed);
                let gone = before.difference(&self.present).cloned().collect();
                Meaning { complete: true, ..Meaning::gone(kind, gone) }
            }
            Event::Apply(object) => self.apply(kind, object),
            Event::Delete(object) => {
                let key = key(&object);
                self.present.remove(&key);
                Meaning::gone(kind, BTreeSet::from([key]))
            }
        }
    }

    fn apply<D: Decoded>(&mut self, kind: Kind, object: D) -> Meaning {
        let key = key(&object);
        let reference = ObjectRef::new(kind, &key.0, &key.1);
        self.present.insert(key.clone());
        let versions = BTreeMap::from([(key, object.metadata().resource_version.clone())]);
        let input = match object.object() {
            Ok(object) => Input::Apply(Box::new(object)),
            Err(error) => {
                let message =
                    format!("it cannot be read as a {kind} ({error}); what was in force before stays");
                Input::Undecodable(Problem::new(&reference, "", Reason::Incomplete, message))
            }
        };
        Meaning { inputs: vec![input], versions, complete: false }
    }
}

impl Meaning {
    fn gone(kind: Kind, keys: BTreeSet<Key>) -> Self {
        let delete = |(space, name): &Key| Input::Delete(ObjectRef::new(kind, space, name));
        let inputs = keys.iter().map(delete).collect();
        Self { inputs, versions: keys.into_iter().map(|key| (key, None)).collect(), complete: false }
    }
}

fn key(object: &impl Decoded) -> (String, String) {
    let metadata = object.metadata();
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

impl Feed {
    /// Watches a kind that has a type.
    pub async fn run<K>(self, api: Api<K>)
    where
        K: Resource<DynamicType = ()> + Into<Object> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        // The same resource; only what cannot be decoded is kept apart.
        let guarded: Api<DeserializeGuard<K>> = Api::all(api.into_client());
        self.watch(guarded).await;
    }

    pub(super) async fn watch<D>(self, api: Api<D>)
    where
        D: Decoded + Resource + Clone + Debug + DeserializeOwned,
    {
        let mut known = Known::default();
        let config = watcher::Config::default().timeout(HEARTBEAT);
        let mut events = watcher::watcher(api, config).default_backoff().boxed();
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Ok(event)) => {
                    let Meaning { inputs, versions, complete } = known.event(self.kind, event);
                    for input in inputs {
                        self.snapshots.send(input).await;
                    }
                    // Not before they are queued: who finds them noted counts on that.
                    for (key, version) in versions.into_iter().filter(|_| self.seen.is_some()) {
                        self.seen
                            .iter()
                            .for_each(|seen| seen.note(self.kind.as_str(), key.clone(), version.clone()));
                    }
                    if complete {
                        self.pulse.beat();
                        self.syncing.done(self.kind.as_str()).await;
                    }
                }
                Some(Err(error)) => self.failed(&error),
            }
        }
    }

    fn failed(&self, error: &watcher::Error) {
        if not_served(error) {
            let why = "the cluster does not serve this kind: install its CRD";
            tracing::warn!(kind = self.kind.as_str(), why, "trying again");
            self.syncing.held_up(self.kind.as_str(), why);
        } else {
            let error = runtime::logging::chain(error);
            tracing::warn!(kind = self.kind.as_str(), error, "the watch failed; trying again");
        }
    }
}

/// Whether the API server says that there is no such resource at all.
pub(super) fn not_served(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status)) | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 404
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    fn service(name: &str) -> DeserializeGuard<Service> {
        let json = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "n"}});
        serde_json::from_value(json).unwrap()
    }

    fn shown(inputs: &[Input]) -> Vec<String> {
        let show = |input: &Input| match input {
            Input::Apply(object) => format!("+{}", object.reference().name),
            Input::Delete(reference) => format!("-{}", reference.name),
            Input::Undecodable(problem) => format!("?{}", problem.object.name),
            _ => "other".to_owned(),
        };
        inputs.iter().map(show).collect()
    }

    #[test]
    fn a_relist_is_a_difference_and_deletes_only_when_it_is_complete() {
        let mut known = Known::default();
        let mut take = |event| {
            let meaning = known.event(Kind::Service, event);
            (shown(&meaning.inputs), meaning.complete)
        };
        take(Event::Init);
        assert_eq!(take(Event::InitApply(service("a"))).0, ["+a"]);
        assert_eq!(take(Event::InitApply(service("b"))).0, ["+b"]);
        assert_eq!(take(Event::InitDone), (vec![], true));
        assert_eq!(take(Event::Apply(service("c"))).0, ["+c"]);
        assert_eq!(take(Event::Delete(service("a"))).0, ["-a"]);
        // The watch broke; the list begins, breaks off, begins again.
        assert_eq!(take(Event::Init).0, Vec::<String>::new());
        assert_eq!(take(Event::InitApply(service("b"))).0, ["+b"]);
        assert_eq!(take(Event::Init).0, Vec::<String>::new());
        assert_eq!(take(Event::InitApply(service("d"))).0, ["+d"]);
        let (mut gone, complete) = take(Event::InitDone);
        gone.sort();
        assert_eq!((gone, complete), (vec!["-b".to_owned(), "-c".to_owned()], true));
    }

    #[test]
    fn an_undecodable_object_is_a_problem_of_its_own() {
        let bad =
            serde_json::json!({"metadata": {"name": "bad", "namespace": "n"}, "spec": {"ports": "many"}});
        let bad: DeserializeGuard<Service> = serde_json::from_value(bad).unwrap();
        let meaning = Known::default().event(Kind::Service, Event::Apply(bad));
        assert_eq!(shown(&meaning.inputs), ["?bad"]);
    }

    #[test]
    fn an_older_slice_is_read_as_the_newer() {
        let json = serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "s", "namespace": "n", "labels": {"kubernetes.io/service-name": "svc"}},
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true},
                           "topology": {"kubernetes.io/hostname": "node"}}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        let object: DynamicObject = serde_json::from_value(json).unwrap();
        let Ok(Object::EndpointSlice(slice)) = object.object() else { panic!("not a slice") };
        assert_eq!(slice.endpoints[0].addresses, ["10.0.0.1"]);
        assert_eq!(slice.metadata.labels.unwrap()["kubernetes.io/service-name"], "svc");
    }
}
