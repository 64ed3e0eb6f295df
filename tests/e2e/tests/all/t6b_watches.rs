//! "One watch ahead of another takes no endpoint away": both backends of a split are swapped while the API server is killed
//! again and again, so that pods and EndpointSlices are heard of in any order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use e2e::shell::{output, until};
use e2e::story::{MESH, Story};
use serde_json::json;

use crate::t6_hot_swap::{MINUTE, assert_none_failed, lives, prepare};

/// How long the API server lives each time; it takes about 7 s to answer again, and one that is killed before it does
/// would keep everything as it is. How long that goes on, and how many kills there are, at least.
const EVERY: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(120);
const KILLS: u32 = 10;
const BACKENDS: [&str; 2] = ["bookstore-v1", "bookstore-v2"];

/// Each backend of the split is one pod: while its endpoint is gone, nobody else is there.
fn one_pod_each(story: &Story) {
    let split = story.cluster.list(&["trafficsplits", "-n", "bookstore"]).unwrap();
    assert!(!split.is_empty(), "the story has split the bookstore");
    for backend in BACKENDS {
        let deployment = format!("deployment/{backend}");
        output(story.cluster.kubectl().args(["scale", "-n", "bookstore", &deployment, "--replicas=1"]))
            .unwrap();
        story.cluster.rolled_out("bookstore", backend, 3 * MINUTE).unwrap();
    }
}

/// Half of the requests to each, and many of them.
fn hurry(story: &Story) {
    let args = [
        "load",
        "http://bookstore.bookstore:8080/books",
        "--after-first-success",
        "--short=4",
        "--keep-alive=20",
    ];
    let container = json!([{"name": "load", "args": args}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": container}}}});
    let mut command = story.cluster.kubectl();
    command.args([
        "patch",
        "deployment",
        "-n",
        "bookbuyer",
        "load",
        "--type=strategic",
        "-p",
        &patch.to_string(),
    ]);
    output(&mut command).unwrap();
    story.cluster.rolled_out("bookbuyer", "load", 3 * MINUTE).unwrap();
    // Those of before end with all that they had begun; they are not counted.
    until("the generators of before to be gone", 3 * MINUTE, || {
        let pods = story.cluster.list(&["pods", "-n", "bookbuyer", "-l", "app=load"])?;
        Ok((pods.len() == 2).then_some(()))
    })
    .unwrap();
}

/// Kills and counts until it is told that it is enough.
fn killer(story: &Story, enough: &Arc<AtomicBool>, kills: &Arc<AtomicU32>) -> std::thread::JoinHandle<()> {
    let (cluster, enough, kills) = (story.cluster.clone(), Arc::clone(enough), Arc::clone(kills));
    std::thread::spawn(move || {
        while !enough.load(Ordering::Relaxed) {
            std::thread::park_timeout(EVERY);
            kills.fetch_add(u32::from(cluster.kill_api_server().is_ok()), Ordering::Relaxed);
        }
    })
}

#[test]
fn one_watch_ahead_of_another_takes_no_endpoint_away() {
    let mut story = Story::new(crate::cluster()).unwrap();
    prepare(&mut story);
    one_pod_each(&story);
    hurry(&story);
    let load = story.follow("load").unwrap();
    let before = lives(&story);

    let enough = Arc::new(AtomicBool::new(false));
    let kills = Arc::new(AtomicU32::new(0));
    let version = json!({"spec": {"version": "0.2.0"}});
    story.cluster.patch(&["meshconfig", MESH], &version).unwrap();
    // The new control plane comes up in peace: it is while pods move that one watch can be ahead of another.
    until("sidecars to be swapped", 5 * MINUTE, || {
        let upgrades = story.cluster.list(&["meshupgrades"])?;
        Ok(upgrades.iter().any(|one| one["status"]["phase"] == "Moving").then_some(()))
    })
    .unwrap();
    let (start, sent) = (Instant::now(), load.totals().sent);
    let killer = killer(&story, &enough, &kills);
    let swapped = until("every sidecar to be swapped", 15 * MINUTE, || {
        let mesh = story.cluster.get(&["meshconfig", MESH])?;
        let swapped = mesh["status"]["version"]["effective"] == "0.2.0";
        let long = start.elapsed() >= LONG && kills.load(Ordering::Relaxed) >= KILLS;
        Ok((swapped && long).then_some(()))
    });
    enough.store(true, Ordering::Relaxed);
    killer.thread().unpark();
    killer.join().unwrap();
    let kills = kills.load(Ordering::Relaxed);
    let (lasted, counted) = (start.elapsed(), load.totals().sent - sent);
    swapped.unwrap();
    assert_eq!(lives(&story), before, "the same pods, and no app was restarted");

    let totals = story.end("load", &load).unwrap();
    let seconds = lasted.as_secs().max(1);
    println!(
        "{counted} requests in {seconds} s ({} a second), the API server was killed {kills} times",
        counted / seconds
    );
    // How many it can be is the machine's affair; that requests went on through all kills is ours.
    assert!(kills >= KILLS && counted > 100 * u64::from(kills), "{kills} kills, {counted} requests");
    assert_none_failed("requests", &totals);
}
