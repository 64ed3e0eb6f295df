//! What a workload's author may say about its own sidecar: annotations `sidecar.meshwright.io/…` on the pod.
//!
//! An annotation is either understood completely or the pod is refused with what to write instead: a typo must
//! not silently leave a pod with other settings than its author thinks.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use crds::labels;
use crds::mesh_config::LogLevel;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use crate::decision::{DenyReason, Problem};
use crate::resources;
use crate::settings::Settings;

/// Prefix of every annotation of this module.
pub const PREFIX: &str = crds::labels::SIDECAR_PREFIX;
/// The annotations that are understood, without [`PREFIX`].
pub const KNOWN: [&str; 9] = [
    "log-level",
    "concurrency",
    "cpu-request",
    "cpu-limit",
    "memory-request",
    "memory-limit",
    "exclude-outbound-ports",
    "exclude-outbound-cidrs",
    "exclude-inbound-ports",
];

/// Whether the pod asks to stay outside (`meshwright.io/inject`, label or annotation).
///
/// # Errors
/// A value that is neither `true` nor `false`.
pub fn opted_out(pod: &Pod) -> Result<bool, Problem> {
    let values = [pod.metadata.labels.as_ref(), pod.metadata.annotations.as_ref()];
    let mut out = false;
    for value in values.into_iter().flatten().filter_map(|map| map.get(labels::INJECT)) {
        match value.as_str() {
            "true" => {}
            "false" => out = true,
            other => return Err(invalid(labels::INJECT, other, "write \"true\" or \"false\"")),
        }
    }
    Ok(out)
}

/// The mesh's settings with the pod's overrides: scalars replace, exclusions add up.
///
/// # Errors
/// The first annotation (by name) that is unknown or does not parse.
pub fn apply(pod: &Pod, settings: &Settings) -> Result<Settings, Problem> {
    let mut settings = settings.clone();
    let none = BTreeMap::new();
    for (key, value) in pod.metadata.annotations.as_ref().unwrap_or(&none) {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        match name {
            "log-level" => settings.log_level = log_level(key, value)?,
            "concurrency" => settings.concurrency = concurrency(key, value)?,
            "exclude-outbound-ports" => settings.redirection.outbound_ports.extend(ports(key, value)?),
            "exclude-inbound-ports" => settings.redirection.inbound_ports.extend(ports(key, value)?),
            "exclude-outbound-cidrs" => settings.redirection.outbound_cidrs.extend(cidrs(key, value)?),
            name => resource(&mut settings.resources, name, key, value)?,
        }
    }
    match resources::excess(&settings.resources) {
        None => Ok(settings),
        Some((resource, request, limit)) => {
            let message = format!(
                "the sidecar would request {request} of {resource} and be limited to {limit}; the annotations \
                 {PREFIX}{resource}-request and {PREFIX}{resource}-limit add to what the MeshConfig says"
            );
            Err(Problem::new(DenyReason::InvalidOverride, message))
        }
    }
}

fn resource(resources: &mut ResourceRequirements, name: &str, key: &str, value: &str) -> Result<(), Problem> {
    let Some((_, resource, limit)) = resources::KNOWN.iter().find(|(known, _, _)| *known == name) else {
        let message = format!("annotation {key} is not known; known are {PREFIX}{{{}}}", KNOWN.join(", "));
        return Err(Problem::new(DenyReason::InvalidOverride, message));
    };
    resources::set(resources, resource, *limit, value).map_err(|()| invalid(key, value, resources::HINT))
}

/// Envoy's word for a log level.
#[must_use]
pub fn log_level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warning => "warning",
        LogLevel::Error => "error",
        LogLevel::Critical => "critical",
        LogLevel::Off => "off",
    }
}

fn log_level(key: &str, value: &str) -> Result<LogLevel, Problem> {
    let levels = [
        LogLevel::Trace,
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warning,
        LogLevel::Error,
        LogLevel::Critical,
        LogLevel::Off,
    ];
    levels
        .into_iter()
        .find(|level| log_level_name(*level) == value)
        .ok_or_else(|| invalid(key, value, "write trace, debug, info, warning, error, critical or off"))
}

fn concurrency(key: &str, value: &str) -> Result<u16, Problem> {
    let threads = value.parse::<u16>().ok().filter(|threads| (1..=128).contains(threads));
    threads.ok_or_else(|| invalid(key, value, "write the number of worker threads, from 1 to 128"))
}

fn ports(key: &str, value: &str) -> Result<BTreeSet<u16>, Problem> {
    let hint = "write ports from 1 to 65535 with commas between them, as in 3306,5432";
    let ports: BTreeSet<u16> = list(key, value, hint)?;
    if ports.contains(&0) { Err(invalid(key, value, hint)) } else { Ok(ports) }
}

fn cidrs(key: &str, value: &str) -> Result<BTreeSet<IpNet>, Problem> {
    let ranges: BTreeSet<IpNet> =
        list(key, value, "write address ranges with commas between them, as in 10.0.0.0/8,192.168.0.0/16")?;
    Ok(ranges.into_iter().map(|range| range.trunc()).collect())
}

/// Comma-separated values. An empty text is an empty list, an empty entry is an error.
fn list<T: FromStr + Ord>(key: &str, value: &str, hint: &str) -> Result<BTreeSet<T>, Problem> {
    if value.trim().is_empty() {
        return Ok(BTreeSet::new());
    }
    value.split(',').map(|entry| entry.trim().parse().map_err(|_| invalid(key, value, hint))).collect()
}

/// The value is shortened and quoted: it comes from a stranger and ends in terminals and logs.
fn invalid(key: &str, value: &str, hint: &str) -> Problem {
    let shown: String = value.chars().take(64).collect();
    Problem::new(DenyReason::InvalidOverride, format!("{key}: {shown:?} cannot be used; {hint}"))
}
