//! What the injector decides about a pod, as values that can be printed, compared and counted.

use std::fmt;

use json_patch::Patch;

/// The decision about one pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The pod becomes part of the mesh; the patch adds the sidecar.
    Inject(Patch),
    /// The pod stays as it is; the patch at most writes the reason into an annotation of the pod.
    Skip(Reason, Patch),
    /// The pod must not be created like this.
    Deny(Problem),
}

impl Decision {
    /// Short name for metrics: `injected`, or the name of the reason.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Inject(_) => "Injected",
            Self::Skip(reason, _) => reason.name(),
            Self::Deny(problem) => problem.reason.name(),
        }
    }
}

/// Why a pod gets no sidecar. The names are part of the API: users see them in `meshwright.io/injection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The namespace does not belong to this mesh.
    NamespaceNotWatched,
    /// The control plane does not run behind itself.
    ControlPlaneNamespace,
    /// The pod shares the node's network; redirecting it would redirect the node.
    HostNetwork,
    /// `meshwright.io/inject: "false"` on the pod.
    OptedOut,
    /// The pod carries a sidecar of this mesh already.
    AlreadyInjected,
    /// The pod or its namespace is being deleted.
    Terminating,
    /// A static pod's mirror: what the kubelet runs cannot be changed through the API.
    MirrorPod,
    /// The pod asks for Windows; traffic redirection is Linux only.
    Windows,
}

impl Reason {
    /// Every reason, for metrics that start at zero and for documentation.
    pub const ALL: [Self; 8] = [
        Self::NamespaceNotWatched,
        Self::ControlPlaneNamespace,
        Self::HostNetwork,
        Self::OptedOut,
        Self::AlreadyInjected,
        Self::Terminating,
        Self::MirrorPod,
        Self::Windows,
    ];

    /// The name, in the CamelCase of Kubernetes' reasons.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NamespaceNotWatched => "NamespaceNotWatched",
            Self::ControlPlaneNamespace => "ControlPlaneNamespace",
            Self::HostNetwork => "HostNetwork",
            Self::OptedOut => "OptedOut",
            Self::AlreadyInjected => "AlreadyInjected",
            Self::Terminating => "Terminating",
            Self::MirrorPod => "MirrorPod",
            Self::Windows => "Windows",
        }
    }

    /// One sentence for a person: what it means and what changes it.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::NamespaceNotWatched => {
                concat!(
                    "the namespace is not part of the mesh; label it ",
                    crds::labels::in_domain!("mesh"),
                    "=<mesh> or name it in the MeshConfig's watchedNamespaces"
                )
            }
            Self::ControlPlaneNamespace => "the mesh's own control plane runs in this namespace",
            Self::HostNetwork => {
                "the pod uses the node's network (spec.hostNetwork), which cannot be redirected"
            }
            Self::OptedOut => concat!(
                "the pod says ",
                crds::labels::in_domain!("inject"),
                ": \"false\"; remove it to join the mesh"
            ),
            Self::AlreadyInjected => "the pod has its sidecar already",
            Self::Terminating => "the pod or its namespace is being deleted",
            Self::MirrorPod => "the pod mirrors a static pod of a node, which the API cannot change",
            Self::Windows => "the pod asks for Windows; sidecars run on Linux only",
        }
    }

    /// Whether the reason is written onto the pod: only where somebody may wonder about a pod of the mesh.
    #[must_use]
    pub fn is_annotated(self) -> bool {
        match self {
            Self::HostNetwork | Self::OptedOut | Self::Windows => true,
            Self::NamespaceNotWatched
            | Self::ControlPlaneNamespace
            | Self::AlreadyInjected
            | Self::Terminating
            | Self::MirrorPod => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a pod may not be created as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DenyReason {
    /// An annotation or label of ours does not parse.
    InvalidOverride,
    /// A container or volume has a name that the sidecar needs.
    NameCollision,
    /// A container listens on a port that the sidecar needs.
    PortCollision,
    /// A container runs with the sidecar's group, so that its traffic would not be redirected.
    GroupCollision,
    /// A probe cannot be answered through the sidecar.
    UnsupportedProbe,
    /// The pod carries the sidecar of another mesh.
    OtherMesh,
    /// The request or object cannot be read.
    Unreadable,
}

impl DenyReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::InvalidOverride,
        Self::NameCollision,
        Self::PortCollision,
        Self::GroupCollision,
        Self::UnsupportedProbe,
        Self::OtherMesh,
        Self::Unreadable,
    ];

    /// The name, in the CamelCase of Kubernetes' reasons.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidOverride => "InvalidOverride",
            Self::NameCollision => "NameCollision",
            Self::PortCollision => "PortCollision",
            Self::GroupCollision => "GroupCollision",
            Self::UnsupportedProbe => "UnsupportedProbe",
            Self::OtherMesh => "OtherMesh",
            Self::Unreadable => "Unreadable",
        }
    }
}

/// A refusal: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.name())]
pub struct Problem {
    /// Which kind of problem.
    pub reason: DenyReason,
    /// For the person who applied the object.
    pub message: String,
}

impl Problem {
    /// A problem with its message.
    pub fn new(reason: DenyReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}
