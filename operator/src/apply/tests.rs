//! When an object counts as different.

use super::*;
use serde_json::json;

#[test]
fn defaults_and_additions_of_others_are_no_difference() {
    let live = json!({"spec": {"replicas": 2, "added": 1, "ports": [{"port": 1, "protocol": "TCP"}],
        "containers": [{"name": "theirs"}, {"name": "ours", "image": "x", "tty": false}]}});
    let desired = json!({"spec": {"replicas": 2, "ports": [{"port": 1}], "empty": [], "none": {"a": null},
        "containers": [{"name": "ours", "image": "x"}]}});
    assert!(covers(&live, &desired));
}

#[test]
fn hand_edits_are_differences() {
    let desired = json!({"replicas": 2, "args": ["a", "b"], "containers": [{"name": "ours", "image": "x"}]});
    for live in [
        json!({"replicas": 1, "args": ["a", "b"], "containers": [{"name": "ours", "image": "x"}]}),
        json!({"replicas": 2, "args": ["a", "b", "c"], "containers": [{"name": "ours", "image": "x"}]}),
        json!({"replicas": 2, "args": ["a", "b"], "containers": [{"name": "ours", "image": "y"}]}),
        json!({"replicas": 2, "args": ["a", "b"], "containers": [{"name": "other", "image": "x"}]}),
        json!({"replicas": 2, "containers": [{"name": "ours", "image": "x"}]}),
    ] {
        assert!(!covers(&live, &desired), "{live}");
    }
}

#[test]
fn the_stamp_changes_when_a_field_is_no_longer_wanted() {
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&());
    let more = DynamicObject::new("a", &resource).data(json!({"data": {"x": "1", "y": "2"}}));
    let less = DynamicObject::new("a", &resource).data(json!({"data": {"x": "1"}}));
    let hash = |object: &DynamicObject| stamp(object).unwrap().annotations()[APPLIED].clone();
    assert_ne!(hash(&more), hash(&less));
    assert_eq!(hash(&less), hash(&less.clone()));
}
