//! Releases read each other's reports: while one takes over from the other, an operator asks controllers of both.

use super::*;
use crds::fleet::{HoldingReport, LeftOut, RootReport, SecretReport};

mod release_0_1_0;

fn rejection(older_rules: bool) -> Rejection {
    Rejection {
        resource_type: "Listener".to_owned(),
        names: vec!["inbound".to_owned()],
        error: "Envoy says no".to_owned(),
        older_rules,
    }
}

/// A report of today with something in every field.
fn today() -> FleetReport {
    let text = str::to_owned;
    FleetReport {
        replica: text("controller-1"),
        version: text("0.2.0"),
        synced: true,
        proxies: vec![ProxyReport {
            namespace: text("shop"),
            pod: text("store-1"),
            uid: text("1234"),
            version: text("0.2.0"),
            envoy: text("1.38.0"),
            connected_since: text("2026-01-01T00:00:00Z"),
            in_sync: false,
            rejected: vec![rejection(true), rejection(false)],
            rejected_more: 7,
        }],
        problems: vec![ProblemReport {
            kind: text("Egress"),
            namespace: text("shop"),
            name: text("out"),
            reason: text("BadHost"),
            message: text("spec.hosts[0]: no"),
        }],
        authority: Some(AuthorityReport {
            roots: vec![RootReport {
                fingerprint: text("aa"),
                generation: 2,
                secret: Some(SecretReport { name: text("root"), uid: text("u") }),
                not_before: text("2026-01-01T00:00:00Z"),
                not_after: text("2027-01-01T00:00:00Z"),
            }],
            serial: 3,
            signing: text("aa"),
            trusted: vec![text("aa")],
            serving: text("aa"),
            problem: Some(text("Reason: message")),
        }),
        holdings: vec![HoldingReport {
            namespace: text("shop"),
            pod: text("store-1"),
            uid: text("1234"),
            sequence: 4,
            serial: 3,
            roots: vec![text("aa")],
            issuer: text("aa"),
        }],
        left_out: LeftOut { rejections: 1, names: 2, texts: 3, problems: 4 },
    }
}

/// The same without what release 0.1.0 does not know.
fn as_of_0_1_0(mut report: FleetReport) -> FleetReport {
    report.left_out = LeftOut::default();
    for proxy in &mut report.proxies {
        proxy.rejected_more = 0;
        proxy.rejected.iter_mut().for_each(|one| one.older_rules = false);
    }
    report
}

#[test]
fn release_0_1_0_reads_what_it_knows_of_a_report_of_today() {
    let text = serde_json::to_vec(&today()).unwrap();
    for field in ["rejectedMore", "olderRules", "leftOut"] {
        assert!(String::from_utf8_lossy(&text).contains(&format!("\"{field}\"")), "{field}");
    }
    let read: release_0_1_0::FleetReport = serde_json::from_slice(&text).unwrap();
    // All of it, and nothing else: written again it is what we write without the new fields.
    let known = serde_json::to_value(as_of_0_1_0(today())).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), known);
    assert_eq!((read.proxies[0].rejected.len(), read.proxies[0].in_sync), (2, false));
}

#[test]
fn a_report_of_release_0_1_0_is_read_as_one_that_tells_nothing_of_what_is_new() {
    let written: release_0_1_0::FleetReport =
        serde_json::from_value(serde_json::to_value(today()).unwrap()).unwrap();
    let text = serde_json::to_vec(&written).unwrap();
    assert_eq!(serde_json::from_slice::<FleetReport>(&text).unwrap(), as_of_0_1_0(today()));
    // As few fields as it ever wrote.
    let empty = serde_json::to_vec(&release_0_1_0::FleetReport::default()).unwrap();
    assert_eq!(serde_json::from_slice::<FleetReport>(&empty).unwrap(), FleetReport::default());
    let text = r#"{"replica": "c", "version": "0.1.0", "synced": true, "problems": [], "proxies": [{
        "namespace": "shop", "pod": "p", "uid": "u", "version": "0.1.0", "envoy": "1.38.0",
        "connectedSince": "2026-01-01T00:00:00Z", "inSync": true,
        "rejected": [{"resourceType": "Route", "names": ["in|80"], "error": "no"}]}]}"#;
    let read: FleetReport = serde_json::from_str(text).unwrap();
    let proxy = &read.proxies[0];
    assert_eq!((proxy.rejected_more, proxy.rejected[0].older_rules), (0, false));
    assert_eq!((read.left_out, read.authority, read.holdings.len()), (LeftOut::default(), None, 0));
}
