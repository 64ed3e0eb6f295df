//! "One watch ahead of another takes no endpoint away": both backends of a split are swapped while the API server is killed
//! again and again, so that pods and EndpointSlices are heard of in any order.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::shell::{output, until};
use e2e::story::{MESH, Story};
use serde_json::json;

use crate::t6_hot_swap::{MINUTE, assert_none_failed, effective, lives, two_slots};

/// From one kill of the API server to the next; how long that goes on, and how many there are, at least.
const EVERY: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(120);
const KILLS: usize = 24;
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

/// What the killer did.
#[derive(Clone, Default)]
struct Kills {
    /// When each was.
    at: Vec<Instant>,
    /// How many found an API server that had never answered since the kill before.
    early: usize,
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pauses: Vec<_> = self.at.windows(2).map(|two| two[1].duration_since(two[0])).collect();
        pauses.sort();
        let (Some(shortest), Some(longest)) = (pauses.first(), pauses.last()) else {
            return write!(f, "never");
        };
        let median = pauses[pauses.len() / 2];
        write!(
            f,
            "{} times, {shortest:.1?} to {longest:.1?} apart (median {median:.1?}), {} times before it answered",
            self.at.len(),
            self.early
        )
    }
}

/// Kills every five seconds until it is told that it is enough. An API server needs some seconds to answer at all: one
/// that was killed before it did is let live until it has answered for as long, else nothing would ever be swapped.
fn killer(story: &Story, enough: &Arc<AtomicBool>, kills: &Arc<Mutex<Kills>>) -> JoinHandle<()> {
    let (cluster, enough, kills) = (story.cluster.clone(), Arc::clone(enough), Arc::clone(kills));
    std::thread::spawn(move || {
        let mut spare = false;
        while !enough.load(Ordering::Relaxed) {
            let killed = Instant::now();
            match cluster.kill_api_server() {
                Ok(()) => kills.lock().unwrap().at.push(killed),
                Err(error) => println!("  {error:#}"),
            }
            let mut next = killed + EVERY;
            let mut answered = false;
            while Instant::now() < next && !enough.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                if !answered && cluster.answers() {
                    answered = true;
                    next = if spare { Instant::now() + EVERY } else { next };
                } else if spare && !answered && killed.elapsed() < MINUTE {
                    next = Instant::now() + EVERY;
                }
            }
            spare = !answered;
            kills.lock().unwrap().early += usize::from(!answered);
        }
    })
}

#[test]
fn one_watch_ahead_of_another_takes_no_endpoint_away() {
    let story = Story::new(crate::cluster()).unwrap();
    two_slots(&story);
    let to = if effective(&story) == "0.2.0" { "0.1.0" } else { "0.2.0" };
    one_pod_each(&story);
    hurry(&story);
    let load = story.follow("load").unwrap();
    let before = lives(&story);

    story.cluster.patch(&["meshconfig", MESH], &json!({"spec": {"version": to}})).unwrap();
    let (start, sent) = (Instant::now(), load.totals().sent);
    let enough = Arc::new(AtomicBool::new(false));
    let kills = Arc::new(Mutex::new(Kills::default()));
    let killer = killer(&story, &enough, &kills);
    let swapped = until("every sidecar to be swapped", 15 * MINUTE, || {
        let mesh = story.cluster.get(&["meshconfig", MESH])?;
        let swapped = mesh["status"]["version"]["effective"] == to;
        let long = start.elapsed() >= LONG && kills.lock().unwrap().at.len() >= KILLS;
        Ok((swapped && long).then_some(()))
    });
    enough.store(true, Ordering::Relaxed);
    killer.join().unwrap();
    let kills = kills.lock().unwrap().clone();
    let lasted = start.elapsed();
    until("the API server to be back", MINUTE, || Ok(story.cluster.answers().then_some(()))).unwrap();
    swapped.unwrap();
    assert_eq!(lives(&story), before, "the same pods, and no app was restarted");

    let totals = story.end("load", &load).unwrap();
    let (counted, seconds) = (totals.sent - sent, lasted.as_secs().max(1));
    println!(
        "{counted} requests in {seconds} s ({} a second); the API server was killed {kills}",
        counted / seconds
    );
    // How many it can be is the machine's affair; that requests went on through all kills is ours.
    assert!(kills.at.len() >= KILLS && counted > 100 * KILLS as u64, "{kills}, {counted} requests");
    assert_none_failed("requests", &totals);
}
