//! "Killing the operator in the middle of an upgrade changes nothing but the time."

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::shell::output;
use e2e::story::Story;

#[test]
fn an_upgrade_survives_killed_operators_and_drops_no_request() {
    let mut story = Story::new(crate::cluster()).unwrap();
    let follower = story.start_load().unwrap();
    story.summary.envoy_from = story.envoy_version().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let killer = std::thread::spawn({
        let (cluster, done) = (story.cluster.clone(), Arc::clone(&done));
        move || {
            let mut kills = 0;
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_secs(8));
                // No grace: as if the node had lost power.
                let mut kill = cluster.kubectl();
                kill.args(["delete", "pods", "-n", "meshwright-system", "--grace-period=0", "--force"]);
                kill.args(["-l", "app.kubernetes.io/component=operator"]);
                if kills < 5 && output(&mut kill).is_ok() {
                    kills += 1;
                }
            }
            kills
        }
    });
    // The way back is an upgrade as well.
    let upgraded = story.upgrade(&follower, "0.1.0");
    done.store(true, Ordering::Relaxed);
    killer.thread().unpark();
    let kills = killer.join().unwrap();
    upgraded.unwrap();
    let totals = story.stop_load(&follower).unwrap();
    println!("{kills} times all operators were killed; {} requests, {} failed", totals.sent, totals.failed);
    assert!(kills >= 1);
    assert_eq!(story.summary.broken, Vec::<String>::new());
}
