//! Endpoints of slices that lead to no pod, and which of them are worth telling somebody.
//!
//! Whoever may write a slice may write any address into it, and the mesh sends nobody to one that is not the pod's own
//! (`Space::pod_of`). Most of these are no lie: two watches are never equally far.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Mesh, Space};
use crate::ingest::{EndpointPart, PodPart, SliceAuthor, SlicePart};
use crate::object::{Kind, ObjectRef};
use crate::problem::{Problem, Reason};

/// Why an endpoint leads to no pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Astray<'a> {
    /// It names no pod: what a person writes for something outside of the cluster.
    Outside,
    /// Kubernetes derived it from the pod, of which we see what was before, or what came after. Whoever claims that label
    /// for a slice of their own is told nothing, and has nothing from it either.
    Ahead,
    /// Its pod is not known: not yet, or no longer.
    NoPod,
    /// It is of an earlier or later pod of that name.
    AnotherPod,
    /// The pod has no address yet, or none any more.
    NoAddress,
    /// The pod runs, and has this address and not that of the endpoint.
    NotItsOwn(&'a IpAddr),
}

impl Space {
    /// Why an endpoint leads nowhere; `None` is that it leads to a pod.
    fn astray(&self, slice: &SlicePart, endpoint: &EndpointPart) -> Option<Astray<'_>> {
        if self.pod_of(endpoint).is_some() {
            return None;
        }
        if endpoint.pod.is_empty() {
            return Some(Astray::Outside);
        }
        Some(match (slice.author, self.pods.get(&endpoint.pod)) {
            (SliceAuthor::Kubernetes, _) => Astray::Ahead,
            (SliceAuthor::Other, None) => Astray::NoPod,
            (SliceAuthor::Other, Some(pod)) => of_pod(endpoint, pod),
        })
    }

    /// Endpoints of a slice with somebody else's address, and the first address that their pods do have.
    fn lies<'a>(
        &'a self,
        slice: &'a SlicePart,
    ) -> impl Iterator<Item = (&'a EndpointPart, &'a IpAddr)> + use<'a> {
        // Nearly all are Kubernetes', and none of those is one.
        let told = (slice.author != SliceAuthor::Kubernetes).then_some(&slice.endpoints);
        told.into_iter().flatten().filter_map(|endpoint| match self.astray(slice, endpoint)? {
            Astray::NotItsOwn(own) => Some((endpoint, own)),
            Astray::Outside | Astray::Ahead | Astray::NoPod | Astray::AnotherPod | Astray::NoAddress => None,
        })
    }

    /// Whether a slice has a lie in it.
    pub(super) fn is_lying(&self, slice: &SlicePart) -> bool {
        self.lies(slice).next().is_some()
    }
}

fn of_pod<'a>(endpoint: &EndpointPart, pod: &'a PodPart) -> Astray<'a> {
    if !endpoint.uid.is_empty() && endpoint.uid != pod.uid {
        return Astray::AnotherPod;
    }
    match pod.addresses.first() {
        Some(own) if !pod.finished => Astray::NotItsOwn(own),
        _ => Astray::NoAddress,
    }
}

/// One problem for each slice, however much it lies: of the first endpoint, with the number of the others.
pub(super) fn lies(mesh: &Mesh, found: &mut BTreeSet<Problem>) {
    for (namespace, space) in mesh.spaces() {
        for (name, slice) in &space.slices {
            let mut lies = space.lies(slice);
            let Some((EndpointPart { address, pod, .. }, own)) = lies.next() else { continue };
            let more = match lies.count() {
                0 => String::new(),
                more => format!(" ({more} more endpoints of it are like that)"),
            };
            let key = ObjectRef::new(Kind::EndpointSlice, namespace, name);
            let message = format!(
                "pod {pod} has the address {own} and not {address}, so nobody is sent there{more}; write the pod's own \
                 address, or leave targetRef out if it is no pod's"
            );
            found.insert(Problem::new(&key, "endpoints", Reason::NotItsAddress, message));
        }
    }
}
