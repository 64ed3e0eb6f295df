//! A call and the answer, as values.

use std::collections::BTreeMap;
use std::net::IpAddr;

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
    /// Somebody without a sidecar, as IngressBackends speak of.
    Outside(Stranger),
}

/// Somebody without a sidecar.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Stranger {
    /// Where the call comes from.
    pub address: IpAddr,
    /// How it is encrypted, if so.
    pub tls: Option<StrangerTls>,
}

/// TLS of somebody without a sidecar.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct StrangerTls {
    /// The name in the certificate of the mesh that is shown: its URI, else its DNS name.
    pub name: Option<String>,
    /// The name that is asked for (SNI).
    pub server_name: Option<String>,
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
    /// Something outside the mesh.
    Outside {
        /// Its name.
        host: Option<String>,
        /// The address that is dialled.
        address: Option<IpAddr>,
        /// Its port.
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
    /// A connection that is encrypted by the application.
    Tls {
        /// The name that is asked for (SNI).
        server_name: Option<String>,
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
    /// These objects, each of which is enough.
    Policies(Vec<ObjectRef>),
    /// Authorization is `AllowAll` there.
    AllowAll,
    /// Authorization is `Audit` there: it goes through, though nothing grants it.
    Audited,
    /// It leaves the mesh, and egress is `Allow`.
    EgressAllowed,
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
    /// It is only another name for something else: whether that may be called is a question about that.
    ExternalName,
    /// HTTP is spoken there: a connection that does not begin with a request is turned away.
    OnlyRequests,
    /// No service leads to that port of the pod.
    NoSuchPort,
    /// Plaintext callers are not accepted there.
    PlaintextRefused,
    /// No TrafficTarget grants it to the caller. The ones that name both sides, but not this request, are listed.
    NotGranted {
        /// TrafficTargets from this caller to this callee that do not fit the request.
        near: Vec<ObjectRef>,
    },
    /// It leaves the mesh, and no Egress opens it to the caller. The ones that open the host, but not this, are listed.
    NoEgress {
        /// Egresses of this caller that do not fit the call.
        near: Vec<ObjectRef>,
    },
    /// It enters the mesh, and no IngressBackend opens the port to the caller. The ones for the port are listed.
    NoIngress {
        /// IngressBackends of the port that do not fit the call.
        near: Vec<ObjectRef>,
    },
    /// The service has no pod that could answer.
    NoEndpoints,
}
