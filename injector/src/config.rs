//! From a MeshConfig as the API server sends it to the settings in force. Pure.
//!
//! Last good wins (DESIGN rule 1), also across a restart: what the operator found good last is in the MeshConfig's own
//! status, which the injector reads anyway. So it takes no further right, and no file of ours that could be lost.

use crds::MeshConfigSpec;
use crds::mesh_config::LastGood;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

use crate::settings::{BadSetting, Settings};

/// What became of a MeshConfig.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// Its spec is in force.
    Spec(Settings),
    /// Its spec cannot be used, and nothing was known before: the last good settings of its status are in force.
    LastGood(Settings, BadSetting),
    /// Its spec cannot be used; what was known before stays in force.
    Kept(BadSetting),
    /// Its spec cannot be used, and nothing else is known: no pod can be judged yet.
    Nothing(BadSetting),
}

/// Takes over what a MeshConfig says. `known` is whether settings are in force already.
///
/// The object is read leniently: one that was written for another release (an unknown word in an enum) costs no more
/// than one with a value out of range.
#[must_use]
pub fn take(base: &Settings, known: bool, config: &DynamicObject) -> Taken {
    let read = part::<MeshConfigSpec>(config, "/spec", "spec").and_then(|spec| base.with(&spec));
    let bad = match read {
        Ok(settings) => return Taken::Spec(settings),
        Err(bad) => bad,
    };
    if known {
        return Taken::Kept(bad);
    }
    let last = part::<LastGood>(config, "/status/lastGood", "status.lastGood");
    match last.and_then(|last| base.with_last_good(&last)) {
        Ok(settings) => Taken::LastGood(settings, bad),
        Err(_) => Taken::Nothing(bad),
    }
}

fn part<T: DeserializeOwned>(config: &DynamicObject, pointer: &str, field: &str) -> Result<T, BadSetting> {
    let value = config.data.pointer(pointer).cloned().unwrap_or_default();
    serde_json::from_value(value)
        .map_err(|error| BadSetting { field: field.to_owned(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn base() -> Settings {
        Settings::new("books", "meshwright-system", "0.2.0", "c:15012", "proxy:1")
    }

    fn config(spec: &Value, status: &Value) -> DynamicObject {
        let object = json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "books"},
            "spec": spec, "status": status
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn beside_a_bad_spec_a_restart_finds_the_last_good_settings() {
        let bad = json!({"version": "0.2.0", "sidecar": {"concurrency": 0}});
        let status =
            json!({"lastGood": {"generation": 4, "sidecar": {"concurrency": 3}, "trustDomain": "a.example"}});
        let Taken::LastGood(settings, why) = take(&base(), false, &config(&bad, &status)) else {
            panic!("pods must start")
        };
        assert_eq!((settings.concurrency, settings.trust_domain.as_str()), (3, "a.example"));
        assert_eq!(why.field, "spec.sidecar.concurrency");
        assert!(matches!(take(&base(), true, &config(&bad, &status)), Taken::Kept(_)));
        // An operator of a release that does not publish it yet, or a status of nonsense.
        for status in [json!({}), Value::Null, json!({"lastGood": {"sidecar": {"concurrency": 0}}})] {
            let taken = take(&base(), false, &config(&bad, &status));
            assert!(matches!(taken, Taken::Nothing(_)), "{taken:?}");
        }
    }

    #[test]
    fn a_word_of_another_release_is_no_worse_than_a_bad_value() {
        let newer = json!({"version": "0.9.0", "upgrade": {"strategy": "Teleport"}});
        let status = json!({"lastGood": {"generation": 4, "strategy": "HotSwap"}});
        let taken = take(&base(), false, &config(&newer, &status));
        assert!(matches!(taken, Taken::LastGood(..)), "{taken:?}");
        assert!(matches!(take(&base(), true, &config(&newer, &json!({}))), Taken::Kept(_)));
    }

    #[test]
    fn a_good_spec_is_in_force_whatever_the_status_says() {
        let good = json!({"version": "0.2.0", "sidecar": {"concurrency": 2}});
        let status = json!({"lastGood": {"sidecar": {"concurrency": 7}}});
        let Taken::Spec(settings) = take(&base(), false, &config(&good, &status)) else {
            panic!("it is good")
        };
        assert_eq!(settings.concurrency, 2);
    }
}
