//! Any bytes at the webhooks: the same target as a fuzzer's, run over the stored corpus and over what a seeded mutator
//! makes of it. A finding of the fuzzer becomes a file of `tests/corpus`.

use std::path::Path;

use injector::{Decision, NamespaceMeta, Reason, Settings, admission, inject};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::core::admission::AdmissionRequest;
use serde_json::Value;

use crate::golden::{namespace, patched, settings};

/// Mutations of each file.
const EACH: usize = 400;

/// What must hold for any body: no panic, an answer to this very request, words with every refusal, and a pod that went
/// through once is let through unchanged the second time.
fn target(body: &[u8]) {
    if let Ok(request) = admission::read::<Pod>(body) {
        for native in [false, true] {
            pod(&request, &namespace(), &Settings { native_sidecars: native, ..settings() });
        }
    }
    if let Ok(request) = admission::read::<DynamicObject>(body) {
        let response = admission::judge(&request, Default::default());
        assert_eq!(response.uid, request.uid);
        assert!(response.allowed || !response.result.message.is_empty());
    }
}

fn pod(request: &AdmissionRequest<Pod>, namespace: &NamespaceMeta, settings: &Settings) {
    let (response, decision) = admission::mutate(request, namespace, settings);
    assert_eq!(response.uid, request.uid);
    assert!(response.allowed || !response.result.message.is_empty());
    let (Some(Decision::Inject(patch)), Some(before)) = (decision, &request.object) else { return };
    let after = patched(before, &patch);
    let again = inject(&after, namespace, &Settings { seed: request.uid.clone(), ..settings.clone() });
    let Decision::Skip(Reason::AlreadyInjected, patch) = again else { panic!("twice: {again:?}") };
    assert!(patch.0.is_empty());
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.display().to_string(), std::fs::read(&file).unwrap())).collect()
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap()
    }
}

/// A byte-wise or a JSON-wise change.
fn mutate(body: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut body = body.to_vec();
    if numbers.below(2) == 0
        && let Ok(mut value) = serde_json::from_slice::<Value>(&body)
    {
        let steps = 1 + numbers.below(3);
        (0..steps).for_each(|_| reshape(&mut value, numbers));
        return value.to_string().into_bytes();
    }
    match (numbers.below(4), body.is_empty()) {
        (0, false) => body.truncate(numbers.below(body.len())),
        (1, false) => {
            let at = numbers.below(body.len());
            body[at] = u8::try_from(numbers.below(256)).unwrap();
        }
        (2, false) => {
            let (from, to) = (numbers.below(body.len()), numbers.below(body.len()));
            let piece = body[from.min(to)..from.max(to)].to_vec();
            let at = numbers.below(body.len());
            body.splice(at..at, piece);
        }
        _ => {
            let at = numbers.below(body.len());
            body.insert(at, u8::try_from(numbers.below(256)).unwrap());
        }
    }
    body
}

/// Replaces, removes or doubles something deep in a value.
fn reshape(value: &mut Value, numbers: &mut Numbers) {
    let stop = numbers.below(6) == 0;
    match value {
        Value::Object(map) if !map.is_empty() && !stop => {
            let key = map.keys().nth(numbers.below(map.len())).unwrap().clone();
            if numbers.below(12) == 0 {
                map.remove(&key);
            } else if let Some(inner) = map.get_mut(&key) {
                reshape(inner, numbers);
            }
        }
        Value::Array(list) if !list.is_empty() && !stop => {
            let at = numbers.below(list.len());
            if numbers.below(6) == 0 {
                let twice = list[at].clone();
                list.push(twice);
            } else {
                reshape(&mut list[at], numbers);
            }
        }
        other => *other = odd(numbers),
    }
}

fn odd(numbers: &mut Numbers) -> Value {
    let odd = [
        Value::Null,
        true.into(),
        0.into(),
        (-1).into(),
        i64::MAX.into(),
        1e300.into(),
        "".into(),
        "meshwright-proxy".into(),
        "\u{0}\u{7f}\u{1F980}".into(),
        "a".repeat(5000).into(),
        Value::Array(Vec::new()),
        serde_json::json!({}),
        serde_json::json!({"requests": {"cpu": "1e99999"}}),
    ];
    odd[numbers.below(odd.len())].clone()
}

#[test]
fn any_body_gets_an_answer_or_an_error_and_nothing_worse() {
    let corpus = corpus();
    assert!(corpus.len() >= 20, "the corpus is stored beside this file");
    let mut understood = 0;
    for (index, (name, body)) in corpus.iter().enumerate() {
        target(body);
        understood += usize::from(admission::read::<DynamicObject>(body).is_ok());
        let mut numbers = Numbers(index as u64);
        for _ in 0..EACH {
            let mutated = mutate(body, &mut numbers);
            let caught = std::panic::catch_unwind(|| target(&mutated));
            assert!(caught.is_ok(), "{name}: {}", String::from_utf8_lossy(&mutated));
        }
    }
    assert!(understood >= 15, "the corpus is about reviews that are understood");
}
