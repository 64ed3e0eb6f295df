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
    /// Make a record; an older one of this name is deleted first.
    Begin {
        /// Its name.
        name: String,
        /// Release in effect.
        from: String,
        /// Release wanted.
        to: String,
        /// Whether one of this name is there.
        replace: bool,
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

/// Name of the record of an upgrade.
#[must_use]
pub fn name(mesh: &str, from: &str, to: &str) -> String {
    format!("{mesh}-{}-to-{}", crds::labels::dashed(from), crds::labels::dashed(to))
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
    let name = name(mesh, effective, wanted);
    match records.iter().find(|record| record.name == name).map(|record| record.state) {
        Some(State::Aborted) => Decision::Idle(Idle::Aborted(name)),
        before => Decision::Begin {
            name,
            from: effective.to_owned(),
            to: wanted.to_owned(),
            replace: before.is_some(),
        },
    }
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
        let begin = |replace| Decision::Begin {
            name: "m-0-1-0-to-0-2-0".to_owned(),
            from: "0.1.0".to_owned(),
            to: "0.2.0".to_owned(),
            replace,
        };
        assert_eq!(decided("", "0.2.0", &[]), Decision::Idle(Idle::NothingInEffect));
        assert_eq!(decided("0.1.0", "0.1.0", &[]), Decision::Idle(Idle::UpToDate));
        assert_eq!(decided("0.1.0", "0.2.0", &[]), begin(false));
        assert_eq!(decided("0.1.0", "0.2.0", &record(State::Over)), begin(true));
        let name = "m-0-1-0-to-0-2-0".to_owned();
        for (effective, wanted) in [("0.1.0", "0.2.0"), ("0.1.0", "0.1.0"), ("0.2.0", "0.2.0"), ("", "0.1.0")]
        {
            assert_eq!(decided(effective, wanted, &record(State::Running)), Decision::Continue(name.clone()));
        }
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
