//! What a pod of each format has in it: `tests/formats/<number>.json`. A change of the injected pod needs a new number, or
//! else an upgrade would swap sidecars into pods that they were not made for.

use std::path::{Path, PathBuf};

use injector::{Decision, FORMAT, Settings, inject};
use serde_json::{Value, json};

use crate::golden::{namespace, native, patched, pod, settings, swapped};

/// Writes the golden of the current number, if it is set.
const WRITE: &str = "MESHWRIGHT_WRITE_FORMAT";

fn path(number: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/formats/{number}.json"))
}

/// What injection added to a pod or changed in it, as the kubelet will see it.
fn added(case: &str, settings: &Settings) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/pods/{case}.yaml"));
    let before = pod(&std::fs::read_to_string(file).unwrap());
    let Decision::Inject(patch) = inject(&before, &namespace(), settings) else { panic!("{case}") };
    let mut after = serde_json::to_value(patched(&before, &patch)).unwrap();
    // Which format it is says nothing about what is in it.
    after["metadata"]["annotations"].as_object_mut().unwrap().remove(crds::labels::POD_FORMAT).unwrap();
    json!({"annotations": after["metadata"]["annotations"], "labels": after["metadata"]["labels"], "spec": after["spec"]})
}

#[test]
fn a_change_of_the_injected_pod_has_a_new_number() {
    let both = Settings { strategy: swapped().strategy, ..native() };
    let cases =
        [("plain", swapped()), ("hooks", swapped()), ("resources", swapped()), ("init-containers", both)];
    let is: Value =
        cases.iter().map(|(name, settings)| ((*name).to_owned(), added(name, settings))).collect();
    if std::env::var_os(WRITE).is_some() {
        let text = format!("{}\n", serde_json::to_string_pretty(&is).unwrap());
        std::fs::write(path(FORMAT), text).unwrap();
    }
    let text = std::fs::read_to_string(path(FORMAT)).unwrap_or_default();
    let was: Value = serde_json::from_str(&text).unwrap_or_default();
    for (name, is) in is.as_object().unwrap() {
        assert_eq!(
            &was[name], is,
            "{name}: the injected pod is not what it was in format {FORMAT}. Raise injector::FORMAT, run this \
             test with {WRITE}=1, and name the number in podFormats of the releases whose sidecars run in such pods. (A \
             number that no release has had yet may be written anew.)"
        );
    }
}

#[test]
fn every_pod_with_slots_says_its_format_whatever_its_author_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods/plain.yaml");
    let mut before = pod(&std::fs::read_to_string(file).unwrap());
    before.metadata.annotations = Some([(crds::labels::POD_FORMAT.to_owned(), "99".to_owned())].into());
    let format = |settings: &Settings| {
        let Decision::Inject(patch) = inject(&before, &namespace(), settings) else { panic!() };
        patched(&before, &patch).metadata.annotations.unwrap()[crds::labels::POD_FORMAT].clone()
    };
    assert_eq!(format(&swapped()), FORMAT.to_string());
    assert_eq!(format(&settings()), "99", "no slots, nothing to swap: nobody reads it");
}

#[test]
fn numbers_leave_no_gap() {
    assert!((1..=FORMAT).all(|number| path(number).exists()));
}
