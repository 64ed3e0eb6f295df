//! OSM's UpstreamTrafficSetting.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::UpstreamTrafficSettingSpec;
use crds::upstream_traffic_setting::{
    ConnectionSettings, HttpLocalRateLimit, LoadBalancing, LoadBalancingPolicy, OutlierDetection, Unit,
};

use super::About;
use super::osm_part::{
    Balance, Bucket, CallerSettings, Hashed, HttpLimit, Limited, Limits, Outliers, STATUSES, SettingPart,
    Timed,
};
use super::policy::{is_token, local_service, pattern};
use crate::problem::{Problem, Reason};

const MOST_ROUTES: usize = 64;
/// Envoy's own limit (`LocalRateLimit.response_headers_to_add`).
const MOST_HEADERS: usize = 10;

pub(super) fn setting(about: About<'_>, spec: &UpstreamTrafficSettingSpec) -> Result<SettingPart, Problem> {
    let namespace = &about.0.namespace;
    let host = about.host("spec.host", &spec.host)?;
    let service = local_service(&host, namespace);
    let mut labels = host.split('.');
    if let (Some(other), Some("svc")) = (labels.nth(1), labels.next())
        && other != namespace
    {
        let message = format!(
            "the service is in namespace {other}, but this kind only speaks for services of its own namespace \
             {namespace}; move it to {other}"
        );
        return Err(about.problem("spec.host", Reason::ForeignNamespace, message));
    }
    let local = spec.rate_limit.as_ref().and_then(|limit| limit.local.as_ref());
    let field = "spec.rateLimit.local";
    let tcp = local.and_then(|local| local.tcp.as_ref());
    let tcp = tcp
        .map(|tcp| bucket(about, &format!("{field}.tcp"), tcp.connections, tcp.unit, tcp.burst))
        .transpose()?;
    let http = local.and_then(|local| local.http.as_ref());
    let http = http.map(|http| http_limit(about, &format!("{field}.http"), http)).transpose()?;
    Ok(SettingPart {
        service: (!service.contains(['.', '*'])).then(|| service.to_owned()),
        callers: CallerSettings {
            outliers: spec.outlier_detection.as_ref().map(|one| outliers(about, one)).transpose()?,
            balance: spec.load_balancing.as_ref().map(|one| balance(about, one)).transpose()?,
            ..connections(about, spec.connection_settings.as_ref())?
        },
        limits: Limits { connections: tcp, requests: http, routes: routes(about, spec)? },
        host,
    })
}

fn connections(about: About<'_>, given: Option<&ConnectionSettings>) -> Result<CallerSettings, Problem> {
    let field = "spec.connectionSettings";
    let tcp = given.and_then(|given| given.tcp.clone()).unwrap_or_default();
    let http = given.and_then(|given| given.http.clone()).unwrap_or_default();
    let most = [
        (Limited::Connections, tcp.max_connections),
        (Limited::Requests, http.max_requests),
        (Limited::RequestsPerConnection, http.max_requests_per_connection.filter(|most| *most > 0)),
        (Limited::Pending, http.max_pending_requests),
        (Limited::Retries, http.max_retries),
    ];
    let times = [
        (Timed::Connect, "tcp.connectTimeout", &tcp.connect_timeout),
        (Timed::TcpIdle, "tcp.idleTimeout", &tcp.idle_timeout),
        (Timed::Request, "http.requestTimeout", &http.request_timeout),
        (Timed::HttpIdle, "http.idleTimeout", &http.idle_timeout),
    ];
    let mut timeouts = BTreeMap::new();
    for (what, name, text) in times {
        if let Some(duration) = about.duration(&format!("{field}.{name}"), text.as_deref())? {
            timeouts.insert(what, duration);
        }
    }
    let most = most.into_iter().filter_map(|(what, most)| Some((what, most?))).collect();
    Ok(CallerSettings { most, timeouts, outliers: None, balance: None })
}

fn bucket(
    about: About<'_>,
    field: &str,
    rate: u32,
    unit: Unit,
    burst: Option<u32>,
) -> Result<Bucket, Problem> {
    let burst = burst.unwrap_or(0);
    if rate == 0 || rate.checked_add(burst).is_none() {
        let message = "a limit is 1 or more, and with its burst at most 4294967295";
        return Err(about.problem(field, Reason::BadSetting, message));
    }
    Ok(Bucket { rate, seconds: unit.seconds(), burst })
}

fn http_limit(about: About<'_>, field: &str, given: &HttpLocalRateLimit) -> Result<HttpLimit, Problem> {
    let bad = |name: &str, message: String| {
        Err(about.problem(&format!("{field}.{name}"), Reason::BadSetting, message))
    };
    let status = given.response_status_code.filter(|status| *status != 0).unwrap_or(429);
    let known = u16::try_from(status).ok().filter(|status| STATUSES.contains(status));
    let Some(status) = known else {
        return bad(
            "responseStatusCode",
            format!("{status} is no status of an error; write 400 to 511, as in 429"),
        );
    };
    let given_headers = given.response_headers_to_add.as_deref().unwrap_or_default();
    about.at_most(&format!("{field}.responseHeadersToAdd"), MOST_HEADERS, given_headers.len())?;
    let mut headers = Vec::new();
    for header in given_headers {
        let name = header.name.to_ascii_lowercase();
        let value = header.value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if name == "host" || !is_token(&name) || header.value.len() > 4096 || !value {
            let message = "a header has a name of letters, digits and -, and a value of visible characters";
            return bad("responseHeadersToAdd", message.to_owned());
        }
        headers.push((name, header.value.clone()));
    }
    let bucket = bucket(about, field, given.requests, given.unit, given.burst)?;
    Ok(HttpLimit { bucket, status, headers })
}

fn routes(about: About<'_>, spec: &UpstreamTrafficSettingSpec) -> Result<Vec<(String, HttpLimit)>, Problem> {
    let given = spec.http_routes.as_deref().unwrap_or_default();
    about.at_most("spec.httpRoutes", MOST_ROUTES, given.len())?;
    let mut routes = Vec::new();
    for (index, one) in given.iter().enumerate() {
        let field = format!("spec.httpRoutes[{index}]");
        let path = pattern(about, &format!("{field}.path"), &one.path)?;
        let limit = one.rate_limit.as_ref().and_then(|limit| limit.local.as_ref());
        if let Some(limit) = limit {
            routes.push((path, http_limit(about, &format!("{field}.rateLimit.local"), limit)?));
        }
    }
    Ok(routes)
}

fn outliers(about: About<'_>, given: &OutlierDetection) -> Result<Outliers, Problem> {
    let field = "spec.outlierDetection";
    let percent = given.max_ejection_percent.unwrap_or(50);
    if percent > 100 {
        let message = format!("{percent} is more than all pods; write 0 to 100");
        return Err(about.problem(&format!("{field}.maxEjectionPercent"), Reason::BadSetting, message));
    }
    let interval = about.duration(&format!("{field}.interval"), given.interval.as_deref())?;
    let time = given.base_ejection_time.as_deref();
    Ok(Outliers {
        errors: given.consecutive_errors.unwrap_or(5),
        interval: interval.unwrap_or(Duration::from_secs(10)),
        ejection: about
            .duration(&format!("{field}.baseEjectionTime"), time)?
            .unwrap_or(Duration::from_secs(30)),
        most_percent: percent,
    })
}

fn balance(about: About<'_>, given: &LoadBalancing) -> Result<Balance, Problem> {
    let hash = match (&given.hash_header, &given.hash_cookie) {
        (Some(name), None) => Some(Hashed::Header(name.to_ascii_lowercase())),
        (None, Some(name)) => Some(Hashed::Cookie(name.clone())),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(hash_problem(about)),
    };
    let named = match &hash {
        Some(Hashed::Header(name) | Hashed::Cookie(name)) => is_token(name),
        None => true,
    };
    if !named || (given.policy == LoadBalancingPolicy::ConsistentHash) != hash.is_some() {
        return Err(hash_problem(about));
    }
    Ok(Balance { policy: given.policy, hash })
}

fn hash_problem(about: About<'_>) -> Problem {
    let message =
        "ConsistentHash, and only it, needs one of hashHeader and hashCookie, which is the name of one";
    about.problem("spec.loadBalancing", Reason::BadSetting, message)
}
