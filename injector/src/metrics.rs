//! Counts and times of the webhooks. Every label value is known from the start, so that rates start at zero.

use injector::{Decision, DenyReason, Reason};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds; the API server waits for us while a pod is being created.
const BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabel {
    path: &'static str,
}

/// Which webhook.
#[derive(Debug, Clone, Copy)]
pub enum Path {
    /// `/inject`
    Inject,
    /// `/validate`
    Validate,
}

impl Path {
    fn name(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::Validate => "validate",
        }
    }
}

/// Counts and times of the webhooks.
#[derive(Debug, Clone)]
pub struct Metrics {
    decisions: Family<DecisionLabel, Counter>,
    judged: Family<DecisionLabel, Counter>,
    seconds: Family<PathLabel, Histogram>,
}

impl Metrics {
    /// Registers everything under `meshwright_injector_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            decisions: Family::default(),
            judged: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        };
        let registry = registry.sub_registry_with_prefix("meshwright_injector");
        registry.register("decisions", "Decisions about pods by reason", metrics.decisions.clone());
        registry.register("judged", "Policies judged", metrics.judged.clone());
        registry.register("request_seconds", "Time to answer a webhook", metrics.seconds.clone());
        let reasons = Reason::ALL.iter().map(|reason| reason.name());
        let denials = DenyReason::ALL.iter().map(|reason| reason.name());
        for decision in std::iter::once("Injected").chain(reasons).chain(denials) {
            drop(metrics.decisions.get_or_create(&DecisionLabel { decision }));
        }
        metrics
    }

    /// Counts a decision about a pod.
    pub fn decided(&self, decision: &Decision) {
        self.decisions.get_or_create(&DecisionLabel { decision: decision.label() }).inc();
    }

    /// Counts a request that could not be read.
    pub fn unreadable(&self) {
        self.decisions.get_or_create(&DecisionLabel { decision: DenyReason::Unreadable.name() }).inc();
    }

    /// Counts a judged policy.
    pub fn judged(&self, allowed: bool) {
        let decision = if allowed { "Accepted" } else { "Refused" };
        self.judged.get_or_create(&DecisionLabel { decision }).inc();
    }

    /// Notes how long an answer took.
    pub fn took(&self, path: Path, seconds: f64) {
        self.seconds.get_or_create(&PathLabel { path: path.name() }).observe(seconds);
    }
}
