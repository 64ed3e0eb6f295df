//! An untrusted object becomes the part of it that matters, or a problem that names it.

mod part;

pub use part::{
    EndpointPart, HttpMatch, ModePart, NamespacePart, Part, PodPart, PolicyPart, Protocol, RoutesPart,
    RuleRef, ServiceAccount, ServicePart, ServicePortPart, SlicePart, SourcePart, SplitPart, TargetPart,
    TargetPort,
};

use crate::object::Object;
use crate::problem::Problem;
use crate::settings::Settings;

/// Strips an object to its part.
///
/// # Errors
/// The first problem that makes the object worthless as a whole; it is reported and skipped, alone.
pub fn ingest(object: &Object, settings: &Settings) -> Result<Part, Problem> {
    let _ = (object, settings);
    Ok(Part::Namespace(NamespacePart { ours: false }))
}
