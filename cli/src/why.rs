//! `meshwright why FROM TO`: asks the same model that sidecars are configured from, over the cluster's objects.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use crds::labels;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount as Account};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, Resource, ResourceExt};
use mesh::decide::{Because, Callee, Caller, Denial, Request, Stranger};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Mesh, Object, ObjectRef, Verdict, decide};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::nearest::nearest;
use crate::output::{self, Format, FormatArgument, advise};
use crate::{Outcome, cluster};

/// Arguments of `why`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Who calls: NAMESPACE/POD or NAMESPACE/SERVICE-ACCOUNT, or - (or an address) for somebody outside the mesh
    from: String,
    /// Who is called: NAMESPACE/SERVICE[:PORT], NAMESPACE/POD:PORT, or HOST:PORT outside the mesh
    to: String,
    /// HTTP method
    #[arg(long, default_value = "GET")]
    method: String,
    /// HTTP path
    #[arg(long, default_value = "/")]
    path: String,
    /// HTTP header, NAME: VALUE; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Ask about a connection that the application encrypts for this name (SNI)
    #[arg(long, value_name = "NAME", conflicts_with = "tcp")]
    sni: Option<String>,
    /// Ask about a plain TCP connection
    #[arg(long)]
    tcp: bool,
    /// Name of the mesh, when there are several
    #[arg(long)]
    mesh: Option<String>,
    #[command(flatten)]
    format: FormatArgument,
}

/// Where an object comes from, when it comes from Git.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Origin {
    commit: String,
    file: String,
}

/// The mesh and what is needed to talk about it.
struct World {
    mesh: Mesh,
    origins: BTreeMap<ObjectRef, Origin>,
    pods: BTreeMap<(String, String), Pod>,
    services: BTreeMap<(String, String), Service>,
    accounts: BTreeSet<(String, String)>,
    namespaces: BTreeSet<String>,
}

/// Runs the verb.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let client = cluster::connect(access).await?;
    let config = cluster::mesh(&client, arguments.mesh.as_deref()).await?;
    let world = World::read(&client, &config).await?;
    let request = if arguments.tcp {
        Request::Tcp
    } else if let Some(name) = &arguments.sni {
        Request::Tls { server_name: Some(name.clone()) }
    } else {
        Request::Http {
            method: arguments.method.clone(),
            path: arguments.path.clone(),
            headers: arguments.headers.iter().cloned().collect(),
        }
    };
    let call = Call { from: world.caller(&arguments.from)?, to: world.callee(&arguments.to)?, request };
    let verdict = decide(&world.mesh, &call);
    match arguments.format.output {
        Format::Table => output::print(&text(&verdict, &world.origins))?,
        format => {
            let origins: Vec<_> = objects(&verdict).iter().map(|one| origin(one, &world.origins)).collect();
            output::print_value(&json!({"call": call, "verdict": verdict, "origins": origins}), format)?;
        }
    }
    Ok(match verdict {
        Verdict::Allowed(_) => Outcome::Done,
        Verdict::Denied(_) => Outcome::No,
    })
}

/// The objects that a verdict names.
fn objects(verdict: &Verdict) -> &[ObjectRef] {
    match verdict {
        Verdict::Allowed(Because::Policies(objects))
        | Verdict::Denied(
            Denial::NotGranted { near: objects }
            | Denial::NoEgress { near: objects }
            | Denial::NoIngress { near: objects },
        ) => objects,
        Verdict::Allowed(Because::AllowAll | Because::Audited | Because::EgressAllowed)
        | Verdict::Denied(_) => &[],
    }
}

/// The commit and file of an object; both are null for one that is not from Git.
fn origin(object: &ObjectRef, origins: &BTreeMap<ObjectRef, Origin>) -> serde_json::Value {
    let origin = origins.get(object);
    json!({"object": object, "commit": origin.map(|one| &one.commit), "file": origin.map(|one| &one.file)})
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

fn split(text: &str) -> anyhow::Result<(&str, &str)> {
    text.split_once('/').ok_or_else(|| advise(format!("{text:?} has no namespace"), "write NAMESPACE/NAME"))
}

impl World {
    async fn read(client: &Client, config: &crds::MeshConfig) -> anyhow::Result<Self> {
        let settings = mesh::Settings::new(&config.name_any(), &config.spec);
        let mut world = Self {
            mesh: Mesh::new(settings),
            origins: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            accounts: BTreeSet::new(),
            namespaces: BTreeSet::new(),
        };
        for namespace in world.take::<Namespace>(client).await? {
            world.namespaces.insert(namespace.name_any());
        }
        let accounts: Api<Account> = Api::all(client.clone());
        for account in cluster::list(&accounts, &ListParams::default()).await?.unwrap_or_default() {
            world.accounts.insert((account.namespace().unwrap_or_default(), account.name_any()));
        }
        world.take_slices(client).await?;
        for kind in crds::PolicyKind::ALL {
            crds::with_policy_type!(kind, T => drop(world.take::<T>(client).await?));
        }
        world.take::<crds::PolicySource>(client).await?;
        for service in world.take::<Service>(client).await? {
            world.services.insert((service.namespace().unwrap_or_default(), service.name_any()), service);
        }
        for pod in world.take::<Pod>(client).await? {
            world.pods.insert((pod.namespace().unwrap_or_default(), pod.name_any()), pod);
        }
        world.mesh.synced();
        Ok(world)
    }

    async fn take<K>(&mut self, client: &Client) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Into<Object> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let objects =
            cluster::list(&Api::<K>::all(client.clone()), &ListParams::default()).await?.unwrap_or_default();
        for object in &objects {
            let annotations = object.annotations();
            let text = |key: &str| annotations.get(key).cloned().unwrap_or_default();
            let origin = Origin { commit: text(labels::COMMIT), file: text(labels::FILE) };
            let object: Object = object.clone().into();
            if origin != Origin::default() {
                self.origins.insert(object.reference(), origin);
            }
            self.mesh.apply(object);
        }
        Ok(objects)
    }

    /// EndpointSlices are v1 since Kubernetes 1.21; before, v1beta1 with `topology` instead of node and zone, which
    /// make no difference here.
    async fn take_slices(&mut self, client: &Client) -> anyhow::Result<()> {
        let api = Api::<EndpointSlice>::all(client.clone());
        if let Some(slices) = cluster::list(&api, &ListParams::default()).await? {
            slices.into_iter().for_each(|slice| drop(self.mesh.apply(slice)));
            return Ok(());
        }
        let older =
            ApiResource::from_gvk(&GroupVersionKind::gvk("discovery.k8s.io", "v1beta1", "EndpointSlice"));
        let api = Api::<DynamicObject>::all_with(client.clone(), &older);
        for slice in cluster::list(&api, &ListParams::default()).await?.unwrap_or_default() {
            let mut value = serde_json::to_value(slice)?;
            value["apiVersion"] = "discovery.k8s.io/v1".into();
            let slice: EndpointSlice =
                serde_json::from_value(value).context("an EndpointSlice of v1beta1")?;
            self.mesh.apply(slice);
        }
        Ok(())
    }

    /// A pod when there is one of that name, else a service account.
    fn caller(&self, text: &str) -> anyhow::Result<Caller> {
        if text == "-" {
            return Ok(Caller::Plaintext);
        }
        if let Ok(address) = text.parse() {
            return Ok(Caller::Outside(Stranger { address, tls: None }));
        }
        let (namespace, name) = split(text)?;
        if self.pods.contains_key(&(namespace.to_owned(), name.to_owned())) {
            return Ok(Caller::Pod { namespace: namespace.to_owned(), name: name.to_owned() });
        }
        if !self.accounts.contains(&(namespace.to_owned(), name.to_owned())) {
            let known = self.pods.keys().chain(&self.accounts);
            return Err(self.unknown("pod and no service account", namespace, name, known));
        }
        Ok(Caller::ServiceAccount(ServiceAccount::new(namespace, name)))
    }

    /// Says that something is not there, and what may have been meant: a name of that namespace, else a namespace, else
    /// the name elsewhere.
    fn unknown<'a>(
        &self,
        what: &str,
        namespace: &str,
        name: &str,
        known: impl Iterator<Item = &'a (String, String)>,
    ) -> anyhow::Error {
        let known: Vec<_> = known.collect();
        let shown = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        if !self.namespaces.contains(namespace) {
            let near = nearest(namespace, self.namespaces.iter().map(String::as_str));
            let next = match near.as_slice() {
                [] => "kubectl get namespaces".to_owned(),
                near => format!("did you mean namespace {}?", near.join(" or ")),
            };
            return advise(format!("there is no namespace {}", shown(namespace)), next);
        }
        let here = known.iter().filter(|(inside, _)| inside == namespace).map(|(_, name)| name.as_str());
        let mut near: Vec<_> = nearest(name, here).iter().map(|name| format!("{namespace}/{name}")).collect();
        if near.is_empty() {
            let elsewhere = known.iter().filter(|(_, other)| other == name);
            near = elsewhere.take(3).map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        }
        let next = if near.is_empty() {
            format!("kubectl get pods,services,serviceaccounts -n {namespace}")
        } else {
            format!("did you mean {}?", near.join(" or "))
        };
        advise(format!("there is no {what} {}/{}", shown(namespace), shown(name)), next)
    }

    /// A service when there is one of that name, else a pod.
    fn callee(&self, text: &str) -> anyhow::Result<Callee> {
        let (address, port) = match text.rsplit_once(':') {
            Some((address, port)) => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                (address, Some(port.ok_or_else(|| advise("that is no port", "write NAMESPACE/NAME:PORT"))?))
            }
            None => (text, None),
        };
        if let (false, Some(port)) = (address.contains('/'), port) {
            return Ok(outside(address, port));
        }
        let (namespace, name) = split(address)?;
        let key = (namespace.to_owned(), name.to_owned());
        let (namespace, name) = key.clone();
        if let Some(service) = self.services.get(&key) {
            let port = port.or_else(|| only_port(service));
            let ports = ports(service);
            let port = port.ok_or_else(|| {
                advise(
                    format!("{address} has several ports"),
                    format!("{address}:PORT, one of {}", listed(&ports)),
                )
            })?;
            // An ExternalName needs no ports.
            if !ports.is_empty() && !ports.contains(&port) {
                let next = format!("its ports are {}", listed(&ports));
                return Err(advise(format!("service {address} has no port {port}"), next));
            }
            return Ok(Callee::Service { namespace, name, port });
        }
        if !self.pods.contains_key(&key) {
            let known = self.services.keys().chain(self.pods.keys());
            return Err(self.unknown("service and no pod", &namespace, &name, known));
        }
        let port = port.ok_or_else(|| advise("a pod needs its port", format!("write {address}:PORT")))?;
        Ok(Callee::Pod { namespace, name, port })
    }
}

/// A host or an address outside the mesh.
fn outside(host: &str, port: u16) -> Callee {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    Callee::Outside { host: address.is_none().then(|| host.to_owned()), address, port }
}

fn only_port(service: &Service) -> Option<u16> {
    match ports(service).as_slice() {
        [port] => Some(*port),
        _ => None,
    }
}

fn ports(service: &Service) -> Vec<u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| u16::try_from(port.port).ok()).collect()
}

fn listed(ports: &[u16]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn text(verdict: &Verdict, origins: &BTreeMap<ObjectRef, Origin>) -> String {
    match verdict {
        Verdict::Allowed(because) => match because {
            Because::Policies(policies) => format!("allowed\n{}", named("  by ", policies, origins)),
            Because::AllowAll => "allowed\n  because authorization is AllowAll there\n".to_owned(),
            Because::Audited => {
                "allowed\n  only because authorization is Audit there: nothing grants it\n".to_owned()
            }
            Because::EgressAllowed => "allowed\n  because egress is Allow\n".to_owned(),
        },
        Verdict::Denied(denial) => format!("denied\n{}", denied(denial, origins)),
    }
}

fn denied(denial: &Denial, origins: &BTreeMap<ObjectRef, Origin>) -> String {
    match denial {
        Denial::CallerNotOurs(why) => format!("  the caller: {why}\n  next: meshwright proxies -A\n"),
        Denial::CalleeNotOurs(why) => format!("  the callee: {why}\n  next: meshwright proxies -A\n"),
        Denial::NoSuchService => "  there is no such service or port\n".to_owned(),
        Denial::ExternalName => {
            "  the service is another name for something else (ExternalName); ask about that\n".to_owned()
        }
        Denial::OnlyRequests => "  HTTP is spoken there; only requests are answered\n".to_owned(),
        Denial::NoSuchPort => "  no service leads to that port of the pod\n".to_owned(),
        Denial::PlaintextRefused => "  callers without an identity of the mesh are refused there (mTLS is Strict)\n".to_owned(),
        Denial::NotGranted { near } if near.is_empty() => {
            "  no TrafficTarget names this caller and this callee\n  next: commit one, or ask about another caller\n".to_owned()
        }
        Denial::NotGranted { near } => {
            format!("  not granted to this request by\n{}", named("    ", near, origins))
        }
        Denial::NoEgress { near } if near.is_empty() => {
            "  no Egress opens it to this caller\n  next: commit one\n".to_owned()
        }
        Denial::NoIngress { near } if near.is_empty() => {
            "  no IngressBackend opens that port\n  next: commit one\n".to_owned()
        }
        Denial::NoEgress { near } | Denial::NoIngress { near } => {
            format!("  not opened to this call by\n{}", named("    ", near, origins))
        }
        Denial::NoEndpoints => "  the service has no ready pod\n".to_owned(),
    }
}

fn named(indent: &str, objects: &[ObjectRef], origins: &BTreeMap<ObjectRef, Origin>) -> String {
    let line = |object: &ObjectRef| match origins.get(object) {
        Some(origin) => {
            let commit = crate::status::short_commit(&origin.commit);
            format!("{indent}{object} (commit {commit}, {})\n", origin.file)
        }
        None => format!("{indent}{object} (not from Git)\n"),
    };
    objects.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::Kind;

    #[test]
    fn the_answer_names_object_commit_and_file() {
        let target = ObjectRef::new(Kind::TrafficTarget, "bookstore", "buyer");
        let git = Origin { commit: "0123456789abcdef".to_owned(), file: "policies/t.yaml:1".to_owned() };
        let origins = BTreeMap::from([(target.clone(), git)]);
        let allowed = text(&Verdict::Allowed(Because::Policies(vec![target.clone()])), &origins);
        assert_eq!(
            allowed,
            "allowed\n  by TrafficTarget bookstore/buyer (commit 0123456789ab, policies/t.yaml:1)\n"
        );
        assert_eq!(origin(&target, &origins)["commit"], "0123456789abcdef");
        assert!(origin(&target, &BTreeMap::new())["commit"].is_null());
        let denied = text(&Verdict::Denied(Denial::NotGranted { near: vec![target] }), &BTreeMap::new());
        assert_eq!(
            denied,
            "denied\n  not granted to this request by\n    TrafficTarget bookstore/buyer (not from Git)\n"
        );
    }

    #[test]
    fn headers_are_read_as_curl_writes_them() {
        assert_eq!(header("X-Tenant:  books"), Ok(("x-tenant".to_owned(), "books".to_owned())));
        assert!(header("nonsense").is_err());
    }
}
