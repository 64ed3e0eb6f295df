//! What was sealed by releases before this one, and the hashes that they computed.
//!
//! An object here never changes, nor does its hash: a controller of an older release seals with the same. When a test here
//! fails after a field was added, give that field `skip_serializing_if` so that its default is left out.

use kube::core::object::HasSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{content_hash, is_known};
use crate::{PolicyKind, with_policy_type};

fn hashed<T: Serialize + DeserializeOwned>(text: &str) -> String {
    content_hash(&serde_json::from_str::<T>(text).unwrap()).unwrap()
}

fn hash_of(kind: &str, text: &str) -> String {
    let kind = PolicyKind::from_name(kind).unwrap();
    with_policy_type!(kind, T => hashed::<<T as HasSpec>::Spec>(text))
}

#[test]
fn every_kind_has_its_goldens() {
    for kind in PolicyKind::ALL {
        assert!(GOLDENS.iter().any(|(golden, _, _)| *golden == kind.name()), "{kind}");
    }
}

/// Kind, spec as it is written, content hash.
const GOLDENS: [(&str, &str, &str); 18] = [
    (
        "TrafficTarget",
        r#"{"destination":{"kind":"ServiceAccount","name":"store","namespace":"shop"},"sources":[{"kind":"ServiceAccount","name":"buyer","namespace":"shop"}]}"#,
        "5eeb5326f3b46f5f50074781430161bc",
    ),
    (
        "TrafficTarget",
        r#"{"destination":{"kind":"ServiceAccount","name":"store","namespace":"shop"},"sources":[{"kind":"ServiceAccount","name":"buyer","namespace":"shop"}],"rules":[{"kind":"HTTPRouteGroup","name":"all","matches":["read"]},{"kind":"TCPRoute","name":"any"}]}"#,
        "f03fc9fda821367940231a135c7fa9f2",
    ),
    ("HTTPRouteGroup", r#"{}"#, "1329bed5a664bbf035723754d90023ad"),
    (
        "HTTPRouteGroup",
        r#"{"matches":[{"name":"read","pathRegex":"/b.*","methods":["GET"],"headers":{"x-a":"b"}},{"headers":[{"x-c":"d"}]}]}"#,
        "08e0310014c60bf50d046cba23019d88",
    ),
    ("TCPRoute", r#"{}"#, "1191a20e7f1523ac5359ba3d7ccc5631"),
    ("TCPRoute", r#"{"matches":{"name":"db","ports":[5432,6379]}}"#, "04defb3eed18c947eb389923e1703721"),
    ("TrafficSplit", r#"{"service":"store"}"#, "3f50cba962f128e33758b9c4bf058ca1"),
    (
        "TrafficSplit",
        r#"{"service":"store","backends":[{"service":"one","weight":90},{"service":"two","weight":10}],"matches":[{"kind":"HTTPRouteGroup","name":"all","apiGroup":"specs.smi-spec.io"}]}"#,
        "d02f46a0fbf27ab37635e5a101ebcb64",
    ),
    ("MeshPolicy", r#"{}"#, "44136fa355b3678a1146ad16f7e8649e"),
    (
        "MeshPolicy",
        r#"{"selector":{"matchLabels":{"app":"store"},"matchExpressions":[{"key":"tier","operator":"In","values":["a"]}]},"mtls":"Permissive","authorization":"Audit"}"#,
        "79b5f4ddac79c54e915c55d8525d183b",
    ),
    (
        "Egress",
        r#"{"sources":[{"kind":"ServiceAccount","name":"buyer","namespace":"shop"}],"ports":[{"number":443,"protocol":"https"}]}"#,
        "2c86e0d265231eeb440dd6bdcee6a1c0",
    ),
    (
        "Egress",
        r#"{"sources":[{"kind":"ServiceAccount","name":"buyer","namespace":"shop"}],"ports":[{"number":443,"protocol":"https"}],"hosts":["example.com"],"ipAddresses":["192.0.2.0/24"],"matches":[{"apiGroup":"specs.smi-spec.io","kind":"HTTPRouteGroup","name":"all"}]}"#,
        "f2da29c3db5bd75e840b3cdbcc01df94",
    ),
    (
        "IngressBackend",
        r#"{"backends":[{"name":"store","port":{"number":80,"protocol":"http"}}],"sources":[{"kind":"IPRange","name":"192.0.2.0/24"}]}"#,
        "67fc60dc105dbc8fefe876da8f30adcb",
    ),
    (
        "IngressBackend",
        r#"{"backends":[{"name":"store","port":{"number":80,"protocol":"https"},"tls":{"skipClientCertValidation":true,"sniHosts":["a.example.com"]}},{"name":"two","port":{"number":81,"protocol":"https"},"tls":{"skipClientCertValidation":false}}],"sources":[{"kind":"Service","name":"gateway","namespace":"ingress"}],"matches":[{"kind":"HTTPRouteGroup","name":"all"}]}"#,
        "0192ddfdf113becd519bb73872282f4b",
    ),
    (
        "Retry",
        r#"{"source":{"kind":"ServiceAccount","name":"buyer","namespace":"shop"},"destinations":[{"kind":"Service","name":"store","namespace":"shop"}],"retryPolicy":{"retryOn":"5xx"}}"#,
        "49e8f9eb3659f0b31d75c5aed47150b0",
    ),
    (
        "Retry",
        r#"{"source":{"kind":"ServiceAccount","name":"buyer","namespace":"shop"},"destinations":[{"kind":"Service","name":"store","namespace":"shop"}],"retryPolicy":{"retryOn":"5xx","perTryTimeout":"1s","numRetries":3,"retryBackoffBaseInterval":"25ms"}}"#,
        "54a6e6fdb0021d66b85c75fac3d5a266",
    ),
    ("UpstreamTrafficSetting", r#"{"host":"store"}"#, "197d2680fffbeb0b86b7842ea280c8d0"),
    (
        "UpstreamTrafficSetting",
        r#"{"host":"store","connectionSettings":{"tcp":{"maxConnections":1,"connectTimeout":"1s","idleTimeout":"2s"},"http":{"maxRequests":2,"maxRequestsPerConnection":3,"maxPendingRequests":4,"maxRetries":5,"requestTimeout":"3s","idleTimeout":"4s"}},"rateLimit":{"local":{"tcp":{"connections":6,"unit":"second","burst":7},"http":{"requests":10,"unit":"minute","burst":5,"responseStatusCode":503,"responseHeadersToAdd":[{"name":"x-a","value":"b"}]}}},"httpRoutes":[{"path":"/a","rateLimit":{"local":{"requests":10,"unit":"minute","burst":5,"responseStatusCode":503,"responseHeadersToAdd":[{"name":"x-a","value":"b"}]}}}]}"#,
        "d5ab7741e9144e27f05984724d0cc1aa",
    ),
];

#[test]
fn what_was_sealed_before_has_the_same_hash_now() {
    for (kind, text, hash) in GOLDENS {
        assert_eq!(hash_of(kind, text), hash, "{kind} {text}");
        assert!(is_known(hash));
    }
}

/// A controller of an older release reads an object of a newer one without the fields that it does not know.
#[test]
fn a_field_that_is_not_known_changes_no_hash() {
    for (kind, text, hash) in GOLDENS {
        let mut value: Value = serde_json::from_str(text).unwrap();
        value["ofANewerRelease"] = Value::from("x");
        assert_eq!(hash_of(kind, &value.to_string()), hash, "{kind}");
    }
}

#[test]
fn every_field_that_is_said_counts() {
    for pair in GOLDENS.chunks(2) {
        assert_ne!(pair[0].2, pair[1].2, "{}", pair[0].0);
    }
}

#[test]
fn a_hash_of_another_scheme_is_told_apart() {
    assert!(!is_known("2:00000000000000000000000000000000"));
    assert!(!is_known("") && !is_known("xyz"));
}
