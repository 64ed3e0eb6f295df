//! Files of a commit → policies with the marks that tie them to their source.

use std::collections::BTreeMap;
use std::sync::Arc;

use gitops::git::Fetched;
use gitops::{Bundle, Policy, Problem};

use super::cluster::Cluster;
use super::settings::Settings;

/// Parses off the async threads: a large commit takes a while.
pub async fn parse(fetched: &Arc<Fetched>, settings: &Settings) -> (Bundle, Vec<Problem>) {
    let (fetched, scope) = (fetched.clone(), settings.scope.clone());
    let commit = fetched.commit.clone();
    let parsed = tokio::task::spawn_blocking(move || {
        let (bundle, mut problems) = gitops::parse(fetched.commit.clone(), &fetched.files, &scope);
        problems.extend(fetched.problems.iter().cloned());
        problems.sort();
        (bundle, problems)
    });
    parsed.await.unwrap_or_else(|_| {
        let what =
            gitops::What::Syntax("the parser failed; this is a mistake of ours, please report it".to_owned());
        (Bundle { commit, policies: Vec::new(), absent: Vec::new() }, vec![Problem::of_commit(what)])
    })
}

/// Labels and annotations that tie an object to its source.
pub fn marks(
    cluster: &Cluster,
    bundle: &Bundle,
    policy: &Policy,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let labels = BTreeMap::from([pair(crds::labels::SOURCE, cluster.label.clone())]);
    let annotations = BTreeMap::from([
        pair(crds::labels::COMMIT, bundle.commit.id.clone()),
        pair(crds::labels::FILE, policy.place()),
    ]);
    (labels, annotations)
}
