//! An untrusted object becomes the part of it that matters, or a problem that names it.
//!
//! ```text
//!  core.rs    Namespace, Pod, Service, EndpointSlice
//!  policy.rs  TrafficTarget, HTTPRouteGroup, TCPRoute, TrafficSplit, MeshPolicy, PolicySource
//!  osm.rs     Egress, IngressBackend, Retry          upstream.rs  UpstreamTrafficSetting
//!  net.rs     address ranges and host names
//!  pattern.rs regular expressions as Envoy (RE2) reads them
//! ```

mod core;
mod net;
mod osm;
mod osm_part;
mod part;
mod pattern;
mod policy;
mod upstream;

pub use net::{Cidr, host_fits};
pub use osm_part::{
    BackendPart, Balance, Bucket, CallerSettings, EgressPart, EgressProtocol, Hashed, HttpLimit, IngressPart,
    Limited, Limits, Origins, Outliers, Principal, RetryPart, RetryRules, STATUSES, SettingPart, Speaks,
    Timed,
};
pub use part::{
    Carried, EndpointPart, Flavour, HttpMatch, ModePart, NamespacePart, Part, PodPart, PolicyPart, Protocol,
    RoutesPart, RuleRef, ServiceAccount, ServicePart, ServicePortPart, Serving, SliceAuthor, SlicePart,
    SourcePart, SplitPart, TargetPart, TargetPort, Word,
};
pub use pattern::Pattern;

use crate::object::{Object, ObjectRef};
use crate::problem::{Problem, Reason};

/// Strips an object to its part. Says nothing about the objects that it refers to: those may come later.
///
/// # Errors
/// The first problem that makes the object worthless as a whole; it is reported and skipped, alone.
pub fn ingest(object: &Object) -> Result<Part, Problem> {
    let reference = object.reference();
    let about = About(&reference);
    if !is_name(&reference.name, 253)
        || (!reference.namespace.is_empty() && !is_name(&reference.namespace, 63))
    {
        let message = "the object needs a name and a namespace as Kubernetes allows them";
        return Err(about.problem("metadata.name", Reason::Incomplete, message));
    }
    match object {
        Object::Namespace(object) => Ok(Part::Namespace(core::namespace(object))),
        Object::Pod(object) => Ok(Part::Pod(core::pod(object))),
        Object::Service(object) => core::service(about, object).map(Part::Service),
        Object::EndpointSlice(object) => Ok(Part::EndpointSlice(core::slice(object))),
        Object::TrafficTarget(object) => {
            policy::target(about, &object.spec).map(PolicyPart::TrafficTarget).map(Part::Policy)
        }
        Object::HTTPRouteGroup(object) => {
            policy::group(about, &object.spec).map(PolicyPart::Routes).map(Part::Policy)
        }
        Object::TCPRoute(object) => {
            policy::tcp(about, &object.spec).map(PolicyPart::Routes).map(Part::Policy)
        }
        Object::TrafficSplit(object) => {
            policy::split(about, &object.spec).map(PolicyPart::TrafficSplit).map(Part::Policy)
        }
        Object::MeshPolicy(object) => {
            policy::mode(about, &object.spec).map(PolicyPart::MeshPolicy).map(Part::Policy)
        }
        Object::Egress(object) => osm::egress(about, &object.spec).map(PolicyPart::Egress).map(Part::Policy),
        Object::IngressBackend(object) => {
            osm::ingress(about, &object.spec).map(PolicyPart::IngressBackend).map(Part::Policy)
        }
        Object::Retry(object) => osm::retry(about, &object.spec).map(PolicyPart::Retry).map(Part::Policy),
        Object::UpstreamTrafficSetting(object) => {
            upstream::setting(about, &object.spec).map(PolicyPart::UpstreamTrafficSetting).map(Part::Policy)
        }
        Object::PolicySource(object) => Ok(Part::PolicySource(policy::source(object))),
    }
}

/// The object that is being ingested, for problems.
#[derive(Clone, Copy)]
struct About<'a>(&'a ObjectRef);

impl About<'_> {
    fn problem(self, field: &str, reason: Reason, message: impl Into<String>) -> Problem {
        Problem::new(self.0, field, reason, message)
    }

    /// A name that another object could have.
    fn name(self, field: &str, name: &str) -> Result<String, Problem> {
        if is_name(name, 253) {
            return Ok(name.to_owned());
        }
        let shown: String = name.chars().take(64).collect();
        Err(self.problem(
            field,
            Reason::Incomplete,
            format!("{shown:?} cannot be the name of an object; write its name"),
        ))
    }

    fn port(self, field: &str, port: i32) -> Result<u16, Problem> {
        let valid = u16::try_from(port).ok().filter(|port| *port > 0);
        valid.ok_or_else(|| {
            self.problem(field, Reason::BadPort, format!("{port} is no port; ports are 1 to 65535"))
        })
    }

    fn at_most(self, field: &str, limit: usize, given: usize) -> Result<(), Problem> {
        if given <= limit {
            return Ok(());
        }
        let message = format!("{given} entries; at most {limit} are allowed, split the object");
        Err(self.problem(field, Reason::TooLarge, message))
    }
}

/// Whether a text can be a name in the sense of RFC 1123 (subdomain). Keeps `|`, `/` and quotes out of everything
/// that is built from names.
fn is_name(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}
