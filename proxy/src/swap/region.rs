//! The memory that Envoys share for a hot restart: a small file in /dev/shm, the same in Envoy 1.36 to 1.40 (hot-restart
//! version 11). It is a C structure: its size, the version, two mutexes, and flags; what differs between machines is how
//! large a mutex is, so the size says where the flags are.
//!
//! An Envoy that ends while it starts leaves the flag "initializing" set, and then no other one may take over, ever.
//! Nobody but us knows that it is dead, so it is for us to take the flag back.
//!
//! All containers of a pod can write into /dev/shm, so nothing about the file is taken for granted.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Hot-restart version of every Envoy that we know.
const VERSION: u64 = 11;
/// Size and version.
const HEAD: usize = 16;
const INITIALIZING: u64 = 1;
/// A region and what Envoy's allocator may want beside it.
const LEAST_FREE: u64 = 64 * 1024;

/// Machines whose Envoy we know, by the bytes of a `pthread_mutex_t` of the GNU C library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// 40 bytes.
    X86_64,
    /// 48 bytes.
    Aarch64,
}

impl Machine {
    const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// Size of the whole structure: two mutexes, and three numbers of 8 bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        let mutex = match self {
            Self::X86_64 => 40,
            Self::Aarch64 => 48,
        };
        2 * mutex + 3 * 8
    }

    /// Where the flags are, the last of the numbers.
    #[must_use]
    pub fn flags(self) -> u64 {
        self.size() - 8
    }
}

/// Whose memory begins with these bytes, in a file of this length.
///
/// # Errors
/// With what it says instead.
pub fn machine(head: &[u8], length: u64) -> Result<Machine, Unknown> {
    let number = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let unknown = Unknown { size: number(0), version: number(8), length };
    match (number(0), number(8)) {
        (Some(size), Some(VERSION)) if size == length => {
            Machine::ALL.into_iter().find(|machine| machine.size() == size).ok_or(unknown)
        }
        _ => Err(unknown),
    }
}

/// What a region says that no Envoy that we know writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its size is {size:?} and its hot-restart version {version:?}, in a file of {length} bytes")]
pub struct Unknown {
    size: Option<u64>,
    version: Option<u64>,
    length: u64,
}

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
    #[error("{} is not what an Envoy of the catalogue writes", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// What is there.
        #[source]
        source: Unknown,
    },
    /// Somebody else made it.
    #[error("{} is no file of this sidecar's user ({user}): some container of the pod made it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        user: u32,
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

    /// What kind there is, or none. (An Envoy of a later epoch than 0 does not start without.)
    ///
    /// # Errors
    /// When there is one that no Envoy can use.
    pub fn inspect(&self) -> Result<Option<Machine>, RegionError> {
        Ok(self.open()?.map(|(_, machine)| machine))
    }

    fn open(&self) -> Result<Option<(File, Machine)>, RegionError> {
        let failed = |source| RegionError::Io { path: self.path.clone(), source };
        // Neither through a link nor waiting for a pipe's other end.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let flags = i32::try_from(flags).unwrap_or_default();
        let file = match File::options().read(true).write(true).custom_flags(flags).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() {
            return Err(RegionError::Foreign { path: self.path.clone(), user: about.uid() });
        }
        let mut head = [0; HEAD];
        let read = file.read_at(&mut head, 0).map_err(failed)?;
        let machine = machine(&head[..read], about.len())
            .map_err(|source| RegionError::Layout { path: self.path.clone(), source })?;
        Ok(Some((file, machine)))
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
        let Some((file, machine)) = self.open()? else { return Ok(()) };
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, machine.flags()).map_err(failed)?;
        let flags = u64::from_ne_bytes(bytes);
        if flags & INITIALIZING != 0 {
            tracing::info!("an Envoy ended while it was starting; its mark is taken back");
            file.write_all_at(&(flags & !INITIALIZING).to_ne_bytes(), machine.flags()).map_err(failed)?;
        }
        Ok(())
    }

    /// Takes it away, when it is certain that no Envoy of this pod runs. The next one makes another.
    ///
    /// # Errors
    /// When that is not allowed, because somebody else made it.
    pub fn forget(&self) -> Result<(), RegionError> {
        match std::fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RegionError::Io { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As an Envoy of this machine writes it.
    fn region_of(machine: Machine, flags: u64) -> Vec<u8> {
        let mut bytes = vec![7; usize::try_from(machine.size()).unwrap()];
        bytes[..8].copy_from_slice(&machine.size().to_ne_bytes());
        bytes[8..16].copy_from_slice(&VERSION.to_ne_bytes());
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }

    fn scene() -> (tempfile::TempDir, Region) {
        let directory = tempfile::tempdir().unwrap();
        let region = Region::new(directory.path(), 7);
        (directory, region)
    }

    #[test]
    fn only_the_flag_is_taken_back_on_both_machines() {
        assert_eq!((Machine::X86_64.size(), Machine::Aarch64.size()), (104, 120));
        for machine in Machine::ALL {
            let (directory, region) = scene();
            assert_eq!(region.inspect().unwrap(), None);
            region.prepare().unwrap();
            assert_eq!(region.path, directory.path().join("envoy_shared_memory_70"));
            std::fs::write(&region.path, region_of(machine, 3)).unwrap();
            assert_eq!(region.inspect().unwrap(), Some(machine));
            region.prepare().unwrap();
            assert_eq!(std::fs::read(&region.path).unwrap(), region_of(machine, 2));
            region.forget().unwrap();
            region.forget().unwrap();
            assert_eq!(region.inspect().unwrap(), None);
        }
    }

    /// What must be refused, and left as it is.
    fn refused(region: &Region, bytes: &[u8]) -> RegionError {
        std::fs::write(&region.path, bytes).unwrap();
        let error = region.prepare().expect_err("it is refused");
        assert!(region.inspect().is_err());
        assert_eq!(std::fs::read(&region.path).unwrap(), bytes);
        error
    }

    #[test]
    fn what_is_not_known_is_not_touched() {
        let (_directory, region) = scene();
        let mut newer = region_of(Machine::X86_64, 1);
        newer[8] = 12;
        let mut longer = region_of(Machine::Aarch64, 1);
        longer.push(0);
        let short = region_of(Machine::X86_64, 1)[..103].to_vec();
        for bytes in [vec![9; 104], vec![0; 3], Vec::new(), newer, longer, short] {
            let error = refused(&region, &bytes);
            assert!(matches!(error, RegionError::Layout { .. }), "{error}");
        }
    }

    #[test]
    fn what_another_container_puts_there_is_not_followed() {
        let (directory, region) = scene();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, region_of(Machine::X86_64, 1)).unwrap();
        std::os::unix::fs::symlink(&secret, &region.path).unwrap();
        assert!(matches!(region.prepare(), Err(RegionError::Io { .. })));
        assert_eq!(std::fs::read(&secret).unwrap(), region_of(Machine::X86_64, 1));
        std::fs::remove_file(&region.path).unwrap();
        std::fs::create_dir(&region.path).unwrap();
        assert!(region.prepare().is_err());
        std::fs::remove_dir(&region.path).unwrap();
        let status = std::process::Command::new("mkfifo").arg(&region.path).status().unwrap();
        assert!(status.success());
        assert!(matches!(region.prepare(), Err(RegionError::Foreign { .. })), "and it does not wait");
    }

    /// The twin of a fuzz target: every file of the corpus, by name what it is.
    #[test]
    fn the_corpus_is_read_without_harm() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/region");
        let mut seen = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            let (_directory, region) = scene();
            let bytes = std::fs::read(&path).unwrap();
            if path.file_name().unwrap().to_string_lossy().starts_with("good") {
                std::fs::write(&region.path, &bytes).unwrap();
                region.prepare().unwrap();
            } else {
                refused(&region, &bytes);
            }
            seen += 1;
        }
        assert!(seen >= 8, "{seen}");
    }

    proptest! {
        #[test]
        fn no_bytes_are_read_wrongly(bytes in proptest::collection::vec(any::<u8>(), 0..160), length in any::<u64>()) {
            if let Ok(machine) = machine(&bytes, length) {
                prop_assert_eq!(machine.size(), length);
            }
        }

        /// Bytes that are nearly right.
        #[test]
        fn a_changed_head_is_refused(at in 0_usize..16, change in 1_u8.., second in any::<bool>()) {
            let machine_of = if second { Machine::Aarch64 } else { Machine::X86_64 };
            let mut bytes = region_of(machine_of, 0);
            bytes[at] ^= change;
            prop_assert!(machine(&bytes, bytes.len() as u64).is_err());
        }
    }

    #[test]
    fn base_ids_fit_envoy() {
        for uid in ["", "6f0c1c3e-0000-4000-8000-000000000001", "x"] {
            assert!(base_id(uid).checked_mul(10).is_some(), "{uid}");
        }
        assert_ne!(base_id("a"), base_id("b"));
    }
}
