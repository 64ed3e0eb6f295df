//! Who is told when an Envoy refuses a resource.

use mesh::ResourceType::{Cluster, Listener, Route};
use mesh::ingest::ServiceAccount;
use mesh::{ResourceType, authors};
use serde_json::json;

use crate::world::*;

fn told(kind: ResourceType, name: &str, account: &str) -> Vec<String> {
    let mut objects = bookstore();
    let spec = json!({"service": "bookstore", "backends": [{"service": "bookstore-v2", "weight": 1}],
                      "matches": [{"kind": "HTTPRouteGroup", "name": "books"}]});
    objects.push(policy("TrafficSplit", "testers", spec));
    let found = authors(&mesh(objects), kind, name, &ServiceAccount::new(NS, account));
    found.iter().map(|object| format!("{} {}", object.kind, object.name)).collect()
}

#[test]
fn routes_are_made_by_splits_and_rules_by_targets_and_the_groups_that_they_name() {
    let routed = ["Service bookstore", "HTTPRouteGroup books", "TrafficSplit canary", "TrafficSplit testers"];
    assert_eq!(told(Route, "out|shop|bookstore|80", "buyer"), routed);
    assert_eq!(told(Cluster, "out|shop|bookstore|80", "buyer"), ["Service bookstore"]);
    assert_eq!(told(Route, "in|8080", "bookstore"), ["TrafficTarget buy", "HTTPRouteGroup books"]);
    assert_eq!(told(Listener, "inbound", "warehouse"), ["TrafficTarget store", "TCPRoute any"]);
}

#[test]
fn what_only_the_mesh_config_shapes_is_nobody_elses() {
    for (kind, name) in [(Listener, "outbound"), (Cluster, "passthrough"), (Cluster, "inbound"), (Route, "")]
    {
        assert_eq!(told(kind, name, "bookstore"), Vec::<String>::new(), "{name}");
    }
}
