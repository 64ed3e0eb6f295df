//! A controller that goes away between the listeners and their routes. Envoy waits for routes for some time, and then goes on
//! without and answers 404; one that would take over must not.

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http_filter;
use envoy_types::pb::google::protobuf::{Any, Duration};

use super::*;

/// What [`serving`] serves, with the routes of the inbound listener as a resource of their own.
fn referring() -> Configuration {
    use http_filter::http_connection_manager::RouteSpecifier;
    let mut configuration = serving();
    let inner = configuration[1].1[0].resource.as_mut().unwrap();
    let mut inbound = listener::Listener::decode(inner.value.as_slice()).unwrap();
    let Some(listener::filter::ConfigType::TypedConfig(filter)) =
        &mut inbound.filter_chains[0].filters[0].config_type
    else {
        panic!("an HTTP connection manager")
    };
    let mut manager = http_filter::HttpConnectionManager::decode(filter.value.as_slice()).unwrap();
    let source = core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        // Much shorter than a launcher waits.
        initial_fetch_timeout: Some(Duration { seconds: 2, nanos: 0 }),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    };
    let refer = RouteSpecifier::Rds(http_filter::Rds {
        config_source: Some(source),
        route_config_name: "app".into(),
    });
    let Some(RouteSpecifier::RouteConfig(mut routes)) = manager.route_specifier.replace(refer) else {
        panic!("routes")
    };
    routes.name = "app".into();
    filter.value = manager.encode_to_vec();
    inner.value = inbound.encode_to_vec();
    let kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    let routes = Resource {
        name: "app".into(),
        version: "1".into(),
        resource: Some(Any { type_url: kind.to_owned(), value: routes.encode_to_vec() }),
        ..Resource::default()
    };
    configuration.push((kind, vec![routes]));
    configuration
}

/// The same from a controller that dies before it has sent the routes.
fn without_routes() -> Configuration {
    let mut configuration = referring();
    configuration.pop();
    configuration
}

#[test]
fn an_envoy_that_gave_up_waiting_for_routes_does_not_take_over() {
    isolated("swap::routes::an_envoy_that_gave_up_waiting_for_routes_does_not_take_over", || {
        let mut pod = Pod::start(ENVOYS[0]);
        let load = pod.load();
        for (slot, version) in [(Slot::B, ENVOYS[1]), (Slot::A, ENVOYS[0])] {
            pod.controller.configure(without_routes());
            let program = pod.envoy(version);
            pod.replace(slot, &program);
            assert_eq!(pod.exit_code(slot), Some(proxy::swap::FAILED), "{}", pod.log(slot));
            let log = pod.log(slot);
            assert!(log.contains("goes on without routes that the controller did not send: app"), "{log}");
            traffic(&load);
            // The controller is back.
            pod.controller.configure(referring());
            pod.restart(slot, &program);
            pod.until_live(slot);
            assert_eq!(envoy_version(&pod), version);
            traffic(&load);
            until("the old one has drained and parks", || (!pod.shared.is_alive(slot.other())).then_some(()));
        }
        println!("{} requests, none failed", no_failure(load));
    });
}
