//! `config/rbac`: what each component may do, and that nobody can do what it must not, as far as the roles say.
//! (The API server's own word on it: `operator/tests/all/rights.rs`.)

use house::rights::{page, roles};
use serde_json::Value;

fn file(name: &str) -> String {
    std::fs::read_to_string(house::root().join("config/rbac").join(name)).unwrap()
}

/// (role, apiGroup/resource, verb, limited to names) of every rule.
fn grants(name: &str) -> Vec<(String, String, String, bool)> {
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let mut grants = Vec::new();
    for role in roles(&file(name)).unwrap() {
        for rule in &role.rules {
            let named = !strings(&rule.value["resourceNames"]).is_empty();
            for group in strings(&rule.value["apiGroups"]) {
                for resource in strings(&rule.value["resources"]) {
                    for verb in strings(&rule.value["verbs"]) {
                        grants.push((role.title.clone(), format!("{group}/{resource}"), verb, named));
                    }
                }
            }
        }
    }
    grants
}

#[test]
fn the_page_is_up_to_date_and_every_rule_has_its_reason() {
    let page = page(|name| Ok(file(name))).unwrap();
    let written = std::fs::read_to_string(house::root().join("docs/security/rights.md")).unwrap();
    assert_eq!(page, written, "run `make generate`");
}

#[test]
fn a_rule_without_a_reason_is_refused() {
    let text =
        "# Here.\nkind: Role\nmetadata:\n  name: r\nrules:\n  # Why.\n  - verbs: [get]\n  - verbs: [list]\n";
    assert!(format!("{:#}", roles(text).unwrap_err()).contains("has no comment above it"));
    let role = &roles(&text.replace("  - verbs: [list]\n", "")).unwrap()[0];
    assert_eq!((role.place.as_str(), role.rules[0].reason.as_str()), ("Here.", "Why."));
}

#[test]
fn nothing_is_granted_by_a_wildcard() {
    for name in ["operator.yaml", "controller.yaml", "injector.yaml", "people.yaml"] {
        assert!(!file(name).contains('*'), "{name}");
    }
}

#[test]
fn only_the_controller_reads_secrets_and_only_the_two_of_the_root() {
    for name in ["operator.yaml", "injector.yaml", "people.yaml", "controller.yaml"] {
        for (role, resource, verb, named) in grants(name) {
            if resource != "/secrets" {
                continue;
            }
            let right = match (name, verb.as_str()) {
                ("controller.yaml", "get") => named && role.contains("meshwright-controller-namespace"),
                ("operator.yaml", "delete") => named && role.contains("-namespace"),
                ("operator.yaml", "create") => role.contains("-namespace"),
                _ => false,
            };
            assert!(right, "{role}: {verb} secrets");
        }
    }
}

/// What belongs to a control plane is written in its namespace only.
#[test]
fn the_operator_writes_a_control_plane_in_its_namespace_only() {
    let bound_everywhere = "ClusterRole `meshwright-operator`";
    for resource in [
        "/services",
        "/serviceaccounts",
        "policy/poddisruptionbudgets",
        "networking.k8s.io/networkpolicies",
        "rbac.authorization.k8s.io/rolebindings",
    ] {
        for (role, granted, verb, _) in grants("operator.yaml") {
            if role == bound_everywhere && granted == resource {
                assert!(
                    ["get", "list", "watch"].contains(&verb.as_str()),
                    "{verb} {resource} in the whole cluster"
                );
            }
        }
    }
    for (role, granted, verb, _) in grants("operator.yaml") {
        if role == bound_everywhere && granted == "apps/deployments" {
            assert!(
                !["create", "update", "delete"].contains(&verb.as_str()),
                "{verb} deployments in the whole cluster"
            );
        }
        assert!(granted != "batch/jobs", "jobs are never looked at");
        assert!(verb != "escalate" && verb != "impersonate", "{role}: {verb} {granted}");
    }
}

#[test]
fn the_role_that_reads_the_root_is_granted_in_namespaces_of_control_planes_only() {
    for role in roles(&file("operator.yaml")).unwrap() {
        for rule in &role.rules {
            let names = rule.value["resourceNames"].to_string();
            if rule.value["verbs"].to_string().contains("bind") {
                assert!(names.len() > 2, "{}: bind without names", role.title);
                let reads = names.contains("meshwright-controller-namespace");
                assert_eq!(reads, role.title.contains("-operator-namespace"), "{}: {names}", role.title);
            }
        }
    }
}

#[test]
fn controllers_and_injectors_look_and_hardly_write() {
    let writes = |name: &str| -> Vec<String> {
        let looks = ["get", "list", "watch"];
        let writes = grants(name).into_iter().filter(|(_, _, verb, _)| !looks.contains(&verb.as_str()));
        writes.map(|(_, resource, verb, _)| format!("{verb} {resource}")).collect()
    };
    assert_eq!(writes("injector.yaml"), Vec::<String>::new());
    let expected = ["create authentication.k8s.io/tokenreviews", "create /configmaps", "patch /configmaps"];
    assert_eq!(writes("controller.yaml"), expected);
    for (_, resource, _, _) in grants("controller.yaml") {
        assert!(!["/endpoints", "/serviceaccounts"].contains(&resource.as_str()), "{resource}");
    }
}

#[test]
fn people_get_nothing_of_the_mesh_as_a_whole() {
    for (role, resource, verb, _) in grants("people.yaml") {
        let whole = ["meshwright.io/meshconfigs", "meshwright.io/meshupgrades"];
        assert!(!whole.contains(&resource.as_str()), "{role}: {verb} {resource}");
    }
}
