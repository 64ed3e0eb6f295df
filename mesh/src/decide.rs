//! May A call B like this, and which object says so: the model that sidecars are configured from, asked about one
//! call.

mod outside;
mod types;

pub use types::{Because, Call, Callee, Caller, Denial, Request, Stranger, StrangerTls, Verdict};

use crate::audience::NotOurs;
use crate::index::Mesh;
use crate::ingest::{Carried, Flavour, HttpMatch, Pattern, Protocol, ServiceAccount};
use crate::object::{Kind, ObjectRef};
use crate::view::{Access, Grant, PolicyName, Requests, endpoints, inbound, routes};

/// Whether a call goes through, and which object says so.
///
/// The path is taken as it is written: Envoy resolves `.` and `..` in it first.
#[must_use]
pub fn decide(mesh: &Mesh, call: &Call) -> Verdict {
    if let Caller::Outside(stranger) = &call.from {
        return from_outside(mesh, stranger, call);
    }
    let caller = match caller(mesh, &call.from) {
        Ok(caller) => caller,
        Err(reason) => return Verdict::Denied(Denial::CallerNotOurs(reason)),
    };
    match &call.to {
        Callee::Pod { namespace, name, port } => {
            at_pod(mesh, caller.as_ref(), namespace, name, *port, &call.request)
        }
        Callee::Service { namespace, name, port } => {
            at_service(mesh, namespace, name, *port, &call.request, |pod, port| {
                at_pod(mesh, caller.as_ref(), namespace, pod, port, &call.request)
            })
        }
        Callee::Outside { host, address, port } => match &caller {
            Some(caller) => outside::leaving(mesh, caller, host.as_deref(), *address, *port, &call.request),
            None => Verdict::Denied(Denial::CallerNotOurs(NotOurs::NoSidecar)),
        },
    }
}

/// A call from somebody without a sidecar.
fn from_outside(mesh: &Mesh, stranger: &Stranger, call: &Call) -> Verdict {
    match &call.to {
        Callee::Pod { namespace, name, port } => {
            outside::entering(mesh, stranger, namespace, name, *port, &call.request)
        }
        Callee::Service { namespace, name, port } => {
            at_service(mesh, namespace, name, *port, &call.request, |pod, port| {
                outside::entering(mesh, stranger, namespace, pod, port, &call.request)
            })
        }
        Callee::Outside { .. } => Verdict::Denied(Denial::CallerNotOurs(NotOurs::NoSidecar)),
    }
}

/// The identity of the caller; `None` without one.
fn caller(mesh: &Mesh, from: &Caller) -> Result<Option<ServiceAccount>, NotOurs> {
    match from {
        Caller::ServiceAccount(account) => Ok(Some(account.clone())),
        Caller::Plaintext | Caller::Outside(_) => Ok(None),
        Caller::Pod { namespace, name } => {
            let audience = mesh.audience(namespace, name)?;
            Ok(Some(ServiceAccount::new(namespace, &audience.service_account)))
        }
    }
}

/// Every pod that the call could reach must allow it; the first that does not gives the answer.
fn at_service(
    mesh: &Mesh,
    namespace: &str,
    name: &str,
    port: u16,
    request: &Request,
    ask: impl Fn(&str, u16) -> Verdict,
) -> Verdict {
    let Some(space) = mesh.space(namespace) else { return Verdict::Denied(Denial::NoSuchService) };
    let service = space.services.get(name);
    if service.is_some_and(|service| service.flavour == Flavour::External) {
        return Verdict::Denied(Denial::ExternalName);
    }
    let Some(part) = service.and_then(|service| service.ports.get(&port)) else {
        return Verdict::Denied(Denial::NoSuchService);
    };
    let carried = match request {
        Request::Http { .. } if part.protocol != Protocol::Tcp => Carried::Requests,
        Request::Tcp | Request::Tls { .. } if !part.protocol.carries(Carried::Connections) => {
            return Verdict::Denied(Denial::OnlyRequests);
        }
        Request::Http { .. } | Request::Tcp | Request::Tls { .. } => Carried::Connections,
    };
    let routes = routes(mesh, namespace, space, name, port, carried);
    let route = routes
        .iter()
        .find(|route| route.matches.is_empty() || route.matches.iter().any(|one| fits(one, request)));
    let mut answer = Verdict::Denied(Denial::NoEndpoints);
    for receiver in route.into_iter().flat_map(|route| route.to.keys()) {
        let Some(part) =
            space.services.get(&receiver.service).and_then(|service| service.ports.get(&receiver.port))
        else {
            continue;
        };
        for (pod, _, address) in endpoints(mesh, space, &receiver.service, part) {
            answer = ask(pod, address.port());
            if matches!(answer, Verdict::Denied(_)) {
                return answer;
            }
        }
    }
    answer
}

fn at_pod(
    mesh: &Mesh,
    caller: Option<&ServiceAccount>,
    namespace: &str,
    pod: &str,
    port: u16,
    request: &Request,
) -> Verdict {
    let audience = match mesh.audience(namespace, pod) {
        Ok(audience) => audience,
        Err(reason) => return Verdict::Denied(Denial::CalleeNotOurs(reason)),
    };
    let inbound = inbound(mesh, &audience);
    let Some(at) = inbound.ports.get(&port) else { return Verdict::Denied(Denial::NoSuchPort) };
    if caller.is_none() && inbound.mtls == crds::mesh_config::Mtls::Strict {
        return Verdict::Denied(Denial::PlaintextRefused);
    }
    let bytes = !matches!(request, Request::Http { .. });
    let access = match at.protocol {
        Protocol::Http | Protocol::Http2 if bytes => return Verdict::Denied(Denial::OnlyRequests),
        Protocol::Undeclared if bytes => at.connections.as_ref().unwrap_or(&at.access),
        Protocol::Undeclared | Protocol::Http | Protocol::Http2 | Protocol::Tcp => &at.access,
    };
    let shut = bytes && at.protocol == Protocol::Undeclared && at.connections.is_none();
    let (grants, enforced) = match access {
        Access::Everyone => return Verdict::Allowed(Because::AllowAll),
        Access::Only(grants) => (grants, true),
        Access::Audited(grants) => (grants, false),
    };
    let of_caller: Vec<(&PolicyName, &Grant)> = grants
        .iter()
        .filter(|(_, grant)| caller.is_some_and(|caller| grant.sources.contains(caller)))
        .collect();
    let (granting, near): (Vec<_>, Vec<_>) =
        of_caller.into_iter().partition(|(_, grant)| !shut && opens(&grant.requests, request));
    let names = |list: Vec<(&PolicyName, &Grant)>| {
        list.into_iter()
            .map(|(name, _)| ObjectRef::new(Kind::TrafficTarget, &name.namespace, &name.name))
            .collect()
    };
    match (granting.is_empty(), enforced) {
        (false, _) => Verdict::Allowed(Because::Policies(names(granting))),
        (true, false) => Verdict::Allowed(Because::Audited),
        (true, true) => Verdict::Denied(Denial::NotGranted { near: names(near) }),
    }
}

/// Whether what is opened holds a request.
fn opens(requests: &Requests, request: &Request) -> bool {
    match requests {
        Requests::Any => true,
        Requests::Matching(matches) => {
            matches.iter().any(|one| fits(one, request) && !(one.tells_paths() && ambiguous(request)))
        }
    }
}

/// Whether it is anybody's guess which path a request is for.
fn ambiguous(request: &Request) -> bool {
    let Request::Http { path, .. } = request else { return false };
    let pattern = Pattern::new(&format!(".*{}.*", HttpMatch::AMBIGUOUS));
    pattern.is_ok_and(|pattern| pattern.is_match(without_query(path)))
}

fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Whether a request fits a match. An expression that cannot be read fits nothing; ingest lets none through.
fn fits(one: &HttpMatch, request: &Request) -> bool {
    let Request::Http { method, path, headers } = request else { return false };
    let path = without_query(path);
    let matches =
        |pattern: &str, text: &str| Pattern::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
    let header = |name: &str| {
        let same = |written: &str| match written.to_ascii_lowercase().as_str() {
            "host" => name == ":authority",
            other => other == name,
        };
        headers.iter().find(|(written, _)| same(written)).map(|(_, value)| value.as_str())
    };
    one.path.as_ref().is_none_or(|pattern| matches(pattern, path))
        && (one.methods.is_empty() || one.methods.contains(method))
        && one.headers.iter().all(|(name, pattern)| header(name).is_some_and(|value| matches(pattern, value)))
}
