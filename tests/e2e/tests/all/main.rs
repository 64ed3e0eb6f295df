//! The node tier: one module per promise that the README makes, on a real node.
//!
//! `make test-node` starts the cluster and names it in `MESHWRIGHT_NODE_CLUSTER`. The tests share it and run one
//! after another (`--test-threads=1`), in the order of their names.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod t1_demo;
mod t2_injection;
mod t2b_protected;
mod t3_bad_input;
mod t3b_strangers;
mod t3c_keys;
mod t3d_git_https;
mod t4_crash;
mod t4b_root_lost;
mod t5_root_rotation;
mod t6_hot_swap;
mod t6b_watches;
mod t7_workloads;
mod t8_injector_gone;
mod t9_uninstall;
mod t9b_helm;

use e2e::cluster::Cluster;

/// The cluster that `make test-node` started.
fn cluster() -> Cluster {
    let name = std::env::var("MESHWRIGHT_NODE_CLUSTER").expect(
        "MESHWRIGHT_NODE_CLUSTER names no cluster: run `make test-node`, or `tests/cluster/cluster up --tier node \
         --name test && make images NAME=test && MESHWRIGHT_NODE_CLUSTER=test cargo test --test node -- --test-threads=1`",
    );
    Cluster::named(&name).expect("the cluster runs")
}
