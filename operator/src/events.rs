//! Events: what a person would want to have been told, once.
//!
//! Written as core `v1` Events without an event time: Kubernetes before 1.22 refuses newer ones about objects that
//! are in no namespace anywhere but in `kube-system`. The same words about the same object are one Event and are not
//! repeated within ten minutes, so that a reconcile may say what it sees each time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};

/// The same words are not said again for so long.
const SILENCE: Duration = Duration::from_secs(600);
/// Nobody reads more; in characters.
const LONGEST_NOTE: usize = 1000;
/// Leaves room for the hash in an object's name.
const LONGEST_NAME: usize = 200;
/// Who says it.
const CONTROLLER: &str = "meshwright-operator";

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weight {
    /// Something happened as wanted.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Writes Events. Failing to write one is logged and never fails a reconcile.
pub struct Events {
    client: Client,
    instance: String,
    said: Mutex<HashMap<(String, String, String), Instant>>,
}

impl Events {
    /// `instance` is the operator's pod.
    #[must_use]
    pub fn new(client: Client, instance: Option<String>) -> Self {
        Self { client, instance: instance.unwrap_or_else(|| CONTROLLER.to_owned()), said: Mutex::default() }
    }

    /// Tells about an object. `reason` is CamelCase, `action` what was being done, as in `Reconcile`.
    pub async fn tell<K>(&self, object: &K, weight: Weight, reason: &str, action: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        self.tell_about(&object.object_ref(&()), weight, reason, action, note).await;
    }

    /// Like [`Events::tell`], for an object that is known by reference only.
    pub async fn tell_about(
        &self,
        object: &ObjectReference,
        weight: Weight,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        if !self.is_news(object, reason, note) {
            return;
        }
        let event = self.event(object, weight, reason, action, note, Timestamp::now());
        if let Err(error) = self.publish(&event).await {
            let error = runtime::logging::chain(&error);
            tracing::warn!(reason, object = object.name, error, "an event could not be written");
        }
    }

    fn event(
        &self,
        object: &ObjectReference,
        weight: Weight,
        reason: &str,
        action: &str,
        note: &str,
        now: Timestamp,
    ) -> Event {
        let name: String = object.name.as_deref().unwrap_or("mesh").chars().take(LONGEST_NAME).collect();
        let words = serde_json::json!([object.kind, object.uid, reason, note]);
        let hash = crds::seal::content_hash(&words).unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{}", hash.get(..16).unwrap_or("0"))),
                // Where `kubectl describe` and `kubectl get events` expect those of objects in no namespace.
                namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..Default::default()
            },
            involved_object: object.clone(),
            type_: Some(format!("{weight:?}")),
            reason: Some(reason.to_owned()),
            action: Some(action.to_owned()),
            message: Some(note.chars().take(LONGEST_NOTE).collect()),
            source: Some(EventSource { component: Some(CONTROLLER.to_owned()), host: None }),
            reporting_component: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Default::default()
        }
    }

    /// Creates the Event, or says that it was true again.
    async fn publish(&self, event: &Event) -> Result<(), kube::Error> {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Event> =
            Api::namespaced(self.client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
        match api.create(&PostParams::default(), event).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let again = serde_json::json!({"lastTimestamp": event.last_timestamp});
                api.patch(name, &PatchParams::default(), &Patch::Merge(again)).await.map(|_| ())
            }
            result => result.map(|_| ()),
        }
    }

    fn is_news(&self, object: &ObjectReference, reason: &str, note: &str) -> bool {
        let id = format!(
            "{}/{}/{}/{}",
            object.kind.as_deref().unwrap_or_default(),
            object.namespace.as_deref().unwrap_or_default(),
            object.name.as_deref().unwrap_or_default(),
            object.uid.as_deref().unwrap_or_default()
        );
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        said.retain(|_, when| now.duration_since(*when) < SILENCE);
        said.insert((id, reason.to_owned(), note.to_owned()), now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that is never used.
    fn events() -> Events {
        runtime::install_default();
        let config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
        Events::new(Client::try_from(config).unwrap(), None)
    }

    fn object(namespace: Option<&str>) -> ObjectReference {
        ObjectReference {
            name: Some("m".into()),
            namespace: namespace.map(str::to_owned),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn the_same_words_are_one_event_and_are_said_once() {
        let events = events();
        let event = |note: &str| {
            let now = Timestamp::from_second(5).unwrap();
            events.event(&object(None), Weight::Warning, "Bad", "Reconcile", note, now)
        };
        assert_eq!(event("a").metadata.name, event("a").metadata.name);
        assert_ne!(event("a").metadata.name, event("b").metadata.name);
        assert_eq!(event("a").metadata.namespace.as_deref(), Some("default"));
        assert_eq!((event("a").type_.as_deref(), event("a").event_time), (Some("Warning"), None));
        assert!(events.is_news(&object(Some("x")), "Bad", "a"));
        assert!(!events.is_news(&object(Some("x")), "Bad", "a"));
        assert!(events.is_news(&object(Some("y")), "Bad", "a"));
    }
}
