//! Leader election against a real API server.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use runtime::lease::{Election, Mandate, Timing};
use tokio_util::sync::CancellationToken;

use crate::cluster::{client, namespace, until};

const TIMING: Timing = Timing {
    lease: Duration::from_secs(3),
    renew_within: Duration::from_secs(2),
    retry: Duration::from_millis(200),
};

#[tokio::test]
async fn a_released_or_expired_lease_passes_to_the_next_replica() {
    let client = client(None).await;
    namespace(&client, "t-lease").await;
    let election = |who: &str| Election::new(client.clone(), "t-lease", "leader", who, TIMING);
    let stop = CancellationToken::new();
    let first = election("a").acquire(&stop).await.expect("nobody else wants it");

    let impatient = CancellationToken::new();
    impatient.cancel();
    assert!(election("b").acquire(&impatient).await.is_none(), "the lease is held");

    first.release().await;
    let second = election("b").acquire(&stop).await.expect("it was released");
    // A holder that dies without a word: its task goes away, nothing is released.
    let lost = second.lost();
    assert!(!lost.is_cancelled());
    second.abandon();
    let third = election("c").acquire(&stop).await.expect("it expires");
    third.release().await;
}

#[tokio::test]
async fn each_leadership_has_a_higher_term_than_all_before_it() {
    let client = client(None).await;
    namespace(&client, "t-terms").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "t-terms");
    let _ = leases.delete("leader", &DeleteParams::default()).await;
    let stop = CancellationToken::new();
    let lead = async |who: &str| {
        let mandate = Mandate::default();
        let election = Election::new(client.clone(), "t-terms", "leader", who, TIMING);
        let term = election.granting(mandate.clone()).acquire(&stop).await.expect("it is free");
        (term, mandate)
    };
    let (first, mandate) = lead("a").await;
    assert_eq!(mandate.check(), Ok(1));
    first.release().await;
    assert!(mandate.check().is_err());
    // After a release, and after a crash under the same name, it is another one.
    let (second, mandate) = lead("a").await;
    assert_eq!(mandate.check(), Ok(2));
    second.abandon();
    let (third, mandate) = lead("a").await;
    assert_eq!(mandate.check(), Ok(3));
    // Somebody deletes the Lease, and its count with it; objects still hold the mark of a term.
    leases.delete("leader", &DeleteParams::default()).await.expect("it is there");
    mandate.outrank(41);
    until("the mark to be outranked", || {
        let term = mandate.check();
        std::future::ready(if term == Ok(42) { Ok(()) } else { Err(format!("{term:?}")) })
    })
    .await;
    third.release().await;
}
