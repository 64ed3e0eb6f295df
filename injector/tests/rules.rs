//! Rules that hold for every pod, one test each.

use crds::labels;
use crds::mesh_config::UpgradeStrategy;
use injector::settings::Secret;
use injector::{Decision, DenyReason, NamespaceMeta, Reason, Settings, inject};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::golden::{namespace, native, patched, pod, settings};

const PLAIN: &str = include_str!("pods/plain.yaml");

fn injected(pod: &Pod, settings: &Settings) -> Pod {
    match inject(pod, &namespace(), settings) {
        Decision::Inject(patch) => patched(pod, &patch),
        other => panic!("{other:?}"),
    }
}

fn annotated(key: &str, value: &str) -> Pod {
    let mut pod = pod(PLAIN);
    pod.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    pod
}

fn skipped(pod: &Pod, namespace: &NamespaceMeta) -> Reason {
    match inject(pod, namespace, &settings()) {
        Decision::Skip(reason, _) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_namespace_decides_first() {
    let mut unwatched = namespace();
    unwatched.labels.clear();
    let mut other = namespace();
    other.labels.insert(labels::MESH.to_owned(), "another".to_owned());
    let mut terminating = namespace();
    terminating.terminating = true;
    let mut system = namespace();
    system.name = labels::SYSTEM_NAMESPACE.to_owned();
    let pod = pod(include_str!("pods/host-network.yaml"));
    assert_eq!(skipped(&pod, &unwatched), Reason::NamespaceNotWatched);
    assert_eq!(skipped(&pod, &other), Reason::NamespaceNotWatched);
    assert_eq!(skipped(&pod, &terminating), Reason::Terminating);
    assert_eq!(skipped(&pod, &system), Reason::ControlPlaneNamespace);
    assert_eq!(skipped(&pod, &namespace()), Reason::HostNetwork);
}

#[test]
fn a_pod_of_an_unwatched_namespace_is_not_touched() {
    let unwatched = NamespaceMeta { name: "elsewhere".to_owned(), ..NamespaceMeta::default() };
    match inject(&pod(PLAIN), &unwatched, &settings()) {
        Decision::Skip(_, patch) => assert!(patch.0.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn order_is_sidecar_first_and_redirection_last() {
    let after = injected(&pod(include_str!("pods/init-containers.yaml")), &settings()).spec.unwrap();
    assert_eq!(after.containers[0].name, labels::PROXY_CONTAINER);
    let inits: Vec<_> = after.init_containers.unwrap().into_iter().map(|container| container.name).collect();
    assert_eq!(inits, ["migrate", "warm-up", labels::INIT_CONTAINER]);
}

#[test]
fn garbage_in_annotations_is_refused_with_what_to_write() {
    let garbage = [
        ("sidecar.meshwright.io/log-level", "LOUD", "trace, debug"),
        ("sidecar.meshwright.io/concurrency", "0", "from 1 to 128"),
        ("sidecar.meshwright.io/concurrency", "-3", "from 1 to 128"),
        ("sidecar.meshwright.io/exclude-outbound-ports", "80,,443", "commas"),
        ("sidecar.meshwright.io/exclude-outbound-ports", "0", "1 to 65535"),
        ("sidecar.meshwright.io/exclude-inbound-ports", "70000", "1 to 65535"),
        ("sidecar.meshwright.io/exclude-outbound-cidrs", "10.0.0.0", "10.0.0.0/8"),
        ("sidecar.meshwright.io/exclude-outbound-cidrs", "$(reboot)", "10.0.0.0/8"),
        ("sidecar.meshwright.io/cpu-request", "many", "100m"),
        ("sidecar.meshwright.io/cpu-limit", "0", "1m of CPU"),
        ("sidecar.meshwright.io/memory-request", "-5Mi", "64Mi"),
        ("sidecar.meshwright.io/memory-limit", "10m", "1Mi of memory"),
        ("sidecar.meshwright.io/surprise", "1", "not known"),
        ("meshwright.io/inject", "maybe", "\"true\" or \"false\""),
    ];
    for (key, value, hint) in garbage {
        match inject(&annotated(key, value), &namespace(), &settings()) {
            Decision::Deny(problem) => {
                assert_eq!(problem.reason, DenyReason::InvalidOverride);
                assert!(problem.message.contains(key), "{problem}");
                assert!(problem.message.contains(hint), "{problem}");
            }
            other => panic!("{key}: {value}: {other:?}"),
        }
    }
}

#[test]
fn a_long_value_does_not_end_in_the_message() {
    match inject(
        &annotated("sidecar.meshwright.io/log-level", &"x".repeat(10_000)),
        &namespace(),
        &settings(),
    ) {
        Decision::Deny(problem) => assert!(problem.message.len() < 400),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_sidecar_of_another_mesh_is_refused() {
    let other = Settings { mesh: "another".to_owned(), ..settings() };
    let mut there = namespace();
    there.labels.insert(labels::MESH.to_owned(), "another".to_owned());
    let Decision::Inject(patch) = inject(&pod(PLAIN), &there, &other) else { panic!("not injected") };
    match inject(&patched(&pod(PLAIN), &patch), &namespace(), &settings()) {
        Decision::Deny(problem) => assert_eq!(problem.reason, DenyReason::OtherMesh),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_container_that_another_webhook_put_first_changes_nothing() {
    let mut after = injected(&pod(PLAIN), &settings());
    after
        .spec
        .as_mut()
        .unwrap()
        .containers
        .insert(0, Container { name: "agent".to_owned(), ..Container::default() });
    assert_eq!(skipped(&after, &namespace()), Reason::AlreadyInjected);
}

#[test]
fn a_claim_to_be_injected_does_not_help_an_impostor() {
    let mut pod = annotated(labels::INJECTION, "injected");
    let spec = pod.spec.as_mut().unwrap();
    spec.containers[0].name = labels::PROXY_CONTAINER.to_owned();
    match inject(&pod, &namespace(), &settings()) {
        Decision::Deny(problem) => assert_eq!(problem.reason, DenyReason::NameCollision),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_init_container_has_capabilities() {
    let after = injected(&pod(include_str!("pods/security-context.yaml")), &settings()).spec.unwrap();
    let proxy = after.containers[0].security_context.clone().unwrap();
    assert_eq!(proxy.capabilities.unwrap().add, None);
    assert_eq!((proxy.run_as_group, proxy.run_as_non_root), (Some(1337), Some(true)));
    let init = after.init_containers.unwrap()[0].security_context.clone().unwrap();
    assert_eq!(init.capabilities.unwrap().add.unwrap(), ["NET_ADMIN", "NET_RAW"]);
    assert_eq!(init.allow_privilege_escalation, Some(false));
}

#[test]
fn each_pod_has_a_user_of_its_own() {
    let user = |pod: &Pod, seed: usize| {
        let settings = Settings { seed: seed.to_string(), ..settings() };
        injected(pod, &settings).spec.unwrap().containers[0]
            .security_context
            .clone()
            .unwrap()
            .run_as_user
            .unwrap()
    };
    let users: Vec<_> = (0..110).map(|seed| user(&pod(PLAIN), seed)).collect();
    assert!(users.iter().all(|user| (20_000..60_000).contains(user)), "{users:?}");
    // 128 instances of inotify per user and node, two Envoys in a pod that is swapped, five instances each.
    let most = users.iter().map(|user| users.iter().filter(|other| *other == user).count()).max();
    assert!(most < Some(12), "{users:?}");
    assert_eq!(user(&pod(PLAIN), 7), users[7]);
    let mut taken = pod(PLAIN);
    let as_the_sidecar = serde_json::json!({"runAsUser": users[7]});
    taken.spec.as_mut().unwrap().containers[0].security_context =
        Some(serde_json::from_value(as_the_sidecar).unwrap());
    assert_ne!(user(&taken, 7), users[7], "no container has the sidecar's user");
}

/// What the init container redirects past Envoy is this pod's sidecar and nobody else.
#[test]
fn the_init_container_is_told_the_sidecars_user() {
    for settings in [settings(), native()] {
        let spec = injected(&pod(PLAIN), &settings).spec.unwrap();
        let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let named = |name: &str| all().find(|container| container.name == name).unwrap();
        let user = named(labels::PROXY_CONTAINER).security_context.as_ref().unwrap().run_as_user.unwrap();
        let told = variable(named(labels::INIT_CONTAINER), labels::PROXY_USER_ENV);
        assert_eq!(told, Some(user.to_string()));
        assert!(!named(labels::INIT_CONTAINER).args.as_ref().unwrap().iter().any(|arg| arg.contains("user")));
    }
}

fn variable(container: &Container, name: &str) -> Option<String> {
    container.env.iter().flatten().find(|variable| variable.name == name)?.value.clone()
}

/// Port 15020 is open to the whole cluster; what is asked there for the application takes a word of the kubelet's.
#[test]
fn probes_and_hooks_hold_a_key_that_no_neighbour_can_work_out() {
    let key = |seed: &str, secret: u8| {
        let settings = Settings { seed: seed.to_owned(), secret: Secret([secret; 32]), ..settings() };
        let spec = injected(&pod(include_str!("pods/hooks.yaml")), &settings).spec.unwrap();
        let key = variable(&spec.containers[0], labels::HOOK_KEY_ENV).unwrap();
        let probes = variable(&spec.containers[0], "MESHWRIGHT_PROBES").unwrap();
        let probes: std::collections::BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&probes).unwrap();
        assert!(
            !probes.is_empty() && probes.keys().all(|name| name.starts_with(&format!("{key}/"))),
            "{probes:?}"
        );
        let apps = spec.containers.iter().filter(|container| container.name != labels::PROXY_CONTAINER);
        let mut paths = Vec::new();
        for app in apps {
            let probe =
                |probe: &Option<k8s_openapi::api::core::v1::Probe>| probe.as_ref()?.http_get.clone()?.path;
            paths.extend(
                [&app.liveness_probe, &app.readiness_probe, &app.startup_probe].into_iter().filter_map(probe),
            );
            let lifecycle = app.lifecycle.clone().unwrap();
            let hooks = [lifecycle.post_start, lifecycle.pre_stop].into_iter().flatten();
            paths.extend(hooks.filter_map(|hook| hook.http_get?.path));
        }
        let ours = |path: &&String| path.starts_with("/probe/") || path.starts_with("/hold");
        assert!(paths.iter().filter(ours).count() >= 2, "{paths:?}");
        for path in paths.iter().filter(ours) {
            let name = path.strip_prefix("/probe/").is_some_and(|name| probes.contains_key(name));
            assert!(name || *path == format!("/hold?key={key}"), "{path}");
        }
        key
    };
    let one = key("seed", 1);
    assert_eq!((one.len(), one == key("seed", 1)), (32, true), "the same pod and secret make the same");
    assert_ne!(one, key("seed", 2), "who knows the seed knows nothing");
    assert_ne!(one, key("another", 1), "each pod has its own");
}

/// A pod that comes a second time (reinvocation, or read from the cluster and applied) keeps its key and its user.
#[test]
fn a_second_admission_changes_no_key() {
    let seeded = |seed: &str| Settings { seed: seed.to_owned(), secret: Secret([3; 32]), ..settings() };
    let once = injected(&pod(include_str!("pods/hooks.yaml")), &seeded("first"));
    match inject(&once, &namespace(), &seeded("second")) {
        Decision::Skip(Reason::AlreadyInjected, patch) => assert!(patch.0.is_empty(), "{patch:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_else_has_the_sidecars_group() {
    for context in [
        serde_json::json!({"runAsGroup": 1337}),
        serde_json::json!({"fsGroup": 1337}),
        serde_json::json!({"supplementalGroups": [1, 1337]}),
    ] {
        let mut pod = pod(PLAIN);
        pod.spec.as_mut().unwrap().security_context = Some(serde_json::from_value(context.clone()).unwrap());
        match inject(&pod, &namespace(), &settings()) {
            Decision::Deny(problem) => assert_eq!(problem.reason, DenyReason::GroupCollision),
            other => panic!("{context}: {other:?}"),
        }
    }
}

#[test]
fn settings_of_the_mesh_reach_the_pod() {
    let mut spec: crds::MeshConfigSpec = serde_json::from_value(serde_json::json!({
        "version": "0.2.0",
        "trustDomain": "books.example",
        "sidecar": {"logLevel": "info", "concurrency": 2, "resources": {"limits": {"memory": "1Gi"}}},
        "traffic": {"exclusions": {"outboundPorts": [25], "outboundCidrs": ["10.9.0.0/16"], "inboundPorts": [22]}}
    }))
    .unwrap();
    let with = settings().with(&spec).unwrap();
    let after =
        injected(&annotated("sidecar.meshwright.io/exclude-outbound-ports", "26"), &with).spec.unwrap();
    let init = after.init_containers.unwrap()[0].args.clone().unwrap();
    assert_eq!(
        init.join(" "),
        "init --exclude-outbound-ports 25,26 --exclude-outbound-cidrs 10.9.0.0/16 --exclude-inbound-ports 22"
    );
    let env = after.containers[0].env.clone().unwrap();
    let value =
        |name: &str| env.iter().find(|variable| variable.name == name).unwrap().value.clone().unwrap();
    assert_eq!(value("MESHWRIGHT_TRUST_DOMAIN"), "books.example");
    assert_eq!(value("MESHWRIGHT_CONCURRENCY"), "2");
    assert_eq!(value("MESHWRIGHT_LOG_LEVEL"), "info");
    spec.sidecar.concurrency = Some(0);
    assert_eq!(settings().with(&spec).unwrap_err().field, "spec.sidecar.concurrency");
}

#[test]
fn the_namespace_has_the_last_word_on_slots() {
    use UpgradeStrategy::{HotSwap, Restart};

    let slots = |mesh: UpgradeStrategy, namespace_says: Option<&str>| {
        let settings = Settings { strategy: mesh, ..settings() };
        let namespace = NamespaceMeta { strategy: namespace_says.map(str::to_owned), ..namespace() };
        let Decision::Inject(patch) = inject(&pod(PLAIN), &namespace, &settings) else {
            panic!("not injected")
        };
        let after = patched(&pod(PLAIN), &patch);
        let live = after.metadata.annotations.unwrap().get(labels::LIVE_SLOT).cloned();
        let names = after.spec.unwrap().containers.into_iter().map(|container| container.name);
        let proxies = names.filter(|name| name.starts_with(labels::PROXY_CONTAINER)).count();
        assert_eq!(live.is_some(), proxies == 2);
        proxies
    };
    assert_eq!((slots(Restart, None), slots(HotSwap, None)), (1, 2));
    assert_eq!((slots(Restart, Some("HotSwap")), slots(HotSwap, Some("Restart"))), (2, 1));
    assert_eq!(
        (slots(Restart, Some("hotswap")), slots(HotSwap, Some(""))),
        (1, 2),
        "a typo locks nobody out"
    );
}

#[test]
fn a_hundred_containers_get_one_sidecar() {
    let container = |index: usize| Container {
        name: format!("c{index}"),
        readiness_probe: Some(
            serde_json::from_value(serde_json::json!({"httpGet": {"port": 8000 + index}})).unwrap(),
        ),
        ..Container::default()
    };
    let mut many = pod(PLAIN);
    many.spec.as_mut().unwrap().containers = (0..100).map(container).collect();
    let after = injected(&many, &settings()).spec.unwrap();
    assert_eq!(after.containers.len(), 101);
    let probe =
        |container: &Container| container.readiness_probe.clone().unwrap().http_get.unwrap().path.unwrap();
    let paths: std::collections::BTreeSet<_> = after.containers[1..].iter().map(probe).collect();
    assert_eq!(paths.len(), 100, "each container keeps a probe of its own");
}

#[test]
fn probes_that_the_sidecar_could_not_be_told_are_refused() {
    let mut long = pod(PLAIN);
    let path = format!("/{}", "x".repeat(130 * 1024));
    let probe = serde_json::json!({"httpGet": {"port": 80, "path": path}});
    long.spec.as_mut().unwrap().containers[0].readiness_probe = Some(serde_json::from_value(probe).unwrap());
    match inject(&long, &namespace(), &settings()) {
        Decision::Deny(problem) => {
            assert_eq!(problem.reason, DenyReason::UnsupportedProbe);
            assert!(problem.message.len() < 300, "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_init_container_that_lasts_may_not_pass_the_sidecar_by() {
    let mut lasting = pod(PLAIN);
    let init = serde_json::json!([{"name": "agent", "restartPolicy": "Always", "securityContext": {"runAsGroup": 1337}}]);
    lasting.spec.as_mut().unwrap().init_containers = Some(serde_json::from_value(init).unwrap());
    for settings in [settings(), native()] {
        match inject(&lasting, &namespace(), &settings) {
            Decision::Deny(problem) => assert_eq!(problem.reason, DenyReason::GroupCollision),
            other => panic!("{other:?}"),
        }
    }
    lasting.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].restart_policy = None;
    assert!(
        matches!(inject(&lasting, &namespace(), &settings()), Decision::Inject(_)),
        "it ends before the redirection"
    );
    assert!(matches!(inject(&lasting, &namespace(), &native()), Decision::Deny(_)), "it runs after it");
}

#[test]
fn fields_that_we_do_not_know_survive() {
    let raw = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "future"},
        "spec": {
            "containers": [{"name": "app", "image": "app:1", "fromTheFuture": {"keep": true}}],
            "volumes": [{"name": "v", "futureVolume": {"x": 1}}],
            "spaceship": "yes"
        }
    });
    let typed: Pod = serde_json::from_value(raw.clone()).unwrap();
    let Decision::Inject(patch) = inject(&typed, &namespace(), &settings()) else { panic!("not injected") };
    let mut after = raw;
    json_patch::patch(&mut after, &patch).unwrap();
    assert_eq!(after["spec"]["containers"][1]["fromTheFuture"]["keep"], true);
    assert_eq!(after["spec"]["volumes"][0]["futureVolume"]["x"], 1);
    assert_eq!(after["spec"]["spaceship"], "yes");
}
