//! What the injector told this sidecar: environment variables (the table "Sidecar" in ARCHITECTURE) as types.
//!
//! All problems are reported at once, so that whoever wrote the pod by hand repairs it in one go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::hook_key::HookKey;
use crate::probe::ProbeTarget;
use crate::swap::Slot;

/// Kubernetes' own default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// As `crds::labels::SWAP_DRAIN_SECONDS`.
const DEFAULT_SWAP_DRAIN: Duration = Duration::from_secs(300);
const MAX_CONCURRENCY: u32 = 256;

/// Everything `run` needs to know about its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Who this proxy is.
    pub workload: Workload,
    /// Whom it asks for certificates and configuration.
    pub controller: Controller,
    /// How Envoy is started.
    pub envoy: EnvoySettings,
    /// Address of the pod.
    pub pod_ip: IpAddr,
    /// Probes that kubelet sends here instead of to the application: `<container>/<kind>` to target.
    pub probes: BTreeMap<String, ProbeTarget>,
    /// What whoever asks for a probe or a hook must know; nothing in a pod that a release before this one injected.
    pub hook_key: Option<HookKey>,
    /// `terminationGracePeriodSeconds` of the pod.
    pub grace: Duration,
    /// Which slot this is, in a pod with two.
    pub slot: Option<Slot>,
    /// How long an Envoy that another slot took over from keeps its connections.
    pub swap_drain: Duration,
}

/// Identity of the pod in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Name of the mesh.
    pub mesh: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Release of the sidecar.
    pub revision: String,
    /// Name of the pod.
    pub pod: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Uid of the pod.
    pub uid: String,
    /// Service account of the pod.
    pub service_account: String,
}

impl Workload {
    /// SPIFFE id, as `crds::labels::spiffe_id` builds it.
    #[must_use]
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

/// Address of the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// DNS name; also the name that its certificate must have.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// How Envoy is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvoySettings {
    /// Log level.
    pub log_level: LogLevel,
    /// Worker threads.
    pub concurrency: NonZeroU32,
}

/// Envoy's log levels; the names are those of MeshConfig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For developers of Envoy.
    Debug,
    /// Start-up and configuration.
    Info,
    /// What may need attention.
    Warning,
    /// What went wrong.
    Error,
    /// What ended the process.
    Critical,
    /// Nothing.
    Off,
}

impl LogLevel {
    const ALL: [Self; 7] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical, Self::Off];

    /// Envoy's name of the level, as its `--log-level` wants it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }
}

/// What is wrong with one variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It isn't set, or empty.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// It is set to something else than what it must hold.
    #[error("{name} is {value:?}: {rule}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value, shortened.
        value: String,
        /// What it must be.
        rule: String,
    },
}

/// All that is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment is not that of an injected sidecar: {}", list(.0))]
pub struct Problems(pub Vec<Problem>);

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Parses the environment that `get` looks up.
///
/// # Errors
/// With every variable that is missing or wrong.
pub fn parse(get: impl Fn(&str) -> Option<String>) -> Result<Environment, Problems> {
    let mut reader = Reader { get, problems: Vec::new() };
    let workload = Workload {
        mesh: reader.name(names::MESH_ENV),
        trust_domain: reader.name(names::TRUST_DOMAIN_ENV),
        revision: reader.required(names::REVISION_ENV, revision),
        pod: reader.name("POD_NAME"),
        namespace: reader.name("POD_NAMESPACE"),
        uid: reader.required("POD_UID", uid),
        service_account: reader.name("SERVICE_ACCOUNT"),
    };
    let controller = reader.required(names::CONTROLLER_ENV, controller);
    let pod_ip = reader.required("POD_IP", |value| {
        value.parse::<IpAddr>().map(Some).map_err(|_| "must be an IP address".to_owned())
    });
    let log_level = reader.optional(names::LOG_LEVEL_ENV, LogLevel::Warning, log_level);
    let concurrency = reader.optional(names::CONCURRENCY_ENV, NonZeroU32::MIN, concurrency);
    let probes = reader.optional(names::PROBES_ENV, BTreeMap::new(), probes);
    let hook_key = reader.secret(names::HOOK_KEY_ENV, HookKey::parse);
    let grace = reader.optional(names::GRACE_ENV, DEFAULT_GRACE, grace);
    let swap_drain = reader.optional(names::SWAP_DRAIN_ENV, DEFAULT_SWAP_DRAIN, swap_drain);
    let slot = reader.optional(names::SLOT_ENV, None, slot);
    let image = reader.optional(names::VERSION_ENV, workload.revision.clone(), revision);
    match (controller, pod_ip, reader.problems.is_empty()) {
        (Some(controller), Some(pod_ip), true) => Ok(Environment {
            controller: if slot.is_some() {
                of_release(controller, &workload.revision, &image)
            } else {
                controller
            },
            workload: if slot.is_some() { Workload { revision: image, ..workload } } else { workload },
            envoy: EnvoySettings { log_level, concurrency },
            pod_ip,
            probes,
            hook_key,
            grace,
            slot,
            swap_drain,
        }),
        _ => Err(Problems(reader.problems)),
    }
}

/// A slot's image may be of another release than the pod was injected with, whose name is in the controller's.
fn of_release(controller: Controller, injected: &str, image: &str) -> Controller {
    let name =
        |release: &str| format!("meshwright-controller-{}.", release.replace(['.', '+'], "-").to_lowercase());
    match controller.host.strip_prefix(&name(injected)) {
        Some(rest) => Controller { host: format!("{}{rest}", name(image)), ..controller },
        None => controller,
    }
}

struct Reader<G> {
    get: G,
    problems: Vec<Problem>,
}

impl<G: Fn(&str) -> Option<String>> Reader<G> {
    fn required<T: Default>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        match (self.get)(name).filter(|value| !value.is_empty()) {
            Some(value) => self.checked(name, &value, parse).unwrap_or_default(),
            None => {
                self.problems.push(Problem::Missing(name));
                T::default()
            }
        }
    }

    fn optional<T>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        match (self.get)(name).filter(|value| !value.is_empty()) {
            Some(value) => self.checked(name, &value, parse).unwrap_or(default),
            None => default,
        }
    }

    /// One whose value stands in no message.
    fn secret<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = (self.get)(name).filter(|value| !value.is_empty())?;
        parse(&value)
            .map_err(|rule| self.problems.push(Problem::Invalid { name, value: "…".to_owned(), rule }))
            .ok()
    }

    fn name(&mut self, variable: &'static str) -> String {
        self.required(variable, dns_name)
    }

    fn checked<T>(
        &mut self,
        name: &'static str,
        value: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(value)
            .map_err(|rule| {
                let value = value.chars().take(100).collect();
                self.problems.push(Problem::Invalid { name, value, rule });
            })
            .ok()
    }
}

fn dns_name(value: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fine = value.len() <= 253
        && value.chars().all(allowed)
        && edge(value.chars().next())
        && edge(value.chars().next_back());
    fine.then(|| value.to_owned()).ok_or_else(|| "must be a DNS name in lower case".to_owned())
}

fn revision(value: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".+-_".contains(c);
    (value.len() <= 63 && value.chars().all(allowed))
        .then(|| value.to_owned())
        .ok_or_else(|| "must be a release such as 0.2.0".to_owned())
}

fn uid(value: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (value.len() <= 64 && value.chars().all(allowed))
        .then(|| value.to_owned())
        .ok_or_else(|| "must be the uid of a pod".to_owned())
}

fn controller(value: &str) -> Result<Option<Controller>, String> {
    let parsed = value.rsplit_once(':').and_then(|(host, port)| {
        let host = dns_name(host).ok()?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(Controller { host, port })
    });
    parsed.map(Some).ok_or_else(|| "must be <host>:<port>".to_owned())
}

fn log_level(value: &str) -> Result<LogLevel, String> {
    LogLevel::ALL
        .into_iter()
        .find(|level| level.as_str() == value)
        .ok_or_else(|| format!("must be one of {}", LogLevel::ALL.map(LogLevel::as_str).join(", ")))
}

fn concurrency(value: &str) -> Result<NonZeroU32, String> {
    let parsed = value.parse::<NonZeroU32>().ok().filter(|threads| threads.get() <= MAX_CONCURRENCY);
    parsed.ok_or_else(|| format!("must be a number of threads, 1 to {MAX_CONCURRENCY}"))
}

fn grace(value: &str) -> Result<Duration, String> {
    value.parse().map(Duration::from_secs).map_err(|_| "must be a number of seconds".to_owned())
}

/// Long enough for Envoy to tell every client to go (its drain), short enough to end before the next upgrade.
fn swap_drain(value: &str) -> Result<Duration, String> {
    let seconds = value.parse::<u64>().ok().filter(|seconds| (11..=3600).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "must be a number of seconds, 11 to 3600".to_owned())
}

fn slot(value: &str) -> Result<Option<Slot>, String> {
    Slot::parse(value).map(Some).ok_or_else(|| "must be a or b".to_owned())
}

fn probes(value: &str) -> Result<BTreeMap<String, ProbeTarget>, String> {
    serde_json::from_str(value).map_err(|error| format!("must be the JSON map of probes ({error})"))
}
