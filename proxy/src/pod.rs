//! What the Kubernetes API says about this pod: annotations that the kubelet writes into files (downward API).

use std::path::Path;
use std::time::Duration;

use crate::swap::Slot;

/// How often a file is looked at. The kubelet replaces them within a second or two of the annotation's change.
const POLL: Duration = Duration::from_millis(500);

/// Returns once every container of the application has ended for good, as the operator says; never in a pod that is
/// not told (one that shall run for ever, or whose sidecar the kubelet ends by itself).
///
/// Nothing inside a pod shows this: its containers share neither processes nor files with the sidecar.
pub async fn apps_ended(directory: &Path) {
    let path = directory.join("apps-ended");
    if !path.exists() {
        return std::future::pending().await;
    }
    while std::fs::read_to_string(&path).unwrap_or_default().trim() != "true" {
        tokio::time::sleep(POLL).await;
    }
}

/// The slot that shall serve, as the operator says; nothing when it says nothing, or nothing sensible.
#[must_use]
pub fn live_slot(directory: &Path) -> Option<Slot> {
    Slot::parse(&std::fs::read_to_string(directory.join("live-slot")).ok()?)
}
