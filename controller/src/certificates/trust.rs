//! What is trusted and what signs, from what the operator says and what this replica can find. Pure.
//!
//! ```text
//!  MeshConfig status (Directive) ──┐
//!  Secrets (stored), memory ───────┼──▶ decide ──▶ InForce {bundle, authority}
//!  published ConfigMap ────────────┘
//! ```
//! Roots are named by the SHA-256 of their certificate, so that a Secret whose content was replaced is another root
//! and never silently takes the place of the one that sidecars trust.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::fleet::SecretReport;
use crds::mesh_config::{CertificateAuthorityStatus, RotationStep};

use super::authority::Authority;

/// What the operator says (`status.certificateAuthority` of the MeshConfig).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Goes up with every change.
    pub serial: i64,
    /// The root that signs.
    pub signing: String,
    /// The roots that are trusted, the one that signs first.
    pub trusted: Vec<String>,
    /// Whether a rotation is under way: holders shall tell often what they hold.
    pub rotating: bool,
}

impl Directive {
    /// From the status; `None` when the operator has not said anything yet.
    #[must_use]
    pub fn from(status: &CertificateAuthorityStatus) -> Option<Self> {
        (status.serial > 0 && !status.signing.is_empty()).then(|| Self {
            serial: status.serial,
            signing: status.signing.clone(),
            trusted: status.trusted.clone(),
            rotating: status.step != RotationStep::Stable,
        })
    }
}

/// A root that this replica can sign with.
#[derive(Debug, Clone)]
pub struct Root {
    /// It.
    pub authority: Arc<Authority>,
    /// As the operator wrote on the Secret; 1 without it.
    pub generation: i64,
    /// Which Secret holds it; `None` when it is only remembered.
    pub secret: Option<SecretReport>,
}

/// All that this replica can find.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Roots with their keys by fingerprint; those of a Secret win over those remembered.
    pub roots: BTreeMap<String, Root>,
    /// The published roots by fingerprint, PEM.
    pub published: BTreeMap<String, String>,
    /// The serial that they were published for: holders have heard it, and believe no lower one.
    pub serial: i64,
}

/// What counts.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// The directive's serial; 0 without one.
    pub serial: i64,
    /// Fingerprint of the root that should sign.
    pub signing: String,
    /// Fingerprints of the trusted roots, the one that should sign first.
    pub trusted: Vec<String>,
    /// The same as PEM.
    pub bundle: String,
    /// What signs; `None` when this replica has not got the key.
    pub authority: Option<Arc<Authority>>,
    /// Whether holders shall tell often what they hold.
    pub rotating: bool,
}

/// Why nothing could be decided; what was in force stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// No Secret, nothing published, nothing remembered.
    #[error("there is no root of trust yet")]
    NoRoot,
    /// The directive trusts a root whose certificate is nowhere.
    #[error(
        "the root {0} shall be trusted, but neither a Secret nor the published bundle holds its certificate"
    )]
    Unknown(String),
}

impl Known {
    fn pem(&self, fingerprint: &str) -> Option<&str> {
        let own = self.roots.get(fingerprint).map(|root| root.authority.trust_bundle());
        own.or_else(|| self.published.get(fingerprint).map(String::as_str))
    }

    /// What to trust when nobody says: see the tests.
    fn by_itself(&self) -> Result<(String, Vec<String>), TrustError> {
        let stored = self.roots.iter().filter(|(_, root)| root.secret.is_some());
        let mut stored: Vec<_> =
            stored.map(|(name, root)| (!self.published.contains_key(name), root.generation, name)).collect();
        // Published ones first, the oldest of them signs: everybody who trusts both trusts it.
        stored.sort();
        let Some((unpublished, _, signing)) = stored.first() else { return Err(TrustError::NoRoot) };
        let mut trusted = vec![(*signing).clone()];
        let others: Vec<&String> = if *unpublished {
            self.published.keys().collect()
        } else {
            stored.iter().filter(|(unpublished, ..)| !unpublished).map(|(.., name)| *name).collect()
        };
        trusted.extend(others.into_iter().filter(|name| name != signing).cloned());
        Ok(((*signing).clone(), trusted))
    }
}

/// Decides. A directive older than what is in force is not obeyed (it was read from a stale copy).
///
/// # Errors
/// [`TrustError`]; what was in force stays.
pub fn decide(
    directive: Option<&Directive>,
    known: &Known,
    last: Option<&InForce>,
) -> Result<InForce, TrustError> {
    let newest = directive.filter(|new| last.is_none_or(|last| last.serial <= new.serial));
    // A root that nobody has ever published is one of an earlier life of this mesh, as after a restored backup.
    let meant = newest.filter(|new| known.pem(&new.signing).is_some());
    let (serial, signing, trusted, rotating) = match (meant, last) {
        (Some(new), _) => (new.serial, new.signing.clone(), new.trusted.clone(), new.rotating),
        (None, Some(last)) if !last.trusted.is_empty() => {
            (last.serial, last.signing.clone(), last.trusted.clone(), last.rotating)
        }
        (None, _) => {
            let (signing, trusted) = known.by_itself()?;
            (known.serial, signing, trusted, false)
        }
    };
    let mut bundle = String::new();
    for name in &trusted {
        bundle.push_str(known.pem(name).ok_or_else(|| TrustError::Unknown(name.clone()))?.trim_end());
        bundle.push('\n');
    }
    let authority = known.roots.get(&signing).map(|root| root.authority.clone());
    Ok(InForce { serial, signing, trusted, bundle, authority, rotating })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::testing::root;

    struct Roots(Vec<(String, Arc<Authority>)>);

    impl Roots {
        fn make(count: usize) -> Self {
            let make = |_| {
                let (certificate, key) = root();
                let authority = Arc::new(Authority::parse(&certificate, &key).unwrap());
                (authority.fingerprint().to_owned(), authority)
            };
            Self((0..count).map(make).collect())
        }

        fn name(&self, index: usize) -> String {
            self.0[index].0.clone()
        }

        fn names(&self, indices: &[usize]) -> Vec<String> {
            indices.iter().map(|index| self.name(*index)).collect()
        }

        /// `stored` are in Secrets with generations 1, 2, …; `published` are in the ConfigMap.
        fn known(&self, stored: &[usize], published: &[usize]) -> Known {
            let root = |index: &usize| {
                let generation = i64::try_from(*index).unwrap() + 1;
                let secret = Some(SecretReport { name: format!("s{index}"), uid: String::new() });
                (self.name(*index), Root { authority: self.0[*index].1.clone(), generation, secret })
            };
            let public = |index: &usize| (self.name(*index), self.0[*index].1.trust_bundle().to_owned());
            Known {
                roots: stored.iter().map(root).collect(),
                published: published.iter().map(public).collect(),
                serial: 0,
            }
        }

        fn directive(&self, serial: i64, trusted: &[usize]) -> Directive {
            let trusted = self.names(trusted);
            Directive { serial, signing: trusted[0].clone(), trusted, rotating: true }
        }
    }

    #[test]
    fn without_a_word_of_the_operator_nothing_that_is_trusted_is_given_up() {
        let roots = Roots::make(3);
        let cases: [(&[usize], &[usize], &[usize]); 6] = [
            // The first root of a mesh.
            (&[0], &[], &[0]),
            // A new root is prepared, and not trusted yet.
            (&[0, 1], &[0], &[0]),
            // Both are trusted; whichever signed, everybody trusts the older.
            (&[0, 1], &[0, 1], &[0, 1]),
            // The old one has been dropped but its Secret is still there.
            (&[0, 1], &[1], &[1]),
            // The Secret was replaced: the old root stays trusted.
            (&[1], &[0], &[1, 0]),
            (&[0, 1], &[2], &[0, 2]),
        ];
        for (stored, published, trusted) in cases {
            let found = decide(None, &roots.known(stored, published), None).unwrap();
            assert_eq!(found.trusted, roots.names(trusted), "{stored:?} {published:?}");
            assert_eq!((found.signing, found.serial), (roots.name(trusted[0]), 0));
            assert!(found.authority.is_some());
        }
        let nothing = decide(None, &roots.known(&[], &[0]), None);
        assert_eq!(nothing.err(), Some(TrustError::NoRoot));
    }

    #[test]
    fn the_operator_is_obeyed_also_without_the_key() {
        let roots = Roots::make(2);
        let known = roots.known(&[1], &[0]);
        let found = decide(Some(&roots.directive(3, &[0, 1])), &known, None).unwrap();
        assert_eq!(found.trusted, roots.names(&[0, 1]));
        assert!(found.authority.is_none(), "the key of the root that signs is lost: nothing is signed");
        assert_eq!(found.bundle.matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn a_stale_word_is_not_obeyed_and_a_root_that_is_nowhere_changes_nothing() {
        let roots = Roots::make(3);
        let known = roots.known(&[0, 1], &[0]);
        let now = decide(Some(&roots.directive(5, &[0, 1])), &known, None).unwrap();
        let stale = decide(Some(&roots.directive(4, &[0])), &known, Some(&now)).unwrap();
        assert_eq!((stale.serial, &stale.trusted), (5, &now.trusted));
        let absent = decide(Some(&roots.directive(6, &[0, 2])), &known, Some(&now));
        assert_eq!(absent.err(), Some(TrustError::Unknown(roots.name(2))));
        let foreign = decide(Some(&roots.directive(6, &[2])), &known, Some(&now)).unwrap();
        assert_eq!((foreign.serial, &foreign.trusted), (5, &now.trusted));
        let restored = decide(Some(&roots.directive(6, &[2])), &known, None).unwrap();
        assert_eq!((restored.serial, restored.trusted), (0, roots.names(&[0])));
    }
}
