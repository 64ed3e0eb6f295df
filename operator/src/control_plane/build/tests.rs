//! The children of one mesh, as golden files, and what must hold for all of them.

use crds::mesh_config::KeyType;
use serde_json::json;

use super::*;
use crate::control_plane::facts::{MatchConditions, Server};

fn mesh() -> MeshConfig {
    let spec = json!({
        "version": "0.2.0",
        "policySources": [{"name": "policies", "git": {"url": "http://git/policies.git", "path": "mesh"}}],
    });
    let mut mesh = MeshConfig::new("demo", serde_json::from_value(spec).unwrap());
    mesh.metadata.uid = Some("1234".into());
    mesh
}

fn blueprint(mesh: &MeshConfig) -> Blueprint<'_> {
    Blueprint {
        mesh,
        image_prefix: "meshwright/",
        cluster_domain: "cluster.local",
        revisions: ["0.1.0".to_owned(), "0.2.0".to_owned()].into(),
        injecting: ["0.2.0".to_owned()].into(),
        served: ["0.0.1".to_owned(), "0.2.0".to_owned()].into(),
        answering: Some("0.2.0".to_owned()),
        validating: Some("0.2.0".to_owned()),
        trust_bundle: Some("-----BEGIN CERTIFICATE-----\n"),
        members: ["shop".to_owned()].into(),
        server: Server { budgets: BudgetApi::V1beta1, conditions: MatchConditions::Missing },
        operator: "home",
    }
}

fn one(kind: &str, name: &str) -> Value {
    let mesh = mesh();
    let all = all(&blueprint(&mesh));
    let found = all.iter().find(|child| crate::apply::key(child).kind == kind && child.name_any() == name);
    serde_json::to_value(found.unwrap_or_else(|| panic!("no {kind} {name}"))).unwrap()
}

#[test]
fn the_list_of_children() {
    let mesh = mesh();
    let keys: Vec<_> =
        all(&blueprint(&mesh)).iter().map(|child| crate::apply::key(child).to_string()).collect();
    insta::assert_snapshot!(keys.join("\n"));
}

#[test]
fn the_injector_deployment() {
    insta::assert_yaml_snapshot!(one("Deployment", "meshwright-injector-0-2-0"));
}

#[test]
fn the_controller_arguments() {
    let controller = one("Deployment", "meshwright-controller-0-1-0");
    let container = &controller["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "meshwright/controller:0.1.0");
    let args = [
        "--mesh=demo",
        "--namespace=meshwright-system",
        "--revision=0.1.0",
        "--cluster-domain=cluster.local",
    ];
    assert_eq!(container["args"], json!(args));
}

#[test]
fn the_injection_webhook() {
    insta::assert_yaml_snapshot!(one("MutatingWebhookConfiguration", "meshwright-injector-demo-0-2-0"));
}

#[test]
fn every_namespace_of_the_mesh_has_exactly_one_webhook() {
    let selector = |name: &str| {
        let webhook = one("MutatingWebhookConfiguration", name);
        let selector = webhook["webhooks"][0]["namespaceSelector"].clone();
        let selector: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector =
            serde_json::from_value(selector).unwrap();
        kube::core::Selector::try_from(selector).unwrap()
    };
    let released = selector("meshwright-injector-demo-0-2-0");
    let rest = selector("meshwright-injector-demo-default");
    let matches = |namespace: &[(&str, &str)]| {
        use kube::core::SelectorExt;
        let labels = namespace.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        (released.matches(&labels), rest.matches(&labels))
    };
    let mesh = (labels::MESH, "demo");
    assert_eq!(matches(&[mesh]), (false, true), "before the operator has written the revision");
    assert_eq!(matches(&[mesh, (labels::REVISION, "0.2.0")]), (true, false));
    assert_eq!(matches(&[mesh, (labels::REVISION, "9.9.9")]), (false, true), "a release that is not there");
    assert_eq!(matches(&[mesh, (labels::REVISION, "0.0.1")]), (false, false), "it has a webhook of its own");
    assert_eq!(matches(&[(labels::MESH, "other")]), (false, false));
    assert_eq!(matches(&[]), (false, false));
    for never in ["kube-system", "meshwright-system"] {
        assert_eq!(matches(&[mesh, ("kubernetes.io/metadata.name", never)]), (false, false), "{never}");
    }
}

#[test]
fn the_control_planes_own_pods_ask_no_injector() {
    for name in ["meshwright-injector-0-2-0", "meshwright-controller-0-1-0"] {
        let template = one("Deployment", name)["spec"]["template"].clone();
        assert_eq!(template["metadata"]["labels"][labels::INJECT], "false", "{name}");
        let selector = one("Deployment", name)["spec"]["selector"].clone();
        assert!(selector["matchLabels"].get(labels::INJECT).is_none(), "selectors never change");
    }
}

#[test]
fn every_child_is_labelled_and_owned() {
    let mesh = mesh();
    for child in all(&blueprint(&mesh)) {
        let key = crate::apply::key(&child);
        assert_eq!(child.labels()[labels::MANAGED_BY], "meshwright", "{key}");
        assert_eq!(child.labels()[labels::MESH], "demo", "{key}");
        assert_eq!(child.owner_references()[0].uid, "1234", "{key}");
    }
}

#[test]
fn every_kind_of_child_is_pruned() {
    let mesh = mesh();
    let pruned: BTreeSet<_> =
        kinds(BudgetApi::V1beta1).into_iter().map(|(resource, _)| resource.kind).collect();
    for child in all(&blueprint(&mesh)) {
        assert!(pruned.contains(&crate::apply::key(&child).kind), "{}", crate::apply::key(&child));
    }
}

/// Whatever a pod of ours listens on, its policy says who may reach it; nothing else is reachable.
#[test]
fn every_port_has_its_callers_and_no_other_is_open() {
    for (name, port, callers) in
        [("meshwright-controller-0-2-0", 15012, 2), ("meshwright-injector-0-2-0", 9443, 0)]
    {
        let policy = one("NetworkPolicy", name);
        let deployment = one("Deployment", name);
        let pod = &deployment["spec"]["template"];
        let selected = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
        assert!(selected.iter().all(|(label, value)| &pod["metadata"]["labels"][label] == value), "{name}");
        let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
        let listens: BTreeSet<_> = ports.iter().map(|port| port["containerPort"].as_i64()).collect();
        let rules = policy["spec"]["ingress"].as_array().unwrap();
        let open = rules.iter().flat_map(|rule| rule["ports"].as_array().unwrap());
        let open: BTreeSet<_> = open.map(|port| port["port"].as_i64()).collect();
        assert_eq!(open, listens, "{name}");
        let rule = rules.iter().find(|rule| rule["ports"][0]["port"] == port).unwrap();
        assert_eq!(rule["from"].as_array().map_or(0, Vec::len), callers, "{name}");
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    }
    // Sidecars reach the controller by a label that the injector gives them, operators by one of config/operator.
    let from = &one("NetworkPolicy", "meshwright-controller-0-2-0")["spec"]["ingress"][0]["from"];
    assert_eq!(from[0]["podSelector"]["matchLabels"], json!({"meshwright.io/mesh": "demo"}));
    assert_eq!(
        from[1]["podSelector"]["matchLabels"],
        json!({"app.kubernetes.io/name": "meshwright-operator"})
    );
}

#[test]
fn the_validator_is_not_asked_about_what_the_operator_writes_where_it_can_say_so() {
    let mesh = mesh();
    let mut blueprint = blueprint(&mesh);
    let name = "meshwright-validator-demo";
    let hook = |blueprint: &Blueprint<'_>| {
        let all = all(blueprint);
        let child = all.iter().find(|child| child.name_any() == name).unwrap();
        serde_json::to_value(child).unwrap()["webhooks"][0].clone()
    };
    assert_eq!(
        hook(&blueprint).get("matchConditions"),
        None,
        "an older server refuses what it does not know"
    );
    blueprint.server.conditions = MatchConditions::Served;
    let expression = "request.userInfo.username != 'system:serviceaccount:home:meshwright-operator'";
    let conditions = json!([{"name": "not-the-operator", "expression": expression}]);
    assert_eq!(hook(&blueprint)["matchConditions"], conditions);
}

#[test]
fn without_a_trust_bundle_there_is_no_webhook() {
    let mesh = mesh();
    let mut blueprint = blueprint(&mesh);
    blueprint.trust_bundle = None;
    let webhooks = |child: &DynamicObject| crate::apply::key(child).kind.contains("Webhook");
    assert!(!all(&blueprint).iter().any(webhooks));
}

#[test]
fn a_root_is_an_authority_of_the_wanted_age_and_key() {
    let mut mesh = mesh();
    let now = time::OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap();
    let secret = root_secret(&mesh, labels::OTHER_ROOT_SECRET, 2, now).unwrap();
    let data = secret.data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
    let chain = String::from_utf8(data["tls.crt"].0.clone()).unwrap();
    assert_eq!(runtime::tls::certificates(&chain).unwrap().len(), 1);
    assert_eq!(secret.metadata.name.as_deref(), Some(labels::OTHER_ROOT_SECRET));
    assert_eq!(secret.metadata.annotations.unwrap()[labels::ROOT_GENERATION], "2");
    assert_eq!(secret.metadata.owner_references, None, "it must outlive its MeshConfig");
    for (key_type, algorithm) in [
        (KeyType::EcdsaP384, &rcgen::PKCS_ECDSA_P384_SHA384),
        (KeyType::Rsa3072, &rcgen::PKCS_RSA_SHA256),
        (KeyType::EcdsaP256, &rcgen::PKCS_ECDSA_P256_SHA256),
    ] {
        mesh.spec.certificate_authority.key_type = key_type;
        let secret = root_secret(&mesh, labels::ROOT_SECRET, 1, now).unwrap();
        let key = String::from_utf8(secret.data.unwrap()["tls.key"].0.clone()).unwrap();
        assert_eq!(rcgen::KeyPair::from_pem(&key).unwrap().algorithm(), algorithm);
    }
    mesh.spec.certificate_authority.root_ttl = "soon".into();
    assert!(matches!(root_secret(&mesh, labels::OTHER_ROOT_SECRET, 2, now), Err(RootError::Ttl(_))));
    mesh.spec.certificate_authority.root_ttl = "999999999h".into();
    assert!(matches!(root_secret(&mesh, labels::OTHER_ROOT_SECRET, 2, now), Err(RootError::TooLong)));
}
