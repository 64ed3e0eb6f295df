//! "A workload's private key never leaves its pod": it is looked for wherever it could have got to.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use e2e::cluster::Cluster;
use e2e::node::{IDENTITY, files_with, identity, inside, status};
use e2e::pod::SIDECAR;
use serde_json::Value;

/// The store's pod, and a process of its sidecar.
fn sidecar(cluster: &Cluster) -> (Value, u32) {
    let name = cluster.pod("bookstore", "bookstore").unwrap();
    let pod = cluster.get(&["pod", "-n", "bookstore", &name]).unwrap();
    let process = cluster.processes(&pod, SIDECAR).unwrap()[0];
    (pod, process)
}

/// Pieces of the key's PEM that are its own: the first line begins like that of every P-256 key.
fn pieces(process: u32) -> Vec<String> {
    let identity = identity(process).unwrap();
    let key = identity["private_key"]["inline_string"].as_str().unwrap();
    let lines: Vec<_> = key.lines().filter(|line| !line.starts_with("---")).collect();
    assert!(lines.len() >= 2 && lines[0].len() == 64, "PKCS #8 in PEM");
    // Bytes 36 to 47 of PKCS #8 are the secret number's first; 16 letters of base64 hold them.
    vec![lines[0][48..].to_owned(), lines[1].to_owned()]
}

/// What a controller says of itself to who forwards its port.
fn state(cluster: &Cluster, pod: &str) -> String {
    let forward = cluster.forward("meshwright-system", &format!("pod/{pod}"), 9090).unwrap();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", forward.port)).unwrap();
    stream.write_all(b"GET /debug/state HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.0 200") || said.starts_with("HTTP/1.1 200"), "{said:.200}");
    said
}

#[test]
fn a_key_is_in_memory_of_its_pod_and_nowhere_else() {
    let cluster = crate::cluster();
    let (pod, process) = sidecar(&cluster);
    let pieces = pieces(process);
    let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
    let name = pod["metadata"]["name"].as_str().unwrap();

    // All that the node and its API server have on disk: objects and Secrets (etcd keeps them as they are), logs of
    // every container and daemon, the files of containers, and the volumes of pods that are not in memory.
    let folder = cluster.folder().unwrap();
    let places = ["etcd", "kubelet", "containerd", "pod-logs", "container-logs", "logs"];
    for (known, place) in
        [(name, "etcd"), (name, "kubelet"), ("meshwright", "containerd"), ("meshwright", "pod-logs")]
    {
        let found = files_with(&folder.join(place), &[known]).unwrap();
        assert!(!found.is_empty(), "the search works: {known} in {place}");
    }
    for place in places {
        assert_eq!(
            files_with(&folder.join(place), &pieces).unwrap(),
            Vec::<String>::new(),
            "the key on disk"
        );
    }

    let selector = "app.kubernetes.io/component=controller";
    let controllers = cluster.list(&["pods", "-n", "meshwright-system", "-l", selector]).unwrap();
    let mut known = false;
    for controller in controllers {
        let controller = controller["metadata"]["name"].as_str().unwrap();
        let said = state(&cluster, controller);
        known |= said.contains(name);
        assert!(!pieces.iter().any(|piece| said.contains(piece)), "{controller} says the key");
    }
    assert!(known, "the search works: the controller that it is connected to speaks of the pod");
}

#[test]
fn only_the_sidecars_user_may_read_the_key_and_only_the_sidecar_has_the_volume() {
    let cluster = crate::cluster();
    let (pod, process) = sidecar(&cluster);
    let user: u32 = status(process, "Uid").unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!((20_000..=59_999).contains(&user), "a user of its own: {user}");
    let file = std::fs::metadata(inside(process, IDENTITY)).unwrap();
    assert_eq!((file.permissions().mode() & 0o777, file.uid()), (0o600, user), "{IDENTITY}");

    let mounts = std::fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    let run = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/run/meshwright")).unwrap();
    assert!(run.contains(" - tmpfs "), "the key's volume is memory: {run}");

    let mounted = |container: &&Value| container["volumeMounts"].to_string().contains("\"/run/meshwright\"");
    let with = e2e::pod::containers(&pod)
        .into_iter()
        .filter(mounted)
        .map(|container| container["name"].as_str().unwrap());
    assert!(with.clone().all(|name| name.starts_with("meshwright-")), "{:?}", with.collect::<Vec<_>>());
    let app = cluster.processes(&pod, "bookstore").unwrap()[0];
    assert!(!inside(app, IDENTITY).exists(), "the app has no such file");
}
