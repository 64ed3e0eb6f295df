//! The table of policy kinds: what may come from Git, is sealed, and says who may call whom.
//!
//! A new kind is a line of the table and a line of [`with_policy_type!`]; whatever treats kinds apart matches on
//! [`PolicyKind`] without a wildcard, so that the compiler names it. Group and plural are those of the type. A kind is
//! only ours together with its group: anybody may define a `TrafficTarget` of their own.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::ApiResource;
use kube::{CustomResourceExt, Resource};
use serde::{Deserialize, Serialize};

use crate::policy_source::InventoryEntry;

macro_rules! table {
    ($($(#[$doc:meta])* $kind:ident: $versions:expr, $definition:path;)*) => {
        /// The kinds of policies.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum PolicyKind {
            $($(#[$doc])* $kind,)*
        }

        impl PolicyKind {
            /// All of them, in a fixed order.
            pub const ALL: [Self; [$(stringify!($kind)),*].len()] = [$(Self::$kind),*];

            /// The kind as Kubernetes writes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// The version in which it is applied, then others that are read and have the same fields.
            #[must_use]
            pub const fn versions(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &$versions,)* }
            }

            /// Its definition, as it is installed.
            #[must_use]
            pub fn definition(self) -> CustomResourceDefinition {
                match self { $(Self::$kind => $definition(),)* }
            }
        }
    };
}

table! {
    /// SMI access: who may call a service account.
    TrafficTarget: ["v1alpha3"], crate::TrafficTarget::crd;
    /// SMI specs: requests.
    HTTPRouteGroup: ["v1alpha4"], crate::HTTPRouteGroup::crd;
    /// SMI specs: ports.
    TCPRoute: ["v1alpha4"], crate::TCPRoute::crd;
    /// SMI split: shares of the calls of a service.
    TrafficSplit: ["v1alpha4", "v1alpha2"], crate::smi::traffic_split_crd;
    /// Ours: how strict a mesh is, somewhere in it.
    MeshPolicy: ["v1alpha1"], crate::MeshPolicy::crd;
    /// OSM policy: calls that leave the mesh.
    Egress: ["v1alpha1"], crate::Egress::crd;
    /// OSM policy: calls from outside of the mesh.
    IngressBackend: ["v1alpha1"], crate::IngressBackend::crd;
    /// OSM policy: calls that are tried again.
    Retry: ["v1alpha1"], crate::Retry::crd;
    /// OSM policy: limits and timeouts of a service.
    UpstreamTrafficSetting: ["v1alpha1"], crate::UpstreamTrafficSetting::crd;
}

/// An expression over the Rust type of a [`PolicyKind`]: `with_policy_type!(kind, T => kube::Api::<T>::all(client))`.
#[macro_export]
macro_rules! with_policy_type {
    ($kind:expr, $type:ident => $body:expr) => {
        $crate::with_policy_type!(
            @each $kind, $type, ($body);
            TrafficTarget, HTTPRouteGroup, TCPRoute, TrafficSplit, MeshPolicy, Egress, IngressBackend, Retry,
            UpstreamTrafficSetting
        )
    };
    (@each $kind:expr, $type:ident, $body:tt; $($name:ident),*) => {
        match $kind {
            $($crate::PolicyKind::$name => {
                type $type = $crate::$name;
                $body
            })*
        }
    };
}

impl PolicyKind {
    /// Its API group.
    #[must_use]
    pub fn group(self) -> Cow<'static, str> {
        with_policy_type!(self, T => T::group(&()))
    }

    /// Plural, as in URLs of the API.
    #[must_use]
    pub fn plural(self) -> Cow<'static, str> {
        with_policy_type!(self, T => T::plural(&()))
    }

    /// The version in which it is applied.
    #[must_use]
    pub const fn version(self) -> &'static str {
        self.versions()[0]
    }

    /// Group and version in which it is applied.
    #[must_use]
    pub fn api_version(self) -> String {
        format!("{}/{}", self.group(), self.version())
    }

    /// What a client needs to ask for its objects.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        with_policy_type!(self, T => ApiResource::erase::<T>(&()))
    }

    /// The kind of that name, where nothing but ours can be meant: in what we wrote ourselves, and in references of SMI
    /// that have no group.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of that group and name.
    #[must_use]
    pub fn of(group: &str, name: &str) -> Option<Self> {
        Self::from_name(name).filter(|kind| kind.group() == group)
    }

    /// The kind that a reference means. Its group may be left out, and may carry a version, as OSM has it.
    #[must_use]
    pub fn referred(api_group: Option<&str>, name: &str) -> Option<Self> {
        let group = api_group.unwrap_or_default();
        match group.split_once('/').map_or(group, |(group, _)| group) {
            "" => Self::from_name(name),
            group => Self::of(group, name),
        }
    }

    /// The names of all, for messages.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl InventoryEntry {
    /// The kind of the object, if it is one that is sealed. Releases before 0.2.0 wrote no group.
    #[must_use]
    pub fn policy_kind(&self) -> Option<PolicyKind> {
        PolicyKind::referred(Some(&self.group), &self.kind)
    }

    /// The entry as it is written now: with its group, also where the release that wrote it had none.
    #[must_use]
    pub fn with_group(mut self) -> Self {
        if self.group.is_empty() {
            self.group = self.policy_kind().map(|kind| kind.group().into_owned()).unwrap_or_default();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, group, plural, version and scope of the table are those of the definitions that are installed.
    #[test]
    fn the_table_is_what_is_installed() {
        for kind in PolicyKind::ALL {
            let definition = kind.definition();
            let names = &definition.spec.names;
            assert_eq!(kind.name(), names.kind);
            assert_eq!(kind.plural(), names.plural);
            assert_eq!(kind.group(), definition.spec.group);
            assert_eq!(definition.spec.scope, "Namespaced", "{kind}");
            let served: Vec<_> =
                definition.spec.versions.iter().map(|version| version.name.as_str()).collect();
            assert_eq!(kind.versions(), served, "{kind}");
            let resource = kind.resource();
            assert_eq!(
                (resource.api_version, resource.kind, resource.plural),
                (kind.api_version(), kind.name().to_owned(), kind.plural().into_owned())
            );
        }
    }

    #[test]
    fn a_kind_of_another_group_is_not_ours() {
        for kind in PolicyKind::ALL {
            assert_eq!(PolicyKind::of(&kind.group(), kind.name()), Some(kind));
            for foreign in ["", "example.com", "smi-spec.io", "access.smi-spec.io.example.com"] {
                assert_eq!(PolicyKind::of(foreign, kind.name()), None, "{foreign} {kind}");
            }
            let with_version = kind.api_version();
            for group in [None, Some(""), Some(kind.group().as_ref()), Some(with_version.as_str())] {
                assert_eq!(PolicyKind::referred(group, kind.name()), Some(kind), "{group:?}");
            }
            assert_eq!(PolicyKind::referred(Some("example.com/v1"), kind.name()), None);
        }
        assert_eq!(PolicyKind::of(crate::labels::GROUP, "TrafficTarget"), None);
        assert_eq!(PolicyKind::of(crate::labels::GROUP, "MeshConfig"), None);
    }

    /// The derive of a kind takes no constant as its group.
    #[test]
    fn our_own_kinds_are_of_our_group() {
        for definition in [crate::MeshConfig::crd(), crate::PolicySource::crd(), crate::MeshUpgrade::crd()] {
            assert_eq!(definition.spec.group, crate::labels::GROUP);
        }
        assert_eq!(PolicyKind::MeshPolicy.api_version(), crate::labels::API_VERSION);
    }

    #[test]
    fn a_seal_of_before_has_the_groups_that_were_meant() {
        let entry = |group: &str, kind: &str| {
            serde_json::from_value::<InventoryEntry>(serde_json::json!(
                {"kind": kind, "namespace": "shop", "name": "a", "hash": "h", "group": group}
            ))
            .unwrap()
        };
        let before = r#"{"kind":"TrafficTarget","namespace":"shop","name":"a","hash":"h"}"#;
        let before: InventoryEntry = serde_json::from_str(before).unwrap();
        assert_eq!(before.policy_kind(), Some(PolicyKind::TrafficTarget));
        assert_eq!(before.with_group(), entry("access.smi-spec.io", "TrafficTarget"));
        assert_eq!(entry("example.com", "TrafficTarget").policy_kind(), None);
        assert_eq!(entry("example.com", "TrafficTarget").with_group().group, "example.com");
    }
}
