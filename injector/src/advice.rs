//! What its author should know about a pod that gets a sidecar, although it is no reason to refuse it. `kubectl` shows
//! it as a warning; so does `meshwright inject --explain`.

use crds::labels;
use crds::mesh_config::UpgradeStrategy;
use k8s_openapi::api::core::v1::Pod;

use crate::settings::NamespaceMeta;

/// Kubernetes, Pod Security Admission.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// The advice, each a sentence.
#[must_use]
pub fn advice(pod: &Pod, namespace: &NamespaceMeta) -> Vec<String> {
    [security(namespace), names(pod), strategy(namespace)].into_iter().flatten().collect()
}

/// Only a warning: the API server may exempt the pod, which cannot be seen from here.
fn security(namespace: &NamespaceMeta) -> Option<String> {
    let level = namespace.labels.get(ENFORCE).filter(|level| *level != "privileged")?;
    let level: String = level.chars().take(16).collect();
    Some(format!(
        "namespace {} enforces the Pod Security Standard {level:?}, which forbids NET_ADMIN to the init container of \
         the sidecar: label it {ENFORCE}=privileged, or keep the pod out of the mesh",
        namespace.name
    ))
}

fn strategy(namespace: &NamespaceMeta) -> Option<String> {
    let text = namespace.strategy.as_ref().filter(|text| UpgradeStrategy::parse(text).is_none())?;
    let text: String = text.chars().take(32).collect();
    Some(format!(
        "namespace {} has annotation {} {text:?}, which is neither HotSwap nor Restart; the MeshConfig's strategy is used",
        namespace.name,
        labels::UPGRADE_STRATEGY
    ))
}

fn names(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    (spec.dns_policy.as_deref() == Some("Default")).then(|| {
        "dnsPolicy Default asks the node's name servers, which do not know the mesh's controller: use ClusterFirst, or \
         None with the cluster's name server"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_will_go_wrong_later_is_said_at_once() {
        let mut pod = Pod::default();
        let mut namespace = NamespaceMeta { name: "n".to_owned(), ..NamespaceMeta::default() };
        namespace.labels = BTreeMap::from([(ENFORCE.to_owned(), "privileged".to_owned())]);
        assert_eq!(advice(&pod, &namespace), [""; 0]);
        namespace.labels.insert(ENFORCE.to_owned(), "restricted".to_owned());
        pod.spec.get_or_insert_default().dns_policy = Some("Default".to_owned());
        let said = advice(&pod, &namespace);
        assert!(said[0].contains("namespace n") && said[0].contains("restricted"), "{said:?}");
        assert!(said[1].contains("ClusterFirst"), "{said:?}");
        namespace.strategy = Some("Hotswap".to_owned());
        assert!(advice(&pod, &namespace)[2].contains("neither HotSwap nor Restart"));
        assert!(said.iter().all(|line| line.len() <= 256), "longer ones are cut");
    }
}
