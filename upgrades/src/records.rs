//! Which record (`MeshUpgrade`) a mesh's wanted and effective release call for.

use crate::catalogue::{Catalogue, Unreachable};

/// A record as far as this decision needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Release that was in effect.
    pub from: String,
    /// Release to go to.
    pub to: String,
    /// How it stands.
    pub state: State,
}

/// How a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not over.
    Running,
    /// Over; the same upgrade may be made again.
    Over,
    /// Went back since a person set `spec.abort`, and the MeshConfig has not been seen to ask for something else.
    Aborted,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No upgrade, and why.
    Idle(Idle),
    /// Make a record. Those of earlier upgrades stay, whatever they were from and to.
    Begin {
        /// Its name.
        name: String,
        /// Release in effect.
        from: String,
        /// Release wanted.
        to: String,
        /// Records of the same upgrade that are over and too many, the oldest first.
        forget: Vec<String>,
    },
    /// Go on with this one.
    Continue(String),
    /// Begin nothing more on this one, since the MeshConfig asks for what cannot be.
    Hold {
        /// The record.
        name: String,
        /// Why the wanted release cannot be.
        why: Unreachable,
    },
    /// This one is over: the MeshConfig asks for a third release that can be reached.
    Supersede {
        /// The record.
        name: String,
        /// What it asks for.
        by: String,
    },
    /// An abort is over for good: the MeshConfig asks for the old release again.
    Close(String),
}

/// Why there is no upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idle {
    /// Nothing is in effect yet: this is an installation.
    NothingInEffect,
    /// The wanted release is in effect.
    UpToDate,
    /// The wanted release cannot be.
    Unreachable(Unreachable),
    /// A person aborted this upgrade, and the MeshConfig still asks for it.
    Aborted(String),
}

/// How many records of one and the same upgrade that are over are kept.
pub const KEPT: usize = 10;

/// Name of the first record of an upgrade.
#[must_use]
pub fn name(mesh: &str, from: &str, to: &str) -> String {
    format!("{mesh}-{}-to-{}", crds::labels::dashed(from), crds::labels::dashed(to))
}

/// Name of the next record of an upgrade, beside those that are there: the first one's, or that with a number behind it.
#[must_use]
pub fn next_name<'a>(mesh: &str, from: &str, to: &str, taken: impl Iterator<Item = &'a str>) -> String {
    let first = name(mesh, from, to);
    match taken.filter_map(|taken| number(&first, taken)).max() {
        None => first,
        Some(last) => format!("{first}-{}", last.saturating_add(1)),
    }
}

/// Which record of an upgrade it is, from 1; nothing when it is another's.
fn number(first: &str, name: &str) -> Option<u32> {
    match name.strip_prefix(first)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse().ok(),
    }
}

/// What to do for a mesh; `effective` is empty before the first installation is complete.
#[must_use]
pub fn decide(
    mesh: &str,
    effective: &str,
    wanted: &str,
    records: &[Record],
    catalogue: &Catalogue,
) -> Decision {
    let mut running = records.iter().filter(|record| record.state == State::Running);
    if let Some(record) = running.next() {
        return running_record(record, effective, wanted, catalogue);
    }
    if effective.is_empty() {
        return Decision::Idle(Idle::NothingInEffect);
    }
    if effective == wanted {
        let aborted = records.iter().find(|record| record.state == State::Aborted && record.from == wanted);
        return aborted.map_or(Decision::Idle(Idle::UpToDate), |record| Decision::Close(record.name.clone()));
    }
    if let Err(why) = catalogue.reachable(effective, wanted) {
        return Decision::Idle(Idle::Unreachable(why));
    }
    let same: Vec<&Record> =
        records.iter().filter(|record| record.from == effective && record.to == wanted).collect();
    if let Some(aborted) = same.iter().find(|record| record.state == State::Aborted) {
        return Decision::Idle(Idle::Aborted(aborted.name.clone()));
    }
    let taken = records.iter().map(|record| record.name.as_str());
    let begun = next_name(mesh, effective, wanted, taken);
    let first = name(mesh, effective, wanted);
    let mut over: Vec<_> = same.iter().map(|record| (number(&first, &record.name), &record.name)).collect();
    over.sort();
    let forget = over.iter().take(over.len().saturating_sub(KEPT)).map(|(_, name)| (*name).clone());
    let (from, to) = (effective.to_owned(), wanted.to_owned());
    Decision::Begin { name: begun, from, to, forget: forget.collect() }
}

fn running_record(record: &Record, effective: &str, wanted: &str, catalogue: &Catalogue) -> Decision {
    let name = record.name.clone();
    if wanted == record.to || wanted == record.from {
        return Decision::Continue(name);
    }
    let from = if effective.is_empty() { &record.from } else { effective };
    match catalogue.reachable(from, wanted) {
        Ok(()) => Decision::Supersede { name, by: wanted.to_owned() },
        Err(why) => Decision::Hold { name, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: State) -> Vec<Record> {
        let (from, to) = ("0.1.0".to_owned(), "0.2.0".to_owned());
        vec![Record { name: "m-0-1-0-to-0-2-0".to_owned(), from, to, state }]
    }

    fn decided(effective: &str, wanted: &str, records: &[Record]) -> Decision {
        decide("m", effective, wanted, records, &Catalogue::embedded())
    }

    #[test]
    fn begins_and_goes_on() {
        let begin = |name: &str| Decision::Begin {
            name: name.to_owned(),
            from: "0.1.0".to_owned(),
            to: "0.2.0".to_owned(),
            forget: Vec::new(),
        };
        assert_eq!(decided("", "0.2.0", &[]), Decision::Idle(Idle::NothingInEffect));
        assert_eq!(decided("0.1.0", "0.1.0", &[]), Decision::Idle(Idle::UpToDate));
        assert_eq!(decided("0.1.0", "0.2.0", &[]), begin("m-0-1-0-to-0-2-0"));
        assert_eq!(decided("0.1.0", "0.2.0", &record(State::Over)), begin("m-0-1-0-to-0-2-0-2"));
        let name = "m-0-1-0-to-0-2-0".to_owned();
        for (effective, wanted) in [("0.1.0", "0.2.0"), ("0.1.0", "0.1.0"), ("0.2.0", "0.2.0"), ("", "0.1.0")]
        {
            assert_eq!(decided(effective, wanted, &record(State::Running)), Decision::Continue(name.clone()));
        }
    }

    /// The same upgrade again and again: each has a record of its own, and only the oldest of very many are forgotten.
    #[test]
    fn an_upgrade_that_was_made_before_keeps_its_record() {
        let mut records = Vec::new();
        for nth in 1..30usize {
            let Decision::Begin { name, forget, .. } = decided("0.1.0", "0.2.0", &records) else {
                panic!("{nth}")
            };
            assert!(records.iter().all(|record: &Record| record.name != name), "{name} is there");
            let oldest =
                records.iter().take(records.len().saturating_sub(KEPT)).map(|record| record.name.clone());
            assert_eq!(forget, oldest.collect::<Vec<_>>());
            records.retain(|record| !forget.contains(&record.name));
            records.push(Record { name, ..record(State::Over).remove(0) });
        }
        assert_eq!(records.last().unwrap().name, "m-0-1-0-to-0-2-0-29");
        // Others' are neither counted nor forgotten.
        let other = Record { from: "0.0.9".to_owned(), ..record(State::Over).remove(0) };
        let Decision::Begin { name, forget, .. } = decided("0.1.0", "0.2.0", &[other]) else { panic!() };
        assert_eq!((name.as_str(), forget.len()), ("m-0-1-0-to-0-2-0-2", 0));
    }

    #[test]
    fn an_abort_binds_until_the_version_is_edited() {
        let aborted = record(State::Aborted);
        let name = aborted[0].name.clone();
        assert_eq!(decided("0.1.0", "0.2.0", &aborted), Decision::Idle(Idle::Aborted(name.clone())));
        assert_eq!(decided("0.1.0", "0.1.0", &aborted), Decision::Close(name));
    }

    #[test]
    fn what_cannot_be_holds() {
        assert!(matches!(decided("0.1.0", "9.9.9", &record(State::Running)), Decision::Hold { .. }));
        let idle = decided("0.1.0", "9.9.9", &record(State::Over));
        assert!(matches!(idle, Decision::Idle(Idle::Unreachable(Unreachable::UnknownTo(_)))));
        let text = "version: 0.1.1\nenvoy: 1.38.3\nkubernetes: '>=1.19'\nreachableFrom: ['>=0.1.0']\n";
        let patch = Catalogue::load(&[("0.1.1".to_owned(), text.to_owned())].into()).unwrap();
        let catalogue = Catalogue::embedded().merge(patch).unwrap();
        let decision = decide("m", "0.1.0", "0.1.1", &record(State::Running), &catalogue);
        assert!(matches!(decision, Decision::Supersede { ref by, .. } if by == "0.1.1"));
    }
}
