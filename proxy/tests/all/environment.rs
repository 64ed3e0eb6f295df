//! Parsing what the injector wrote; and the constants that both repeat.

use crds::labels;
use proxy::constants;
use proxy::environment::{LogLevel, Problem, parse};
use proxy::probe::Scheme;

use crate::support::{environment, variables};

fn problems(change: &[(&'static str, &str)]) -> Vec<Problem> {
    let mut variables = variables();
    for (name, value) in change {
        variables.insert(name, (*value).to_owned());
    }
    parse(|name| variables.get(name).cloned()).expect_err("it is wrong").0
}

#[test]
fn constants_agree_with_crds() {
    assert_eq!(i64::from(constants::PROXY_GID), labels::PROXY_GID);
    let (first, last) = constants::PROXY_USERS.into_inner();
    assert_eq!(i64::from(first)..=i64::from(last), labels::PROXY_USERS);
    assert_eq!(constants::OUTBOUND_PORT, labels::OUTBOUND_PORT);
    assert_eq!(constants::INBOUND_PORT, labels::INBOUND_PORT);
    assert_eq!(constants::ENVOY_ADMIN_PORT, labels::ENVOY_ADMIN_PORT);
    assert_eq!(constants::PROXY_PORT, labels::PROXY_PORT);
    assert_eq!(constants::PROMETHEUS_PORT, labels::PROMETHEUS_PORT);
    let workload = environment().workload;
    assert_eq!(
        workload.spiffe_id(),
        labels::spiffe_id(&workload.trust_domain, &workload.namespace, &workload.service_account)
    );
}

#[test]
fn an_injected_environment_is_understood() {
    let mut variables = variables();
    variables.insert(
        "MESHWRIGHT_PROBES",
        r#"{"app/liveness": {"scheme": "HTTP", "port": 8080, "path": "/live", "headers": {"a": "b"}, "timeoutSeconds": 2},
            "app/readiness": {"scheme": "TCP", "port": 8080}}"#
            .to_owned(),
    );
    let environment = parse(|name| variables.get(name).cloned()).expect("it is right");
    assert_eq!(environment.controller.port, 15012);
    assert_eq!(environment.envoy.log_level, LogLevel::Warning);
    assert_eq!(environment.probes["app/liveness"].timeout_seconds, Some(2));
    assert_eq!(environment.probes["app/readiness"].scheme, Scheme::Tcp);
}

#[test]
fn the_key_of_hooks_is_read_and_never_repeated() {
    let mut variables = variables();
    let read = |variables: &std::collections::BTreeMap<&str, String>| {
        parse(|name| variables.get(name).cloned()).map(|environment| environment.hook_key)
    };
    assert_eq!(read(&variables), Ok(None), "a pod of a release before this one");
    variables.insert(labels::HOOK_KEY_ENV, "00112233445566778899aabbccddeeff".to_owned());
    assert!(read(&variables).unwrap().unwrap().is("00112233445566778899aabbccddeeff"));
    variables.insert(labels::HOOK_KEY_ENV, "nearly-a-key".to_owned());
    let error = read(&variables).expect_err("too short").to_string();
    assert!(error.contains(labels::HOOK_KEY_ENV) && !error.contains("nearly"), "{error}");
}

#[test]
fn optional_variables_have_defaults() {
    let mut variables = variables();
    for name in ["MESHWRIGHT_LOG_LEVEL", "MESHWRIGHT_CONCURRENCY", "MESHWRIGHT_GRACE_SECONDS"] {
        variables.remove(name);
    }
    let environment = parse(|name| variables.get(name).cloned()).expect("it is right");
    assert_eq!(environment.envoy.concurrency.get(), 1);
    assert_eq!(environment.grace.as_secs(), 30);
    assert!(environment.probes.is_empty());
}

#[test]
fn all_problems_are_reported_at_once() {
    let found = parse(|_| None).expect_err("nothing is set").0;
    assert!(found.contains(&Problem::Missing("POD_IP")));
    assert_eq!(found.len(), 9, "{found:?}");
}

#[test]
fn wrong_values_name_the_variable_and_the_rule() {
    for (name, value) in [
        ("POD_IP", "10.0.0"),
        ("POD_NAMESPACE", "a/b"),
        ("MESHWRIGHT_TRUST_DOMAIN", "x/ns/kube-system"),
        ("SERVICE_ACCOUNT", "Default"),
        ("MESHWRIGHT_CONTROLLER", "controller"),
        ("MESHWRIGHT_CONTROLLER", "controller:0"),
        ("MESHWRIGHT_LOG_LEVEL", "loud"),
        ("MESHWRIGHT_CONCURRENCY", "0"),
        ("MESHWRIGHT_CONCURRENCY", "100000"),
        ("MESHWRIGHT_GRACE_SECONDS", "-1"),
        ("MESHWRIGHT_PROBES", "{"),
        ("MESHWRIGHT_PROBES", r#"{"a/liveness": {"scheme": "UDP", "port": 1}}"#),
        ("MESHWRIGHT_PROBES", r#"{"a/liveness": {"scheme": "HTTP", "port": 70000}}"#),
    ] {
        let found = problems(&[(name, value)]);
        let [Problem::Invalid { name: named, .. }] = found.as_slice() else {
            panic!("{name}={value}: {found:?}")
        };
        assert_eq!(*named, name);
    }
}

#[test]
fn a_slot_is_of_the_release_of_its_image() {
    let parsed = |changes: &[(&'static str, &str)]| {
        let mut variables = variables();
        variables.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())));
        proxy::environment::parse(|name| variables.get(name).cloned()).unwrap()
    };
    let slot = parsed(&[("MESHWRIGHT_SLOT", "b"), ("MESHWRIGHT_VERSION", "0.3.1")]);
    assert_eq!(slot.workload.revision, "0.3.1");
    assert_eq!(slot.controller.host, "meshwright-controller-0-3-1.meshwright-system.svc.cluster.local");
    let alone = parsed(&[("MESHWRIGHT_VERSION", "0.3.1")]);
    assert_eq!(alone.workload.revision, "0.2.0", "the injector knows best");
    let elsewhere = parsed(&[
        ("MESHWRIGHT_SLOT", "a"),
        ("MESHWRIGHT_VERSION", "0.3.1"),
        ("MESHWRIGHT_CONTROLLER", "controller.example:1"),
    ]);
    assert_eq!(elsewhere.controller.host, "controller.example");
    assert_eq!(problems(&[("MESHWRIGHT_SLOT", "c")]).len(), 1);
    assert_eq!(problems(&[("MESHWRIGHT_SWAP_DRAIN_SECONDS", "5")]).len(), 1);
}
