//! Identities: mutual TLS 1.3 with the certificate and trust bundle that `meshwright-proxy` keeps on file.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::BoolValue;

use super::Context;
use super::admit::Holder;
use super::wire::{any, seconds};
use crate::view::Ingress;

/// Name of Envoy's TLS transport socket.
const TLS: &str = "envoy.transport_sockets.tls";

/// Who must be at the other end.
pub(super) enum Peer {
    /// A certificate with exactly this SPIFFE id.
    Exactly(Vec<String>),
    /// Any member of the trust domain.
    Member(String),
}

/// The client's side. `alpn` is empty for plain connections.
pub(super) fn client(context: Context<'_>, peer: &Peer, sni: String, alpn: &[&str]) -> core::TransportSocket {
    let names = match peer {
        Peer::Exactly(ids) => {
            ids.iter().map(|id| san(matcher::string_matcher::MatchPattern::Exact(id.clone()))).collect()
        }
        Peer::Member(domain) => vec![member(domain)],
    };
    let message = tls::UpstreamTlsContext {
        common_tls_context: Some(common(context, names, alpn)),
        sni,
        ..Default::default()
    };
    core::TransportSocket {
        name: TLS.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&message))),
    }
}

/// The server's side, for callers with a certificate of these holders (never none: Envoy takes no names for any name)
/// and, where `ingress` has it so, for callers without one; then the rules tell them apart. Sessions are not resumed: a resumed one would not look at the certificate again, and mesh
/// connections are few and long.
pub(super) fn server(
    context: Context<'_>,
    alpn: &[&str],
    ingress: &Ingress,
    holders: &BTreeSet<Holder>,
) -> core::TransportSocket {
    // Where it must see a name, Envoy lets nobody in without a certificate.
    let holders = holders.iter().filter(|_| !ingress.certless());
    let names = holders.flat_map(|holder| match holder {
        Holder::Member => vec![member(&context.view.trust_domain)],
        Holder::Exactly(name) => caller_names(name).collect(),
    });
    let mut common = common(context, names.collect(), alpn);
    if !ingress.tls.is_empty() {
        // Ingress controllers may know no newer version.
        common.tls_params = common.tls_params.map(|params| tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
            ..params
        });
    }
    let message = tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        // A certificate that is shown must be one that the root vouches for in any case.
        require_client_certificate: Some(BoolValue { value: !ingress.certless() }),
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(
            tls::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(true),
        ),
        ..Default::default()
    };
    core::TransportSocket {
        name: TLS.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&message))),
    }
}

/// A name of a caller: a URI, or the DNS name of one from outside the mesh.
fn caller_names(name: &str) -> impl Iterator<Item = tls::SubjectAltNameMatcher> + use<> {
    let exactly = || matcher::string_matcher::MatchPattern::Exact(name.to_owned());
    let dns = tls::subject_alt_name_matcher::SanType::Dns;
    let other = (!name.contains("://")).then(|| san_of(dns, exactly()));
    [san(exactly())].into_iter().chain(other)
}

/// The name of any member of a trust domain.
fn member(trust_domain: &str) -> tls::SubjectAltNameMatcher {
    san(matcher::string_matcher::MatchPattern::Prefix(members(trust_domain)))
}

/// What the SPIFFE ids of a trust domain begin with.
pub(super) fn members(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/")
}

fn san(pattern: matcher::string_matcher::MatchPattern) -> tls::SubjectAltNameMatcher {
    san_of(tls::subject_alt_name_matcher::SanType::Uri, pattern)
}

fn san_of(
    kind: tls::subject_alt_name_matcher::SanType,
    pattern: matcher::string_matcher::MatchPattern,
) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() }),
        ..Default::default()
    }
}

fn common(
    context: Context<'_>,
    names: Vec<tls::SubjectAltNameMatcher>,
    alpn: &[&str],
) -> tls::CommonTlsContext {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let version = tls::tls_parameters::TlsProtocol::TlSv13;
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: version.into(),
            tls_maximum_protocol_version: version.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret(context, "identity")],
        alpn_protocols: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(tls::CertificateValidationContext {
                    match_typed_subject_alt_names: names,
                    ..Default::default()
                }),
                validation_context_sds_secret_config: Some(secret(context, "trust")),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

/// A secret on file, read again when its folder changes.
fn secret(context: Context<'_>, name: &str) -> tls::SdsSecretConfig {
    let folder = core::WatchedDirectory { path: context.secrets.to_owned(), ..Default::default() };
    let path = core::PathConfigSource {
        path: format!("{}/{name}.json", context.secrets),
        watched_directory: Some(folder),
        ..Default::default()
    };
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            resource_api_version: core::ApiVersion::V3.into(),
            initial_fetch_timeout: seconds(5),
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::PathConfigSource(path)),
            ..Default::default()
        }),
    }
}
