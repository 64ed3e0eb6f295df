//! One pod, one story, one golden decision: `tests/pods/<case>.yaml` and `tests/decisions/<case>.snap`.
//! `INSTA_UPDATE=always cargo test -p injector` records them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crds::labels;
use crds::mesh_config::UpgradeStrategy;
use injector::{Decision, NamespaceMeta, Reason, Settings, inject};
use k8s_openapi::api::core::v1::Pod;

pub fn settings() -> Settings {
    Settings::new(
        "books",
        "meshwright-system",
        "0.2.0",
        "meshwright-controller-0-2-0.meshwright-system.svc:15012",
        "meshwright/proxy:0.2.0",
    )
}

pub fn namespace() -> NamespaceMeta {
    let labels = BTreeMap::from([(labels::MESH.to_owned(), "books".to_owned())]);
    NamespaceMeta { name: "bookstore".to_owned(), labels, ..NamespaceMeta::default() }
}

pub fn pod(yaml: &str) -> Pod {
    serde_saphyr::from_str(yaml).unwrap()
}

/// The pod with the patch applied.
pub fn patched(pod: &Pod, patch: &json_patch::Patch) -> Pod {
    let mut value = serde_json::to_value(pod).unwrap();
    json_patch::patch(&mut value, patch).unwrap();
    serde_json::from_value(value).unwrap()
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn text(decision: &Decision) -> String {
    match decision {
        Decision::Inject(patch) => format!("Inject\n{}", operations(patch)),
        Decision::Skip(reason, patch) => format!("Skip {reason}\n{}", operations(patch)),
        Decision::Deny(problem) => format!("Deny {problem}"),
    }
}

/// One operation per block, so that a changed one is a short difference.
fn operations(patch: &json_patch::Patch) -> String {
    let lines = patch.0.iter().map(|operation| serde_json::to_string_pretty(operation).unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_pod_gets_its_decision() {
    let files = cases();
    assert!(files.len() > 10, "found only {} pods", files.len());
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let pod = pod(&std::fs::read_to_string(&file).unwrap());
        let decision = inject(&pod, &namespace(), &settings());
        insta::with_settings!({snapshot_path => "decisions", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, text(&decision));
        });
    }
}

/// As in a cluster that knows native sidecars.
pub fn native() -> Settings {
    Settings { native_sidecars: true, ..settings() }
}

/// A mesh whose sidecars are swapped in place.
pub fn swapped() -> Settings {
    Settings { strategy: UpgradeStrategy::HotSwap, ..settings() }
}

#[test]
fn pods_to_be_swapped_have_two_slots() {
    let both = Settings { native_sidecars: true, ..swapped() };
    for (name, settings) in
        [("plain", swapped()), ("job", swapped()), ("resources", swapped()), ("init-containers", both)]
    {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/pods/{name}.yaml"));
        let decision = inject(&pod(&std::fs::read_to_string(file).unwrap()), &namespace(), &settings);
        insta::with_settings!({snapshot_path => "decisions/hot-swap", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, text(&decision));
        });
    }
}

#[test]
fn native_sidecars_are_init_containers() {
    for name in ["plain", "init-containers", "job", "shared-processes"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/pods/{name}.yaml"));
        let decision = inject(&pod(&std::fs::read_to_string(file).unwrap()), &namespace(), &native());
        insta::with_settings!({snapshot_path => "decisions/native", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, text(&decision));
        });
    }
}

#[test]
fn a_second_pass_changes_nothing() {
    let each = |file: PathBuf| [settings(), native(), swapped()].map(|settings| (file.clone(), settings));
    for (file, settings) in cases().into_iter().flat_map(each) {
        let before = pod(&std::fs::read_to_string(&file).unwrap());
        let (patch, expected) = match inject(&before, &namespace(), &settings) {
            Decision::Inject(patch) => (patch, Reason::AlreadyInjected),
            Decision::Skip(reason, patch) => (patch, reason),
            Decision::Deny(_) => continue,
        };
        let after = patched(&before, &patch);
        match inject(&after, &namespace(), &settings) {
            Decision::Skip(reason, patch) => {
                assert_eq!(reason, expected, "{}", file.display());
                assert!(patch.0.is_empty(), "{}: {patch:?}", file.display());
            }
            other => panic!("{}: {other:?}", file.display()),
        }
    }
}
