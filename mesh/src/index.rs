//! The index: all parts, synchronous and without IO.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::audience::{Audience, NotOurs, PodFacts};
use crate::object::{Object, ObjectRef};
use crate::problem::Problem;
use crate::settings::Settings;

/// All that is known of a mesh.
#[derive(Debug, Clone)]
pub struct Mesh {
    settings: Settings,
}

/// What a call changed.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Nothing that any sidecar or problem depends on.
    Nothing,
    /// These things.
    Something(BTreeSet<What>),
}

/// Something that changed.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// The settings: everything may be different.
    Settings,
    /// Whether a namespace is ours: everything in it and of its callers may be different.
    Namespace(String),
    /// A pod (its audience, and the services that select it).
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A service: ports, addresses or who is behind it.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Only which endpoints of a service take calls.
    Endpoints {
        /// Namespace of the service.
        namespace: String,
        /// Name of the service.
        service: String,
    },
    /// The policies in force in a namespace.
    Policies(String),
    /// Only what [`Mesh::problems`] says.
    Problems,
}

impl Mesh {
    /// An empty mesh.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes the settings of an edited MeshConfig.
    pub fn set_settings(&mut self, settings: Settings) -> Changed {
        if self.settings == settings {
            return Changed::Nothing;
        }
        self.settings = settings;
        Changed::Something(BTreeSet::from([What::Settings]))
    }

    /// Takes a new or changed object. A bad one is a problem and counts as absent.
    pub fn apply(&mut self, object: Object) -> Changed {
        let _ = object;
        Changed::Nothing
    }

    /// Forgets an object.
    pub fn delete(&mut self, reference: &ObjectRef) -> Changed {
        let _ = reference;
        Changed::Nothing
    }

    /// To be called once, when every object that existed at the start has been applied: a source whose sealed
    /// commit is not complete by then counts with the objects that do have the sealed content (a restart must not
    /// turn one hand-edited object into the loss of all of them). Later sets are swapped only when complete.
    pub fn synced(&mut self) -> Changed {
        Changed::Nothing
    }

    /// Everything wrong with objects that people wrote, sorted. References are checked at the time of asking.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The audience that a pod belongs to.
    ///
    /// # Errors
    /// Why it gets no configuration.
    pub fn audience(&self, namespace: &str, pod: &str) -> Result<Audience, NotOurs> {
        let _ = (namespace, pod);
        Err(NotOurs::UnknownPod)
    }

    /// What is known of a pod, ours or not.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<PodFacts> {
        let _ = (namespace, name);
        None
    }

    /// Namespace and name of every pod that is ours.
    pub fn pods(&self) -> impl Iterator<Item = (&str, &str)> {
        std::iter::empty()
    }
}
