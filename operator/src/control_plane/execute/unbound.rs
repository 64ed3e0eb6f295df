//! Whether a refusal is because nobody gave the operator its rights in a control plane's namespace.

use crds::MeshConfig;
use k8s_openapi::api::rbac::v1::{RoleBinding, Subject};
use kube::Api;
use kube::api::ListParams;

use super::{Done, ExecuteError};
use crate::context::{Context, OPERATOR};

/// ClusterRole of the operator in namespaces of control planes; bound there by whoever installs.
const ROLE: &str = "meshwright-operator-namespace";

/// Says of refusals what has to be bound, where nothing is. Asked only after a refusal: that is rare.
pub async fn name(ctx: &Context, mesh: &MeshConfig, done: &mut Done) {
    if !done.failures.iter().any(ExecuteError::is_forbidden) {
        return;
    }
    let api: Api<RoleBinding> = Api::namespaced(ctx.client.clone(), &mesh.spec.namespace);
    // When even that cannot be read, the refusals speak for themselves.
    let Ok(bindings) = api.list(&ListParams::default()).await else { return };
    if bindings.items.iter().any(|binding| binds(binding, &ctx.namespace)) {
        return;
    }
    done.failures.retain(|failure| !failure.is_forbidden());
    let (namespace, operator) = (mesh.spec.namespace.clone(), ctx.namespace.clone());
    done.failures.insert(0, ExecuteError::Unbound { namespace, operator });
}

fn binds(binding: &RoleBinding, operator: &str) -> bool {
    let role = &binding.role_ref;
    let me = |subject: &Subject| match subject.kind.as_str() {
        "ServiceAccount" => subject.name == OPERATOR && subject.namespace.as_deref() == Some(operator),
        "Group" => {
            let groups = ["system:serviceaccounts", "system:authenticated"];
            groups.contains(&subject.name.as_str())
                || subject.name == format!("system:serviceaccounts:{operator}")
        }
        "User" => subject.name == format!("system:serviceaccount:{operator}:{OPERATOR}"),
        _ => false,
    };
    role.kind == "ClusterRole" && role.name == ROLE && binding.subjects.iter().flatten().any(me)
}

/// What to bind, and how.
pub fn words(namespace: &str, operator: &str) -> String {
    format!(
        "the operator has no rights in namespace {namespace}, which spec.namespace names for the control plane: bind \
         ClusterRole {ROLE} there to ServiceAccount {OPERATOR} of namespace {operator} with a RoleBinding: kubectl create \
         rolebinding {ROLE} --namespace {namespace} --clusterrole={ROLE} --serviceaccount={operator}:{OPERATOR}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_binding_is_of_that_role_to_that_account() {
        let binding = |kind: &str, role: &str, subject: serde_json::Value| {
            let text = json!({"metadata": {"name": "any"}, "subjects": [subject],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}});
            binds(&serde_json::from_value(text).unwrap(), "system")
        };
        let account =
            |namespace: &str| json!({"kind": "ServiceAccount", "name": OPERATOR, "namespace": namespace});
        assert!(binding("ClusterRole", ROLE, account("system")));
        assert!(!binding("ClusterRole", ROLE, account("elsewhere")));
        assert!(
            !binding("Role", ROLE, account("system")) && !binding("ClusterRole", "view", account("system"))
        );
        assert!(binding(
            "ClusterRole",
            ROLE,
            json!({"kind": "Group", "name": "system:serviceaccounts:system"})
        ));
        assert!(!binding(
            "ClusterRole",
            ROLE,
            json!({"kind": "Group", "name": "system:serviceaccounts:other"})
        ));
    }
}
