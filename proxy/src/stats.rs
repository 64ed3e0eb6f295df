//! What Envoy's admin interface says, as facts. Pure: text in, numbers out.
//!
//! Names relied on: the inbound listener is the one on [`INBOUND_PORT`]; every HTTP connection manager of the
//! inbound listener has a `stat_prefix` that begins with `inbound`. Envoy creates many of these lazily, so what
//! isn't there counts as 0.

use crate::constants::{INBOUND_PORT, PROMETHEUS_PORT};

/// Regular expression for `/stats?filter=`: what [`Stats::parse`] reads and nothing more. Percent-encoded.
pub const FILTER: &str = "%5E(cluster_manager%5C.(cds%5C.update_(success%7Crejected)%7Cactive_clusters)\
    %7Clistener_manager%5C.(lds%5C.update_(success%7Crejected)%7Cworkers_started)\
    %7Clistener_manager%5C.total_listeners_(active%7Cwarming)\
    %7Cserver%5C.(hot_restart_epoch%7Cuptime)\
    %7Ccontrol_plane%5C.connected_state\
    %7Clistener%5C..*downstream_cx_(active%7Ctotal)\
    %7Chttp%5C.inbound.*downstream_(rq_active%7Crq_total%7Ccx_active))%24";

/// Regular expression for `/stats?filter=`: what [`Secrets::parse`] reads. Percent-encoded.
pub const SECRETS: &str = "%5Esds%5C.(trust%7Cidentity)%5C.version_text%24";

/// Versions of the secrets that Envoy uses, as they were written into the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    identity: String,
    trust: String,
}

impl Secrets {
    /// Reads what the admin interface prints.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let find = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
        };
        Self { identity: find("sds.identity.version_text"), trust: find("sds.trust.version_text") }
    }

    /// Whether Envoy uses just these.
    #[must_use]
    pub fn are(&self, identity: &str, trust: &str) -> bool {
        (self.identity.as_str(), self.trust.as_str()) == (identity, trust)
    }
}

/// A reading of Envoy's statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Configurations of clusters that Envoy accepted.
    pub clusters_accepted: u64,
    /// Configurations of clusters that Envoy rejected.
    pub clusters_rejected: u64,
    /// Configurations of listeners that Envoy accepted.
    pub listeners_accepted: u64,
    /// Configurations of listeners that Envoy rejected.
    pub listeners_rejected: u64,
    /// Whether the ADS stream is up.
    pub controller_connected: bool,
    /// Clusters that Envoy has now, those of its bootstrap included.
    pub clusters: u64,
    /// Listeners that Envoy has now or prepares, those of its bootstrap included.
    pub listeners: u64,
    /// How often an Envoy has taken over from another one before this one.
    pub epoch: Option<u64>,
    /// Seconds since the first Envoy of the pod, as of the last flush of statistics; it grows with each one.
    pub uptime: Option<u64>,
    /// Whether worker threads serve.
    pub workers_started: bool,
    /// Traffic into the pod.
    pub inbound: Inbound,
    /// Connections of the application to others that are open now.
    pub outbound_connections: u64,
}

/// Traffic into the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// Connections so far.
    pub connections: u64,
    /// HTTP requests so far.
    pub requests: u64,
    /// Connections open now.
    pub open_connections: u64,
    /// Open connections that carry HTTP.
    pub open_http_connections: u64,
    /// HTTP requests in flight now.
    pub open_requests: u64,
}

impl Inbound {
    /// Work in flight: HTTP requests, and connections that aren't HTTP (an idle HTTP connection is no work).
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.open_requests + self.open_connections.saturating_sub(self.open_http_connections)
    }
}

/// Listeners and clusters of the bootstrap of a sidecar with slots: Prometheus and gate; controller, admin and gate.
const OWN_LISTENERS: u64 = 2;
const OWN_CLUSTERS: u64 = 3;

impl Stats {
    /// Whether Envoy has clusters and listeners of its controller. (An Envoy that takes over adds the counters of the one
    /// before it to its own, so that its `update_success` says nothing about itself.)
    #[must_use]
    pub fn holds_configuration(&self) -> bool {
        self.clusters > OWN_CLUSTERS && self.listeners > OWN_LISTENERS
    }

    /// Reads the answer of `/stats?filter=…`, lines of `name: value`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut stats = Self::default();
        for line in text.lines() {
            if let Some((name, value)) = line.split_once(": ")
                && let Ok(value) = value.trim().parse::<u64>()
            {
                stats.add(name, value);
            }
        }
        stats
    }

    fn add(&mut self, name: &str, value: u64) {
        match name {
            "cluster_manager.cds.update_success" => self.clusters_accepted = value,
            "cluster_manager.cds.update_rejected" => self.clusters_rejected = value,
            "listener_manager.lds.update_success" => self.listeners_accepted = value,
            "listener_manager.lds.update_rejected" => self.listeners_rejected = value,
            "listener_manager.workers_started" => self.workers_started = value > 0,
            "cluster_manager.active_clusters" => self.clusters = value,
            "listener_manager.total_listeners_active" | "listener_manager.total_listeners_warming" => {
                self.listeners += value;
            }
            "server.hot_restart_epoch" => self.epoch = Some(value),
            "server.uptime" => self.uptime = Some(value),
            "control_plane.connected_state" => self.controller_connected = value > 0,
            _ => self.add_traffic(name, value),
        }
    }

    fn add_traffic(&mut self, name: &str, value: u64) {
        if let Some(listener) = name.strip_prefix("listener.") {
            // Each worker has a gauge of its own beside the sum; connections must not be counted twice.
            if listener.contains(".worker_")
                || listener.starts_with("admin.")
                || ours(listener, PROMETHEUS_PORT)
            {
                return;
            }
            match (ours(listener, INBOUND_PORT), listener.rsplit('.').next()) {
                (true, Some("downstream_cx_active")) => self.inbound.open_connections += value,
                (true, Some("downstream_cx_total")) => self.inbound.connections += value,
                (false, Some("downstream_cx_active")) => self.outbound_connections += value,
                _ => {}
            }
        } else if name.starts_with("http.inbound") {
            match name.rsplit('.').next() {
                Some("downstream_rq_active") => self.inbound.open_requests += value,
                Some("downstream_rq_total") => self.inbound.requests += value,
                Some("downstream_cx_active") => self.inbound.open_http_connections += value,
                _ => {}
            }
        }
    }
}

/// Whether the statistics of a listener, `<address>_<port>.<name>`, are of a wildcard listener on this port.
/// (A service of the mesh may have the same port; its listener is on the service's address.)
fn ours(listener: &str, port: u16) -> bool {
    ["0.0.0.0", "[__]"].iter().any(|address| {
        listener
            .strip_prefix(address)
            .and_then(|rest| rest.strip_prefix('_'))
            .and_then(|rest| rest.strip_prefix(&port.to_string()))
            .is_some_and(|rest| rest.starts_with('.'))
    })
}
