//! The cache of pods, as the certificate endpoint asks it.

use std::time::Duration;

use futures::future::BoxFuture;
use mesh::PodFacts;

use super::Snapshots;
use crate::certificates::endpoint::Pods;

/// How long a certificate waits for a pod that the watch has not told of yet.
const PATIENCE: Duration = Duration::from_secs(10);

impl Pods for Snapshots {
    fn wait_for<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        uid: &'a str,
    ) -> BoxFuture<'a, Option<PodFacts>> {
        Box::pin(async move {
            let mut ticks = self.ticks();
            let there = async {
                while self.pod(namespace, name).is_none_or(|pod| pod.uid != uid) {
                    if ticks.changed().await.is_err() {
                        return;
                    }
                }
            };
            // When the time is over the answer is whatever is known: nothing, or another pod of that name.
            let _ = tokio::time::timeout(PATIENCE, there).await;
            self.pod(namespace, name)
        })
    }
}
