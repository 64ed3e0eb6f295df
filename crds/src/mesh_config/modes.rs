//! How strict a mesh is, and the floor below which no policy gets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The weakest modes that a pod may have. A MeshPolicy that says less is reported and counts as the floor.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Floor {
    /// `Strict`: no MeshPolicy lets plaintext callers in. Anything when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// `Enforce`, or `Audit`, which is more than `AllowAll`. Anything when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
}

/// Whether plaintext callers are accepted.
// Strictest first: that is their order.
#[derive(
    Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, JsonSchema,
)]
pub enum Mtls {
    /// Only mutually authenticated TLS.
    #[default]
    Strict,
    /// Plaintext too; a plaintext caller has no identity.
    Permissive,
}

/// Whether TrafficTargets are enforced.
// Strictest first: that is their order.
#[derive(
    Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, JsonSchema,
)]
pub enum Authorization {
    /// Only what a TrafficTarget opens is allowed.
    #[default]
    Enforce,
    /// Everything is allowed; what would be denied is counted.
    Audit,
    /// Everything inside the mesh is allowed.
    AllowAll,
}

impl Floor {
    /// What a mode counts as: the stricter of it and the floor.
    #[must_use]
    pub fn raise(self, mtls: Mtls, authorization: Authorization) -> (Mtls, Authorization) {
        (
            self.mtls.map_or(mtls, |floor| floor.min(mtls)),
            self.authorization.map_or(authorization, |floor| floor.min(authorization)),
        )
    }
}

/// Something said that is below a floor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Of which mode: `mtls` or `authorization`.
    pub field: &'static str,
    /// What is said.
    pub given: String,
    /// What counts instead.
    pub floor: String,
}

impl Floor {
    /// What of these modes is below the floor.
    #[must_use]
    pub fn below(self, mtls: Option<Mtls>, authorization: Option<Authorization>) -> Vec<Below> {
        let mtls = mtls.zip(self.mtls).filter(|(given, floor)| given > floor);
        let mtls = mtls.map(|(given, floor)| ("mtls", format!("{given:?}"), format!("{floor:?}")));
        let authorization = authorization.zip(self.authorization).filter(|(given, floor)| given > floor);
        let authorization =
            authorization.map(|(given, floor)| ("authorization", format!("{given:?}"), format!("{floor:?}")));
        let all = mtls.into_iter().chain(authorization);
        all.map(|(field, given, floor)| Below { field, given, floor }).collect()
    }
}
