//! EndpointSlices: v1 where the cluster has it (Kubernetes 1.21), else v1beta1.

use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Api, Client};

use super::feed::Feed;

const GROUP: &str = "discovery.k8s.io";
const RETRY: Duration = Duration::from_secs(2);

/// Which version the cluster serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V1Beta1,
}

/// Watches the slices.
pub(super) async fn run(client: Client, feed: Feed) {
    let version = loop {
        match find(&client).await {
            Ok(version) => break version,
            Err(error) => {
                tracing::warn!(
                    error = runtime::logging::chain(&error),
                    "cannot ask for {GROUP}; trying again"
                );
            }
        }
        tokio::select! {
            () = feed.stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    };
    tracing::info!(?version, "EndpointSlices");
    match version {
        Version::V1 => feed.run(Api::<EndpointSlice>::all(client)).await,
        Version::V1Beta1 => {
            let kind = GroupVersionKind::gvk(GROUP, "v1beta1", "EndpointSlice");
            let resource = ApiResource::from_gvk_with_plural(&kind, "endpointslices");
            feed.watch(Api::<DynamicObject>::all_with(client, &resource)).await;
        }
    }
}

async fn find(client: &Client) -> Result<Version, kube::Error> {
    let groups = client.list_api_groups().await?;
    let group = groups.groups.iter().find(|group| group.name == GROUP);
    let v1 = group.is_some_and(|group| group.versions.iter().any(|version| version.version == "v1"));
    Ok(if v1 { Version::V1 } else { Version::V1Beta1 })
}
