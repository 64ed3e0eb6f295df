//! Events: what a person would want to have been told, once.
//!
//! Written as `events.k8s.io/v1`, which every supported API server has (1.19 and later). The same words about the
//! same object are not repeated within ten minutes, so that a reconcile may say what it sees each time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use std::sync::Mutex;

/// The same words are not said again for so long.
const SILENCE: Duration = Duration::from_secs(600);
/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1000;

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
    recorder: Recorder,
    said: Mutex<HashMap<(String, String, String), Instant>>,
}

impl Events {
    /// `instance` is the operator's pod.
    #[must_use]
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: "meshwright.io/operator".to_owned(), instance };
        Self { recorder: Recorder::new(client, reporter), said: Mutex::default() }
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
        let note = if note.len() > LONGEST_NOTE {
            note.chars().take(LONGEST_NOTE / 4).chain(['…']).collect()
        } else {
            note.to_owned()
        };
        let event = Event {
            type_: match weight {
                Weight::Normal => EventType::Normal,
                Weight::Warning => EventType::Warning,
            },
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, object).await {
            let error = runtime::logging::chain(&error);
            tracing::warn!(reason, object = object.name, error, "an event could not be written");
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
