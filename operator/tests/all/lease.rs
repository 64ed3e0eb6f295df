//! Leader election against a real API server.

use std::time::Duration;

use runtime::lease::{Election, Timing};
use tokio_util::sync::CancellationToken;

use crate::cluster::{client, namespace};

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
