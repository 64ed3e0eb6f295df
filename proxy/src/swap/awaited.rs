//! What a starting Envoy still waits for, and what it went on without. Pure: text of its admin interface in, facts out.
//!
//! An Envoy that has its listeners waits for their routes, but not for ever: after `initial_fetch_timeout` it goes on and
//! answers 404. One that takes over from another must not. Nothing that Envoy counts says so in time (it is ready in the same
//! moment), so the gate stays closed as long as anything else than the gate is awaited, and whatever was awaited must be
//! there afterwards.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::gate;

/// Path of the admin interface: what listeners wait for.
pub const TARGETS: &str = "/init_dump?mask=listener";
/// Path of the admin interface: the routes that have come, their names only.
pub const ROUTES: &str = "/config_dump?resource=dynamic_route_configs&mask=route_config.name";
/// How Envoy calls a listener's wait for a route (`RdsRouteConfigSubscription` of its sources).
const ROUTE: &str = "RDS init ";
/// How many names a message has at most.
const NAMED: usize = 3;

/// What was awaited whenever Envoy was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Awaited {
    routes: BTreeSet<String>,
    complete: bool,
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Something is awaited still; a text for people.
    Waits(String),
    /// Nothing is awaited but the gate; [`Awaited::without`] says whether everything came.
    Asked,
}

impl Awaited {
    /// Whether everything has come, once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Reads what [`TARGETS`] answers.
    ///
    /// # Errors
    /// When it is not what an Envoy answers; the text says so.
    pub fn learn(&mut self, text: &str) -> Result<Progress, String> {
        let dump: Dump = serde_json::from_str(text)
            .map_err(|error| format!("what Envoy says that it waits for does not parse: {error}"))?;
        let targets = dump.unready_targets_dumps.into_iter().flat_map(|manager| manager.target_names);
        let mut waits = BTreeSet::new();
        for target in targets {
            match target.split_once(ROUTE) {
                Some((_, gate::NAME)) => {}
                Some((_, route)) => {
                    self.routes.insert(route.to_owned());
                    waits.insert(format!("routes {route}"));
                }
                None => {
                    waits.insert(target);
                }
            }
        }
        Ok(if waits.is_empty() { Progress::Asked } else { Progress::Waits(named(&waits)) })
    }

    /// Reads what [`ROUTES`] answers: what was awaited and has not come, as a text for people; nothing if all has.
    ///
    /// # Errors
    /// When it is not what an Envoy answers; the text says so.
    pub fn without(&mut self, text: &str) -> Result<Option<String>, String> {
        let dump: Configs = serde_json::from_str(text)
            .map_err(|error| format!("the routes that Envoy says that it has do not parse: {error}"))?;
        let has: BTreeSet<String> = dump.configs.into_iter().map(|config| config.route_config.name).collect();
        let missing: BTreeSet<String> = self.routes.difference(&has).cloned().collect();
        self.complete = missing.is_empty();
        Ok((!self.complete).then(|| named(&missing)))
    }
}

fn named(names: &BTreeSet<String>) -> String {
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// `envoy.admin.v3.UnreadyTargetsDumps`.
#[derive(Deserialize)]
struct Dump {
    #[serde(default)]
    unready_targets_dumps: Vec<Manager>,
}

#[derive(Deserialize)]
struct Manager {
    #[serde(default)]
    target_names: Vec<String>,
}

/// `envoy.admin.v3.ConfigDump` of `RoutesConfigDump.DynamicRouteConfig`.
#[derive(Deserialize)]
struct Configs {
    #[serde(default)]
    configs: Vec<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    route_config: Named,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Envoy 1.36.4 and 1.40.0 answer.
    fn dump(routes: &[&str]) -> String {
        let manager = |route: &&str| {
            let target = format!("shared target RdsRouteConfigSubscription RDS init {route}");
            serde_json::json!({"name": "init manager Listener-local-init-manager l 315766649503583434", "target_names": [target]})
        };
        let mut managers: Vec<_> = routes.iter().map(manager).collect();
        managers.push(serde_json::json!({"name": "init manager Listener-local-init-manager other 1"}));
        serde_json::json!({ "unready_targets_dumps": managers }).to_string()
    }

    fn has(routes: &[&str]) -> String {
        let config = |route: &&str| serde_json::json!({"@type": "type.googleapis.com/x", "route_config": {"@type": "y", "name": route}});
        serde_json::json!({ "configs": routes.iter().map(config).collect::<Vec<_>>() }).to_string()
    }

    #[test]
    fn what_was_awaited_must_have_come() {
        let mut awaited = Awaited::default();
        let waits = Progress::Waits("routes a, routes b".to_owned());
        assert_eq!(awaited.learn(&dump(&["gate", "a", "b"])), Ok(waits));
        assert_eq!(awaited.learn(&dump(&["gate", "b"])), Ok(Progress::Waits("routes b".to_owned())));
        // It gave up on one of them.
        assert_eq!(awaited.learn(&dump(&["gate"])), Ok(Progress::Asked));
        assert_eq!(awaited.without(&has(&["gate", "a"])), Ok(Some("b".to_owned())));
        assert!(!awaited.is_complete());
        assert_eq!(awaited.without("{}"), Ok(Some("a, b".to_owned())));
        // What comes late has come.
        assert_eq!(awaited.without(&has(&["a", "b", "c"])), Ok(None));
        assert!(awaited.is_complete());
    }

    #[test]
    fn an_envoy_that_never_waited_needs_nothing() {
        let mut awaited = Awaited::default();
        assert_eq!(awaited.learn("{}"), Ok(Progress::Asked));
        assert_eq!(awaited.without("{}"), Ok(None));
    }

    #[test]
    fn anything_else_than_routes_is_awaited_by_its_name() {
        let text =
            r#"{"unready_targets_dumps": [{"name": "m", "target_names": ["target SDS", "target LDS"]}]}"#;
        let waits = Progress::Waits("target LDS, target SDS".to_owned());
        assert_eq!(Awaited::default().learn(text), Ok(waits));
        let many: Vec<String> = (0..1_000).map(|n| format!("r{n:04}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let waits = Progress::Waits("routes r0000, routes r0001, routes r0002 and 997 more".to_owned());
        assert_eq!(Awaited::default().learn(&dump(&many)), Ok(waits));
    }

    #[test]
    fn what_is_no_answer_of_envoy_is_said() {
        for text in ["", "no such path", "7"] {
            assert!(Awaited::default().learn(text).unwrap_err().contains("does not parse"), "{text}");
            assert!(Awaited::default().without(text).unwrap_err().contains("do not parse"), "{text}");
        }
    }
}
