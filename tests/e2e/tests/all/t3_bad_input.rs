//! "Bad input gets a clear error, and what was good stays in force."

use std::time::Duration;

use e2e::cluster::{Cluster, condition};
use e2e::git::Clone;
use e2e::shell::{output, until};
use e2e::story::{MESH, Story};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// What the MeshConfig's condition says, once it says something about `word`.
fn mesh_says(cluster: &Cluster, mesh: &str, kind: &str, word: &str) -> String {
    until(format!("MeshConfig {mesh} to speak of {word}"), MINUTE, || {
        let object = cluster.get(&["meshconfig", mesh])?;
        let said = condition(&object, kind)
            .map(|c| format!("{}: {}", c["reason"], c["message"]))
            .unwrap_or_default();
        anyhow::ensure!(said.contains(word), "it says {said:?}");
        Ok(Some(said))
    })
    .unwrap()
}

fn still_works(story: &Story) {
    assert_eq!(story.status("bookbuyer").unwrap(), 200, "what was good stays in force");
    assert_eq!(story.status("bookthief").unwrap(), 403, "and nothing is widened");
}

#[test]
fn an_unknown_version_changes_nothing_and_names_the_known_ones() {
    let story = Story::new(crate::cluster()).unwrap();
    let before = story.cluster.get(&["meshconfig", MESH]).unwrap()["spec"]["version"].clone();
    // The validation webhook may refuse it at once; where it does not run, the condition says it.
    let patch = json!({"spec": {"version": "9.9.9"}});
    match story.cluster.patch(&["meshconfig", MESH], &patch) {
        Err(refused) => assert!(format!("{refused:#}").contains("9.9.9"), "{refused:#}"),
        Ok(()) => {
            let said = mesh_says(&story.cluster, MESH, "Stalled", "9.9.9");
            assert!(said.contains("0.1.0") && said.contains("0.2.0"), "{said}");
            still_works(&story);
            story.cluster.patch(&["meshconfig", MESH], &json!({"spec": {"version": before}})).unwrap();
        }
    }
    mesh_says(&story.cluster, MESH, "Ready", "Succeeded");
    still_works(&story);
}

#[test]
fn two_meshes_cannot_have_one_namespace() {
    let story = Story::new(crate::cluster()).unwrap();
    let other = json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "other"},
        "spec": {"version": "0.2.0", "watchedNamespaces": {"names": ["bookstore"]}}});
    story.cluster.apply(&other.to_string()).unwrap();
    let said = until("the second mesh to be told", MINUTE, || {
        let object = story.cluster.get(&["meshconfig", "other"])?;
        let all = object["status"]["conditions"].to_string();
        Ok(all.contains("NamespaceConflict").then_some(all))
    })
    .unwrap();
    // It cannot even have the control plane's namespace; conflicts over watched ones are in operator/tests.
    assert!(said.contains("meshwright-system") && said.contains(MESH), "{said}");
    output(story.cluster.kubectl().args(["delete", "meshconfig", "other", "--timeout=120s"])).unwrap();
    let namespace = story.cluster.get(&["namespace", "bookstore"]).unwrap();
    assert_eq!(namespace["metadata"]["labels"]["meshwright.io/mesh"], MESH);
    still_works(&story);
}

/// Pushes a commit that must not be applied; returns what the source says of it.
fn refused_commit(story: &Story, clone: &Clone, file: &str, content: &str) -> Value {
    let applied = |object: &Value| object["status"]["applied"]["commit"].clone();
    let source = || story.cluster.get(&["policysource", "-n", "meshwright-system", "bookstore"]);
    let before = applied(&source().unwrap());
    let commit = clone.commit(&[(file, Some(content))], "A commit that must not pass").unwrap();
    let object = until("the commit to be refused", MINUTE, || {
        let object = source()?;
        let attempted = object["status"]["attempted"]["commit"] == commit.as_str();
        // Not "Ready is False": that is also so while the commit is still being looked at.
        let refused = condition(&object, "Stalled").is_some_and(|stalled| stalled["status"] == "True");
        Ok((attempted && refused).then_some(object))
    })
    .unwrap();
    assert_eq!(applied(&object), before, "the last good commit stays in force");
    still_works(story);
    let back = clone.commit(&[(file, None)], "Take it back").unwrap();
    until("the commit without it to be applied", MINUTE, || {
        Ok((applied(&source()?) == back.as_str()).then_some(()))
    })
    .unwrap();
    object
}

#[test]
fn bad_commits_are_refused_with_file_and_line() {
    let story = Story::new(crate::cluster()).unwrap();
    let clone = Clone::new(&story.cluster).unwrap();

    let object = refused_commit(&story, &clone, "policies/broken.yaml", "kind: TrafficTarget\n  spec: [\n");
    assert_eq!(object["status"]["problems"][0]["file"], "policies/broken.yaml", "{object}");
    assert!(object["status"]["problems"][0]["line"].as_i64().unwrap() >= 1, "{object}");

    for (kind, content) in [
        (
            "Deployment",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, namespace: bookstore}\nspec: {}\n",
        ),
        (
            "Secret",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: x, namespace: bookstore}\nstringData: {a: b}\n",
        ),
    ] {
        let object = refused_commit(&story, &clone, "policies/foreign.yaml", content);
        let problems = object["status"]["problems"].to_string();
        assert!(problems.contains(kind) && problems.contains("policies/foreign.yaml"), "{problems}");
    }

    let elsewhere = "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
                     metadata: {name: x, namespace: kube-system}\nspec: {matches: []}\n";
    let object = refused_commit(&story, &clone, "policies/elsewhere.yaml", elsewhere);
    assert!(object["status"]["problems"].to_string().contains("kube-system"), "{object}");
}

#[test]
fn repositories_that_cannot_be_read_are_named() {
    let story = Story::new(crate::cluster()).unwrap();
    for (path, word) in
        [("nothing-here.git", "RepositoryNotFound"), ("private.git", "AuthenticationRequired")]
    {
        let source = json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "PolicySource",
            "metadata": {"name": "unreadable", "namespace": "bookstore"},
            "spec": {"interval": "1s", "git": {"url": format!("http://git-server.git.svc.cluster.local:8080/{path}"),
                     "ref": {"branch": "main"}}}});
        story.cluster.apply(&source.to_string()).unwrap();
        until(format!("{path} to be reported as {word}"), MINUTE, || {
            let object = story.cluster.get(&["policysource", "-n", "bookstore", "unreadable"])?;
            let ready = condition(&object, "Ready").cloned().unwrap_or_default();
            anyhow::ensure!(ready.to_string().contains(word), "it says {ready}");
            Ok(Some(()))
        })
        .unwrap();
        output(story.cluster.kubectl().args([
            "delete",
            "policysource",
            "-n",
            "bookstore",
            "unreadable",
            "--timeout=60s",
        ]))
        .unwrap();
    }
    still_works(&story);
}

#[test]
fn a_policy_that_names_what_is_not_there_is_a_condition_not_a_rejection() {
    let story = Story::new(crate::cluster()).unwrap();
    let target = json!({"apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget",
        "metadata": {"name": "dangling", "namespace": "bookstore"},
        "spec": {"destination": {"kind": "ServiceAccount", "name": "bookstore", "namespace": "bookstore"},
                 "rules": [{"kind": "HTTPRouteGroup", "name": "not-there", "matches": ["x"]}],
                 "sources": [{"kind": "ServiceAccount", "name": "bookthief", "namespace": "bookthief"}]}});
    story.cluster.apply(&target.to_string()).unwrap();
    let said = mesh_says(&story.cluster, MESH, "PoliciesApplied", "dangling");
    assert!(said.contains("not-there"), "{said}");
    // Where the author looks: SMI's kinds have no status.
    let event = until("an Event about the policy itself", Duration::from_secs(60), || {
        let events = story.cluster.list(&["events", "-n", "bookstore"])?;
        Ok(events.into_iter().find(|event| event["involvedObject"]["name"] == "dangling"))
    })
    .unwrap();
    assert_eq!(
        (&event["involvedObject"]["kind"], &event["type"]),
        (&json!("TrafficTarget"), &json!("Warning"))
    );
    assert!(event["message"].as_str().is_some_and(|text| text.contains("not-there")), "{event}");
    still_works(&story);
    output(story.cluster.kubectl().args(["delete", "traffictarget", "-n", "bookstore", "dangling"])).unwrap();
}
