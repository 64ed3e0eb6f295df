"""config/admission, evaluated with CEL's own runtime: what the operator does passes, what it must not do is refused.

    tests/admission          (makes the environment, then runs this)

The cluster of the tests is older than ValidatingAdmissionPolicy, so the expressions are judged here.
"""
import copy
import json
import pathlib
import sys

import yaml
from cel_expr_python import cel
from cel_expr_python.ext import ext_optional

OPERATOR = "system:serviceaccount:meshwright-system:meshwright-operator"
root = pathlib.Path(__file__).resolve().parent.parent
objects = list(yaml.safe_load_all((root / "config/admission/operator.yaml").read_text()))
policies = [o for o in objects if o["kind"] == "ValidatingAdmissionPolicy"]
bound = {o["spec"]["policyName"] for o in objects if o["kind"] == "ValidatingAdmissionPolicyBinding"}
assert {policy["metadata"]["name"] for policy in policies} == bound, "every policy is bound"

names = {name: cel.Type.DYN for name in ("object", "oldObject", "request", "variables")}
env = cel.NewEnv(variables=names, extensions=[ext_optional.ExtOptional()])


def evaluate(expression, data):
    return env.compile(expression).eval(data=data).plain_value()


def rules(policy):
    return policy["spec"]["matchConstraints"]["resourceRules"]


def judge(user, operation, group, resource, new, old):
    """The messages of what is refused, as an API server would."""
    request = {"operation": operation, "userInfo": {"username": user}, "resource": {"group": group, "resource": resource}}
    refused = []
    for policy in policies:
        spec = policy["spec"]
        if not any(
            group in rule["apiGroups"] and resource in rule["resources"] and operation in rule["operations"]
            for rule in rules(policy)
        ):
            continue
        data = {"object": new, "oldObject": old, "request": request, "variables": {}}
        if not all(evaluate(condition["expression"], data) for condition in spec["matchConditions"]):
            continue
        for variable in spec.get("variables", []):
            data["variables"][variable["name"]] = evaluate(variable["expression"], data)
        refused += [v["message"] for v in spec["validations"] if evaluate(v["expression"], data) is not True]
    return refused


def binding(kind, name, role, account, namespace="meshwright-system", **metadata):
    return {
        "kind": kind, "metadata": {"name": name, **metadata},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }


def deployment(name, image="i:1", annotations=None, **spec):
    template = {"metadata": {"annotations": annotations or {}}, "spec": {"containers": [{"name": "c", "image": image}], **spec}}
    return {"kind": "Deployment", "metadata": {"name": name}, "spec": {"selector": {"a": "b"}, "template": template}}


def pod(app="app:1", proxy="proxy:1", init=()):
    containers = [{"name": "app", "image": app}, {"name": "meshwright-proxy", "image": proxy}]
    spec = {"containers": containers}
    if init:
        spec["initContainers"] = [{"name": name, "image": image} for name, image in init]
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


def webhook(name, service="meshwright-injector-0-2-0", url=None):
    client = {"url": url} if url else {"service": {"name": service, "namespace": "meshwright-system"}}
    return {"metadata": {"name": name}, "webhooks": [{"name": "w", "clientConfig": client}]}


RBAC, HOOKS, APPS, CORE = "rbac.authorization.k8s.io", "admissionregistration.k8s.io", "apps", ""
C, I = "meshwright-controller-0-2-0", "meshwright-injector-0-2-0"
wide = binding("ClusterRoleBinding", "meshwright-controller-demo-0-2-0", "meshwright-controller", C)
narrow = binding("RoleBinding", C, "meshwright-controller-namespace", C, namespace="meshwright-system", **{}) | {
    "metadata": {"name": C, "namespace": "meshwright-system"}
}
own = deployment(C, serviceAccountName=C, volumes=[{"name": "t", "projected": {}}])
theirs = deployment("web")


def changed(value, **edits):
    value = copy.deepcopy(value)
    value.update(edits)
    return value


table = [
    # (what, allowed, operation, group, resource, new, old)
    ("bind the controller", True, "CREATE", RBAC, "clusterrolebindings", wide, None),
    ("bind it in its namespace", True, "CREATE", RBAC, "rolebindings", narrow, None),
    ("bind the injector", True, "CREATE", RBAC, "clusterrolebindings",
     binding("ClusterRoleBinding", "meshwright-injector-demo-0-2-0", "meshwright-injector", I), None),
    ("bind the root's reader to itself", False, "CREATE", RBAC, "rolebindings",
     changed(narrow, subjects=[{"kind": "ServiceAccount", "name": "meshwright-operator", "namespace": "meshwright-system"}]), None),
    ("bind it to a person", False, "CREATE", RBAC, "rolebindings", changed(narrow, subjects=[{"kind": "User", "name": "meshwright-controller-x"}]), None),
    ("bind it to another namespace's account", False, "CREATE", RBAC, "rolebindings",
     changed(narrow, subjects=[{"kind": "ServiceAccount", "name": C, "namespace": "tenant"}]), None),
    ("bind the controller's role to an injector", False, "UPDATE", RBAC, "clusterrolebindings",
     changed(wide, subjects=[{"kind": "ServiceAccount", "name": I, "namespace": "x"}]), wide),
    ("bind a role to nobody", False, "CREATE", RBAC, "clusterrolebindings", {k: v for k, v in wide.items() if k != "subjects"}, None),
    ("delete its own binding", True, "DELETE", RBAC, "clusterrolebindings", None, wide),
    ("delete a foreign binding", False, "DELETE", RBAC, "clusterrolebindings", None, binding("ClusterRoleBinding", "cluster-admin", "cluster-admin", "x")),
    ("arm a webhook", True, "CREATE", HOOKS, "mutatingwebhookconfigurations", webhook("meshwright-injector-demo-0-2-0"), None),
    ("change a foreign webhook", False, "UPDATE", HOOKS, "validatingwebhookconfigurations", webhook("policy-engine"), webhook("policy-engine")),
    ("delete a foreign webhook", False, "DELETE", HOOKS, "validatingwebhookconfigurations", None, webhook("policy-engine")),
    ("delete its own webhook", True, "DELETE", HOOKS, "mutatingwebhookconfigurations", None, webhook("meshwright-injector-demo-0-2-0")),
    ("send pods to a URL", False, "CREATE", HOOKS, "mutatingwebhookconfigurations", webhook("meshwright-x", url="https://evil"), None),
    ("send pods to another service", False, "UPDATE", HOOKS, "mutatingwebhookconfigurations", webhook("meshwright-x", service="evil"), webhook("meshwright-x")),
    ("make a controller", True, "CREATE", APPS, "deployments", own, None),
    ("delete a controller", True, "DELETE", APPS, "deployments", None, own),
    ("change a controller's image", True, "UPDATE", APPS, "deployments", deployment(C, "i:2", serviceAccountName=C), own),
    ("run a controller as another account", False, "CREATE", APPS, "deployments", deployment(C, serviceAccountName="admin"), None),
    ("mount the root into a Deployment", False, "UPDATE", APPS, "deployments",
     deployment(C, serviceAccountName=C, volumes=[{"name": "r", "secret": {"secretName": "meshwright-root-ca"}}]), own),
    ("mount the host", False, "CREATE", APPS, "deployments", deployment(C, serviceAccountName=C, volumes=[{"name": "h", "hostPath": {"path": "/"}}]), None),
    ("join the host's network", False, "CREATE", APPS, "deployments", deployment(C, serviceAccountName=C, hostNetwork=True), None),
    ("roll a tenant's Deployment", True, "UPDATE", APPS, "deployments", deployment("web", annotations={"meshwright.io/moved-to": "x"}), theirs),
    ("change what a tenant runs", False, "UPDATE", APPS, "deployments", deployment("web", "evil:1"), theirs),
    ("change a tenant's account", False, "UPDATE", APPS, "deployments", deployment("web", serviceAccountName="admin"), theirs),
    ("scale a tenant down", False, "UPDATE", APPS, "deployments",
     changed(theirs, spec=theirs["spec"] | {"replicas": 0}), theirs),
    ("delete a tenant's Deployment", False, "DELETE", APPS, "deployments", None, theirs),
    ("make another Deployment", False, "CREATE", APPS, "deployments", deployment("miner"), None),
    ("swap a sidecar", True, "UPDATE", CORE, "pods", pod(proxy="proxy:2"), pod()),
    ("swap a native sidecar", True, "UPDATE", CORE, "pods", pod(init=[("meshwright-init", "p:1"), ("meshwright-proxy-b", "p:2")]),
     pod(init=[("meshwright-init", "p:1"), ("meshwright-proxy-b", "p:1")])),
    ("change an app's image", False, "UPDATE", CORE, "pods", pod(app="evil:1"), pod()),
    ("change an init container's image", False, "UPDATE", CORE, "pods", pod(init=[("setup", "evil:1")]), pod(init=[("setup", "s:1")])),
    ("make a root", True, "CREATE", CORE, "secrets", {"metadata": {"name": "meshwright-root-ca-b"}}, None),
    ("make another Secret", False, "CREATE", CORE, "secrets", {"metadata": {"name": "default-token"}}, None),
    ("copy the bundle", True, "CREATE", CORE, "configmaps", {"metadata": {"name": "meshwright-trust-bundle"}}, None),
    ("make another ConfigMap", False, "CREATE", CORE, "configmaps", {"metadata": {"name": "coredns"}}, None),
]
wrong = 0
for what, allowed, operation, group, resource, new, old in table:
    refused = judge(OPERATOR, operation, group, resource, new, old)
    if allowed == bool(refused):
        wrong += 1
        print(f"WRONG: the operator {'may not' if allowed else 'may'} {what}: {json.dumps(refused)}")
    for other in ("admin", "system:serviceaccount:tenant:default", "system:serviceaccount:a:meshwright-operator-x"):
        if judge(other, operation, group, resource, new, old):
            wrong += 1
            print(f"WRONG: {other} is refused to {what}, and the policies are about the operator alone")
print(f"config/admission: {len(policies)} policies, {len(table)} requests, {wrong} judged wrongly")
sys.exit(wrong > 0)
