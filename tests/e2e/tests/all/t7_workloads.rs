//! "Whatever makes the pods, their sidecars are there before the first request and gone after the last."

use std::time::Duration;

use e2e::cluster::{Cluster, ready};
use e2e::pod::statuses as statuses_of;
use e2e::shell::{output, until};
use e2e::story::{BOOKS, Story};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

fn container(name: &str, args: &Value) -> Value {
    json!({
        "name": name, "image": "meshwright/bookstore:1", "imagePullPolicy": "IfNotPresent", "args": args,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
    })
}

/// A pod template with the label `app`.
fn template(app: &str, account: &str, containers: &[Value], more: &[(&str, Value)]) -> Value {
    let mut spec = json!({"serviceAccountName": account, "automountServiceAccountToken": false, "containers": containers});
    for (field, value) in more {
        spec[field] = value.clone();
    }
    json!({"metadata": {"labels": {"app": app}}, "spec": spec})
}

fn apply(cluster: &Cluster, api: &str, kind: &str, namespace: &str, name: &str, rest: &[(&str, Value)]) {
    let mut object =
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
    for (field, value) in rest {
        object[field] = value.clone();
    }
    cluster.apply(&object.to_string()).unwrap();
}

fn until_ready(cluster: &Cluster, namespace: &str, app: &str, number: usize) -> Vec<Value> {
    let waited = until(format!("{number} ready pods of {app}"), 3 * MINUTE, || {
        let pods = cluster.list(&["pods", "-n", namespace, "-l", &format!("app={app}")])?;
        Ok((pods.len() == number && pods.iter().all(ready)).then_some(pods))
    });
    if waited.is_err() {
        let selector = format!("app={app}");
        println!(
            "{:?}",
            output(cluster.kubectl().args(["describe", "pods", "-n", namespace, "-l", &selector]))
        );
    }
    waited.unwrap()
}

fn delete(cluster: &Cluster, namespace: &str, objects: &[&str]) {
    output(cluster.kubectl().args(["delete", "--wait=false", "-n", namespace]).args(objects)).unwrap();
}

/// What a container of a pod gets for one call.
fn statuses(cluster: &Cluster, namespace: &str, pod: &str, container: &str, url: &str) -> Value {
    let text = cluster.exec(namespace, pod, container, &["bookstore", "call", url]).unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    answer["statuses"].clone()
}

/// Two members behind a headless service, with a second container and processes that see each other.
fn members(cluster: &Cluster) {
    apply(cluster, "v1", "ServiceAccount", "bookstore", "members", &[]);
    let ports = json!({"clusterIP": "None", "selector": {"app": "members"}, "ports": [{"name": "http", "port": 8080}]});
    apply(cluster, "v1", "Service", "bookstore", "members", &[("spec", ports)]);
    let mut store = container("store", &json!(["store", "--name=$(POD_NAME)"]));
    store["env"] = json!([{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    store["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    store["readinessProbe"] = json!({"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1});
    store["livenessProbe"] = json!({"tcpSocket": {"port": "http"}, "periodSeconds": 1});
    store["startupProbe"] = json!({"exec": {"command": ["bookstore", "--version"]}, "periodSeconds": 1});
    let pod = template(
        "members",
        "members",
        &[store, container("idle", &json!(["idle"]))],
        &[("shareProcessNamespace", json!(true))],
    );
    let spec = json!({"replicas": 2, "serviceName": "members", "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": "members"}}, "template": pod});
    apply(cluster, "apps/v1", "StatefulSet", "bookstore", "member", &[("spec", spec)]);
    let matches = json!({"matches": [{"name": "look", "pathRegex": "/books", "methods": ["GET"]}]});
    apply(
        cluster,
        "specs.smi-spec.io/v1alpha4",
        "HTTPRouteGroup",
        "bookstore",
        "members",
        &[("spec", matches)],
    );
    let account =
        |name: &str, namespace: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": namespace});
    let target = json!({
        "destination": account("members", "bookstore"),
        "rules": [{"kind": "HTTPRouteGroup", "name": "members"}],
        "sources": [account("bookbuyer", "bookbuyer"), account("members", "bookstore")],
    });
    apply(
        cluster,
        "access.smi-spec.io/v1alpha3",
        "TrafficTarget",
        "bookstore",
        "members",
        &[("spec", target)],
    );
}

#[test]
fn members_of_a_stateful_set_are_called_by_their_names_and_heal() {
    let story = Story::new(crate::cluster()).unwrap();
    let cluster = &story.cluster;
    members(cluster);
    let pods = until_ready(cluster, "bookstore", "members", 2);
    let url = |member: &str| format!("http://{member}.members.bookstore.svc.cluster.local:8080/books");
    for member in ["member-0", "member-1"] {
        until(format!("the buyer to reach {member}"), MINUTE, || {
            let answer = story.call("bookbuyer", &url(member), &["--count", "5"])?;
            Ok((answer["served_by"] == json!({member: 5})).then_some(()))
        })
        .unwrap();
    }
    // Through its own sidecar, out and in again. Each sidecar hears of the members in its own time.
    until("a pod to reach itself by its name", MINUTE, || {
        let itself = statuses(cluster, "bookstore", "member-0", "idle", &url("member-0"));
        anyhow::ensure!(itself == json!({"200": 1}), "{itself}");
        Ok(Some(()))
    })
    .unwrap();
    until("the thief to be refused by name", MINUTE, || {
        let refused = story.call("bookthief", &url("member-0"), &[])?["statuses"].clone();
        assert!(refused["200"].is_null(), "the thief gets in: {refused}");
        anyhow::ensure!(refused == json!({"403": 1}), "{refused}");
        Ok(Some(()))
    })
    .unwrap();

    // Both are killed as if the machine were short of memory; kubelet starts each again.
    for name in ["store", "meshwright-proxy"] {
        let status = statuses_of(&pods[0]).into_iter().find(|status| status["name"] == name).unwrap();
        let id = status["containerID"].as_str().unwrap().trim_start_matches("containerd://").to_owned();
        cluster.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id]).unwrap();
        until(format!("container {name} to be started again"), MINUTE, || {
            let pod = cluster.get(&["pod", "-n", "bookstore", "member-0"])?;
            let again = |now: &Value| {
                now["name"] == name && now["restartCount"].as_i64() > status["restartCount"].as_i64()
            };
            Ok(statuses_of(&pod).into_iter().any(again).then_some(()))
        })
        .unwrap();
        until_ready(cluster, "bookstore", "members", 2);
        until(format!("member-0 to answer after {name} was killed"), MINUTE, || {
            let answer = story.call("bookbuyer", &url("member-0"), &["--count", "5"])?;
            Ok((answer["statuses"] == json!({"200": 5})).then_some(()))
        })
        .unwrap();
    }
    delete(
        cluster,
        "bookstore",
        &["statefulset/member", "service/members", "traffictarget/members", "httproutegroup/members"],
    );
}

#[test]
fn a_job_calls_at_once_and_ends_with_its_sidecar() {
    let story = Story::new(crate::cluster()).unwrap();
    let cluster = &story.cluster;
    let once = container("once", &json!(["call", "--require=200", BOOKS]));
    let pod = template("once", "bookbuyer", &[once], &[("restartPolicy", json!("Never"))]);
    let spec = json!({"backoffLimit": 0, "template": pod});
    apply(cluster, "batch/v1", "Job", "bookbuyer", "once", &[("spec", spec.clone())]);
    let served =
        output(cluster.kubectl().args(["api-resources", "--api-group=batch", "-o", "wide"])).unwrap();
    let cron = if served.lines().any(|line| line.starts_with("cronjobs") && line.contains("batch/v1 ")) {
        "batch/v1"
    } else {
        "batch/v1beta1"
    };
    let schedule =
        json!({"schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": spec}});
    apply(cluster, cron, "CronJob", "bookbuyer", "often", &[("spec", schedule)]);
    for job in ["once", "often"] {
        // A CronJob's Jobs have its name and a number.
        let name = until(format!("job {job} to end"), 3 * MINUTE, || {
            let jobs = cluster.list(&["jobs", "-n", "bookbuyer"])?;
            let mut of = jobs.iter().filter(|object| {
                object["metadata"]["name"]
                    .as_str()
                    .is_some_and(|name| name == job || name.starts_with("often-") && job == "often")
            });
            let Some(object) = of.next() else { return Ok(None) };
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            Ok((!object["status"]["succeeded"].is_null() || !object["status"]["failed"].is_null())
                .then_some(name))
        })
        .unwrap();
        let log =
            output(cluster.kubectl().args(["logs", "-n", "bookbuyer", &format!("job/{name}"), "-c", "once"]));
        println!("  {name}: {log:?}");
        let object = cluster.get(&["job", "-n", "bookbuyer", &name]).unwrap();
        assert_eq!(object["status"]["succeeded"], 1, "{object}");
        let pods = cluster.list(&["pods", "-n", "bookbuyer", "-l", &format!("job-name={name}")]).unwrap();
        assert!(e2e::pod::has_sidecar(&pods[0]), "it had a sidecar");
    }
    delete(cluster, "bookbuyer", &["job/once", "cronjob/often"]);
}

#[test]
fn a_daemon_and_a_bare_pod_are_members_and_init_containers_have_the_network() {
    let story = Story::new(crate::cluster()).unwrap();
    let cluster = &story.cluster;
    // Before a native sidecar was there, whom an init container may call was nobody's affair; now the policies say it.
    let refs = format!("{}/info/refs?service=git-upload-pack", e2e::git::URL);
    let buyer = cluster.pod("bookbuyer", "bookbuyer").unwrap();
    let native = e2e::pod::is_native(&cluster.get(&["pod", "-n", "bookbuyer", &buyer]).unwrap());
    let url = if native { BOOKS } else { &refs };
    let before = container("before", &json!(["call", "--require=200", url]));
    let mut idle = container("everywhere", &json!(["idle"]));
    idle["ports"] = json!([{"containerPort": 8080, "hostPort": 18080}]);
    let pod = template("everywhere", "bookbuyer", &[idle], &[("initContainers", json!([before]))]);
    let spec = json!({"selector": {"matchLabels": {"app": "everywhere"}}, "template": pod});
    apply(cluster, "apps/v1", "DaemonSet", "bookbuyer", "everywhere", &[("spec", spec)]);
    let bare = template("bare", "bookbuyer", &[container("everywhere", &json!(["idle"]))], &[]);
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "spec": bare["spec"]});
    object["metadata"] = json!({"name": "bare", "namespace": "bookbuyer", "labels": {"app": "bare"}});
    cluster.apply(&object.to_string()).unwrap();
    for app in ["everywhere", "bare"] {
        let pods = until_ready(cluster, "bookbuyer", app, 1);
        let name = pods[0]["metadata"]["name"].as_str().unwrap();
        assert_eq!(statuses(cluster, "bookbuyer", name, "everywhere", BOOKS), json!({"200": 1}), "{app}");
    }
    delete(cluster, "bookbuyer", &["daemonset/everywhere", "pod/bare"]);
}
