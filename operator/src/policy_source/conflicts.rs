//! Objects in the cluster that a commit may not take over.

use std::collections::BTreeMap;

use crds::PolicySource;
use crds::policy_source::InventoryEntry;
use gitops::{Bundle, Policy, Problem, What};
use kube::Api;

use super::cluster::{Cluster, ClusterError, Live, keys};

/// Every conflict of a bundle with what others put into the cluster.
pub async fn find(
    cluster: &Cluster,
    bundle: &Bundle,
    live: &Live,
    sealed: &[InventoryEntry],
) -> Result<Vec<Problem>, ClusterError> {
    let sealed = keys(sealed);
    let mut owners = BTreeMap::new();
    let mut problems = Vec::new();
    for policy in &bundle.policies {
        let Some(found) = live.get(&policy.key) else { continue };
        let what = match found.source() {
            Some(label) if label == cluster.label => continue,
            Some(label) => {
                if !owners.contains_key(label) {
                    owners.insert(label.to_owned(), exists(cluster, label).await?);
                }
                match &owners[label] {
                    Some(owner) => What::OwnedByOther { key: policy.key.clone(), owner: owner.clone() },
                    None => continue,
                }
            }
            // Ours with its label taken off by hand, or equal: nobody loses anything.
            None if found.hash.as_ref() == Some(&policy.hash) => continue,
            None if sealed.iter().any(|(key, _)| *key == policy.key) => continue,
            None => What::AlreadyExists { key: policy.key.clone() },
        };
        problems.push(at(policy, what));
    }
    Ok(problems)
}

/// A problem at a policy's place.
pub fn at(policy: &Policy, what: What) -> Problem {
    Problem::at(&policy.file, policy.line, what)
}

/// `namespace/name` of the source that a label names, if it exists.
async fn exists(cluster: &Cluster, label: &str) -> Result<Option<String>, ClusterError> {
    let Some((namespace, name)) = label.split_once('.') else { return Ok(None) };
    let api: Api<PolicySource> = Api::namespaced(cluster.client.clone(), namespace);
    let found = api.get_metadata_opt(name).await.map_err(ClusterError::read("a PolicySource"))?;
    Ok(found.map(|_| format!("{namespace}/{name}")))
}
