//! "The root of trust is replaced while the mesh serves: one edit, and no failed request."

use std::time::Duration;

use e2e::load::Follower;
use e2e::shell::until;
use e2e::story::{MESH, Story};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

pub fn authority(story: &Story) -> Value {
    let mesh = story.cluster.get(&["meshconfig", MESH]).unwrap();
    mesh["status"]["certificateAuthority"].clone()
}

/// Waits, saying each step, until one root is left that `wanted` takes for the new one.
pub fn until_stable(story: &Story, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut said = String::new();
    until(what.to_owned(), Duration::from_secs(300), || {
        let now = authority(story);
        let line = format!("{}: {}", now["step"], now["message"]);
        if line != said {
            println!("  {line}");
            said = line;
        }
        Ok((now["step"] == "Stable" && wanted(&now)).then_some(now))
    })
    .unwrap()
}

fn no_request_fails(story: &mut Story, follower: &Follower) {
    let sent = follower.totals().sent;
    until("more requests to be sent", Duration::from_secs(60), || {
        Ok((follower.totals().sent > sent + 100).then_some(()))
    })
    .unwrap();
    let totals = story.stop_load(follower).unwrap();
    assert_eq!(totals.failed, 0, "{:?}", totals.failures);
}

#[test]
fn the_root_is_replaced_and_no_request_fails() {
    let mut story = Story::new(crate::cluster()).unwrap();
    let follower = story.start_load().unwrap();
    let before = authority(&story);
    let next = before["generation"].as_i64().unwrap() + 1;
    let edit = json!({"spec": {"certificateAuthority": {"rootGeneration": next}}});
    story.cluster.patch(&["meshconfig", MESH], &edit).unwrap();
    let what = format!("root {next} to be the only one");
    let after = until_stable(&story, &what, |now| now["generation"] == next);
    assert_ne!(after["signing"], before["signing"]);
    assert_eq!(after["trusted"], json!([after["signing"]]));
    no_request_fails(&mut story, &follower);
}

/// An authority that a company's own root has signed: certificate, key, root.
fn intermediate() -> (String, String, String) {
    let parameters = |name: &str, constraint| {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(constraint);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters
    };
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = parameters("a company", BasicConstraints::Unconstrained);
    let issuer = Issuer::from_params(&root, &root_key);
    let signed = parameters("its mesh", BasicConstraints::Constrained(0)).signed_by(&key, &issuer).unwrap();
    (signed.pem(), key.serialize_pem(), root.self_signed(&root_key).unwrap().pem())
}

#[test]
fn the_users_own_authority_takes_over_and_no_request_fails() {
    let mut story = Story::new(crate::cluster()).unwrap();
    let follower = story.start_load().unwrap();
    let before = authority(&story);
    let provider = json!({"spec": {"certificateAuthority": {"provider": "Secret", "rootGeneration": 1}}});
    story.cluster.patch(&["meshconfig", MESH], &provider).unwrap();
    let (certificate, key, root) = intermediate();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "meshwright-root-ca", "namespace": "meshwright-system"},
        "stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": root},
    });
    story.cluster.apply(&secret.to_string()).unwrap();
    let after = until_stable(&story, "the company's root to be the only one", |now| {
        now["trusted"] != before["trusted"]
    });
    assert_eq!(after["trusted"].as_array().map(Vec::len), Some(1));
    no_request_fails(&mut story, &follower);
}
