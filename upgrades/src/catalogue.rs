//! The release catalogue: which releases exist, what is in them, and which may follow which.
//!
//! The releases that this build knows are `upgrades/releases/*.yaml`; an installation may add files of the same
//! shape. A release is data only: nothing here decides what an upgrade does.

use std::collections::{BTreeMap, BTreeSet};

use semver::{Version, VersionReq};
use serde::Deserialize;

#[cfg(test)]
mod tests;

/// Releases that are part of this build, by file name.
const EMBEDDED: [(&str, &str); 2] = [
    ("0.1.0.yaml", include_str!("../releases/0.1.0.yaml")),
    ("0.2.0.yaml", include_str!("../releases/0.2.0.yaml")),
];

/// Largest distance in minor versions between a control plane and a sidecar (DESIGN.md, rule 5).
const MAX_MINOR_SKEW: u64 = 1;

/// One release of Meshwright.
#[derive(Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// Its version; also the tag of its images.
    pub version: Version,
    /// Version of the Envoy in its sidecar image.
    pub envoy: Version,
    /// What its Envoy prints for `--hot-restart-version`; two that print the same can take over from each other.
    #[serde(default = "default_hot_restart")]
    pub hot_restart: String,
    /// Kubernetes versions that it runs on.
    pub kubernetes: VersionReq,
    /// Formats of pods (`meshwright.io/pod-format`) in which its sidecar can take over from another. Left out: none, and a
    /// sidecar is only swapped in pods without a format (those of releases that do not number it).
    #[serde(default)]
    pub pod_formats: BTreeSet<u32>,
    /// Releases that a mesh may be on when it goes to this one, forwards or back.
    pub reachable_from: Vec<VersionReq>,
}

/// Of Envoy 1.36 to 1.40 on amd64 and arm64.
fn default_hot_restart() -> String {
    "11.104".to_owned()
}

/// Where the images of a release are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Image of the operator.
    pub operator: String,
    /// Image of the controller.
    pub controller: String,
    /// Image of the injector.
    pub injector: String,
    /// Image of the sidecar and of the init container.
    pub proxy: String,
}

impl Release {
    /// Names of the images, `<prefix><component>:<version>`.
    #[must_use]
    pub fn images(&self, prefix: &str) -> Images {
        let name = |component: &str| format!("{prefix}{component}:{}", self.version);
        Images {
            operator: name("operator"),
            controller: name("controller"),
            injector: name("injector"),
            proxy: name("proxy"),
        }
    }
}

/// A version that is in no catalogue file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version {version:?} is unknown; known releases are {}", list(known))]
pub struct UnknownVersion {
    /// What was asked for, cut at 64 characters.
    pub version: String,
    /// Every known release, oldest first.
    pub known: Vec<Version>,
}

/// Why a mesh may not go from one release to another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// The release to start from is not in the catalogue.
    #[error("the release in effect is not in the catalogue: {0}")]
    UnknownFrom(UnknownVersion),
    /// The release to go to is not in the catalogue.
    #[error("{0}")]
    UnknownTo(UnknownVersion),
    /// Another major version.
    #[error("{to} is another major version than {from}; no upgrade crosses one in place")]
    Major {
        /// Release in effect.
        from: Version,
        /// Release wanted.
        to: Version,
    },
    /// More than one minor version apart.
    #[error(
        "{to} is {minors} minor versions from {from}, and sidecars and control plane may be one apart; go through {}",
        list(via)
    )]
    Skew {
        /// Release in effect.
        from: Version,
        /// Release wanted.
        to: Version,
        /// How many minor versions they are apart.
        minors: u64,
        /// Known releases that are one minor version from `from` on the way to `to`, oldest first.
        via: Vec<Version>,
    },
    /// `reachableFrom` of the wanted release does not hold the release in effect.
    #[error("{to} can be reached from {}, and {from} is in effect", list(reachable_from))]
    NotListed {
        /// Release in effect.
        from: Version,
        /// Release wanted.
        to: Version,
        /// What the wanted release may follow.
        reachable_from: Vec<VersionReq>,
    },
}

impl Unreachable {
    /// CamelCase reason for a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownFrom(_) => "UnknownEffectiveVersion",
            Self::UnknownTo(_) => "UnknownVersion",
            Self::Major { .. } => "MajorVersion",
            Self::Skew { .. } => "SkewTooLarge",
            Self::NotListed { .. } => "NotReachable",
        }
    }
}

/// A catalogue file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Not a release.
    #[error("{file} is not a release")]
    Parse {
        /// Name of the file.
        file: String,
        /// What is wrong and where.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// Two files describe one version differently.
    #[error("{file} describes release {version} again, and differently")]
    Twice {
        /// The second file.
        file: String,
        /// The release.
        version: Version,
    },
}

/// All known releases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    releases: BTreeMap<Version, Release>,
}

impl Catalogue {
    /// The releases of this build.
    #[must_use]
    pub fn embedded() -> Self {
        let files = EMBEDDED.map(|(name, text)| (name.to_owned(), text.to_owned()));
        Self::load(&files.into()).expect("the embedded releases parse: a test reads them")
    }

    /// The releases of some files (name → text), for example of a mounted directory.
    ///
    /// # Errors
    /// [`CatalogueError`] names the first file, in order of names, that cannot be used; half a catalogue is none.
    pub fn load(files: &BTreeMap<String, String>) -> Result<Self, CatalogueError> {
        let mut catalogue = Self::default();
        for (file, text) in files {
            let release: Release = serde_saphyr::from_str(text)
                .map_err(|source| CatalogueError::Parse { file: file.clone(), source: Box::new(source) })?;
            catalogue.add(file, release)?;
        }
        Ok(catalogue)
    }

    /// The releases of both; the same release in both is fine, two of one version are not.
    ///
    /// # Errors
    /// [`CatalogueError::Twice`].
    pub fn merge(mut self, other: Self) -> Result<Self, CatalogueError> {
        for (version, release) in other.releases {
            self.add(&format!("the release {version} to add"), release)?;
        }
        Ok(self)
    }

    /// A release.
    ///
    /// # Errors
    /// [`UnknownVersion`], with what is known; also for a text that is not a version.
    pub fn get(&self, version: &str) -> Result<&Release, UnknownVersion> {
        let parsed = Version::parse(version).ok();
        parsed.and_then(|version| self.releases.get(&version)).ok_or_else(|| UnknownVersion {
            version: version.chars().take(64).collect(),
            known: self.releases.keys().cloned().collect(),
        })
    }

    /// Every release, oldest first.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        self.releases.values()
    }

    /// Whether a mesh on `from` may go to `to`. Staying is always possible.
    ///
    /// # Errors
    /// [`Unreachable`] says why not and, where there is one, which release to go through.
    pub fn reachable(&self, from: &str, to: &str) -> Result<(), Unreachable> {
        let from = &self.get(from).map_err(Unreachable::UnknownFrom)?.version;
        let release = self.get(to).map_err(Unreachable::UnknownTo)?;
        let to = &release.version;
        if from == to {
            return Ok(());
        }
        if from.major != to.major {
            return Err(Unreachable::Major { from: from.clone(), to: to.clone() });
        }
        let minors = from.minor.abs_diff(to.minor);
        if minors > MAX_MINOR_SKEW {
            let via = self.between(from, to);
            return Err(Unreachable::Skew { from: from.clone(), to: to.clone(), minors, via });
        }
        if release.reachable_from.iter().any(|listed| listed.matches(from)) {
            return Ok(());
        }
        let reachable_from = release.reachable_from.clone();
        Err(Unreachable::NotListed { from: from.clone(), to: to.clone(), reachable_from })
    }

    /// Known releases one minor version away from `from` in the direction of `to`.
    fn between(&self, from: &Version, to: &Version) -> Vec<Version> {
        let minor = if to.minor > from.minor { from.minor + 1 } else { from.minor - 1 };
        self.releases
            .keys()
            .filter(|known| known.major == from.major && known.minor == minor)
            .cloned()
            .collect()
    }

    fn add(&mut self, file: &str, release: Release) -> Result<(), CatalogueError> {
        match self.releases.get(&release.version) {
            Some(known) if *known != release => {
                Err(CatalogueError::Twice { file: file.to_owned(), version: release.version })
            }
            _ => {
                self.releases.insert(release.version.clone(), release);
                Ok(())
            }
        }
    }
}

/// Each item in back quotes, or a remark that there is none.
fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "none (the catalogue holds none)".to_owned(),
        items => items.iter().map(|item| format!("`{}`", item.to_string())).collect::<Vec<_>>().join(", "),
    }
}
