//! The access log: one JSON object per request or connection, on standard output.

use std::collections::BTreeMap;

use crds::mesh_config::AccessLog;
use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;

use super::Context;
use super::wire::{JsonFormat, StdoutLog, Text, Texts, any_as};

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

/// The access log that the settings ask for.
pub(super) fn access_log(context: Context<'_>, requests: bool) -> Option<accesslog::AccessLog> {
    match context.view.access_log {
        AccessLog::Off => return None,
        AccessLog::Json => {}
    }
    let request: &[_] = if requests { &REQUEST } else { &[] };
    let text = |(name, format): &(&str, &str)| ((*name).to_owned(), Text { text: (*format).to_owned() });
    let fields: BTreeMap<_, _> = CONNECTION.iter().chain(request).map(text).collect();
    let log = StdoutLog { log_format: Some(JsonFormat { json_format: Some(Texts { fields }) }) };
    let config = any_as("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", &log);
    Some(accesslog::AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
        ..Default::default()
    })
}
