//! Hostile and odd objects.

use mesh::ingest::{EndpointPart, HttpMatch, Part, PolicyPart, Protocol, RoutesPart, RuleRef, ingest};
use mesh::{Object, Reason};
use serde_json::{Value, json};

use crate::world::*;

fn reason(object: &Object) -> Option<(Reason, String)> {
    ingest(object).err().map(|problem| (problem.reason, problem.field))
}

#[test]
fn bad_policies_name_field_and_reason() {
    let account = |name: &str| json!({"kind": "ServiceAccount", "name": name});
    let target = |destination: Value, sources: Value, rules: Value| {
        policy("TrafficTarget", "t", json!({"destination": destination, "sources": sources, "rules": rules}))
    };
    let group = |one: Value| policy("HTTPRouteGroup", "g", json!({"matches": [one]}));
    let split = |backends: Value| policy("TrafficSplit", "s", json!({"service": "a", "backends": backends}));
    let foreign = json!({"kind": "ServiceAccount", "name": "a", "namespace": "elsewhere"});
    let many: Vec<_> = (0..2000).map(|n| account(&format!("a{n}"))).collect();
    let table = [
        (target(foreign, json!([]), json!([])), Reason::ForeignNamespace, "spec.destination.namespace"),
        (
            target(json!({"kind": "User", "name": "a"}), json!([]), json!([])),
            Reason::UnknownKind,
            "spec.destination.kind",
        ),
        (
            target(account("a"), json!([{"kind": "Group", "name": "a"}]), json!([])),
            Reason::UnknownKind,
            "spec.sources[0].kind",
        ),
        (target(account("a|b"), json!([]), json!([])), Reason::Incomplete, "spec.destination.name"),
        (target(account("a"), json!(many), json!([])), Reason::TooLarge, "spec.sources"),
        (
            target(account("a"), json!([]), json!([{"kind": "UDPRoute", "name": "x"}])),
            Reason::UnknownKind,
            "spec.rules[0].kind",
        ),
        (group(json!({"pathRegex": "("})), Reason::BadRegex, "spec.matches[0].pathRegex"),
        (group(json!({"pathRegex": ""})), Reason::BadRegex, "spec.matches[0].pathRegex"),
        (group(json!({"methods": ["get"]})), Reason::BadHttp, "spec.matches[0].methods"),
        (group(json!({"headers": {"a b": "x"}})), Reason::BadHttp, "spec.matches[0].headers"),
        (group(json!({"headers": {":path": "x"}})), Reason::BadHttp, "spec.matches[0].headers"),
        (group(json!({"headers": {"a": "(?=x)"}})), Reason::BadRegex, "spec.matches[0].headers[a]"),
        (
            policy("TCPRoute", "t", json!({"matches": {"ports": [70000]}})),
            Reason::BadPort,
            "spec.matches.ports",
        ),
        (policy("TCPRoute", "t", json!({"matches": {"ports": [0]}})), Reason::BadPort, "spec.matches.ports"),
        (split(json!([{"service": "b", "weight": -1}])), Reason::BadWeight, "spec.backends[0].weight"),
        (split(json!([{"service": "b", "weight": 0}])), Reason::BadWeight, "spec.backends"),
        (split(json!([])), Reason::BadWeight, "spec.backends"),
        (split(json!([{"service": "b|c", "weight": 1}])), Reason::Incomplete, "spec.backends[0].service"),
        (
            split(
                json!([{"service": "b", "weight": 2147483647}, {"service": "c", "weight": 2147483647}, {"service": "d", "weight": 2147483647}]),
            ),
            Reason::BadWeight,
            "spec.backends",
        ),
        (
            policy(
                "MeshPolicy",
                "m",
                json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
            ),
            Reason::BadSelector,
            "spec.selector.matchExpressions",
        ),
    ];
    for (object, expected, field) in table {
        assert_eq!(reason(&object), Some((expected, field.to_owned())));
    }
}

#[test]
fn a_problem_says_object_field_reason_and_what_to_do() {
    let bad = policy("TCPRoute", "db", json!({"matches": {"ports": [70000]}}));
    let text = ingest(&bad).unwrap_err().to_string();
    assert_eq!(text, "TCPRoute shop/db: spec.matches.ports: BadPort: 70000 is no port; ports are 1 to 65535");
}

#[test]
fn matches_are_read_as_smi_and_osm_users_write_them() {
    let group = |one: Value| match ingest(&policy("HTTPRouteGroup", "g", json!({"matches": [one]}))).unwrap()
    {
        Part::Policy(PolicyPart::Routes(RoutesPart::Http(matches))) => matches[0].1.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(group(json!({"methods": ["GET", "*"]})), HttpMatch::default());
    let map = group(json!({"headers": {"Host": "a"}}));
    assert_eq!(map, group(json!({"headers": [{"host": "a"}]})));
    assert_eq!(map.headers.first().unwrap().0, ":authority");
    let rules = json!([{"kind": "HTTPRouteGroup", "name": "g", "matches": []}]);
    match ingest(&target("t", "a", &[], rules)).unwrap() {
        Part::Policy(PolicyPart::TrafficTarget(part)) => {
            assert_eq!(part.rules, vec![RuleRef::Http { name: "g".to_owned(), matches: None }]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn split_services_may_be_written_in_full() {
    for written in ["root", "root.shop", "root.shop.svc", "root.shop.svc.cluster.local"] {
        let spec = json!({"service": written, "backends": [{"service": written, "weight": 1}]});
        match ingest(&policy("TrafficSplit", "s", spec)).unwrap() {
            Part::Policy(PolicyPart::TrafficSplit(part)) => {
                assert_eq!((part.root.as_str(), part.backends.len()), ("root", 1));
                assert!(part.backends.contains_key("root"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn protocols_of_ports() {
    let table = [
        (None, "", Protocol::Undeclared),
        (None, "web", Protocol::Undeclared),
        (None, "http", Protocol::Http),
        (None, "http-web", Protocol::Http),
        (None, "http2-web", Protocol::Http2),
        (None, "grpc-api", Protocol::Http2),
        (None, "tcp-db", Protocol::Tcp),
        (None, "https-web", Protocol::Tcp),
        (None, "tcpdb", Protocol::Undeclared),
        (Some("kubernetes.io/h2c"), "tcp", Protocol::Http2),
        (Some("GRPC"), "", Protocol::Http2),
        (Some("https"), "http", Protocol::Tcp),
        (Some("example.com/secret-protocol"), "http", Protocol::Tcp),
        (Some("http"), "tcp-x", Protocol::Http),
    ];
    for (app_protocol, name, expected) in table {
        let value = json!({
            "metadata": {"name": "s", "namespace": NS},
            "spec": {"ports": [{"name": name, "port": 80, "appProtocol": app_protocol}]},
        });
        let object: k8s_openapi::api::core::v1::Service = serde_json::from_value(value).unwrap();
        let Part::Service(part) = ingest(&object.into()).unwrap() else { panic!() };
        assert_eq!(part.ports[&80].protocol, expected, "{app_protocol:?} {name}");
    }
}

#[test]
fn a_pod_is_meshed_by_label_and_container_together() {
    let part = |change: &dyn Fn(&mut Value)| {
        let mut value = pod_value("p", "a", "x");
        change(&mut value);
        match ingest(&pod_of(value)).unwrap() {
            Part::Pod(part) => part,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(part(&|_| ()).mesh, "demo");
    assert_eq!(part(&|pod| pod["spec"]["containers"] = json!([{"name": "app"}])).mesh, "");
    assert_eq!(part(&|pod| pod["metadata"]["labels"] = json!({})).mesh, "");
    let native = part(&|pod| {
        pod["spec"]["containers"] = json!([{"name": "app"}]);
        pod["spec"]["initContainers"] = json!([{"name": "meshwright-proxy"}]);
    });
    assert_eq!(native.mesh, "demo");
    assert_eq!(part(&|pod| pod["spec"]["serviceAccountName"] = Value::Null).service_account, "default");
    let size = serde_json::to_vec(&part(&|_| ())).unwrap().len();
    assert!(size < 400, "{size} bytes");
}

#[test]
fn a_pod_whose_idle_slot_starts_anew_goes_on_taking_calls() {
    let swapping = |containers: &[(&str, bool)], gates: Value| {
        let statuses: Vec<_> = containers
            .iter()
            .map(|(name, ready)| json!({"name": name, "ready": ready, "image": "", "imageID": "", "restartCount": 0}))
            .collect();
        let names: Vec<_> = containers.iter().map(|(name, _)| json!({"name": name})).collect();
        let value = json!({
            "metadata": {"name": "p", "namespace": NS, "labels": {"meshwright.io/mesh": "demo"}},
            "spec": {"containers": names, "readinessGates": gates},
            "status": {"containerStatuses": statuses},
        });
        let object: k8s_openapi::api::core::v1::Pod = serde_json::from_value(value).unwrap();
        let Part::Pod(part) = ingest(&object.into()).unwrap() else { panic!() };
        part.serving == mesh::ingest::Serving::Swapping
    };
    let (a, b) = ("meshwright-proxy", "meshwright-proxy-b");
    assert!(swapping(&[(a, true), (b, false), ("app", true)], Value::Null));
    assert!(swapping(&[(a, false), (b, true), ("app", true)], Value::Null));
    assert!(!swapping(&[(a, true), (b, false), ("app", false)], Value::Null), "the app is not ready");
    assert!(!swapping(&[(a, false), (b, false), ("app", true)], Value::Null), "no slot serves");
    assert!(!swapping(&[(a, false), ("app", true)], Value::Null), "it has one slot");
    assert!(!swapping(&[(a, true), (b, false)], Value::Null));
    let gate = json!([{"conditionType": "example.com/gate"}]);
    assert!(!swapping(&[(a, true), (b, false), ("app", true)], gate), "somebody else has a say");
}

#[test]
fn endpoints_say_whether_they_take_calls() {
    let endpoint = |address: &str, conditions: Value, kind: &str| json!({"addresses": [address], "conditions": conditions, "targetRef": {"kind": kind, "name": address}});
    let value = json!({
        "metadata": {"name": "s-1", "namespace": NS, "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "any"}],
        "endpoints": [
            endpoint("10.0.0.1", json!({}), "Pod"),
            endpoint("10.0.0.2", json!({"ready": true}), "Pod"),
            endpoint("10.0.0.3", json!({"ready": false}), "Pod"),
            endpoint("10.0.0.4", json!({"ready": true, "terminating": true}), "Pod"),
            endpoint("10.0.0.5", json!({"ready": true}), "Node"),
            endpoint("127.0.0.1", json!({"ready": true}), "Pod"),
            endpoint("nonsense", json!({"ready": true}), "Pod"),
            {"addresses": []}, {"addresses": ["10.0.0.9"]},
        ],
    });
    let object: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(value).unwrap();
    let Part::EndpointSlice(part) = ingest(&object.into()).unwrap() else { panic!() };
    let kept = |wanted: bool| -> Vec<_> {
        let all = part.endpoints.iter().filter(|one| (one.word == mesh::ingest::Word::Ready) == wanted);
        all.map(|EndpointPart { address, pod, .. }| format!("{address} {pod}")).collect()
    };
    assert_eq!(kept(true), ["10.0.0.1 10.0.0.1", "10.0.0.2 10.0.0.2", "10.0.0.9 "]);
    assert_eq!(kept(false), ["10.0.0.3 10.0.0.3", "10.0.0.4 10.0.0.4"]);
    assert_eq!(part.ports.clone().into_iter().collect::<Vec<_>>(), [("http".to_owned(), 80)]);
}
