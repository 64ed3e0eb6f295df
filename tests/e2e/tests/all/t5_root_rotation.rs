//! "The root of trust is replaced while the mesh serves: one edit, and no failed request."

use std::time::Duration;

use e2e::shell::until;
use e2e::story::{MESH, Story};
use serde_json::json;

#[test]
fn the_root_is_replaced_and_no_request_fails() {
    let mut story = Story::new(crate::cluster()).unwrap();
    let follower = story.start_load().unwrap();
    let root = |story: &Story| {
        let mesh = story.cluster.get(&["meshconfig", MESH]).unwrap();
        mesh["status"]["certificateAuthority"].clone()
    };
    let before = root(&story);
    let next = before["generation"].as_i64().unwrap() + 1;
    let edit = json!({"spec": {"certificateAuthority": {"rootGeneration": next}}});
    story.cluster.patch(&["meshconfig", MESH], &edit).unwrap();
    let mut said = String::new();
    let after = until(format!("root {next} to be the only one"), Duration::from_secs(300), || {
        let now = root(&story);
        let line = format!("{}: {}", now["step"], now["message"]);
        if line != said {
            println!("  {line}");
            said = line;
        }
        Ok((now["step"] == "Stable" && now["generation"] == next).then_some(now))
    })
    .unwrap();
    assert_ne!(after["signing"], before["signing"]);
    assert_eq!(after["trusted"], json!([after["signing"]]));
    let sent = follower.totals().sent;
    until("more requests to be sent", Duration::from_secs(60), || {
        Ok((follower.totals().sent > sent + 100).then_some(()))
    })
    .unwrap();
    let totals = story.stop_load(&follower).unwrap();
    assert_eq!(totals.failed, 0, "{:?}", totals.failures);
}
