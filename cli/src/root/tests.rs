use super::*;

fn root(name: &str) -> Secret {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {
            "name": name, "namespace": "meshwright-system", "uid": "1", "resourceVersion": "7",
            "labels": {labels::MESH: "books"}, "annotations": {labels::ROOT_GENERATION: "3"},
            "ownerReferences": [{"apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "name": "b", "uid": "2"}],
        },
        "data": {
            "tls.crt": ByteString(certificate.pem().into_bytes()),
            "tls.key": ByteString(key.serialize_pem().into_bytes()),
        },
    }))
    .unwrap()
}

#[test]
fn a_backup_comes_back_as_it_was_and_without_its_owner() {
    let secrets = [root(labels::ROOT_SECRET), root(labels::OTHER_ROOT_SECRET)];
    let roots: Vec<_> = secrets.iter().map(|secret| Root::of(secret).unwrap()).collect();
    let documents: Vec<_> = roots.iter().map(|root| output::yaml(&root.object()).unwrap()).collect();
    let text = documents.join("---\n");
    assert!(!text.contains("ownerReferences") && !text.contains("uid") && !text.contains("resourceVersion"));
    let back = parse(&text).unwrap();
    assert!(back == roots);
    let object = back[0].object();
    assert_eq!(object["metadata"]["annotations"][labels::ROOT_GENERATION], "3");
    assert_eq!(object["metadata"]["labels"][labels::MANAGED_BY], labels::MANAGER);
}

#[test]
fn what_is_no_whole_root_is_refused_without_repeating_it() {
    let (mut mixed, other) = (root(labels::ROOT_SECRET), root(labels::ROOT_SECRET));
    mixed
        .data
        .as_mut()
        .unwrap()
        .insert("tls.key".to_owned(), other.data.as_ref().unwrap()["tls.key"].clone());
    let error = Root::of(&mixed).err().unwrap().to_string();
    assert!(error.contains("does not belong"), "{error}");
    assert!(Root::of(&root("somebody-elses")).is_err());
    let mut half = root(labels::ROOT_SECRET);
    half.data.as_mut().unwrap().remove("tls.key");
    assert!(Root::of(&half).err().unwrap().to_string().contains("tls.key is missing"));
    for text in
        ["", "hello", "kind: [", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", "SECRET-WORDS"]
    {
        let error = parse(text).err().unwrap().to_string();
        assert!(!error.contains("SECRET-WORDS"), "{error}");
    }
    let twice = output::yaml(&Root::of(&other).unwrap().object()).unwrap();
    assert!(parse(&format!("{twice}---\n{twice}")).is_err());
}

#[test]
fn another_live_root_is_a_conflict_and_the_same_is_none() {
    let (mine, other) = (root(labels::ROOT_SECRET), root(labels::ROOT_SECRET));
    let backup = vec![Root::of(&mine).unwrap()];
    assert_eq!(conflicts(&backup, &[], None), [""; 0]);
    assert_eq!(conflicts(&backup, std::slice::from_ref(&mine), Some(&backup[0].fingerprint)), [""; 0]);
    let found = conflicts(&backup, std::slice::from_ref(&other), None);
    let print = short(&Root::of(&other).unwrap().fingerprint);
    assert!(found.len() == 1 && found[0].contains(&print), "{found:?}");
    // Rotated since the backup, and the Secrets are lost: the sidecars trust a root that is not in it.
    assert_eq!(conflicts(&backup, &[], Some(&"e".repeat(64))).len(), 1);
    assert_eq!(conflicts(&backup, &[mine, root(labels::OTHER_ROOT_SECRET)], None).len(), 1);
}
