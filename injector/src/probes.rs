//! Probes of the app: the kubelet has no certificate of the mesh, so the sidecar answers for the app.
//!
//! `httpGet` and `tcpSocket` probes become `httpGet :15020/probe/<container>/<kind>`; what they were is told to
//! the sidecar in `MESHWRIGHT_PROBES`, which asks the app on the pod's own loopback.

use std::collections::{BTreeMap, BTreeSet};

use crds::labels;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use crate::decision::{DenyReason, Problem};

/// Which probe of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Liveness,
    Readiness,
    Startup,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
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
    headers: BTreeMap<String, String>,
    timeout_seconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    Http,
    Https,
    Tcp,
}

/// All probes of a pod by `<container>/<kind>`.
pub type AppProbes = BTreeMap<String, AppProbe>;

/// Rewrites the probes of one app container in place and notes what they were.
///
/// A probe is left alone when it names another host, or a port name that no port of the container has (the
/// kubelet cannot run that one either).
///
/// # Errors
/// A gRPC probe on a port that is redirected: the sidecar has no answer for it.
pub fn rewrite(
    container: &mut Container,
    excluded: &BTreeSet<u16>,
    probes: &mut AppProbes,
) -> Result<(), Problem> {
    let name = container.name.clone();
    let ports: BTreeMap<String, i32> = container
        .ports
        .iter()
        .flatten()
        .filter_map(|port| Some((port.name.clone()?, port.container_port)))
        .collect();
    let slots = [
        (Kind::Liveness, &mut container.liveness_probe),
        (Kind::Readiness, &mut container.readiness_probe),
        (Kind::Startup, &mut container.startup_probe),
    ];
    for (kind, slot) in slots {
        let Some(probe) = slot else { continue };
        check_grpc(&name, kind, probe, excluded)?;
        if let Some(app) = app_probe(probe, &ports) {
            let key = format!("{name}/{}", kind.name());
            probe.tcp_socket = None;
            probe.http_get = Some(HTTPGetAction {
                path: Some(format!("/probe/{key}")),
                port: IntOrString::Int(i32::from(labels::PROXY_PORT)),
                scheme: Some("HTTP".to_owned()),
                ..HTTPGetAction::default()
            });
            probes.insert(key, app);
        }
    }
    Ok(())
}

fn app_probe(probe: &Probe, ports: &BTreeMap<String, i32>) -> Option<AppProbe> {
    let timeout_seconds =
        probe.timeout_seconds.and_then(|seconds| u32::try_from(seconds).ok()).filter(|s| *s > 0).unwrap_or(1);
    if let Some(http) = &probe.http_get {
        if http.host.as_ref().is_some_and(|host| !host.is_empty()) {
            return None;
        }
        let scheme = if http.scheme.as_deref() == Some("HTTPS") { Scheme::Https } else { Scheme::Http };
        let headers = http.http_headers.iter().flatten();
        return Some(AppProbe {
            scheme,
            port: number(&http.port, ports)?,
            path: http.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
            headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
            timeout_seconds,
        });
    }
    let tcp = probe.tcp_socket.as_ref()?;
    if tcp.host.as_ref().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    Some(AppProbe {
        scheme: Scheme::Tcp,
        port: number(&tcp.port, ports)?,
        path: String::new(),
        headers: BTreeMap::new(),
        timeout_seconds,
    })
}

fn number(port: &IntOrString, ports: &BTreeMap<String, i32>) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => ports.get(text).copied().or_else(|| text.parse().ok())?,
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

fn check_grpc(container: &str, kind: Kind, probe: &Probe, excluded: &BTreeSet<u16>) -> Result<(), Problem> {
    let Some(grpc) = &probe.grpc else { return Ok(()) };
    if u16::try_from(grpc.port).is_ok_and(|port| excluded.contains(&port)) {
        return Ok(());
    }
    Err(Problem::new(
        DenyReason::UnsupportedProbe,
        format!(
            "container {container} has a gRPC {} probe on port {}, which the kubelet cannot make through mutual TLS; \
             use a tcpSocket probe, or serve health on a port of its own and exclude that with the annotation \
             sidecar.meshwright.io/exclude-inbound-ports",
            kind.name(),
            grpc.port
        ),
    ))
}
