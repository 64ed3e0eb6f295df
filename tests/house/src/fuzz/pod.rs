//! What every container of a pod can write, and the launcher reads.

use std::path::Path;

use proxy::swap::region::Region;
use proxy::swap::shared::Shared;

/// The memory that Envoys share for a hot restart. Whether a new Envoy would be started beside it.
#[must_use]
pub fn region(data: &[u8]) -> bool {
    let run = |folder: &Path| {
        let region = Region::new(folder, 1);
        std::fs::write(folder.join("envoy_shared_memory_10"), data).is_ok()
            && region.inspect().is_ok()
            && region.prepare().is_ok()
    };
    tempfile::tempdir().is_ok_and(|folder| run(folder.path()))
}

/// What the slots of a sidecar tell each other. Whether one of them is live.
#[must_use]
pub fn slots(data: &[u8]) -> bool {
    let run = |folder: &Path| {
        let Ok(shared) = Shared::new(folder) else { return false };
        for file in ["live.json", "failures-a.json", "failures-b.json", "retired-0.json"] {
            let _ = std::fs::write(folder.join("slots").join(file), data);
        }
        for slot in [proxy::swap::Slot::A, proxy::swap::Slot::B] {
            let failures = shared.failures(slot);
            assert!(failures.pause("0.2.0", u64::MAX / 2).as_secs() <= 600, "a slot waits for ever");
        }
        shared.live().is_some()
    };
    tempfile::tempdir().is_ok_and(|folder| run(folder.path()))
}
