//! Probes of the app: the kubelet has no certificate of the mesh, so the sidecar answers for the app.
//!
//! `httpGet`, `tcpSocket` and `grpc` probes and `httpGet` hooks become `httpGet :15020/probe/<key>/<container>/<kind>`; the
//! key is told to the kubelet and the sidecar only, for anybody can connect to that port. What they were is told to the sidecar in `MESHWRIGHT_PROBES`, which asks the app. `exec` needs no network and stays.

use std::collections::BTreeMap;

use crds::labels;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use crate::decision::{DenyReason, Problem};

/// Linux gives one environment variable 128 KiB; what is longer would keep the sidecar from starting at all.
const MAX_JSON: usize = 120 * 1024;
/// A hook has no limit of its own.
const HOOK_SECONDS: u32 = 3600;

/// Which probe or hook of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Liveness,
    Readiness,
    Startup,
    PostStart,
    PreStop,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
            Self::PostStart => "post-start",
            Self::PreStop => "pre-stop",
        }
    }
}

/// How the sidecar asks the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppProbe {
    scheme: Scheme,
    port: u16,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    headers: BTreeMap<String, String>,
    timeout_seconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    Http,
    Https,
    Tcp,
    Grpc,
}

/// All probes of a pod by `<key>/<container>/<kind>`.
pub type AppProbes = BTreeMap<String, AppProbe>;

/// When a container's probes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starts {
    /// After the sidecar.
    After,
    /// Before it: a native sidecar of the app's own, in a pod whose sidecar is none. Until its startup probe has
    /// passed, nothing is redirected and nothing answers on our port.
    Before,
}

/// Rewrites the probes and hooks of one app container in place and notes what they were.
///
/// One is left alone when it names another host, or a port name that no port of the container has (the kubelet
/// cannot run that one either).
pub fn rewrite(container: &mut Container, starts: Starts, key: &str, probes: &mut AppProbes) {
    let name = format!("{key}/{}", container.name);
    let ports: BTreeMap<String, i32> = container
        .ports
        .iter()
        .flatten()
        .filter_map(|port| Some((port.name.clone()?, port.container_port)))
        .collect();
    let startup = container.startup_probe.as_mut().filter(|_| starts == Starts::After);
    let slots = [
        (Kind::Liveness, container.liveness_probe.as_mut()),
        (Kind::Readiness, container.readiness_probe.as_mut()),
        (Kind::Startup, startup),
    ];
    for (kind, slot) in slots {
        let Some(probe) = slot else { continue };
        if let Some(app) = app_probe(probe, &ports) {
            probe.tcp_socket = None;
            probe.grpc = None;
            probe.http_get = Some(note(&name, kind, app, probes));
        }
    }
    let Some(lifecycle) = &mut container.lifecycle else { return };
    let post_start = lifecycle.post_start.as_mut().filter(|_| starts == Starts::After);
    for (kind, slot) in [(Kind::PostStart, post_start), (Kind::PreStop, lifecycle.pre_stop.as_mut())] {
        let Some(hook) = slot else { continue };
        if let Some(app) = hook.http_get.as_ref().and_then(|http| app_http(http, &ports, HOOK_SECONDS)) {
            hook.http_get = Some(note(&name, kind, app, probes));
        }
    }
}

/// All probes as the sidecar reads them.
///
/// # Errors
/// When they are too long for an environment variable.
pub fn json(probes: &AppProbes) -> Result<String, Problem> {
    let text = serde_json::to_string(probes)
        .map_err(|error| Problem::new(DenyReason::UnsupportedProbe, error.to_string()))?;
    if text.len() <= MAX_JSON {
        return Ok(text);
    }
    let message = format!(
        "the probes of all {} containers together are {} bytes long and may be {MAX_JSON}; shorten their paths and \
         headers, or use exec probes",
        probes.len(),
        text.len()
    );
    Err(Problem::new(DenyReason::UnsupportedProbe, message))
}

fn note(container: &str, kind: Kind, app: AppProbe, probes: &mut AppProbes) -> HTTPGetAction {
    let key = format!("{container}/{}", kind.name());
    let path = Some(format!("/probe/{key}"));
    probes.insert(key, app);
    HTTPGetAction {
        path,
        port: IntOrString::Int(i32::from(labels::PROXY_PORT)),
        scheme: Some("HTTP".to_owned()),
        ..HTTPGetAction::default()
    }
}

fn app_probe(probe: &Probe, ports: &BTreeMap<String, i32>) -> Option<AppProbe> {
    let timeout_seconds =
        probe.timeout_seconds.and_then(|seconds| u32::try_from(seconds).ok()).filter(|s| *s > 0).unwrap_or(1);
    if let Some(http) = &probe.http_get {
        return app_http(http, ports, timeout_seconds);
    }
    let plain = |scheme, port, service| AppProbe {
        scheme,
        port,
        path: String::new(),
        service,
        headers: BTreeMap::new(),
        timeout_seconds,
    };
    if let Some(grpc) = &probe.grpc {
        let port = number(&IntOrString::Int(grpc.port), ports)?;
        return Some(plain(Scheme::Grpc, port, grpc.service.clone().filter(|name| !name.is_empty())));
    }
    let tcp = probe.tcp_socket.as_ref().filter(|tcp| is_own(tcp.host.as_ref()))?;
    Some(plain(Scheme::Tcp, number(&tcp.port, ports)?, None))
}

fn app_http(http: &HTTPGetAction, ports: &BTreeMap<String, i32>, timeout_seconds: u32) -> Option<AppProbe> {
    if !is_own(http.host.as_ref()) {
        return None;
    }
    let scheme = if http.scheme.as_deref() == Some("HTTPS") { Scheme::Https } else { Scheme::Http };
    let headers = http.http_headers.iter().flatten();
    Some(AppProbe {
        scheme,
        port: number(&http.port, ports)?,
        path: http.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
        service: None,
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
        timeout_seconds,
    })
}

fn is_own(host: Option<&String>) -> bool {
    host.is_none_or(String::is_empty)
}

fn number(port: &IntOrString, ports: &BTreeMap<String, i32>) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => ports.get(text).copied().or_else(|| text.parse().ok())?,
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}
