//! The Pod Security Standard "restricted" as a function of a pod's spec: which rules it breaks. Written from the standard's
//! own tables, so that a pod can be judged without a cluster that does.

use serde_json::Value;

/// Kinds of volumes that it allows.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Every rule that a pod's spec breaks, with the container's name; `exempt` names containers that are not judged.
#[must_use]
pub fn violations(spec: &Value, exempt: &[&str]) -> Vec<String> {
    let mut broken = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == true {
            broken.push(field.to_owned());
        }
    }
    for volume in list(&spec["volumes"]) {
        let kinds =
            volume.as_object().into_iter().flatten().map(|(kind, _)| kind).filter(|kind| *kind != "name");
        broken.extend(
            kinds
                .filter(|kind| !VOLUMES.contains(&kind.as_str()))
                .map(|kind| format!("a volume of kind {kind}")),
        );
    }
    if !list(&spec["securityContext"]["sysctls"]).is_empty() {
        broken.push("sysctls".to_owned());
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(&spec[field]) {
            let name = container["name"].as_str().unwrap_or_default();
            if !exempt.contains(&name) {
                broken.extend(
                    of_container(container, &spec["securityContext"])
                        .into_iter()
                        .map(|rule| format!("{name}: {rule}")),
                );
            }
        }
    }
    broken
}

fn of_container(container: &Value, pod: &Value) -> Vec<String> {
    let own = &container["securityContext"];
    // A container's own setting goes before the pod's.
    let setting = |field: &str| if own[field].is_null() { &pod[field] } else { &own[field] };
    let strings = |value: &Value| -> Vec<String> {
        list(value).iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let mut broken = Vec::new();
    let mut must = |so: bool, rule: &str| {
        if !so {
            broken.push(rule.to_owned());
        }
    };
    must(own["privileged"] != true, "privileged");
    must(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation is not false");
    must(
        strings(&own["capabilities"]["drop"]).iter().any(|name| name == "ALL"),
        "not all capabilities are dropped",
    );
    must(
        strings(&own["capabilities"]["add"]).iter().all(|name| name == "NET_BIND_SERVICE"),
        "a capability is added",
    );
    must(setting("runAsNonRoot") == true, "runAsNonRoot is not true");
    must(setting("runAsUser") != 0, "runAsUser is 0");
    let seccomp = setting("seccompProfile")["type"].as_str().unwrap_or_default();
    must(["RuntimeDefault", "Localhost"].contains(&seccomp), "no seccomp profile");
    must(own["procMount"].is_null() || own["procMount"] == "Default", "procMount");
    must(
        list(&container["ports"]).iter().all(|port| port["hostPort"].as_i64().unwrap_or(0) == 0),
        "a hostPort",
    );
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        for kind in ["httpGet", "tcpSocket"] {
            must(container[probe][kind]["host"].is_null(), "a probe names a host");
        }
    }
    broken
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
