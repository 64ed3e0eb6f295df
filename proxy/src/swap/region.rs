//! The memory that Envoys share for a hot restart: 104 bytes in /dev/shm, the same in Envoy 1.36 to 1.40 (hot-restart
//! version 11.104: layout version and size).
//!
//! An Envoy that ends while it starts leaves the flag "initializing" set, and then no other one may take over, ever.
//! Nobody but us knows that it is dead, so it is for us to take the flag back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Size of the region, its own first field.
const SIZE: u64 = 104;
/// Where the flags are: after size, version and two mutexes of 40 bytes.
const FLAGS: u64 = 96;
const INITIALIZING: u64 = 1;
/// A region and what Envoy's allocator may want beside it.
const LEAST_FREE: u64 = 64 * 1024;

/// Why a hot restart is not possible.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The region can't be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Envoy would die of SIGBUS when it writes there.
    #[error("{} is full ({free} bytes are free, {LEAST_FREE} are needed): some container of the pod or, with hostIPC, of the node fills it", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// Bytes.
        free: u64,
    },
    /// Another layout than that of every Envoy we know.
    #[error("{} has an unknown layout (size {size}); no Envoy of the catalogue writes that", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Its first field.
        size: u64,
    },
}

/// Envoy's `--base-id` for a pod: apart from other pods' even where they share /dev/shm (hostIPC).
#[must_use]
pub fn base_id(pod_uid: &str) -> u32 {
    // FNV-1a. Envoy multiplies by ten, so there must be room in 32 bits.
    let hash = pod_uid
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % 400_000_000 + 1
}

/// The region of a base id.
#[derive(Debug, Clone)]
pub struct Region {
    directory: PathBuf,
    path: PathBuf,
}

impl Region {
    /// Below `directory`, which is /dev/shm.
    #[must_use]
    pub fn new(directory: &Path, base_id: u32) -> Self {
        let path = directory.join(format!("envoy_shared_memory_{}", u64::from(base_id) * 10));
        Self { directory: directory.to_owned(), path }
    }

    /// Whether there is one. An Envoy of a later epoch than 0 does not start without.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Makes sure that an Envoy can start, when it is certain that none is starting now.
    ///
    /// # Errors
    /// [`RegionError`]; nothing is changed then.
    pub fn prepare(&self) -> Result<(), RegionError> {
        let failed = |source| RegionError::Io { path: self.path.clone(), source };
        let space = rustix::fs::statvfs(&self.directory).map_err(|error| failed(error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < LEAST_FREE {
            return Err(RegionError::Full { path: self.directory.clone(), free });
        }
        if !self.exists() {
            return Ok(());
        }
        let file = File::options().read(true).write(true).open(&self.path).map_err(failed)?;
        let number = |at| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).map(|()| u64::from_ne_bytes(bytes))
        };
        let size = number(0).map_err(failed)?;
        if size != SIZE {
            return Err(RegionError::Layout { path: self.path.clone(), size });
        }
        let flags = number(FLAGS).map_err(failed)?;
        if flags & INITIALIZING != 0 {
            tracing::info!("an Envoy ended while it was starting; its mark is taken back");
            file.write_all_at(&(flags & !INITIALIZING).to_ne_bytes(), FLAGS).map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flag_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let region = Region::new(directory.path(), 7);
        assert!(!region.exists());
        region.prepare().unwrap();
        let mut bytes = vec![7; 104];
        bytes[..8].copy_from_slice(&104_u64.to_ne_bytes());
        bytes[96..].copy_from_slice(&3_u64.to_ne_bytes());
        std::fs::write(directory.path().join("envoy_shared_memory_70"), &bytes).unwrap();
        region.prepare().unwrap();
        bytes[96..].copy_from_slice(&2_u64.to_ne_bytes());
        assert_eq!(std::fs::read(&region.path).unwrap(), bytes);
    }

    #[test]
    fn what_is_not_known_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let region = Region::new(directory.path(), 7);
        let other = [9; 104];
        std::fs::write(&region.path, other).unwrap();
        assert!(matches!(region.prepare(), Err(RegionError::Layout { .. })));
        assert_eq!(std::fs::read(&region.path).unwrap(), other);
        std::fs::write(&region.path, [0; 3]).unwrap();
        assert!(matches!(region.prepare(), Err(RegionError::Io { .. })));
    }

    #[test]
    fn base_ids_fit_envoy() {
        for uid in ["", "6f0c1c3e-0000-4000-8000-000000000001", "x"] {
            assert!(base_id(uid).checked_mul(10).is_some(), "{uid}");
        }
        assert_ne!(base_id("a"), base_id("b"));
    }
}
