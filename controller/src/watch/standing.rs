//! How a replica stands: whether it hears of everything, and whether it should say that it is ready.
//!
//! ```text
//!  age of each watch ─┐
//!  batch of the mesh ─┼─▶ judge ─▶ Current │ Behind(why) │ CutOff ──┐
//!  replicas that are ready (their Service's EndpointSlices) ─────────┴─▶ says_ready
//! ```
//! Last good wins (DESIGN, rule 1): a replica that is behind goes on serving the streams that it has. It says that it is
//! not ready, so that new ones go elsewhere, only while another replica is known to be ready; they leave one after the
//! other, by name, so that one always stays when all are behind for the same reason. One that hears nothing of the API
//! server at all cannot know how the others are and stays: when all lose the API server at once, none leaves.

use std::time::Duration;

use super::pulse::OVERDUE;

/// A batch of changes that takes the mesh's thread longer makes a replica late.
pub(super) const LATE: Duration = Duration::from_secs(30);
/// One that takes longer will never end: the process is to be restarted.
pub(super) const STUCK: Duration = Duration::from_secs(600);
/// Between one replica's leave and the next one's: longer than a readiness probe and its EndpointSlice take.
const TURN: Duration = Duration::from_secs(30);

/// How a replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It hears of everything.
    Current,
    /// It does not, while it hears of other things; with the reason, and for how long.
    Behind(String, Duration),
    /// It hears of nothing.
    CutOff(Duration),
}

/// What is known of the replicas of the Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Replicas {
    /// How many come before this one by name.
    pub(super) rank: u32,
    /// Whether another one is ready, and that is known now.
    pub(super) another_ready: bool,
}

/// How a replica stands; `ages` is how long ago each watch was heard of, `batch` how long the mesh's thread has been at
/// what it does.
pub(super) fn judge(ages: &[(&'static str, Duration)], batch: Duration) -> Standing {
    let overdue: Vec<_> = ages.iter().filter(|(_, age)| *age >= OVERDUE).collect();
    let longest = overdue.iter().map(|(_, age)| *age).max().unwrap_or_default();
    let beyond = longest.saturating_sub(OVERDUE);
    if !overdue.is_empty() && overdue.len() == ages.len() {
        return Standing::CutOff(beyond);
    }
    if !overdue.is_empty() {
        let names: Vec<_> = overdue.iter().map(|(kind, _)| *kind).collect();
        let (names, seconds) = (names.join(", "), longest.as_secs());
        return Standing::Behind(format!("not heard of for {seconds} s: {names}"), beyond);
    }
    if batch >= LATE {
        let reason = format!("the mesh's thread has been at one batch of changes for {} s", batch.as_secs());
        return Standing::Behind(reason, batch.saturating_sub(LATE));
    }
    Standing::Current
}

/// Why a replica says that it is not ready, if it does.
pub(super) fn not_ready(standing: &Standing, replicas: &Replicas) -> Option<String> {
    match standing {
        Standing::Behind(reason, beyond) if replicas.another_ready => {
            (*beyond >= TURN * replicas.rank).then(|| reason.clone())
        }
        Standing::Current | Standing::Behind(..) | Standing::CutOff(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Duration = Duration::ZERO;

    fn behind() -> Standing {
        judge(&[("Pod", OVERDUE), ("Service", NEW)], NEW)
    }

    #[test]
    fn one_silent_watch_is_behind_and_all_of_them_are_cut_off() {
        assert_eq!(judge(&[("Pod", NEW), ("Service", NEW)], NEW), Standing::Current);
        let Standing::Behind(reason, _) = behind() else { panic!("{:?}", behind()) };
        assert!(reason.ends_with(": Pod"), "{reason}");
        assert_eq!(judge(&[("Pod", OVERDUE), ("Service", OVERDUE)], NEW), Standing::CutOff(NEW));
        assert!(matches!(judge(&[("Pod", NEW)], LATE), Standing::Behind(..)), "the mesh's thread is late");
    }

    #[test]
    fn whoever_is_behind_leaves_to_those_that_are_ready_and_the_last_one_stays() {
        let alone = Replicas { rank: 0, another_ready: false };
        let (first, second) =
            (Replicas { rank: 0, another_ready: true }, Replicas { rank: 1, another_ready: true });
        assert!(not_ready(&behind(), &first).is_some());
        assert_eq!(not_ready(&behind(), &alone), None, "nobody else is there");
        assert_eq!(not_ready(&behind(), &second), None, "the first one leaves first");
        let later = judge(&[("Pod", OVERDUE + TURN), ("Service", NEW)], NEW);
        assert!(not_ready(&later, &second).is_some());
        assert_eq!(not_ready(&Standing::Current, &first), None);
    }

    #[test]
    fn when_all_replicas_lose_the_api_server_none_leaves() {
        let lost = judge(&[("Pod", OVERDUE * 100), ("Service", OVERDUE * 100)], NEW);
        for rank in 0..3 {
            assert_eq!(not_ready(&lost, &Replicas { rank, another_ready: true }), None);
        }
    }

    /// Every order of probes: of replicas that are all behind for one reason, as seen by each other's slices, one stays.
    #[test]
    fn of_replicas_that_are_all_behind_one_stays() {
        for replicas in 1..=4_u32 {
            let mut ready = vec![true; replicas as usize];
            for second in 0..1000_u64 {
                let age = Duration::from_secs(second);
                let standing = judge(&[("Pod", age), ("Service", NEW)], NEW);
                let seen = ready.clone();
                for (rank, one) in ready.iter_mut().enumerate() {
                    let another_ready = seen.iter().enumerate().any(|(other, is)| other != rank && *is);
                    let rank = u32::try_from(rank).unwrap();
                    *one = not_ready(&standing, &Replicas { rank, another_ready }).is_none();
                }
                assert!(ready.iter().any(|is| *is), "{replicas} replicas, second {second}");
            }
        }
    }
}
