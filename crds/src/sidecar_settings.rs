//! What of a MeshConfig shapes a sidecar, read and judged: one reading for the webhook that refuses, the operator that
//! publishes the last good one, and the injector that obeys it.
//!
//! ```text
//!  MeshConfig.spec ──read──▶ SidecarSettings | BadSetting (field, what to write)
//!        │                                         ▲
//!        └── operator: status.lastGood ──read──────┘ after a restart of the injector beside a bad spec
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::mesh_config::{Exclusions, LastGood, LogLevel, UpgradeStrategy};
use crate::{MeshConfigSpec, duration, quantity};

/// The settings, each in its range.
#[derive(Debug, Clone, PartialEq)]
pub struct SidecarSettings {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Envoy's log level.
    pub log_level: LogLevel,
    /// Envoy's worker threads, 1 to 128.
    pub concurrency: u16,
    /// Resources of the sidecar, if the MeshConfig says any.
    pub resources: Option<ResourceRequirements>,
    /// How sidecars get their next release.
    pub strategy: UpgradeStrategy,
    /// How long a replaced sidecar keeps its connections; whole seconds.
    pub drain_time: Duration,
    /// Traffic that is not redirected.
    pub redirection: Redirection,
}

/// Traffic that the init container does not redirect, parsed and in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirection {
    /// Destination ports of outgoing connections.
    pub outbound_ports: BTreeSet<u16>,
    /// Destination ranges of outgoing connections.
    pub outbound_cidrs: BTreeSet<IpNet>,
    /// Ports of incoming connections.
    pub inbound_ports: BTreeSet<u16>,
}

/// A setting of the MeshConfig that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct BadSetting {
    /// Path of the field, as in `spec.sidecar.concurrency`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl BadSetting {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl SidecarSettings {
    /// Reads the settings of a MeshConfig.
    ///
    /// # Errors
    /// The first field that cannot be used; the caller then keeps the last good settings.
    pub fn read(spec: &MeshConfigSpec) -> Result<Self, BadSetting> {
        Self::of(&LastGood::of(spec, None))
    }

    /// Reads settings that were found good once, perhaps by another release.
    ///
    /// # Errors
    /// As [`SidecarSettings::read`].
    pub fn of(good: &LastGood) -> Result<Self, BadSetting> {
        if !is_trust_domain(&good.trust_domain) {
            let shown: String = good.trust_domain.chars().take(64).collect();
            let message = format!(
                "{shown:?} is no trust domain; write lower-case letters, digits, dots, dashes and underscores"
            );
            return Err(BadSetting::new("spec.trustDomain", message));
        }
        if let Some(resources) = &good.sidecar.resources {
            check_resources(resources)?;
        }
        Ok(Self {
            trust_domain: good.trust_domain.clone(),
            log_level: good.sidecar.log_level,
            concurrency: concurrency(good.sidecar.concurrency)?,
            resources: good.sidecar.resources.clone(),
            strategy: good.strategy,
            drain_time: drain_time(&good.drain_time)?,
            redirection: Redirection::parse(&good.exclusions)?,
        })
    }
}

impl Redirection {
    /// Reads the exclusions of a MeshConfig.
    ///
    /// # Errors
    /// Names the first entry that is no port or no range.
    pub fn parse(exclusions: &Exclusions) -> Result<Self, BadSetting> {
        Ok(Self {
            outbound_ports: ports("spec.traffic.exclusions.outboundPorts", &exclusions.outbound_ports)?,
            outbound_cidrs: cidrs("spec.traffic.exclusions.outboundCidrs", &exclusions.outbound_cidrs)?,
            inbound_ports: ports("spec.traffic.exclusions.inboundPorts", &exclusions.inbound_ports)?,
        })
    }
}

/// SPIFFE-ID specification, section 2.1.
#[must_use]
pub fn is_trust_domain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    (1..=255).contains(&text.len()) && text.bytes().all(allowed)
}

/// Envoy shuts the old process down a second after the drain, and takes both times in whole seconds.
fn drain_time(text: &str) -> Result<Duration, BadSetting> {
    let bad = |message: String| BadSetting::new("spec.upgrade.drainTime", message);
    let time = duration::parse(text).map_err(|error| bad(error.to_string()))?;
    let fits = (11..=3600).contains(&time.as_secs()) && time.subsec_nanos() == 0;
    fits.then_some(time).ok_or_else(|| bad(format!("{text:?} is not between 11s and 1h in whole seconds")))
}

fn concurrency(value: Option<i32>) -> Result<u16, BadSetting> {
    let value = value.unwrap_or(1);
    u16::try_from(value).ok().filter(|threads| (1..=128).contains(threads)).ok_or_else(|| {
        let message =
            format!("{value} is not between 1 and 128; it is the number of worker threads of each sidecar");
        BadSetting::new("spec.sidecar.concurrency", message)
    })
}

/// What the API server would refuse in every pod: amounts that are none, names that are none, requests above limits.
fn check_resources(resources: &ResourceRequirements) -> Result<(), BadSetting> {
    let at = "spec.sidecar.resources";
    for (kind, list) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, amount) in list.iter().flatten() {
            let field = format!("{at}.{kind}.{name}");
            if !is_resource(name) {
                let message = "is no resource of a container; write cpu, memory or ephemeral-storage";
                return Err(BadSetting::new(field, message));
            }
            if quantity::milli(&amount.0).is_none() {
                let shown: String = amount.0.chars().take(64).collect();
                return Err(BadSetting::new(
                    field,
                    format!("{shown:?} is no amount; write for example 100m or 64Mi"),
                ));
            }
        }
    }
    for (name, request) in resources.requests.iter().flatten() {
        let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
        if let Some(limit) = limit.filter(|limit| quantity::milli(&limit.0) < quantity::milli(&request.0)) {
            let message = format!("{} is more than the limit of {}", request.0, limit.0);
            return Err(BadSetting::new(format!("{at}.requests.{name}"), message));
        }
    }
    match resources.claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        true => Err(BadSetting::new(format!("{at}.claims"), "a sidecar cannot have resource claims")),
        false => Ok(()),
    }
}

/// Kubernetes' own resources of a container, or one of somebody else's (`example.com/thing`).
fn is_resource(name: &str) -> bool {
    let word = |text: &str| {
        (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    match name.split_once('/') {
        None => matches!(name, "cpu" | "memory" | "ephemeral-storage"),
        Some((domain, name)) => domain.split('.').all(word) && word(name),
    }
}

fn ports(field: &str, values: &[i32]) -> Result<BTreeSet<u16>, BadSetting> {
    let parse = |(index, value): (usize, &i32)| {
        u16::try_from(*value).ok().filter(|port| *port > 0).ok_or_else(|| {
            let message = format!("{value} is not a port; write a number from 1 to 65535");
            BadSetting::new(format!("{field}[{index}]"), message)
        })
    };
    values.iter().enumerate().map(parse).collect()
}

fn cidrs(field: &str, values: &[String]) -> Result<BTreeSet<IpNet>, BadSetting> {
    let parse = |(index, value): (usize, &String)| {
        value.parse::<IpNet>().map(|range| range.trunc()).map_err(|_| {
            let shown: String = value.chars().take(64).collect();
            let message = format!("{shown:?} is not an address range; write for example 10.0.0.0/8");
            BadSetting::new(format!("{field}[{index}]"), message)
        })
    };
    values.iter().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(extra: &Value) -> Result<SidecarSettings, BadSetting> {
        let mut spec = json!({"version": "0.2.0"});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        SidecarSettings::read(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn what_the_api_server_would_refuse_in_every_pod_is_refused_here() {
        let resources = |resources: Value| json!({"sidecar": {"resources": resources}});
        for (spec, field) in [
            (resources(json!({"requests": {"cpu": "many"}})), "spec.sidecar.resources.requests.cpu"),
            (resources(json!({"limits": {"memory": "-1Mi"}})), "spec.sidecar.resources.limits.memory"),
            (resources(json!({"limits": {"disk": "1Gi"}})), "spec.sidecar.resources.limits.disk"),
            (resources(json!({"limits": {"/": "1"}})), "spec.sidecar.resources.limits./"),
            (
                resources(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}})),
                "spec.sidecar.resources.requests.cpu",
            ),
            (resources(json!({"claims": [{"name": "gpu"}]})), "spec.sidecar.resources.claims"),
            (json!({"trustDomain": "Not One"}), "spec.trustDomain"),
            (json!({"upgrade": {"drainTime": "1s"}}), "spec.upgrade.drainTime"),
        ] {
            assert_eq!(read(&spec).unwrap_err().field, field, "{spec}");
        }
        let good =
            resources(json!({"requests": {"cpu": "1e-1", "memory": "64Mi"}, "limits": {"memory": "1e9"}}));
        read(&good).unwrap();
    }

    #[test]
    fn settings_of_an_older_or_newer_release_are_read() {
        // Everything left out: what was the default then.
        let old: LastGood = serde_json::from_value(json!({"generation": 3})).unwrap();
        let read = SidecarSettings::of(&old).unwrap();
        let spec = serde_json::from_value(json!({"version": "0.2.0"})).unwrap();
        assert_eq!(read, SidecarSettings::read(&spec).unwrap());
        let newer = json!({"generation": 3, "trustDomain": "a.example", "somethingNew": {"x": 1}});
        let newer: LastGood = serde_json::from_value(newer).unwrap();
        assert_eq!(SidecarSettings::of(&newer).unwrap().trust_domain, "a.example");
    }
}
