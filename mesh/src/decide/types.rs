//! A call and the answer, as values.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::audience::NotOurs;
use crate::ingest::ServiceAccount;
use crate::object::ObjectRef;

/// One call.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Who calls.
    pub from: Caller,
    /// Who is called.
    pub to: Callee,
    /// What is asked for.
    pub request: Request,
}

/// Who calls.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A pod with a sidecar.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Anything with this identity.
    ServiceAccount(ServiceAccount),
    /// Somebody without an identity of the mesh.
    Plaintext,
}

/// Who is called.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Callee {
    /// A pod, at a port of its containers.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Port of the pod.
        port: u16,
    },
    /// A service: every pod that takes its calls (after TrafficSplits) must allow it.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Port of the service.
        port: u16,
    },
}

/// What is asked for.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// An HTTP request.
    Http {
        /// Method, as in `GET`.
        method: String,
        /// Path, with or without the query.
        path: String,
        /// Headers; names in any case.
        headers: BTreeMap<String, String>,
    },
    /// A connection.
    Tcp,
}

/// The answer, and why.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes through.
    Allowed(Because),
    /// It does not.
    Denied(Denial),
}

/// Why a call goes through.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// These TrafficTargets, each of which is enough.
    Policies(Vec<ObjectRef>),
    /// Authorization is `AllowAll` there.
    AllowAll,
    /// Authorization is `Audit` there: it goes through, though nothing grants it.
    Audited,
}

/// Why a call does not go through.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The caller has no sidecar of this mesh.
    CallerNotOurs(NotOurs),
    /// The callee has no sidecar of this mesh; sidecars call only what has one unless egress is allowed.
    CalleeNotOurs(NotOurs),
    /// No such service, or no such port on it.
    NoSuchService,
    /// No service leads to that port of the pod.
    NoSuchPort,
    /// Plaintext callers are not accepted there.
    PlaintextRefused,
    /// No TrafficTarget grants it to the caller. The ones that name both sides, but not this request, are listed.
    NotGranted {
        /// TrafficTargets from this caller to this callee that do not fit the request.
        near: Vec<ObjectRef>,
    },
    /// The service has no pod that could answer.
    NoEndpoints,
}
