//! Why children that are no longer wanted are left for now: pure.

use std::fmt;

/// What is left, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Everything: something of this pass failed, so what would be left may be what still works.
    AfterFailure,
    /// Everything: the wanted release cannot be, so what is there is for the last good one.
    VersionRefused,
    /// Everything: which namespaces are wanted is unknown.
    BadSelector,
    /// Everything: webhooks and copies of the roots cannot be told from unwanted ones before the roots are published.
    RootsUnpublished,
    /// The control planes of these releases: pods or namespaces use them, and this operator does not know them.
    InUse(Vec<String>),
}

impl Left {
    /// CamelCase reason of the condition `PruningHeld`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AfterFailure => "ApplyFailed",
            Self::VersionRefused => "VersionRefused",
            Self::BadSelector => "BadSelector",
            Self::RootsUnpublished => "TrustBundleMissing",
            Self::InUse(_) => "UnknownReleaseInUse",
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nothing = "nothing that is no longer wanted is deleted";
        match self {
            Self::AfterFailure => {
                write!(f, "{nothing} before everything that is wanted could be made (see Ready)")
            }
            Self::VersionRefused => {
                write!(
                    f,
                    "{nothing} while spec.version cannot be had (see Ready): it is for the release in effect"
                )
            }
            Self::BadSelector => write!(
                f,
                "{nothing} while spec.watchedNamespaces.selector cannot be read: which namespaces are wanted is unknown"
            ),
            Self::RootsUnpublished => write!(
                f,
                "{nothing} before a controller has published the roots of trust, without which webhooks cannot be built \
                 anew"
            ),
            Self::InUse(releases) => write!(
                f,
                "the control planes of {} are left: namespaces or pods use them, and this operator does not know these \
                 releases; move what uses them, or run the operator that knows them",
                releases.join(", ")
            ),
        }
    }
}
