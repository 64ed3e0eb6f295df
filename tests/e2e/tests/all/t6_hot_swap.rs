//! "With strategy HotSwap sidecars are replaced in place: the app runs on, connections live on, no request fails."

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::blink::Blinks;
use e2e::load::Totals;
use e2e::pod::{containers, statuses};
use e2e::shell::{output, until};
use e2e::story::{MESH, NAMESPACES, Story};
use serde_json::{Value, json};

pub const MINUTE: Duration = Duration::from_secs(60);
const SLOTS: [&str; 2] = ["meshwright-proxy", "meshwright-proxy-b"];
const DEPLOYMENTS: [(&str, &str); 7] = [
    ("bookstore", "bookstore-v1"),
    ("bookstore", "bookstore-v2"),
    ("bookstore", "warehouse"),
    ("bookstore", "echo"),
    ("bookbuyer", "bookbuyer"),
    ("bookbuyer", "load"),
    ("bookbuyer", "talk"),
];

/// Uid, and how often each of the app's containers was restarted.
pub type Lives = BTreeMap<String, (Value, Vec<Value>)>;

pub fn pods(story: &Story) -> Vec<Value> {
    let list = |namespace: &&str| story.cluster.list(&["pods", "-n", namespace]).unwrap();
    NAMESPACES.iter().flat_map(list).collect()
}

fn name(pod: &Value) -> String {
    let metadata = &pod["metadata"];
    format!("{}/{}", metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().unwrap())
}

/// The pods that are to live on: what an earlier test ended may still be there.
pub fn lives(story: &Story) -> Lives {
    let life = |pod: &Value| {
        let statuses = statuses(pod);
        let apps = statuses.into_iter().filter(|status| !SLOTS.iter().any(|slot| status["name"] == *slot));
        (name(pod), (pod["metadata"]["uid"].clone(), apps.map(|app| app["restartCount"].clone()).collect()))
    };
    let lives_on = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    pods(story).iter().filter(lives_on).map(life).collect()
}

fn has_slots(pod: &Value) -> bool {
    let all = containers(pod);
    SLOTS.iter().all(|slot| all.iter().any(|container| container["name"] == *slot))
}

/// The Envoy that each pod runs, as its sidecar says.
fn envoys(story: &Story) -> Vec<String> {
    let version = |pod: &Value| {
        let metadata = &pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let app = containers(pod).into_iter().map(|container| text(&container["name"]));
        let app = app.into_iter().find(|name| !SLOTS.contains(&name.as_str())).unwrap();
        let ask = ["bookstore", "call", "--show", "http://127.0.0.1:15020/stats"];
        let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
        let said = story.cluster.exec(&namespace, &name, &app, &ask).unwrap();
        let info: Value = serde_json::from_str(&said).unwrap();
        text(&info["envoy"]["version"])
    };
    pods(story).iter().map(version).collect()
}

/// The apps on the older release, each pod with two slots.
pub fn prepare(story: &mut Story) {
    if story.cluster.get(&["meshconfig", MESH]).unwrap()["status"]["version"]["effective"] != "0.1.0" {
        let load = story.start_load().unwrap();
        story.upgrade(&load, "0.1.0").unwrap();
    }
    let upgrade = json!({"spec": {"upgrade": {"strategy": "HotSwap", "drainTime": "15s"}}});
    story.cluster.patch(&["meshconfig", MESH], &upgrade).unwrap();
    for file in ["config/demo/app/load.yaml", "config/demo/app/streams.yaml"] {
        story.cluster.apply_file(file).unwrap();
    }
    // An injector may not have heard of the strategy yet; then a pod has to be made once more.
    until("every pod to have two slots", 5 * MINUTE, || {
        for (namespace, deployment) in DEPLOYMENTS {
            let mut restart = story.cluster.kubectl();
            restart.args(["rollout", "restart", "-n", namespace, &format!("deployment/{deployment}")]);
            output(&mut restart)?;
        }
        let mut restart = story.cluster.kubectl();
        output(restart.args(["rollout", "restart", "-n", "bookthief", "deployment/bookthief"]))?;
        for (namespace, deployment) in DEPLOYMENTS.into_iter().chain([("bookthief", "bookthief")]) {
            story.cluster.rolled_out(namespace, deployment, 3 * MINUTE)?;
        }
        let all = pods(story);
        let alive = all.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(alive.clone().all(has_slots).then_some(()))
    })
    .unwrap();
    until("the pods that were replaced to be gone", 2 * MINUTE, || {
        Ok(pods(story).iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()).then_some(()))
    })
    .unwrap();
}

pub fn assert_none_failed(what: &str, totals: &Totals) {
    assert_eq!(totals.failed, 0, "{what}: of {}: {:?}", totals.sent, totals.failures);
}

#[test]
fn sidecars_are_swapped_in_place_and_nobody_notices() {
    let mut story = Story::new(crate::cluster()).unwrap();
    prepare(&mut story);
    let (load, talk) = (story.follow("load").unwrap(), story.follow("talk").unwrap());
    let before = lives(&story);
    let blinks = Blinks::watch(&story.cluster, "bookstore").unwrap();

    println!("there:");
    story.upgrade(&load, "0.2.0").unwrap();
    assert_eq!(lives(&story), before, "the same pods, and no app was restarted");
    let there = envoys(&story);
    println!("back, while all controllers are killed:");
    let killer = std::thread::spawn({
        let cluster = story.cluster.clone();
        move || {
            std::thread::park_timeout(Duration::from_secs(20));
            let mut kill = cluster.kubectl();
            kill.args(["delete", "pods", "-n", "meshwright-system", "--grace-period=0", "--force"]);
            output(kill.args(["-l", "app.kubernetes.io/component=controller"])).unwrap();
        }
    });
    story.upgrade(&load, "0.1.0").unwrap();
    killer.thread().unpark();
    killer.join().unwrap();
    assert_eq!(lives(&story), before, "the same pods, and no app was restarted");
    let back = envoys(&story);
    assert!(there.iter().all(|envoy| *envoy == there[0]) && back.iter().all(|envoy| *envoy == back[0]));
    assert_ne!(there[0], back[0], "the Envoys changed");

    let blinks = blinks.stop();
    println!("Envoy {} and back to {}; endpoints that were not ready: {blinks}", there[0], back[0]);
    // Both are counted from before the first swap to after the last.
    let (load, talk) = (story.end("load", &load).unwrap(), story.end("talk", &talk).unwrap());
    println!("{} requests and {} messages on long connections", load.sent, talk.sent);
    assert_none_failed("requests", &load);
    assert_none_failed("long connections", &talk);
}

/// The name under which the node's image store keeps the image that is missing for a while.
const ASIDE: &str = "docker.io/meshwright/aside:0.2.0";
const IMAGE: &str = "docker.io/meshwright/proxy:0.2.0";

#[test]
fn the_old_sidecars_serve_while_the_new_image_is_missing() {
    let mut story = Story::new(crate::cluster()).unwrap();
    let load = story.start_load().unwrap();
    let before = lives(&story);
    story.cluster.ctr(&["images", "tag", "--force", IMAGE, ASIDE]).unwrap();
    story.cluster.ctr(&["images", "rm", "--sync", IMAGE]).unwrap();
    story.cluster.patch(&["meshconfig", MESH], &json!({"spec": {"version": "0.2.0"}})).unwrap();
    let said = until("the upgrade to say which sidecar cannot be swapped", 6 * MINUTE, || {
        let mesh = story.cluster.get(&["meshconfig", MESH])?;
        let Some(upgrade) = mesh["status"]["upgrade"].as_str() else { return Ok(None) };
        let upgrade = story.cluster.get(&["meshupgrade", upgrade])?;
        let waiting = upgrade["status"]["waitingOn"].as_str().unwrap_or_default().to_owned();
        Ok(waiting.contains(", and 0.1.0 serves on: ").then_some(waiting))
    });
    let sent = load.totals().sent;
    let serves = until("requests to go on", MINUTE, || Ok((load.totals().sent > sent + 500).then_some(())));
    // Before anything can panic: the tests after this one want the image.
    story.cluster.ctr(&["images", "tag", "--force", ASIDE, IMAGE]).unwrap();
    let said = said.unwrap();
    println!("  {said}");
    // Of a native sidecar the kubelet itself does not say more.
    let words = ["ErrImagePull", "ImagePullBackOff", "kubectl describe pod"];
    assert!(words.iter().any(|word| said.contains(word)), "{said}");
    serves.unwrap();
    story.upgrade(&load, "0.2.0").unwrap();
    assert_eq!(lives(&story), before, "the same pods, and no app was restarted");
    assert_none_failed("requests", &story.end("load", &load).unwrap());
}
