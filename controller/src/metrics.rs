//! Counts of the controller.

use mesh::ResourceType;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A resource type as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Type(pub ResourceType);

impl EncodeLabelValue for Type {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_str().encode(encoder)
    }
}

/// Label of the counts per type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PerType {
    /// The type.
    pub r#type: Type,
}

/// Label of the counts per kind of object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PerKind {
    /// The kind.
    pub kind: String,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum End {
    /// The sidecar went away.
    Closed,
    /// The certificate is not that of the pod that the stream says it is, or there is none.
    Refused,
    /// The pod did not become known in time.
    Unknown,
    /// This replica is behind the API server, or cannot know.
    Behind,
    /// A newer stream of the same pod took its place.
    Replaced,
    /// It did not read or acknowledge for too long.
    Stuck,
    /// It broke the protocol.
    Violation,
    /// Its pod opens streams too often.
    TooOften,
    /// The replica has as many streams as it takes.
    Full,
    /// It was open for long: its Envoy may find a replica with fewer.
    Aged,
    /// The replica had much more than its share: its Envoy may find one with fewer.
    OverShare,
    /// The certificate that opened it has expired.
    Expired,
    /// This replica stops.
    Stopping,
}

/// Label of the count of ended streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    /// Why.
    pub reason: End,
}

/// What the controller counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Sidecars with an open stream.
    pub streams: Gauge,
    /// Sidecars that would be this replica's share; 0: not known, or there is nobody to share with.
    pub share: Gauge,
    /// Streams that ended.
    pub ended: Family<Ended, Counter>,
    /// Responses sent.
    pub pushes: Family<PerType, Counter>,
    /// Resources sent, removals not counted.
    pub sent: Family<PerType, Counter>,
    /// Responses accepted.
    pub acks: Family<PerType, Counter>,
    /// Responses refused.
    pub nacks: Family<PerType, Counter>,
    /// Times that nothing was read from a stream for a while, because it asked for too much.
    pub paused: Counter,
    /// Rules that sidecars refused: each enforces the older ones that it has.
    pub older_rules: Gauge,
    /// Contents that sidecars are not sent because others refused them.
    pub withheld: Gauge,
    /// Bytes of responses, before HTTP/2 and TLS.
    pub bytes: Counter,
    /// Audiences whose configuration was computed from nothing.
    pub renders: Counter,
    /// Views of single services, receivers and rests that were computed.
    pub computed: Counter,
    /// Resources that were encoded.
    pub encoded: Counter,
    /// Audiences that were looked at, once for each service or rest.
    pub visited: Counter,
    /// Computations whose outcome was different and was published.
    pub published: Counter,
    /// Batches of changes that were handled.
    pub batches: Counter,
    /// Distinct audiences with a stream.
    pub audiences: Gauge,
    /// Distinct resources in memory.
    pub resources: Gauge,
    /// Objects that are skipped or not fully honoured.
    pub problems: Gauge,
    /// Git sources whose sealed commit is not (wholly) in force.
    pub sources_waiting: Gauge,
    /// Seconds since each watch was last heard of.
    pub watch_age: Family<PerKind, Gauge>,
}

impl Metrics {
    /// Registers the counts.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register("meshwright_xds_streams", "Sidecars with an open stream", m.streams.clone());
        let share = "Sidecars that would be this replica's share; 0 if there is nobody to share with";
        registry.register("meshwright_xds_share", share, m.share.clone());
        registry.register("meshwright_xds_streams_ended", "Streams that ended, by reason", m.ended.clone());
        registry.register("meshwright_xds_pushes", "Responses sent, by type", m.pushes.clone());
        registry.register("meshwright_xds_sent_resources", "Resources sent, by type", m.sent.clone());
        registry.register("meshwright_xds_acks", "Responses that sidecars accepted", m.acks.clone());
        registry.register("meshwright_xds_nacks", "Responses that sidecars refused", m.nacks.clone());
        let paused = "Pauses of streams that asked for too much";
        registry.register("meshwright_xds_paused", paused, m.paused.clone());
        let older = "Rules that sidecars refused: each of them enforces the older ones that it has";
        registry.register("meshwright_xds_older_rules", older, m.older_rules.clone());
        let withheld = "Resources that sidecars are not sent, because others refused them";
        registry.register("meshwright_xds_withheld", withheld, m.withheld.clone());
        registry.register("meshwright_xds_sent_bytes", "Bytes of responses", m.bytes.clone());
        registry.register("meshwright_renders", "Audiences computed from nothing", m.renders.clone());
        registry.register("meshwright_views", "Views of services and rests computed", m.computed.clone());
        registry.register("meshwright_encoded_resources", "Resources encoded", m.encoded.clone());
        registry.register("meshwright_visits", "Looks of an audience at a service", m.visited.clone());
        registry.register("meshwright_snapshots_published", "Computed and different", m.published.clone());
        registry.register("meshwright_batches", "Batches of changes handled", m.batches.clone());
        registry.register("meshwright_audiences", "Distinct audiences with a stream", m.audiences.clone());
        registry.register("meshwright_resources", "Distinct resources in memory", m.resources.clone());
        registry.register("meshwright_problems", "Objects not (fully) honoured", m.problems.clone());
        registry.register(
            "meshwright_sources_waiting",
            "Git sources whose sealed commit is not wholly in force",
            m.sources_waiting.clone(),
        );
        registry.register(
            "meshwright_watch_age_seconds",
            "Seconds since a watch of the API server was last heard of, by kind",
            m.watch_age.clone(),
        );
        m
    }

    /// The label of a type.
    #[must_use]
    pub fn per(kind: ResourceType) -> PerType {
        PerType { r#type: Type(kind) }
    }
}
