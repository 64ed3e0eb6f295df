//! Whether a pod's sidecar can be swapped in place, and when: pure rules over one pod.
//!
//! A swap takes nothing from the app and no connection from anybody. What it costs: for about a second, while the
//! kubelet restarts the idle slot's container, the pod counts as not ready for Kubernetes.

use std::fmt;

use crate::catalogue::Catalogue;
use crate::facts::{Format, Pod, Slot, Slots};

/// Why a pod's sidecar is not swapped in place, in a namespace that asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoSwap {
    /// It has one sidecar container, since it is older than the strategy or ends by itself.
    OneSlot,
    /// It has no format and was injected by a newer release; an older sidecar may not understand what that wrote into it.
    InjectedLater(String),
    /// The sidecar of a release does not run in pods of this format.
    OtherFormat {
        /// Format of the pod.
        format: u32,
        /// Release to go to.
        to: String,
    },
    /// The annotation with the format is no number.
    UnreadableFormat(String),
    /// The Envoys of the two releases do not understand each other's hot restart.
    HotRestart {
        /// Release of the sidecar.
        from: String,
        /// Release to go to.
        to: String,
    },
}

impl fmt::Display for NoSwap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneSlot => {
                write!(f, "not in place: its pods have one sidecar container until they are made anew")
            }
            Self::InjectedLater(release) => {
                write!(f, "not in place: release {release} injected its pods, and it goes back before that")
            }
            Self::OtherFormat { format, to } => {
                write!(
                    f,
                    "not in place: its pods are of format {format}, which the sidecar of {to} does not know"
                )
            }
            Self::UnreadableFormat(text) => {
                write!(f, "not in place: annotation {} of its pods is {text:?}", crds::labels::POD_FORMAT)
            }
            Self::HotRestart { from, to } => {
                write!(f, "not in place: the Envoys of {from} and {to} cannot take over from each other")
            }
        }
    }
}

/// The slots of a pod of another release that can be swapped to `target`.
///
/// # Errors
/// [`NoSwap`].
pub fn possible<'a>(pod: &'a Pod, target: &str, catalogue: &Catalogue) -> Result<&'a Slots, NoSwap> {
    let Some(slots) = &pod.slots else { return Err(NoSwap::OneSlot) };
    let from = pod.revision.as_deref().unwrap_or_default();
    let release = |version: &str| catalogue.get(version).ok();
    format(slots, target, catalogue)?;
    let hot_restart = |version: &str| release(version).map(|release| &release.hot_restart);
    if hot_restart(from).is_some() && hot_restart(from) == hot_restart(target) {
        Ok(slots)
    } else {
        Err(NoSwap::HotRestart { from: from.to_owned(), to: target.to_owned() })
    }
}

/// Whether the sidecar of `target` runs in a pod of this format, whichever release injected it. Pods without a format are
/// older than the number: there a sidecar that is not older than the injector knows what that wrote.
fn format(slots: &Slots, target: &str, catalogue: &Catalogue) -> Result<(), NoSwap> {
    let release = |version: &str| catalogue.get(version).ok();
    match &slots.format {
        Format::Number(number) => match release(target) {
            Some(release) if release.pod_formats.contains(number) => Ok(()),
            _ => Err(NoSwap::OtherFormat { format: *number, to: target.to_owned() }),
        },
        Format::Unreadable(text) => Err(NoSwap::UnreadableFormat(text.clone())),
        Format::Unnumbered => match (release(&slots.injected), release(target)) {
            (Some(injected), Some(target)) if injected.version <= target.version => Ok(()),
            _ => Err(NoSwap::InjectedLater(slots.injected.clone())),
        },
    }
}

/// When the slot that is idle may be replaced, seconds since 1970: not before its connections have had their time.
/// A slot that never took over has left the other one as it was.
#[must_use]
pub fn free_at(slots: &Slots, target: &str) -> u64 {
    if slots.serving.as_deref() == Some(target) {
        return 0;
    }
    slots.swapped_at.map_or(0, |at| at.saturating_add(slots.drain_seconds))
}

impl Slot {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// As in the annotation `meshwright.io/live-slot`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Reads the annotation; nothing when it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }

    /// Its container.
    #[must_use]
    pub fn container(self) -> &'static str {
        match self {
            Self::A => crds::labels::PROXY_CONTAINER,
            Self::B => crds::labels::PROXY_CONTAINER_B,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Proxy;

    fn pod(injected: &str, swapped_at: Option<u64>) -> Pod {
        let slots = Slots {
            injected: injected.to_owned(),
            format: Format::Unnumbered,
            live: Slot::A,
            swapped_at,
            drain_seconds: 300,
            serving: Some("0.1.0".to_owned()),
        };
        Pod {
            uid: "1".to_owned(),
            revision: Some("0.1.0".to_owned()),
            ready: true,
            terminating: false,
            proxy: Proxy::InSync,
            slots: Some(slots),
        }
    }

    #[test]
    fn a_swap_needs_two_slots_an_older_injection_and_envoys_that_understand_each_other() {
        let catalogue = Catalogue::embedded();
        assert!(possible(&pod("0.1.0", None), "0.2.0", &catalogue).is_ok());
        let one = Pod { slots: None, ..pod("0.1.0", None) };
        assert_eq!(possible(&one, "0.2.0", &catalogue), Err(NoSwap::OneSlot));
        let later = NoSwap::InjectedLater("0.2.0".to_owned());
        assert_eq!(possible(&pod("0.2.0", None), "0.1.0", &catalogue), Err(later));
        let text = "version: 0.2.1\nenvoy: 1.50.0\nhotRestart: '12.104'\nkubernetes: '>=1.19'\nreachableFrom: ['>=0.1.0']\n";
        let other = Catalogue::load(&[("0.2.1".to_owned(), text.to_owned())].into()).unwrap();
        let catalogue = catalogue.merge(other).unwrap();
        let (from, to) = ("0.1.0".to_owned(), "0.2.1".to_owned());
        assert_eq!(possible(&pod("0.1.0", None), "0.2.1", &catalogue), Err(NoSwap::HotRestart { from, to }));
    }

    #[test]
    fn pods_of_one_format_swap_both_ways_whichever_release_injected_them() {
        let catalogue = Catalogue::embedded();
        let of = |format: Format, revision: &str, injected: &str| {
            let mut pod = pod(injected, None);
            pod.revision = Some(revision.to_owned());
            pod.slots.as_mut().unwrap().format = format;
            pod
        };
        for injected in ["0.1.0", "0.2.0"] {
            let one = |revision| of(Format::Number(1), revision, injected);
            assert!(possible(&one("0.1.0"), "0.2.0", &catalogue).is_ok(), "{injected}");
            assert!(possible(&one("0.2.0"), "0.1.0", &catalogue).is_ok(), "{injected}");
        }
        let unknown = of(Format::Number(7), "0.1.0", "0.1.0");
        let other = NoSwap::OtherFormat { format: 7, to: "0.2.0".to_owned() };
        assert_eq!(possible(&unknown, "0.2.0", &catalogue), Err(other));
        let edited = of(Format::parse(Some("one")), "0.1.0", "0.1.0");
        let unreadable = NoSwap::UnreadableFormat("one".to_owned());
        assert_eq!(possible(&edited, "0.2.0", &catalogue), Err(unreadable));
        // A pod of before there were formats, as ever: forward and back, but not to before its injector.
        let old = |revision, injected| of(Format::parse(None), revision, injected);
        assert!(possible(&old("0.2.0", "0.1.0"), "0.1.0", &catalogue).is_ok());
        let later = NoSwap::InjectedLater("0.2.0".to_owned());
        assert_eq!(possible(&old("0.2.0", "0.2.0"), "0.1.0", &catalogue), Err(later));
    }

    #[test]
    fn an_idle_slot_has_its_time_to_drain_unless_it_never_lost_its_place() {
        let slots = |at| pod("0.1.0", at).slots.unwrap();
        assert_eq!(free_at(&slots(None), "0.2.0"), 0);
        assert_eq!(free_at(&slots(Some(1000)), "0.2.0"), 1300);
        assert_eq!(free_at(&slots(Some(1000)), "0.1.0"), 0, "0.1.0 still serves");
    }
}
