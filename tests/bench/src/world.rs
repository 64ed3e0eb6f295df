//! A mesh of N sidecars and S services in one namespace.

use mesh::Object;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The one namespace.
pub const NAMESPACE: &str = "bench";

/// How large a mesh is, as in `1000x100` (everybody may call every service) or `1000x1000/20` (each sidecar may call
/// 20 of 1,000, as TrafficTargets say); `…+16`: besides them 16 pods that do what they should not.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// Sidecars that listen.
    pub clients: usize,
    /// Services, each with a pod and a service account of its own.
    pub services: usize,
    /// Pods whose sidecars are hostile, spread over [`HOSTILE_ACCOUNTS`] service accounts of their own.
    pub hostile: usize,
    reach: Option<usize>,
}

/// Service accounts of hostile pods.
pub const HOSTILE_ACCOUNTS: usize = 4;

/// Name of a hostile pod.
#[must_use]
pub fn hostile_pod(number: usize) -> String {
    format!("hostile-{number}")
}

/// Service account of a hostile pod.
#[must_use]
pub fn hostile_account(number: usize) -> String {
    format!("hostile-{}", number % HOSTILE_ACCOUNTS)
}

impl std::str::FromStr for World {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wrong = || {
            anyhow::anyhow!(
                "{text:?}: a case is SIDECARSxSERVICES or SIDECARSxSERVICES/REACHABLE, +HOSTILE or not"
            )
        };
        let (text, hostile) = match text.split_once('+') {
            Some((text, hostile)) => (text, hostile.parse::<usize>()?),
            None => (text, 0),
        };
        let (clients, rest) = text.split_once('x').ok_or_else(wrong)?;
        let (services, reach) = match rest.split_once('/') {
            Some((services, reach)) => (services, Some(reach.parse::<usize>()?)),
            None => (rest, None),
        };
        // Three services take part in the split that everybody may call, and one more has endpoints that change.
        let services = services.parse::<usize>()?.max(4);
        let reach = reach.map(|reach| reach.clamp(4, services));
        Ok(Self { clients: clients.parse::<usize>()?.max(1), services, hostile, reach })
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.clients, self.services)?;
        self.reach.map_or(Ok(()), |reach| write!(f, "/{reach}"))?;
        if self.hostile > 0 { write!(f, "+{}", self.hostile) } else { Ok(()) }
    }
}

fn object<T: DeserializeOwned + Into<Object>>(value: Value) -> anyhow::Result<Object> {
    Ok(serde_json::from_value::<T>(value)?.into())
}

/// Name of a client's pod.
pub fn pod(client: usize) -> String {
    format!("client-{client}")
}

/// Name of a service's cluster, listener, route and endpoints.
pub fn resource(service: usize) -> String {
    format!("out|{NAMESPACE}|service-{service}|80")
}

fn server(service: usize) -> String {
    format!("server-{service}")
}

impl World {
    /// Service accounts that the sidecars are spread over: replicas of one share their configuration.
    pub fn accounts(&self) -> usize {
        let most = if self.reach.is_some() { 100 } else { 10 };
        self.clients.min(most)
    }

    /// Service account of a client's pod.
    pub fn account(&self, client: usize) -> String {
        format!("account-{}", client % self.accounts())
    }

    /// SPIFFE id of a client.
    pub fn spiffe_id(&self, client: usize) -> String {
        crds::labels::spiffe_id("cluster.local", NAMESPACE, &self.account(client))
    }

    /// The services that an account may call: the first three, and some of its own.
    pub fn reachable(&self, account: usize) -> Vec<usize> {
        let Some(reach) = self.reach else { return (0..self.services).collect() };
        let rest = self.services - 3;
        let own = (0..reach - 3).map(|n| 3 + (account * (reach - 3) + n) % rest);
        (0..3).chain(own).collect()
    }

    /// How many clients may call a service.
    pub fn callers(&self, service: usize) -> usize {
        let accounts = self.accounts();
        let may = (0..accounts).filter(|account| self.reachable(*account).contains(&service));
        may.map(|account| (self.clients - account).div_ceil(accounts)).sum()
    }

    /// A service whose endpoints change in a round, and that somebody may call.
    pub fn changing(&self, round: usize) -> usize {
        let own = self.reachable(round % self.accounts());
        own[3 + round / self.accounts() % (own.len() - 3)]
    }

    /// The MeshConfig.
    ///
    /// # Errors
    /// None that can happen: it is well formed.
    pub fn spec(&self) -> anyhow::Result<crds::MeshConfigSpec> {
        let authorization = if self.reach.is_some() { "Enforce" } else { "AllowAll" };
        let spec = json!({"version": "0.1.0", "traffic": {"authorization": authorization}});
        Ok(serde_json::from_value(spec)?)
    }

    /// What it sets.
    ///
    /// # Errors
    /// As [`World::spec`].
    pub fn settings(&self) -> anyhow::Result<mesh::Settings> {
        Ok(mesh::Settings::new("bench", &self.spec()?))
    }

    /// All objects.
    ///
    /// # Errors
    /// None that can happen: they are well formed.
    pub fn objects(&self) -> anyhow::Result<Vec<Object>> {
        let labels = json!({"meshwright.io/mesh": "bench"});
        let namespace = json!({"metadata": {"name": NAMESPACE, "labels": labels}});
        let mut all = vec![object::<k8s_openapi::api::core::v1::Namespace>(namespace)?, split(0)?, routes()?];
        for client in 0..self.clients {
            all.push(sidecar(&pod(client), &self.account(client), "client", &[])?);
        }
        for number in 0..self.hostile {
            all.push(sidecar(&hostile_pod(number), &hostile_account(number), "hostile", &[])?);
        }
        let mut sources = vec![Vec::new(); self.services];
        for account in 0..self.accounts() {
            for service in self.reachable(account) {
                sources[service].push(account);
            }
        }
        for (service, sources) in sources.iter().enumerate() {
            let app = server(service);
            // An endpoint counts only at an address that the pod has.
            let addresses: Vec<_> = (1..4 + MOVES).map(|n| address(service, n)).collect();
            all.push(sidecar(&app, &app, &app, &addresses)?);
            all.push(object::<k8s_openapi::api::core::v1::Service>(json!({
                "metadata": {"name": format!("service-{service}"), "namespace": NAMESPACE},
                "spec": {"clusterIP": format!("172.16.{}.{}", service / 250, service % 250), "selector": {"app": app},
                         "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
            }))?);
            all.push(slice(service, 0)?);
            if self.reach.is_some() && !sources.is_empty() {
                let hostile = (0..self.hostile.min(HOSTILE_ACCOUNTS)).map(hostile_account);
                // They may call what everybody may call, so that they are asked to try it.
                let hostile = hostile.filter(|_| service < 3);
                all.push(target(service, sources, hostile)?);
            }
        }
        Ok(all)
    }
}

/// Addresses that the last endpoint of a service has one after the other.
const MOVES: usize = 8;

fn address(service: usize, n: usize) -> String {
    format!("10.{}.{}.{n}", service / 250, service % 250)
}

/// The endpoints of a service; `round` makes them different.
///
/// # Errors
/// None that can happen: they are well formed.
pub fn slice(service: usize, round: usize) -> anyhow::Result<Object> {
    let endpoints: Vec<_> = [1, 2, 3, 4 + round % MOVES]
        .map(|n| json!({"addresses": [address(service, n)], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": server(service)}}))
        .into();
    object::<k8s_openapi::api::discovery::v1::EndpointSlice>(json!({
        "metadata": {"name": format!("service-{service}-1"), "namespace": NAMESPACE,
                     "labels": {"kubernetes.io/service-name": format!("service-{service}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    }))
}

/// Where calls to the first service go; everybody may call it. `round` makes it different.
///
/// # Errors
/// None that can happen: it is well formed.
pub fn split(round: usize) -> anyhow::Result<Object> {
    let weight = 1 + round % 98;
    object::<crds::TrafficSplit>(json!({
        "apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit",
        "metadata": {"name": "split", "namespace": NAMESPACE},
        "spec": {"service": "service-0", "backends": [
            {"service": "service-1", "weight": weight}, {"service": "service-2", "weight": 99 - weight},
        ]},
    }))
}

fn routes() -> anyhow::Result<Object> {
    object::<crds::HTTPRouteGroup>(json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup",
        "metadata": {"name": "all", "namespace": NAMESPACE},
        "spec": {"matches": [{"name": "all", "pathRegex": "/.*", "methods": ["*"]}]},
    }))
}

fn target(service: usize, sources: &[usize], more: impl Iterator<Item = String>) -> anyhow::Result<Object> {
    let account = |name: String| json!({"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE});
    let sources = sources.iter().map(|source| format!("account-{source}"));
    let sources: Vec<_> = sources.chain(more).map(account).collect();
    object::<crds::TrafficTarget>(json!({
        "apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget",
        "metadata": {"name": format!("target-{service}"), "namespace": NAMESPACE},
        "spec": {"destination": account(server(service)), "sources": sources,
                 "rules": [{"kind": "HTTPRouteGroup", "name": "all"}]},
    }))
}

fn sidecar(name: &str, account: &str, app: &str, addresses: &[String]) -> anyhow::Result<Object> {
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    object::<k8s_openapi::api::core::v1::Pod>(json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": name,
                     "labels": {"app": app, "meshwright.io/mesh": "bench", "meshwright.io/revision": "0.1.0"}},
        "spec": {"serviceAccountName": account, "containers": [{"name": "meshwright-proxy"}]},
        "status": {"phase": "Running", "podIPs": addresses},
    }))
}
