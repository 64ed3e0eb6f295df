//! Conditions about the root of trust.

use crds::mesh_config::RotationStep;

use super::super::rotation::Decision;
use crate::conditions::{Conditions, Standing, State};

/// `CertificatesIssued`, and `RootRotation` while there is one.
pub fn certificates(conditions: &mut Conditions, root: &Decision) {
    let words = root.words();
    let state = match (&root.directive, &root.stuck) {
        (None, _) => State::Unknown,
        (Some(_), None) => State::True,
        (Some(_), Some(_)) => State::False,
    };
    conditions.set("CertificatesIssued", state, root.reason(), &words);
    if root.step == RotationStep::Stable {
        conditions.remove("RootRotation");
    } else {
        conditions.set("RootRotation", State::True, root.step.as_str(), &words);
    }
}

/// What the root of trust keeps the mesh from being as its spec says, if anything.
pub fn of_the_root(root: &Decision) -> Option<Standing> {
    if root.stuck.is_some() {
        return Some(Standing::Stalled { reason: "RootOfTrust", message: root.words() });
    }
    let rotating = root.step != RotationStep::Stable;
    rotating.then(|| Standing::Reconciling { reason: "RotatingRoot", message: root.words() })
}
