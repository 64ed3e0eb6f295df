//! Keeps a report readable: the operator reads so much of a replica's report and no more, and without it upgrades and
//! rotations stop. What sidecars say of themselves is theirs to choose, so that everybody has a share.
//!
//! Every sidecar stays in the report, and so does whether it rejects something; what is left out is counted.

use std::collections::BTreeMap;

use crds::fleet::{FleetReport, LeftOut, ProblemReport, Rejection};

/// Names of one rejection.
pub(super) const NAMES: usize = 16;
/// Bytes of one text.
pub(super) const TEXT: usize = 1024;
/// Bytes of a name: longer than any that we make.
const NAME: usize = 512;
/// Bytes of what says a release.
const RELEASE: usize = 64;

/// What a report may hold, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// Of all rejections together, and of one sidecar.
    rejections: usize,
    of_one: usize,
    /// Of all problems together.
    problems: usize,
    /// What everybody may say, however many there are.
    least: usize,
}

/// A quarter of what the operator reads is for words; the sidecars and holders themselves have the rest.
impl Default for Bound {
    fn default() -> Self {
        Self { rejections: 8 << 20, of_one: 16 << 10, problems: 8 << 20, least: 256 }
    }
}

impl Bound {
    pub(super) fn apply(&self, report: &mut FleetReport) {
        let mut out = LeftOut::default();
        let rejecting = report.proxies.iter().filter(|proxy| !proxy.rejected.is_empty()).count();
        let share = (self.rejections / rejecting.max(1)).clamp(self.least, self.of_one);
        for proxy in &mut report.proxies {
            for text in [&mut proxy.version, &mut proxy.envoy] {
                clip(text, RELEASE, &mut out);
            }
            rejections(&mut proxy.rejected, share, &mut out);
        }
        self.problems(&mut report.problems, &mut out);
        report.left_out = out;
    }

    /// Problems of one namespace take no place from those of another.
    fn problems(&self, problems: &mut Vec<ProblemReport>, out: &mut LeftOut) {
        let mut spaces: BTreeMap<String, usize> = BTreeMap::new();
        for problem in problems.iter() {
            spaces.entry(problem.namespace.clone()).or_default();
        }
        let share = (self.problems / spaces.len().max(1)).max(self.least * 4);
        let before = problems.len();
        problems.retain_mut(|problem| {
            clip(&mut problem.message, TEXT, out);
            let said = spaces.entry(problem.namespace.clone()).or_default();
            let size = problem.message.len() + problem.name.len() + problem.namespace.len() + 100;
            let fits = *said + size <= share;
            *said += if fits { size } else { 0 };
            fits
        });
        out.problems += (before - problems.len()) as u64;
    }
}

/// Keeps as many rejections of a sidecar as fit, and at least that there is one.
fn rejections(all: &mut Vec<Rejection>, share: usize, out: &mut LeftOut) {
    let (before, mut said) = (all.len(), 0);
    let mut kept = Vec::new();
    for mut rejection in std::mem::take(all) {
        clip(&mut rejection.error, TEXT.min(share / 2), out);
        let names = rejection.names.len();
        rejection.names.truncate(NAMES);
        let mut left = share.saturating_sub(said + rejection.error.len() + 100);
        rejection.names.retain_mut(|name| {
            clip(name, NAME, out);
            let fits = name.len() + 3 <= left;
            left -= if fits { name.len() + 3 } else { 0 };
            fits
        });
        out.names += (names - rejection.names.len()) as u64;
        said +=
            rejection.error.len() + 100 + rejection.names.iter().map(|name| name.len() + 3).sum::<usize>();
        if kept.is_empty() || said <= share {
            kept.push(rejection);
        } else {
            break;
        }
    }
    out.rejections += (before - kept.len()) as u64;
    *all = kept;
}

fn clip(text: &mut String, most: usize, out: &mut LeftOut) {
    if text.len() > most {
        *text = clipped(text, most);
        out.texts += 1;
    }
}

/// The beginning of a text, and a sign that it is not all of it.
pub(super) fn clipped(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most.saturating_sub(3)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::fleet::ProxyReport;

    fn proxy(number: usize, rejections: usize, names: usize, words: usize) -> ProxyReport {
        let rejection = Rejection {
            resource_type: "Listener".to_owned(),
            names: (0..names).map(|name| format!("out|{}|{name}", "n".repeat(400))).collect(),
            error: "ö".repeat(words),
            older_rules: false,
        };
        ProxyReport {
            namespace: format!("space-{}", number % 10),
            pod: format!("pod-{number}"),
            uid: "0".repeat(36),
            version: "0.2.0".to_owned(),
            envoy: "1.38.0".to_owned(),
            connected_since: "2026-01-01T00:00:00Z".to_owned(),
            in_sync: false,
            rejected: vec![rejection; rejections],
            rejected_more: 0,
        }
    }

    fn size(report: &FleetReport) -> usize {
        serde_json::to_vec(report).unwrap().len()
    }

    /// 16 pods that say as much as a request may hold, 2,000 honest ones.
    #[test]
    fn what_few_sidecars_say_makes_no_report_too_long_and_hides_nobody() {
        let mut proxies: Vec<_> = (0..16)
            .map(|number| ProxyReport { version: "9".repeat(4 << 20), ..proxy(number, 40, 300, 200_000) })
            .collect();
        let honest = proxy(0, 0, 0, 0);
        let refusing = proxy(17, 1, 2, 40);
        proxies
            .extend((100..2100).map(|number| ProxyReport { pod: format!("pod-{number}"), ..honest.clone() }));
        proxies.push(refusing.clone());
        let mut report = FleetReport { proxies, ..FleetReport::default() };
        Bound::default().apply(&mut report);
        assert!(size(&report) < 2 << 20, "{} bytes", size(&report));
        assert_eq!(report.proxies.len(), 2017);
        assert_eq!(report.proxies.iter().filter(|proxy| !proxy.rejected.is_empty()).count(), 17);
        assert_eq!(report.proxies.last(), Some(&refusing), "an honest word is left as it is");
        let LeftOut { rejections, names, texts, problems } = report.left_out;
        assert!(rejections > 0 && names > 0 && texts >= 16 && problems == 0);
        let kept: usize = report.proxies.iter().map(|proxy| proxy.rejected.len()).sum();
        assert_eq!(rejections + kept as u64, 16 * 40 + 1, "counts are exact");
    }

    #[test]
    fn every_pod_of_a_hostile_namespace_together_stays_within_the_bound() {
        let proxies = (0..5000).map(|number| proxy(number, 3, 20, 4000));
        let mut report = FleetReport { proxies: proxies.collect(), ..FleetReport::default() };
        Bound::default().apply(&mut report);
        assert!(size(&report) < 16 << 20, "{} bytes", size(&report));
        assert!(report.proxies.iter().all(|proxy| !proxy.rejected.is_empty()));
    }

    #[test]
    fn problems_of_one_namespace_push_out_none_of_another() {
        let problem = |namespace: &str, number: usize| ProblemReport {
            kind: "TrafficTarget".to_owned(),
            namespace: namespace.to_owned(),
            name: format!("t-{number}"),
            reason: "NotFound".to_owned(),
            message: "m".repeat(3000),
        };
        let mut problems: Vec<_> = (0..20_000).map(|number| problem("attacker", number)).collect();
        problems.push(problem("shop", 0));
        let mut report = FleetReport { problems, ..FleetReport::default() };
        Bound::default().apply(&mut report);
        assert!(size(&report) < 8 << 20, "{} bytes", size(&report));
        assert_eq!(report.problems.last().map(|problem| problem.namespace.as_str()), Some("shop"));
        assert_eq!(report.left_out.problems + report.problems.len() as u64, 20_001);
    }

    #[test]
    fn what_an_older_release_sends_and_reads() {
        let old = r#"{"replica":"c","version":"0.1.0","synced":true,"proxies":[],"problems":[]}"#;
        let report: FleetReport = serde_json::from_str(old).unwrap();
        assert!(report.left_out.nothing());
        assert!(
            !serde_json::to_string(&report).unwrap().contains("leftOut"),
            "nothing new when nothing is left out"
        );
    }

    #[test]
    fn a_text_is_cut_between_letters() {
        assert_eq!(clipped("örtlich", 7), "ört…");
        assert_eq!(clipped("short", 5), "short");
        assert_eq!(clipped("öööööö", 4), "…");
    }
}
