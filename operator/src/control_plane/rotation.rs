//! Rotation of the root of trust: pure, and computed anew each time from what is seen.
//!
//! ```text
//!            Preparing          TrustingBoth           Issuing             Dropping
//!  trust a ─────────────▶ a ───────────────▶ a + b ──────────────▶ b + a ──────────────▶ b
//!  signs a   b is made    a   all trust both   a   all hold of b     b    nobody trusts a    ▶ a's Secret is deleted
//! ```
//! Each arrow waits until every controller obeys and every live holder of a certificate has said so itself
//! (docs/ARCHITECTURE.md, "Root rotation"). Aborting is the same way with the other root as the target: at every
//! point, the next step towards either root is safe, because the step before it was confirmed by everybody.
//!
//! What cannot be seen is stored in the status: which step was ordered last ([`Directive`]), and when.

use std::collections::{BTreeMap, BTreeSet};

use crds::fleet::{AuthorityReport, RootReport};
use crds::labels;
use crds::mesh_config::{CaProvider, CertificateAuthorityStatus, RotationStep};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

mod decide;
mod observe;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod words;

pub use observe::observe;

/// How long a step lasts at least: a pod that got its first certificate just before the step began is seen by then.
const SETTLE: SignedDuration = SignedDuration::from_secs(10);
/// Of a root's life, this part may be over before it is rotated by itself.
const USED_UP: (i64, i64) = (4, 5);

/// What was ordered last; the controllers obey it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Goes up with every change.
    pub serial: i64,
    /// The root that signs.
    pub signing: String,
    /// The roots that are trusted, the one that signs first.
    pub trusted: Vec<String>,
    /// When it was ordered.
    pub since: Timestamp,
}

/// Somebody with a certificate of the mesh: a sidecar or an injector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// `<namespace>/<pod>`.
    pub name: String,
    /// What it last said, if anything.
    pub holding: Option<Holding>,
}

/// What a holder says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// Roots that it trusts.
    pub roots: BTreeSet<String>,
    /// Root of its certificate.
    pub issuer: String,
    /// The last order that it has heard of. It takes no certificate of a controller that obeys an older one, so what
    /// it says stays true; what it said before may not.
    pub serial: i64,
}

/// What is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Who makes roots.
    pub provider: CaProvider,
    /// `spec.certificateAuthority.rootGeneration`.
    pub wanted: i64,
    /// What the status says: what was ordered last, and how far it was.
    pub before: Option<CertificateAuthorityStatus>,
    /// What every controller says, by pod; or why not everything is known.
    pub controllers: Result<BTreeMap<String, AuthorityReport>, String>,
    /// Every live holder; `None` when nobody has looked (they are only listed during a rotation).
    pub holders: Option<Vec<Holder>>,
    /// Whether a trust bundle has been published.
    pub published: bool,
    /// Now.
    pub now: Timestamp,
}

/// What to do with a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretAction {
    /// Make a root. That the Secret exists already is fine: the controllers will say what is in it.
    Create {
        /// Name.
        secret: &'static str,
        /// Generation of the root.
        generation: i64,
        /// Whether there may be another one.
        beside: Beside,
    },
    /// Delete the Secret of a root that nobody trusts any more.
    Delete {
        /// Name.
        secret: String,
        /// Only if it is still this one.
        uid: String,
    },
}

/// Whether a root is made beside another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// The other one is known: a rotation goes from it to this one.
    TheOther,
    /// Nothing is known. A root that is there already, in either Secret, is the mesh's: a MeshConfig that was deleted
    /// and made again finds its root where the last rotation left it.
    Nothing,
}

impl Beside {
    /// The Secrets that must not exist for a root to be made in `secret`.
    #[must_use]
    pub fn must_be_free(self, secret: &'static str) -> Vec<&'static str> {
        match self {
            Self::TheOther => vec![secret],
            Self::Nothing => vec![labels::ROOT_SECRET, labels::OTHER_ROOT_SECRET],
        }
    }
}

/// What shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The order; `None` before the first root.
    pub directive: Option<Directive>,
    /// How far it is.
    pub step: RotationStep,
    /// Why nothing moves, if something should: a person must know.
    pub stuck: Option<Stuck>,
    /// Generation of the root that signs; 0 when not known.
    pub generation: i64,
    /// Generation that it goes to.
    pub target: i64,
    /// `rootGeneration` of the spec.
    pub wanted: i64,
    /// Name of the Secret of the root that signs, when known.
    pub secret: Option<String>,
    /// Begin and end of the signing root's life, when known.
    pub life: Option<(Timestamp, Timestamp)>,
    /// Who is waited for, and what for.
    pub waiting: Vec<String>,
    /// What to do besides ordering.
    pub action: Option<SecretAction>,
}

/// What a person must do something about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// A Secret cannot be used: `<Reason>: <message>`.
    BadSecret(String),
    /// The Secret that you provide is gone.
    SecretGone,
}

impl Directive {
    /// From the status.
    #[must_use]
    pub fn from(status: &CertificateAuthorityStatus) -> Option<Self> {
        (status.serial > 0 && !status.signing.is_empty()).then(|| Self {
            serial: status.serial,
            signing: status.signing.clone(),
            trusted: status.trusted.clone(),
            since: status.since.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }

    /// The other trusted root.
    fn other(&self) -> Option<&String> {
        self.trusted.iter().find(|root| **root != self.signing)
    }

    fn next(&self, signing: &str, other: Option<&str>, now: Timestamp) -> Self {
        let trusted = std::iter::once(signing).chain(other).map(str::to_owned).collect();
        Self { serial: self.serial + 1, signing: signing.to_owned(), trusted, since: now }
    }
}

impl Decision {
    /// Decides what to order next, and what must be seen before.
    #[must_use]
    pub fn make(observed: &Observed) -> Self {
        decide::decide(observed)
    }

    /// The same without what would be ordered now.
    #[must_use]
    pub fn held_back(self, before: Option<&CertificateAuthorityStatus>) -> Self {
        let Some(before) = before.filter(|before| before.serial > 0) else { return self };
        let (step, generation) = (before.step, before.generation);
        Self { directive: Directive::from(before), step, generation, life: None, secret: None, ..self }
    }

    /// The decision as the status says it.
    /// `before` fills in what cannot be seen just now.
    #[must_use]
    pub fn status(&self, before: Option<&CertificateAuthorityStatus>) -> Option<CertificateAuthorityStatus> {
        let directive = self.directive.as_ref()?;
        let known = before.filter(|before| before.signing == directive.signing);
        let not_after = self.life.map(|(_, end)| end.to_string());
        Some(CertificateAuthorityStatus {
            step: self.step,
            generation: self.generation,
            serial: directive.serial,
            signing: directive.signing.clone(),
            trusted: directive.trusted.clone(),
            since: directive.since.to_string(),
            not_after: not_after.or_else(|| Some(known?.not_after.clone())).unwrap_or_default(),
            secret: self.secret.clone().or_else(|| Some(known?.secret.clone())).unwrap_or_default(),
            message: self.words(),
        })
    }
}

/// Whether holders must be listed before the next decision: in the middle of a rotation, or when one may begin.
#[must_use]
pub fn needs_holders(status: Option<&CertificateAuthorityStatus>) -> bool {
    status.is_some_and(|status| status.step != RotationStep::Stable)
}
