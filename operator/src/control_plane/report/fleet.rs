//! Conditions about sidecars and policies, from what the controllers say.

use crds::membership::Missed;

use super::super::facts::Facts;
use super::super::plan::Plan;
use crate::conditions::State;
use crate::fleet::FleetView;

/// How many culprits a message names.
const NAMED: usize = 3;

fn unknown(facts: &Facts) -> Option<(State, &'static str, String)> {
    match &facts.fleet {
        None => Some((State::Unknown, "NotAsked", "no controller has been asked yet".to_owned())),
        Some(fleet) if fleet.complete() => None,
        Some(fleet) if fleet.missing.is_empty() => {
            Some((State::Unknown, "NoController", "no controller is ready to be asked".to_owned()))
        }
        Some(fleet) => {
            let told = fleet.missing.iter().map(|(pod, why)| format!("{pod}: {why}"));
            Some((State::Unknown, "ControllerSilent", list(told)))
        }
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    let all: Vec<_> = words.collect();
    let more = all.len().saturating_sub(NAMED);
    let mut text = all.into_iter().take(NAMED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// `ProxiesInSync`: every sidecar is connected and has acknowledged what it should hold.
#[must_use]
pub fn proxies_in_sync(facts: &Facts) -> (State, &'static str, String) {
    if let Some(unknown) = unknown(facts) {
        return unknown;
    }
    let empty = FleetView::default();
    let proxies = &facts.fleet.as_ref().unwrap_or(&empty).proxies;
    let rejecting = proxies.values().filter(|proxy| !proxy.rejected.is_empty()).map(|proxy| {
        let errors =
            proxy.rejected.iter().map(|r| format!("{} {}: {}", r.resource_type, r.names.join(","), r.error));
        format!("{}/{} rejects {}", proxy.namespace, proxy.pod, list(errors))
    });
    let rejecting = list(rejecting);
    if !rejecting.is_empty() {
        return (State::False, "Rejected", rejecting);
    }
    let stays = facts.pods.iter().filter(|pod| !pod.terminating);
    let absent = stays.filter(|pod| !proxies.contains_key(&(pod.namespace.clone(), pod.name.clone())));
    let absent = list(absent.map(|pod| format!("{}/{}", pod.namespace, pod.name)));
    if !absent.is_empty() {
        return (State::False, "NotConnected", format!("not connected: {absent}"));
    }
    let behind = proxies
        .values()
        .filter(|proxy| !proxy.in_sync)
        .map(|proxy| format!("{}/{}", proxy.namespace, proxy.pod));
    let behind = list(behind);
    if behind.is_empty() {
        (State::True, "InSync", format!("{} sidecars hold what they should", proxies.len()))
    } else {
        (State::False, "Behind", format!("not acknowledged yet: {behind}"))
    }
}

/// `PodsInjected`: no pod of the mesh's namespaces runs without its sidecar, apart from those that say why.
#[must_use]
pub fn pods_injected(facts: &Facts, plan: &Plan) -> (State, &'static str, String) {
    let escaped: Vec<_> = facts.escaped(&plan.membership.members).collect();
    let mut why: Vec<_> = escaped.iter().map(|(_, missed)| *missed).collect();
    why.sort_unstable();
    why.dedup();
    let of = |one: &Missed| {
        let pods = escaped.iter().filter(|(_, missed)| missed == one);
        let names = list(pods.map(|(pod, _)| format!("{}/{}", pod.namespace, pod.name)));
        format!("{names} ({})", one.explanation())
    };
    if why.is_empty() {
        return (State::True, "Injected", "every pod has its sidecar or says why not".to_owned());
    }
    let message =
        format!("without a sidecar: {}. {ESCAPED_NEXT}", why.iter().map(of).collect::<Vec<_>>().join("; "));
    (State::False, "WithoutSidecar", message)
}

/// What to do about a pod without a sidecar.
pub const ESCAPED_NEXT: &str = concat!(
    "Delete it so that it is made anew (spec.upgrade.restartUninjected: Planned of the MeshConfig does), or label its \
     template ",
    crds::labels::in_domain!("inject"),
    "=false to keep it outside"
);

/// `PoliciesApplied`: every policy is honoured in full.
#[must_use]
pub fn policies(facts: &Facts) -> (State, &'static str, String) {
    let problems = facts.fleet.as_ref().map(|fleet| fleet.problems.as_slice()).unwrap_or_default();
    if !problems.is_empty() {
        let words = problems
            .iter()
            .map(|p| format!("{} {}/{}: {}: {}", p.kind, p.namespace, p.name, p.reason, p.message));
        return (State::False, "Problems", list(words));
    }
    unknown(facts).unwrap_or_else(|| (State::True, "Applied", "every policy is honoured".to_owned()))
}
