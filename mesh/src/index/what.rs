//! What a change of objects changes.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::object::ObjectRef;

/// What a call changed.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Nothing that any sidecar or problem depends on.
    Nothing,
    /// These things.
    Something(BTreeSet<What>),
}

impl Changed {
    pub(super) fn from(what: BTreeSet<What>) -> Self {
        if what.is_empty() { Self::Nothing } else { Self::Something(what) }
    }
}

/// Something that changed.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// The settings: everything may be different.
    Settings,
    /// Whether a namespace is ours: everything in it and of its callers may be different.
    Namespace(String),
    /// A pod: its audience may be another.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A service: its ports, addresses or the pods behind it, and so the audiences of those.
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
    /// A policy that is or was in force.
    Policy(ObjectRef),
    /// Only what [`super::Mesh::problems`] says.
    Problems,
}
