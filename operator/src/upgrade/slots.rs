//! Pods with two sidecar slots: what they show of a swap, and the patch that makes one.

use crds::labels;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use upgrades::facts::{Format, Slot, Slots};

use super::execute::Done;

/// Field manager of what a swap writes into a pod.
const MANAGER: &str = "meshwright-operator-swap";
/// Words of a container are cut at this many characters.
const LONGEST: usize = 300;

/// The slots of a pod; none when it has one sidecar container. `serving` is the release that the controllers see.
#[must_use]
pub fn of(pod: &Pod, serving: Option<&str>) -> Option<Slots> {
    let annotation = |name: &str| pod.annotations().get(name).map(String::as_str);
    let first = container(pod, Slot::A)?;
    container(pod, Slot::B)?;
    let variable =
        |name: &str| first.env.iter().flatten().find(|variable| variable.name == name)?.value.clone();
    let drain = variable(labels::SWAP_DRAIN_ENV).and_then(|text| text.parse().ok());
    Some(Slots {
        injected: variable(labels::REVISION_ENV)?,
        format: Format::parse(annotation(labels::POD_FORMAT)),
        live: annotation(labels::LIVE_SLOT).and_then(Slot::parse)?,
        swapped_at: annotation(labels::SWAPPED_AT).and_then(|text| text.parse().ok()),
        drain_seconds: drain.unwrap_or_else(|| labels::SWAP_DRAIN_SECONDS.into()),
        serving: serving.map(str::to_owned),
    })
}

/// Why the slot that shall be live isn't, as its container shows it.
#[must_use]
pub fn trouble(pod: &Pod, slots: &Slots) -> String {
    let serving = slots.serving.as_deref().unwrap_or("no sidecar");
    let (slot, name) = (slots.live.name(), slots.live.container());
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let inits = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    let status = statuses.chain(inits).find(|status| status.name == name);
    match status.and_then(words) {
        Some(words) => format!("slot {slot} does not take over, and {serving} serves on: {words}"),
        None if status.is_some_and(has_ended) => format!(
            "slot {slot} has not taken over yet, and {serving} serves on: its container waits to be started; kubectl \
             describe pod says for what"
        ),
        None => format!("slot {slot} has not taken over yet, and {serving} serves on"),
    }
}

/// Whether a container has ended and is not started again. Of a native sidecar that ended well a kubelet says no more than
/// that, whatever it waits for, an image for one (kubernetes/kubernetes `convertToAPIContainerStatuses`).
fn has_ended(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.terminated.is_some())
}

fn words(status: &ContainerStatus) -> Option<String> {
    let short = |text: Option<&String>| text.map(|text| text.chars().take(LONGEST).collect::<String>());
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    let ended = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = ended.filter(|ended| ended.exit_code != 0).map(|ended| {
        let message = short(ended.message.as_ref()).unwrap_or_else(|| "it left no message".to_owned());
        format!("it ended with exit code {}: {}", ended.exit_code, message.trim())
    });
    let waiting = waiting.map(|waiting| {
        let reason = waiting.reason.clone().unwrap_or_default();
        [Some(reason), short(waiting.message.as_ref())].into_iter().flatten().collect::<Vec<_>>().join(": ")
    });
    ended.or(waiting)
}

/// A sidecar is a container, or where it is native an init container.
fn container(pod: &Pod, slot: Slot) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == slot.container())
}

/// What a plan asks for.
pub struct Swap<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Pod.
    pub pod: &'a str,
    /// Uid expected to be found.
    pub uid: &'a str,
    /// Slot expected to be live.
    pub expect: Slot,
    /// Release.
    pub to: &'a str,
    /// Its image.
    pub image: &'a str,
    /// Seconds since 1970.
    pub at: u64,
}

/// Swaps, if the pod still is as expected: image of the idle slot, annotation and label in one patch, so that the
/// kubelet sees all or nothing.
///
/// # Errors
/// As the API server says.
pub async fn swap(client: &Client, swap: &Swap<'_>) -> Result<Done, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), swap.namespace);
    let Some(pod) = pods.get_opt(swap.pod).await? else { return Ok(Done::Changed) };
    let Some(body) = patch(&pod, swap) else { return Ok(Done::Changed) };
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    pods.patch(swap.pod, &params, &Patch::Strategic(body)).await.map(|_| Done::Yes)
}

/// The patch; none when the pod isn't what the plan was made for.
#[must_use]
pub fn patch(pod: &Pod, swap: &Swap<'_>) -> Option<Value> {
    let slots = of(pod, None)?;
    let expected = pod.metadata.uid.as_deref() == Some(swap.uid) && slots.live == swap.expect;
    if !expected || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let idle = swap.expect.other();
    let native = pod.spec.as_ref()?.containers.iter().all(|container| container.name != idle.container());
    let list = if native { "initContainers" } else { "containers" };
    Some(json!({
        "metadata": {
            "uid": swap.uid,
            "resourceVersion": pod.metadata.resource_version,
            "labels": {labels::REVISION: swap.to},
            "annotations": {labels::LIVE_SLOT: idle.name(), labels::SWAPPED_AT: swap.at.to_string()},
        },
        "spec": {list: [{"name": idle.container(), "image": swap.image}]},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(list: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "annotations": {"meshwright.io/live-slot": "a", "meshwright.io/swapped-at": "12"},
            },
            "spec": {"containers": [{"name": "app"}], list: [
                {"name": "meshwright-proxy", "env": [
                    {"name": "MESHWRIGHT_REVISION", "value": "0.1.0"},
                    {"name": "MESHWRIGHT_SWAP_DRAIN_SECONDS", "value": "60"},
                ]},
                {"name": "meshwright-proxy-b"},
            ]},
            "status": {"containerStatuses": [{
                "name": "meshwright-proxy-b", "image": "", "imageID": "", "ready": false, "restartCount": 1,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
            }]},
        }))
        .unwrap()
    }

    fn request(expect: Slot) -> Swap<'static> {
        Swap { namespace: "n", pod: "p", uid: "u", expect, to: "0.2.0", image: "proxy:0.2.0", at: 99 }
    }

    #[test]
    fn a_swap_is_one_patch_of_the_idle_slot() {
        let body = patch(&pod("containers"), &request(Slot::A)).unwrap();
        assert_eq!(
            body["spec"]["containers"],
            json!([{"name": "meshwright-proxy-b", "image": "proxy:0.2.0"}])
        );
        assert_eq!(
            body["metadata"]["annotations"],
            json!({"meshwright.io/live-slot": "b", "meshwright.io/swapped-at": "99"})
        );
        assert_eq!(body["metadata"]["labels"], json!({"meshwright.io/revision": "0.2.0"}));
        let body = patch(&pod("initContainers"), &request(Slot::A)).unwrap();
        assert_eq!(body["spec"]["initContainers"][0]["name"], "meshwright-proxy-b", "native sidecars");
        assert_eq!(patch(&pod("containers"), &request(Slot::B)), None, "a is live");
        assert_eq!(patch(&pod("containers"), &Swap { uid: "other", ..request(Slot::A) }), None);
    }

    #[test]
    fn what_a_pod_shows_of_its_slots() {
        let slots = of(&pod("containers"), Some("0.1.0")).unwrap();
        let expected = Slots {
            injected: "0.1.0".to_owned(),
            format: Format::Unnumbered,
            live: Slot::A,
            swapped_at: Some(12),
            drain_seconds: 60,
            serving: Some("0.1.0".to_owned()),
        };
        assert_eq!(slots, expected);
        let words = trouble(&pod("containers"), &Slots { live: Slot::B, ..slots.clone() });
        assert_eq!(words, "slot b does not take over, and 0.1.0 serves on: ImagePullBackOff: no such image");
        assert_eq!(trouble(&pod("containers"), &slots), "slot a has not taken over yet, and 0.1.0 serves on");
        assert_eq!(of(&Pod::default(), None), None);
        let mut native = pod("initContainers");
        let ended = json!([{"name": "meshwright-proxy-b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                            "state": {"terminated": {"exitCode": 0}}}]);
        let status = native.status.get_or_insert_default();
        status.container_statuses = None;
        status.init_container_statuses = serde_json::from_value(ended).unwrap();
        let words = trouble(&native, &Slots { live: Slot::B, ..slots });
        assert!(
            words.ends_with("its container waits to be started; kubectl describe pod says for what"),
            "{words}"
        );
    }
}
