//! A small API server in memory, for tests of what is written when: versions, preconditions, dry runs, labels. It knows no
//! schemas and no field owners: `tests/all` asks a real one about those.

use std::collections::BTreeMap;
use std::sync::Arc;

use gitops::worker::{Addresses, Program};
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use runtime::lease::Mandate;
use runtime::shutdown::Shutdown;
use serde_json::{Value, json};
use tower::BoxError;

use crate::context::{Git, Settings};

/// A context of a leader of term 7 that works on a server; its Git is a program that is not there.
pub fn context(server: &ApiServer) -> Arc<crate::context::Context> {
    with_git(server, Program::at("/does/not/exist"))
}

/// The same with another program for Git.
pub fn with_git(server: &ApiServer, program: Program) -> Arc<crate::context::Context> {
    let given = Settings {
        namespace: "system".into(),
        image_prefix: String::new(),
        catalogue: upgrades::Catalogue::embedded(),
        cluster_domain: "cluster.local".into(),
        pod: None,
        git: Git { program, addresses: Addresses::default() },
    };
    let mandate = Mandate::unlimited(7);
    let registry = &mut Registry::default();
    crate::context::Context::new(server.client(), mandate, given, registry, Shutdown::default())
}

/// What happens to an object before it is stored: an admission webhook.
type Admission = Box<dyn Fn(&mut Value) + Send>;
/// What somebody else does.
type Act = Box<dyn FnOnce(&mut BTreeMap<String, Value>) + Send>;
/// Which requests fail, by method and path.
type Failure = Box<dyn FnMut(&Method, &str) -> bool + Send>;

/// The server.
#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    next: u64,
    admission: Option<Admission>,
    failure: Option<Failure>,
    /// Done right before the next write that this names is handled.
    meanwhile: Option<(String, Act)>,
    writes: Vec<String>,
}

impl ApiServer {
    /// A client of it.
    pub fn client(&self) -> Client {
        runtime::install_default();
        let server = self.clone();
        let answer = move |request| server.clone().serve(request);
        Client::new(tower::service_fn(answer), "default")
    }

    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await?;
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        let (status, answer) = self.0.lock().answer(&parts.method, path, query, &body);
        Ok(Response::builder().status(status).body(Body::from(serde_json::to_vec(&answer)?))?)
    }

    /// Puts an object there.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock();
        state.next += 1;
        object["metadata"]["resourceVersion"] = json!(state.next.to_string());
        object["metadata"]["uid"] = json!(format!("uid-{}", state.next));
        state.objects.insert(path.to_owned(), object);
    }

    /// An object.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().objects.get(path).cloned()
    }

    /// Takes an object away.
    pub fn remove(&self, path: &str) {
        self.0.lock().objects.remove(path);
    }

    /// From now on each object goes through this before it is stored.
    pub fn admit(&self, admission: impl Fn(&mut Value) + Send + 'static) {
        self.0.lock().admission = Some(Box::new(admission));
    }

    /// From now on a request for which this is true fails.
    pub fn fail(&self, failure: impl FnMut(&Method, &str) -> bool + Send + 'static) {
        self.0.lock().failure = Some(Box::new(failure));
    }

    /// Lets something happen right before the next write (no dry run) to a path that ends so.
    pub fn meanwhile(&self, end: &str, act: impl FnOnce(&mut BTreeMap<String, Value>) + Send + 'static) {
        self.0.lock().meanwhile = Some((end.to_owned(), Box::new(act)));
    }

    /// The writes that were answered with success since the last call, but for Events and dry runs.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().writes)
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: &Value) -> (StatusCode, Value) {
        if self.failure.as_mut().is_some_and(|failure| failure(method, path)) {
            return refused(StatusCode::INTERNAL_SERVER_ERROR);
        }
        if *method == Method::GET {
            return match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None if is_list(path) => (StatusCode::OK, self.list(path, query)),
                None => refused(StatusCode::NOT_FOUND),
            };
        }
        let dry = query.contains("dryRun");
        if !dry
            && self.meanwhile.as_ref().is_some_and(|(end, _)| path.ends_with(end.as_str()))
            && let Some((_, act)) = self.meanwhile.take()
        {
            act(&mut self.objects);
        }
        let result = self.write(method, path, query, body);
        if result.0.is_success() && !dry && !path.contains("/events") {
            self.writes.push(format!("{method} {path}"));
        }
        result
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let (prefix, plural) = path.rsplit_once('/').unwrap_or_default();
        let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
        let selector = selector.map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let wanted = selector.as_deref().and_then(|text| text.split_once('='));
        let fits =
            |object: &Value| wanted.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value);
        let inside = |at: &str| {
            let (folder, _) = at.rsplit_once('/').unwrap_or_default();
            at.starts_with(prefix) && folder.rsplit('/').next() == Some(plural)
        };
        let items: Vec<_> = self
            .objects
            .iter()
            .filter(|(at, object)| inside(at) && fits(object))
            .map(|(_, o)| o.clone())
            .collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    fn write(&mut self, method: &Method, path: &str, query: &str, body: &Value) -> (StatusCode, Value) {
        let dry = query.contains("dryRun");
        // What is applied names its kind; the merges that we send do not.
        let (applied, forced) = (!body["kind"].is_null(), query.contains("force=true"));
        let (path, status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
        let path = match *method {
            Method::POST => format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default()),
            _ => path.to_owned(),
        };
        let live = self.objects.get(&path).cloned();
        let versions = [&body["metadata"]["resourceVersion"], &body["preconditions"]["resourceVersion"]];
        let stale = |live: &Value| {
            versions.iter().any(|v| v.is_string() && **v != live["metadata"]["resourceVersion"])
        };
        let object = match (method, live.clone()) {
            (&Method::POST, Some(_)) => return refused(StatusCode::CONFLICT),
            (&Method::POST, None) => body.clone(),
            (_, Some(live)) if stale(&live) => return refused(StatusCode::CONFLICT),
            // Applied without force where others own fields, as far as this server knows owners.
            (&Method::PATCH, Some(_)) if applied && !forced => return refused(StatusCode::CONFLICT),
            (&Method::PATCH, None) if applied => body.clone(),
            (&Method::DELETE, Some(live)) => {
                self.objects.remove(&path);
                return (StatusCode::OK, live);
            }
            (&Method::PUT, Some(_)) => body.clone(),
            (_, Some(mut live)) if status => {
                live["status"] = body["status"].clone();
                live
            }
            (_, Some(mut live)) => {
                merge(&mut live, body);
                live
            }
            (_, None) => return refused(StatusCode::NOT_FOUND),
        };
        (StatusCode::OK, self.store(path, object, live.as_ref(), dry))
    }

    fn store(&mut self, path: String, mut object: Value, live: Option<&Value>, dry: bool) -> Value {
        if let Some(admission) = &self.admission {
            admission(&mut object);
        }
        let metadata = |key: &str| live.map(|live| live["metadata"][key].clone());
        if let Some(version) = metadata("resourceVersion") {
            object["metadata"]["resourceVersion"] = version;
        }
        if live != Some(&object) {
            self.next += 1;
            object["metadata"]["uid"] =
                metadata("uid").unwrap_or_else(|| json!(format!("uid-{}", self.next)));
            object["metadata"]["resourceVersion"] = json!(self.next.to_string());
        }
        if !dry {
            self.objects.insert(path, object.clone());
        }
        object
    }
}

/// Whether a path names a kind and not an object.
fn is_list(path: &str) -> bool {
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let group = if parts[0] == "api" { 2 } else { 3 };
    matches!(parts.len().checked_sub(group), Some(1 | 3))
}

fn refused(code: StatusCode) -> (StatusCode, Value) {
    let reason = code.canonical_reason().unwrap_or_default().replace(' ', "");
    let status =
        json!({"status": "Failure", "message": "as the test says", "reason": reason, "code": code.as_u16()});
    (code, status)
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}
