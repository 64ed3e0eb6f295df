//! Kubernetes' own objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::labels;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::part::{
    EndpointPart, Flavour, NamespacePart, PodPart, Protocol, ServicePart, ServicePortPart, Serving,
    SliceAuthor, SlicePart, TargetPort, Word,
};
use super::{About, is_name};
use crate::problem::Problem;

/// Label of a slice that names its service (Kubernetes, EndpointSlices).
const SLICE_SERVICE: &str = "kubernetes.io/service-name";
/// Label of a slice that names who keeps it up to date, and what it says where Kubernetes itself does.
const SLICE_MANAGER: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");

pub(super) fn namespace(object: &Namespace) -> NamespacePart {
    let labels = object.metadata.labels.as_ref();
    NamespacePart { mesh: labels.and_then(|labels| labels.get(labels::MESH)).cloned().unwrap_or_default() }
}

/// A pod is meshed when the injector labelled it and put the sidecar into it (as a container, or as an init
/// container that keeps running); a label alone, which anybody may write, is not enough.
pub(super) fn pod(object: &Pod) -> PodPart {
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let spec = object.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let sidecar = containers.iter().chain(init).any(|container| container.name == labels::PROXY_CONTAINER);
    let label = |key: &str| labels.get(key).filter(|_| sidecar).cloned().unwrap_or_default();
    let account = spec.and_then(|spec| spec.service_account_name.clone()).filter(|name| is_name(name, 253));
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    PodPart {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        service_account: account.unwrap_or_else(|| "default".to_owned()),
        mesh: label(labels::MESH),
        revision: label(labels::REVISION),
        terminating: object.metadata.deletion_timestamp.is_some(),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        serving: serving(object, sidecar),
        ports: containers.iter().flat_map(named_ports).collect(),
        addresses: addresses(object),
        labels,
    }
}

/// A pod on the node's own network has the node's address, which says nothing about it.
fn addresses(object: &Pod) -> BTreeSet<IpAddr> {
    if object.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false) {
        return BTreeSet::new();
    }
    let Some(status) = &object.status else { return BTreeSet::new() };
    let listed = status.pod_ips.iter().flatten().map(|one| &one.ip).chain(&status.pod_ip);
    listed.filter_map(|address| address.parse().ok()).collect()
}

fn serving(object: &Pod, sidecar: bool) -> Serving {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return Serving::Ready;
    }
    let swapping = sidecar && swapping(object).unwrap_or(false);
    if swapping { Serving::Swapping } else { Serving::Unready }
}

/// For about a second in each upgrade in place, the kubelet reports a pod as not ready because the container of an idle
/// slot starts anew. Nothing that serves has changed then.
fn swapping(object: &Pod) -> Option<bool> {
    let status = object.status.as_ref()?;
    let gated = object.spec.as_ref()?.readiness_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let inits = status.init_container_statuses.iter().flatten();
    let all: Vec<_> = status.container_statuses.iter().flatten().chain(inits).collect();
    let slot = |name: &str| all.iter().find(|status| status.name == name).map(|status| status.ready);
    let (a, b) = (slot(labels::PROXY_CONTAINER)?, slot(labels::PROXY_CONTAINER_B)?);
    let is_slot = |name: &str| [labels::PROXY_CONTAINER, labels::PROXY_CONTAINER_B].contains(&name);
    let statuses = status.container_statuses.iter().flatten();
    let mut apps = statuses.filter(|status| !is_slot(&status.name)).peekable();
    Some(!gated && a != b && apps.peek().is_some() && apps.all(|status| status.ready))
}

fn named_ports(container: &Container) -> impl Iterator<Item = (String, u16)> {
    container
        .ports
        .iter()
        .flatten()
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
}

pub(super) fn service(about: About<'_>, object: &Service) -> Result<ServicePart, Problem> {
    let Some(spec) = &object.spec else {
        return Ok(ServicePart {
            selector: BTreeMap::new(),
            addresses: BTreeSet::new(),
            flavour: Flavour::Address,
            ports: BTreeMap::new(),
        });
    };
    let external = spec.type_.as_deref() == Some("ExternalName");
    let flavour = match spec.cluster_ip.as_deref() {
        _ if external => Flavour::External,
        Some("None") => Flavour::Headless,
        _ => Flavour::Address,
    };
    let mut ports = BTreeMap::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if external || !is_tcp(port.protocol.as_deref()) {
            continue;
        }
        let field = format!("spec.ports[{index}]");
        ports.insert(about.port(&format!("{field}.port"), port.port)?, service_port(about, &field, port)?);
    }
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    Ok(ServicePart {
        selector: spec.selector.clone().filter(|_| !external).unwrap_or_default(),
        // A headless service has the address "None", which is none.
        addresses: listed.filter(|_| !external).filter_map(|address| address.parse().ok()).collect(),
        flavour,
        ports,
    })
}

fn service_port(about: About<'_>, field: &str, port: &ServicePort) -> Result<ServicePortPart, Problem> {
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => {
            TargetPort::Number(about.port(&format!("{field}.port"), port.port)?)
        }
        Some(IntOrString::Int(number)) => {
            TargetPort::Number(about.port(&format!("{field}.targetPort"), *number)?)
        }
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
    };
    let name = port.name.clone().unwrap_or_default();
    let declared = declared_protocol(port.app_protocol.as_deref(), &name);
    Ok(ServicePortPart { protocol: declared.unwrap_or(Protocol::Undeclared), name, target })
}

/// What is spoken on a port: `appProtocol` (Kubernetes, application protocol), else the port name up to its first
/// `-`, else nothing is declared.
///
/// An `appProtocol` that we do not know is bytes: its owner said that it is something else than HTTP. A TLS protocol
/// is bytes too: the application encrypts by itself.
fn declared_protocol(app_protocol: Option<&str>, name: &str) -> Option<Protocol> {
    if let Some(app_protocol) = app_protocol.filter(|text| !text.is_empty()) {
        let text = app_protocol.to_ascii_lowercase();
        return Some(
            known_protocol(text.strip_prefix("kubernetes.io/").unwrap_or(&text)).unwrap_or(Protocol::Tcp),
        );
    }
    known_protocol(name.split('-').next().unwrap_or_default())
}

fn known_protocol(name: &str) -> Option<Protocol> {
    match name {
        "http" | "ws" => Some(Protocol::Http),
        "http2" | "h2c" | "grpc" => Some(Protocol::Http2),
        "tcp" | "https" | "tls" | "wss" | "mongo" | "mysql" | "postgres" | "redis" | "kafka" | "amqp" => {
            Some(Protocol::Tcp)
        }
        _ => None,
    }
}

pub(super) fn slice(object: &EndpointSlice) -> SlicePart {
    let label = |key: &str| object.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let service = label(SLICE_SERVICE);
    let derived = label(SLICE_MANAGER.0).is_some_and(|manager| manager == SLICE_MANAGER.1);
    let ports = object.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    SlicePart {
        service: service.cloned().unwrap_or_default(),
        author: if derived { SliceAuthor::Kubernetes } else { SliceAuthor::Other },
        ports: ports
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?)))
            .collect(),
        endpoints: object.endpoints.iter().filter_map(endpoint).collect(),
        addresses: object
            .endpoints
            .iter()
            .flat_map(|one| &one.addresses)
            .filter_map(|a| a.parse().ok())
            .collect(),
    }
}

/// An endpoint of which nobody says whether it is ready counts as ready, as in Kubernetes. One that refers to something
/// else than a pod is not ours.
fn endpoint(endpoint: &Endpoint) -> Option<EndpointPart> {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    let (pod, uid) = match &endpoint.target_ref {
        None => (String::new(), String::new()),
        Some(target) if target.kind.as_deref() == Some("Pod") => {
            (target.name.clone()?, target.uid.clone().unwrap_or_default())
        }
        Some(_) => return None,
    };
    let word = match (terminating, ready) {
        (true, _) => Word::Terminating,
        (false, true) => Word::Ready,
        (false, false) => Word::Unready,
    };
    // Only the first address counts (Kubernetes, discovery.k8s.io/v1 Endpoint). An address that no pod of the
    // cluster can have would lead the sidecar back to itself.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let usable = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
    usable.then_some(EndpointPart { address, pod, uid, word })
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}
