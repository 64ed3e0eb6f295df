//! The dependency list is the proof that the crate does no IO.

use std::process::Command;

/// envoy-types generates gRPC services beside the messages that we use and has no feature to leave them out, so
/// everything that it brings along is let be; nothing else may bring it.
#[test]
fn no_runtime_no_client_no_server() {
    for (package, pruned) in [("mesh", Some("envoy-types")), ("crds", None), ("upgrades", None)] {
        let mut tree = Command::new(env!("CARGO"));
        tree.args(["tree", "--offline", "--package", package, "--edges", "normal"]);
        tree.args(pruned.into_iter().flat_map(|pruned| ["--prune", pruned]));
        let output = tree
            .args(["--prefix", "none", "--format", "{p}"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        assert!(tree.contains("serde"), "an empty tree proves nothing");
        for forbidden in
            ["tokio", "kube-client", "kube-runtime", "tonic", "hyper", "rustls", "reqwest", "git2"]
        {
            let found = tree.lines().find(|line| line.split(' ').next() == Some(forbidden));
            assert_eq!(found, None, "{package} must stay pure");
        }
    }
}
