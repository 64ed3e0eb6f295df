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

/// Who shall serve, as the operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    slot: Slot,
    release: Option<String>,
}

impl Wanted {
    /// Reads it; nothing when the operator says nothing, or nothing sensible.
    #[must_use]
    pub fn read(directory: &Path) -> Option<Self> {
        let text = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
        // In this order: a release that is read later is at least as new as the slot.
        let slot = Slot::parse(&text("live-slot")?)?;
        let release = text("release").map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Some(Self { slot, release })
    }

    /// The slot that shall serve, as seen by one with an image of `release`; nothing when it is that one, but with another
    /// image. What the API says comes into the pod before kubelet has replaced the container, and one that is about to be
    /// killed must not begin to take over.
    #[must_use]
    pub fn for_slot(self, me: Slot, release: &str) -> Option<Slot> {
        let mine = self.release.is_none_or(|wanted| wanted == release);
        (self.slot != me || mine).then_some(self.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swap::Slot::{A, B};

    #[test]
    fn a_slot_is_wanted_with_the_right_image_only() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = |me, release| Wanted::read(directory.path())?.for_slot(me, release);
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(wanted(A, "0.1.0"), None);
        write("live-slot", "b\n");
        assert_eq!(wanted(B, "0.1.0"), Some(B), "a pod whose release nobody told");
        write("release", "0.2.0");
        assert_eq!((wanted(B, "0.1.0"), wanted(B, "0.2.0")), (None, Some(B)));
        assert_eq!(wanted(A, "0.1.0"), Some(B));
        write("live-slot", "c");
        assert_eq!(wanted(B, "0.2.0"), None);
    }
}
