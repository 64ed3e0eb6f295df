//! Which endpoints take calls, told by two watches of which either may be ahead.
//!
//! ```text
//!  pod:    ready ──▶ swapping (its idle slot restarts) ──▶ ready
//!  slice:  ready ──▶ unready                           ──▶ ready      derived from the pod, watched apart from it
//! ```
//! After a reconnect the slices may be ahead of the pods: "unready" arrives while the pod is still known as it was
//! before. Versions of two kinds cannot be compared, so that nobody can tell which is newer. What Kubernetes derives from
//! a pod takes an endpoint away only when the pod's own status says so too; both do in the end when it is true. What cannot be taken back
//! counts at once, whoever says it: that the pod is being deleted or gone.

use crate::ingest::{EndpointPart, PodPart, Serving, SliceAuthor, SlicePart, Word};

impl SlicePart {
    /// Whether an endpoint of this slice, which is this pod, takes calls.
    pub(crate) fn takes_calls(&self, endpoint: &EndpointPart, pod: &PodPart) -> bool {
        if pod.terminating {
            return false;
        }
        let same = endpoint.uid.is_empty() || endpoint.uid == pod.uid;
        match (endpoint.word, pod.serving) {
            (Word::Ready, _) => true,
            (Word::Unready, Serving::Ready) => same && self.author == SliceAuthor::Kubernetes,
            (Word::Unready, Serving::Swapping) => same,
            (Word::Unready, Serving::Unready) => false,
            // Said of a pod that was there before, it says nothing about this one.
            (Word::Terminating, Serving::Ready | Serving::Swapping) => !same,
            (Word::Terminating, Serving::Unready) => false,
        }
    }
}
