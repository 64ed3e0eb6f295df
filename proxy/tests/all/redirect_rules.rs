//! The redirect as text.

use proxy::init::rules::SidecarUser::{AnyOfRange, This};
use proxy::init::rules::{Exclusions, Family, Jumps, has_ipv6, render};

fn exclusions() -> Exclusions {
    Exclusions {
        outbound_ports: [9001, 22].into(),
        outbound_networks: ["10.1.2.3/16", "fd00:1::/32", "169.254.169.254/32"]
            .map(|n| n.parse().unwrap())
            .into(),
        inbound_ports: [9090].into(),
    }
}

#[test]
fn rules_for_ipv4() {
    insta::assert_snapshot!(render(Family::V4, &exclusions(), This(23_456), Jumps::default()));
}

#[test]
fn rules_for_ipv6() {
    insta::assert_snapshot!(render(Family::V6, &exclusions(), This(23_456), Jumps::default()));
}

#[test]
fn a_second_run_adds_no_second_jump() {
    let first = render(Family::V4, &Exclusions::default(), AnyOfRange, Jumps::default());
    let second = render(Family::V4, &Exclusions::default(), AnyOfRange, Jumps::found_in(&first));
    assert_eq!(first.matches("-j MESHWRIGHT_OUTBOUND").count(), 1);
    assert_eq!(second.matches("-A OUTPUT").count() + second.matches("-A PREROUTING").count(), 0);
    let half = Jumps { prerouting: true, output: false };
    assert!(
        render(Family::V4, &Exclusions::default(), AnyOfRange, half)
            .contains("-A OUTPUT -p tcp -j MESHWRIGHT_OUTBOUND")
    );
}

#[test]
fn any_address_beyond_loopback_makes_ipv6_present() {
    let loopback = "00000000000000000000000000000001 01 80 10 80       lo\n";
    let link_local = "fe80000000000000001122fffe334455 02 40 20 80     eth0\n";
    assert!(!has_ipv6(""));
    assert!(!has_ipv6(loopback));
    assert!(has_ipv6(&format!("{loopback}{link_local}")));
}

/// An injector of the release before this one does not say which user the sidecar has.
#[test]
fn without_a_user_the_rule_is_that_of_the_release_before() {
    let exact = render(Family::V4, &exclusions(), This(23_456), Jumps::default());
    let range = render(Family::V4, &exclusions(), AnyOfRange, Jumps::default());
    let before = "-m owner --uid-owner 20000-59999 --gid-owner 1337";
    assert_eq!(exact.replace("-m owner --uid-owner 23456 --gid-owner 1337", before), range);
    assert_eq!(range.matches(before).count(), 3);
}
