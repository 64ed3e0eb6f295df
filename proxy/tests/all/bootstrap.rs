//! Envoy's bootstrap: as a golden file, and before the real Envoys.

use std::path::Path;
use std::process::Command;

use proxy::bootstrap::render;
use proxy::environment::Controller;
use proxy::envoy::HotRestart;
use proxy::sds;
use proxy::swap::Slot;
use proxy::swap::shared::Shared;

use crate::support::{ENVOYS, environment, envoy};

#[test]
fn bootstrap_is_as_recorded() {
    insta::assert_json_snapshot!(render(&environment(), Path::new("/run/meshwright"), None));
}

#[test]
fn oldest_and_newest_envoy_accept_it() {
    let directory = tempfile::tempdir().unwrap();
    let authority = crate::certificate::Authority::new();
    let id = "spiffe://cluster.local/ns/a/sa/b";
    let (key, csr) = identity::key_and_request(Some(id)).unwrap();
    let answer = authority.answer(&csr, id, crate::certificate::Life::default());
    let now = time::OffsetDateTime::now_utc();
    let expected = identity::Expected::Id(id.to_owned());
    let identity = identity::accept(answer.status(), answer.body(), &expected, &key, now).unwrap();
    sds::write(directory.path(), &identity, &identity.trust()).unwrap();

    let mut v6 = environment();
    v6.pod_ip = "fd00::2".parse().unwrap();
    v6.controller = Controller { host: "controller.example".into(), port: 1 };
    let restart = HotRestart { slot: Slot::B, base_id: 1, epoch: 7 };
    Shared::new(directory.path()).unwrap().introduce(restart.epoch).unwrap();
    for (version, environment, restart) in ENVOYS.into_iter().flat_map(|version| {
        [(version, environment(), None), (version, v6.clone(), None), (version, environment(), Some(restart))]
    }) {
        let path = directory.path().join("envoy.json");
        sds::replace(&path, &render(&environment, directory.path(), restart)).unwrap();
        let output = Command::new(envoy(version))
            .args(["--mode", "validate"])
            .args(proxy::envoy::arguments(&environment, &path, None))
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "Envoy {version}: {printed}");
        let warnings: Vec<_> = printed.lines().filter(|line| line.contains("[warning]")).collect();
        assert!(warnings.is_empty(), "Envoy {version} warns: {warnings:?}");
    }
}
