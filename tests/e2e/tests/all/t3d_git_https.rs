//! "Policies come from Git over HTTPS, with an authority of your own": by the operator's restricted pod, whose image has
//! no shell, and whose process that reads repositories is confined.

use std::time::Duration;

use e2e::cluster::{Cluster, condition};
use e2e::git::Clone;
use e2e::node::status;
use e2e::shell::{output, until};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "meshwright-system";
const HOST: &str = "git-tls.git.svc.cluster.local";

/// An authority of one's own, and a server's certificate and key by it.
fn authority() -> (String, String, String) {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "a company");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::from_params(&root, &root_key);
    let server = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (root.self_signed(&root_key).unwrap().pem(), server.pem(), key.serialize_pem())
}

fn secret(namespace: &str, name: &str, data: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data})
        .to_string()
}

/// The demo's git server once more, with TLS.
fn serve(cluster: &Cluster, certificate: &str, key: &str) {
    cluster.apply(&secret("git", "git-tls", &json!({"tls.crt": certificate, "tls.key": key}))).unwrap();
    let mut deployment = cluster.get(&["deployment", "-n", "git", "git-server"]).unwrap();
    let labels = json!({"app": "git-tls"});
    let spec = &mut deployment["spec"]["template"]["spec"];
    let volume = json!({"name": "tls", "secret": {"secretName": "git-tls", "defaultMode": 0o440}});
    spec["volumes"].as_array_mut().unwrap().push(volume);
    let mounts = spec["containers"][0]["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({"name": "tls", "mountPath": "/tls", "readOnly": true}));
    let spec = spec.clone();
    let template = json!({"metadata": {"labels": labels}, "spec": spec});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "git-tls", "namespace": "git"},
        "spec": {"selector": {"matchLabels": labels}, "template": template}});
    cluster.apply(&deployment.to_string()).unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "git-tls", "namespace": "git"},
        "spec": {"selector": labels,
                 "ports": [{"name": "http", "port": 8080}, {"name": "https", "port": 8443}]}});
    cluster.apply(&service.to_string()).unwrap();
    cluster.rolled_out("git", "git-tls", 3 * MINUTE).unwrap();
}

/// The operator trusts what a Secret holds, instead of the authorities of its image.
fn trust(cluster: &Cluster, root: &str) {
    cluster.apply(&secret(SYSTEM, "company-root", &json!({"ca.crt": root}))).unwrap();
    let mut patch = cluster.kubectl();
    let spec = json!({
        "containers": [{"name": "operator",
            "env": [{"name": "SSL_CERT_FILE", "value": "/company/ca.crt"}],
            "volumeMounts": [{"name": "company", "mountPath": "/company", "readOnly": true}]}],
        "volumes": [{"name": "company", "secret": {"secretName": "company-root"}}],
    });
    let spec = json!({"spec": {"template": {"spec": spec}}}).to_string();
    patch.args(["patch", "deployment", "-n", SYSTEM, "meshwright-operator", "--type=strategic", "-p", &spec]);
    output(&mut patch).unwrap();
    cluster.rolled_out(SYSTEM, "meshwright-operator", 3 * MINUTE).unwrap();
}

fn source(cluster: &Cluster) -> anyhow::Result<Value> {
    cluster.get(&["policysource", "-n", "bookstore", "company"])
}

/// The operator's pods, without those of before that are about to go.
fn operators(cluster: &Cluster) -> Vec<Value> {
    let selector = "app.kubernetes.io/component=operator";
    let mut pods = cluster.list(&["pods", "-n", SYSTEM, "-l", selector]).unwrap();
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

fn says(cluster: &Cluster, word: &str) {
    until(format!("the source to say {word}"), 2 * MINUTE, || {
        let ready = condition(&source(cluster)?, "Ready").cloned().unwrap_or_default();
        anyhow::ensure!(ready.to_string().contains(word), "it says {ready}");
        println!("  {}", ready["message"]);
        Ok(Some(()))
    })
    .unwrap();
}

/// Process of the operator's that reads repositories, and the operator that started it.
fn reader(cluster: &Cluster) -> anyhow::Result<Option<(u32, u32)>> {
    for pod in operators(cluster) {
        let all = cluster.processes(&pod, "operator")?;
        if let [operator, reader] = all[..] {
            return Ok(Some((operator, reader)));
        }
    }
    Ok(None)
}

fn number(pid: u32, field: &str) -> u32 {
    status(pid, field).unwrap().parse().unwrap()
}

/// While the server says nothing, the process that waits for it can be looked at.
fn is_confined(cluster: &Cluster) {
    let name = cluster.pod("git", "git-tls").unwrap();
    let server = cluster.get(&["pod", "-n", "git", &name]).unwrap();
    cluster.signal(&server, "git-server", "SIGSTOP").unwrap();
    let seen = until("a process that reads a repository", MINUTE, || {
        let Some((operator, reader)) = reader(cluster)? else { return Ok(None) };
        let mode = status(reader, "Seccomp")?;
        let filters = |pid| -> anyhow::Result<u32> { Ok(status(pid, "Seccomp_filters")?.parse()?) };
        anyhow::ensure!(filters(reader)? > filters(operator)?, "not yet confined");
        let open = std::fs::read_dir(format!("/proc/{reader}/fd"))?.count();
        let environment = std::fs::read_to_string(format!("/proc/{reader}/environ"))?;
        let known = environment.split_terminator('\0').map(|set| set.split('=').next().unwrap_or_default());
        let known: Vec<_> = known.map(str::to_owned).collect();
        let rights = status(reader, "NoNewPrivs")?;
        Ok(Some((operator, mode, rights, open, known)))
    });
    cluster.signal(&server, "git-server", "SIGCONT").unwrap();
    let (operator, mode, rights, open, environment) = seen.unwrap();
    println!("  Seccomp {mode}, NoNewPrivs {rights}, {open} files open, environment: {environment:?}");
    assert_eq!((mode.as_str(), rights.as_str()), ("2", "1"));
    // Where libgit2 looks for settings: its own folder. Nothing of the operator's.
    assert_eq!(environment, ["HOME", "XDG_CONFIG_HOME"]);
    assert!(open <= 4, "its pipes, its connection: {open}");
    assert_eq!(number(operator, "NoNewPrivs"), 1, "the pod is a restricted one");
    assert_eq!(status(operator, "CapEff").unwrap().trim_start_matches('0'), "", "and has no capability");
}

#[test]
fn policies_come_over_https_from_a_server_of_ones_own_authority() {
    let cluster = crate::cluster();
    let (root, certificate, key) = authority();
    serve(&cluster, &certificate, &key);
    let clone = Clone::of(&cluster, "git-tls").unwrap();
    let group = "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
                 metadata: {name: company, namespace: bookstore}\nspec: {matches: [{name: all, pathRegex: /company}]}\n";
    let commit = clone.commit(&[("company.yaml", Some(group))], "A group of routes").unwrap();

    let object = json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "PolicySource",
        "metadata": {"name": "company", "namespace": "bookstore"},
        "spec": {"interval": "1s", "git": {"url": format!("https://{HOST}:8443/policies.git")}}});
    cluster.apply(&object.to_string()).unwrap();
    says(&cluster, "ertificate");
    assert_eq!(
        source(&cluster).unwrap()["status"]["applied"],
        Value::Null,
        "nothing of a server that is not trusted"
    );

    trust(&cluster, &root);
    until("the commit to be applied", 2 * MINUTE, || {
        Ok((source(&cluster)?["status"]["applied"]["commit"] == commit.as_str()).then_some(()))
    })
    .unwrap();
    cluster.get(&["httproutegroup", "-n", "bookstore", "company"]).unwrap();
    is_confined(&cluster);
    for pod in operators(&cluster) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let log = output(cluster.kubectl().args(["logs", "-n", SYSTEM, name])).unwrap();
        assert!(!log.contains("cannot confine"), "this node's kernel enforces all of it: {log}");
        let shell = cluster.exec(SYSTEM, name, "operator", &["/bin/sh", "-c", "true"]);
        assert!(shell.is_err(), "there is no shell in its image");
    }

    output(cluster.kubectl().args(["delete", "policysource", "-n", "bookstore", "company", "--timeout=60s"]))
        .unwrap();
    output(cluster.kubectl().args(["delete", "-n", "git", "deployment/git-tls", "service/git-tls"])).unwrap();
    output(cluster.kubectl().args(["rollout", "undo", "-n", SYSTEM, "deployment/meshwright-operator"]))
        .unwrap();
    cluster.rolled_out(SYSTEM, "meshwright-operator", 3 * MINUTE).unwrap();
}
