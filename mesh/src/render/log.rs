//! The access log: one JSON object per request or connection, on standard output, when it has ended.

use std::collections::BTreeMap;

use crds::mesh_config::AccessLog;
use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;

use super::Context;
use super::rbac::AUDIT;
use super::wire::{JsonFormat, StdoutLog, Text, Texts, any_as, no};

/// Of connections and requests.
const CONNECTION: [(&str, &str); 10] = [
    ("start_time", "%START_TIME%"),
    ("duration_ms", "%DURATION%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("termination", "%CONNECTION_TERMINATION_DETAILS%"),
    ("caller", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
];

/// Of requests. The path goes without its query, which may hold secrets.
const REQUEST: [(&str, &str); 7] = [
    ("method", "%REQ(:METHOD)%"),
    ("path", "%PATH(NQ:PATH)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
];

/// What is logged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Requests.
    Requests,
    /// Connections whose bytes nobody reads.
    Connections,
}

/// The access log that the settings ask for.
pub(super) fn access_log(context: Context<'_>, of: Of) -> Option<accesslog::AccessLog> {
    match context.view.access_log {
        AccessLog::Off => None,
        AccessLog::Json => Some(log(of, &[])),
    }
}

/// What `Audit` lets through and `Enforce` would not, whatever the settings ask for: nobody switches enforcement on who
/// does not know who would be shut out. Envoy looks at one field of what is allowed, and writes nothing.
pub(super) fn would_be_denied(of: Of) -> accesslog::AccessLog {
    let filter = match of {
        Of::Requests => "envoy.filters.http.rbac",
        Of::Connections => "envoy.filters.network.rbac",
    };
    let segment =
        matcher::metadata_matcher::path_segment::Segment::Key(format!("{AUDIT}shadow_engine_result"));
    let denied = matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact("denied".to_owned())),
        ..Default::default()
    };
    let matcher = matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![matcher::metadata_matcher::PathSegment { segment: Some(segment) }],
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(denied)),
        }),
        invert: false,
    };
    let only = accesslog::MetadataFilter { matcher: Some(matcher), match_if_key_not_found: no() };
    let only = accesslog::access_log_filter::FilterSpecifier::MetadataFilter(only);
    let filter = accesslog::AccessLogFilter { filter_specifier: Some(only) };
    accesslog::AccessLog { filter: Some(filter), ..log(of, &[("authorization", "would be denied")]) }
}

fn log(of: Of, more: &[(&str, &str)]) -> accesslog::AccessLog {
    let request: &[_] = match of {
        Of::Requests => &REQUEST,
        Of::Connections => &[],
    };
    let text = |(name, format): &(&str, &str)| ((*name).to_owned(), Text { text: (*format).to_owned() });
    let fields: BTreeMap<_, _> = CONNECTION.iter().chain(request).chain(more).map(text).collect();
    let log = StdoutLog { log_format: Some(JsonFormat { json_format: Some(Texts { fields }) }) };
    let config = any_as("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", &log);
    accesslog::AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
