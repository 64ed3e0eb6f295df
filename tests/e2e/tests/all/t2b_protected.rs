//! "The control plane's NetworkPolicies and budgets are of the pods that they mean": their selectors and ports against
//! the pods of a node. (The test's own network enforces no NetworkPolicy.)

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::cluster::{Cluster, ready};
use e2e::node::listens;
use e2e::shell::{output, root, until};
use e2e::story::MESH;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "meshwright-system";
const COMPONENT: &str = "app.kubernetes.io/component";
const COMPONENTS: [&str; 3] = ["operator", "controller", "injector"];

/// Whether a selector of labels (`matchLabels` only, as ours are) fits an object.
fn fits(selector: &Value, object: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    assert!(
        selector.keys().all(|key| key == "matchLabels"),
        "only matchLabels can be read here: {selector:?}"
    );
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    wanted.into_iter().flatten().all(|(label, value)| object["metadata"]["labels"][label] == *value)
}

/// Pods of the control plane that are there to stay, with all replicas.
fn pods(cluster: &Cluster, component: &str) -> Vec<Value> {
    let selector = format!("{COMPONENT}={component}");
    until(format!("two pods of the {component}"), 2 * MINUTE, || {
        let pods = cluster.list(&["pods", "-n", SYSTEM, "-l", &selector])?;
        // One that was just evicted is still ready, and there is none yet in its place.
        let stays = |pod: &Value| ready(pod) && pod["metadata"]["deletionTimestamp"].is_null();
        Ok((pods.len() == 2 && pods.iter().all(stays)).then_some(pods))
    })
    .unwrap()
}

/// The one object of a list whose selector (at a path of its spec) picks a pod.
fn only_one<'a>(all: &'a [Value], selector: &str, pod: &Value) -> &'a Value {
    let mut picking = all.iter().filter(|object| fits(&object["spec"][selector], pod));
    let one = picking.next().unwrap_or_else(|| panic!("nothing is of pod {}", pod["metadata"]["name"]));
    assert_eq!(picking.next(), None, "two are of pod {}", pod["metadata"]["name"]);
    one
}

fn ports(policy: &Value) -> BTreeSet<u16> {
    let rules = policy["spec"]["ingress"].as_array().unwrap();
    let ports = rules.iter().flat_map(|rule| rule["ports"].as_array().unwrap());
    ports.map(|port| u16::try_from(port["port"].as_u64().unwrap()).unwrap()).collect()
}

/// Whether a policy lets a pod open a connection to a port.
fn lets(policy: &Value, port: u16, namespace: &Value, pod: &Value) -> bool {
    let peer_fits = |peer: &Value| {
        let of_pod = peer.get("podSelector").is_none_or(|selector| fits(selector, pod));
        of_pod && fits(&peer["namespaceSelector"], namespace)
    };
    policy["spec"]["ingress"].as_array().unwrap().iter().any(|rule| {
        let at = rule["ports"].as_array().unwrap().iter().any(|all| all["port"] == port);
        at && rule["from"].as_array().is_none_or(|from| from.iter().any(peer_fits))
    })
}

#[test]
fn network_policies_name_the_pods_and_ports_that_are_there() {
    let cluster = crate::cluster();
    let policies = cluster.list(&["networkpolicies", "-n", SYSTEM]).unwrap();
    for component in COMPONENTS {
        for pod in pods(&cluster, component) {
            let policy = only_one(&policies, "podSelector", &pod);
            let own = cluster.processes(&pod, component).unwrap()[0];
            assert_eq!(
                ports(policy),
                listens(own).unwrap(),
                "{component}: what is open and what it listens on"
            );
        }
    }
    assert_eq!(policies.len(), COMPONENTS.len());
}

#[test]
fn network_policies_let_in_who_must_call_and_nobody_else() {
    let cluster = crate::cluster();
    let policies = cluster.list(&["networkpolicies", "-n", SYSTEM]).unwrap();
    let namespace = |name: &str| cluster.get(&["namespace", name]).unwrap();
    let one = |component: &str| pods(&cluster, component).remove(0);
    let pod = |namespace: &str, app: &str| {
        cluster.get(&["pod", "-n", namespace, &cluster.pod(namespace, app).unwrap()]).unwrap()
    };
    let (store, git) = (pod("bookstore", "bookstore"), pod("git", "git-server"));
    assert_eq!(store["metadata"]["labels"]["meshwright.io/mesh"], MESH);

    let of = |component: &str| only_one(&policies, "podSelector", &one(component)).clone();
    let (controller, injector, operator) = (of("controller"), of("injector"), of("operator"));
    let system = namespace(SYSTEM);
    for (caller, home) in [(&store, "bookstore"), (&one("injector"), SYSTEM), (&one("operator"), SYSTEM)] {
        assert!(lets(&controller, 15012, &namespace(home), caller), "{}", caller["metadata"]["name"]);
    }
    assert!(!lets(&controller, 15012, &namespace("git"), &git), "a pod outside of the mesh");
    // The API server, which calls webhooks, has neither label nor namespace.
    let rules = injector["spec"]["ingress"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["ports"][0]["port"] == 9443 && rule.get("from").is_none()));
    for policy in [&controller, &injector, &operator] {
        assert!(!lets(policy, 9090, &namespace("bookstore"), &store), "metrics are for who was told");
        let mut scraper = system.clone();
        scraper["metadata"]["labels"]["meshwright.io/scrapes"] = json!("true");
        assert!(lets(policy, 9090, &scraper, &git), "a namespace that asks for metrics");
    }
}

/// What the API server says to the eviction of a pod.
fn evict(cluster: &Cluster, pod: &Value) -> anyhow::Result<String> {
    let name = pod["metadata"]["name"].as_str().unwrap();
    let eviction = json!({"apiVersion": "policy/v1beta1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": SYSTEM}});
    let served = output(cluster.kubectl().args(["api-versions"]))?;
    let mut eviction = eviction;
    if served.lines().any(|line| line == "policy/v1") {
        eviction["apiVersion"] = json!("policy/v1");
    }
    let file = root().join(format!("target/eviction-{}.json", std::process::id()));
    std::fs::write(&file, eviction.to_string())?;
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}/eviction");
    let said = output(cluster.kubectl().args(["create", "--raw", &path, "-f"]).arg(&file));
    std::fs::remove_file(&file)?;
    said
}

#[test]
fn the_last_pod_of_the_control_plane_is_not_evicted() {
    let cluster = crate::cluster();
    let budgets = cluster.list(&["poddisruptionbudgets", "-n", SYSTEM]).unwrap();
    assert_eq!(budgets.len(), COMPONENTS.len());
    for component in COMPONENTS {
        let pods = pods(&cluster, component);
        let budget = only_one(&budgets, "selector", &pods[0])["metadata"]["name"].as_str().unwrap();
        assert_eq!(only_one(&budgets, "selector", &pods[1])["metadata"]["name"], budget);
        until(format!("budget {budget} to count its pods"), MINUTE, || {
            let status = cluster.get(&["poddisruptionbudget", "-n", SYSTEM, budget])?["status"].clone();
            let counted = status["currentHealthy"] == 2 && status["expectedPods"] == 2;
            anyhow::ensure!(counted && status["disruptionsAllowed"] == 1, "{status}");
            Ok(Some(()))
        })
        .unwrap();
        evict(&cluster, &pods[0]).unwrap();
        let refused = evict(&cluster, &pods[1]).unwrap_err().to_string();
        println!("  {component}: {refused}");
        assert!(refused.contains("disruption budget"), "{refused}");
    }
    for component in COMPONENTS {
        pods(&cluster, component);
    }
}
