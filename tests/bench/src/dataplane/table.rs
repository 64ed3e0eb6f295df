//! The table.

use std::collections::BTreeMap;

use crate::{Kind, Sample};

type Round = BTreeMap<Kind, Sample>;

/// The middle of the rounds.
fn median(rounds: &[Round], value: impl Fn(&Round) -> f64) -> f64 {
    crate::load::percentile(rounds.iter().map(value).collect(), 50)
}

/// Each kind, and ours against by hand.
pub fn of(rounds: &[Round]) -> String {
    let mut text = String::new();
    let mut line = |one: String| {
        text.push_str(&one);
        text.push('\n');
    };
    line(
        "| path | 1 connection p50 | steady p50 / p90 | CPU of both sidecars per request | private memory of both |"
            .to_owned(),
    );
    line("|---|---|---|---|---|".to_owned());
    for (kind, name) in [
        (Kind::Direct, "direct"),
        (Kind::HttpByHand, "HTTP, by hand"),
        (Kind::HttpOurs, "HTTP, Meshwright"),
        (Kind::TcpByHand, "TCP, by hand"),
        (Kind::TcpOurs, "TCP, Meshwright"),
    ] {
        let of = |value: fn(&Sample) -> f64| median(rounds, |round| value(&round[&kind]));
        line(format!(
            "| {name} | {:.0} µs | {:.0} / {:.0} µs | {:.0} µs | {:.1} MB |",
            of(|sample| sample.closed_p50),
            of(|sample| sample.p50),
            of(|sample| sample.p90),
            of(|sample| sample.cpu),
            of(|sample| sample.memory) / 1e6 + 0.0,
        ));
    }
    line(String::new());
    for (name, ours, by_hand) in
        [("HTTP", Kind::HttpOurs, Kind::HttpByHand), ("TCP", Kind::TcpOurs, Kind::TcpByHand)]
    {
        let ratio = |value: fn(&Sample) -> f64| {
            let ratios: Vec<_> =
                rounds.iter().map(|round| value(&round[&ours]) / value(&round[&by_hand])).collect();
            let (low, high) = (
                ratios.iter().copied().fold(f64::NAN, f64::min),
                ratios.iter().copied().fold(f64::NAN, f64::max),
            );
            format!("{:.2} ({low:.2} to {high:.2})", crate::load::percentile(ratios, 50))
        };
        line(format!(
            "- {name}, Meshwright / by hand: 1 connection p50 {}, steady p50 {}, CPU {}",
            ratio(|sample| sample.closed_p50),
            ratio(|sample| sample.p50),
            ratio(|sample| sample.cpu),
        ));
    }
    text
}
