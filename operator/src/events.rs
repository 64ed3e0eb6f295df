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
const CONTROLLER: &str = crds::labels::OPERATOR;

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weight {
    /// Something happened as wanted.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Whether an Event was written just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It was.
    Now,
    /// It was said not long ago.
    Before,
    /// It could not be written; it is tried again when it is told again.
    Failed,
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
        // What failed is in the log.
        let _ = self.say(object, weight, reason, action, note).await;
    }

    /// Like [`Events::tell_about`], and says what came of it.
    pub async fn say(
        &self,
        object: &ObjectReference,
        weight: Weight,
        reason: &str,
        action: &str,
        note: &str,
    ) -> Told {
        if self.is_known(object, reason, note) {
            return Told::Before;
        }
        let event = self.event(object, weight, reason, action, note, Timestamp::now());
        match self.publish(&event).await {
            // Only what was written is not said again: what failed is tried by the next pass.
            Ok(()) => {
                self.said(object, reason, note);
                Told::Now
            }
            Err(error) => {
                let error = runtime::logging::chain(&error);
                tracing::warn!(reason, object = object.name, error, "an event could not be written");
                Told::Failed
            }
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

    /// Whether the same was said about the object not long ago.
    pub fn is_known(&self, object: &ObjectReference, reason: &str, note: &str) -> bool {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        said.retain(|_, when| now.duration_since(*when) < SILENCE);
        said.contains_key(&words(object, reason, note))
    }

    /// Remembers that it was said.
    pub fn said(&self, object: &ObjectReference, reason: &str, note: &str) {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        said.insert(words(object, reason, note), Instant::now());
    }
}

/// What makes an Event the same as another.
fn words(object: &ObjectReference, reason: &str, note: &str) -> (String, String, String) {
    let id = format!(
        "{}/{}/{}/{}",
        object.kind.as_deref().unwrap_or_default(),
        object.namespace.as_deref().unwrap_or_default(),
        object.name.as_deref().unwrap_or_default(),
        object.uid.as_deref().unwrap_or_default()
    );
    (id, reason.to_owned(), note.to_owned())
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
        events.said(&object(Some("x")), "Bad", "a");
        assert!(events.is_known(&object(Some("x")), "Bad", "a"));
        assert!(!events.is_known(&object(Some("y")), "Bad", "a"));
        assert!(!events.is_known(&object(Some("x")), "Bad", "b"));
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_said_again() {
        let events = events();
        for _ in 0..2 {
            let told = events.say(&object(Some("x")), Weight::Warning, "Bad", "Reconcile", "a").await;
            assert_eq!(told, Told::Failed, "nobody has heard it yet");
        }
    }
}
