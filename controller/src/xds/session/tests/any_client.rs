//! Whatever a client does, it ends up with what is served if it acknowledges in the end.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

fn any_snapshot() -> impl Strategy<Value = Vec<(ResourceType, &'static str, &'static str)>> {
    let kind = prop::sample::select(ResourceType::ALL.to_vec());
    let name = prop::sample::select(vec!["out|s|a|80", "out|s|b|80", "in|80", "inbound"]);
    let version = prop::sample::select(vec!["1", "2", "3"]);
    prop::collection::vec((kind, name, version), 0..10)
}

proptest! {
    #[test]
    fn converges(states in prop::collection::vec((any_snapshot(), any::<u8>()), 1..8)) {
        let mut pool = Pool::default();
        let mut served = Arc::new(Served::default());
        let gate = Arc::new(Canaries::default()).gate(POD);
        let mut session = Session::new(served.clone(), gate);
        let mut held: BTreeMap<(String, String), String> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::new();
        for kind in ResourceType::ALL {
            let names: &[&str] = if kind.wildcard() { &[] } else { &["out|s|a|80", "out|s|b|80", "in|80"] };
            queue.extend(session.on_request(&request(kind, names)).unwrap().responses);
        }
        let wanted = |kind: ResourceType, name: &str| kind.wildcard() || name != "inbound";
        let take = |response: &DeltaResponse, held: &mut BTreeMap<_, _>| {
            for body in &response.resources {
                let text = String::from_utf8_lossy(body);
                let (name, version) = text.split_once('=').unwrap();
                held.insert((response.type_url.clone(), name.to_owned()), version.to_owned());
            }
            for name in &response.removed_resources {
                held.remove(&(response.type_url.clone(), name.clone()));
            }
        };
        for (state, acks) in &states {
            if let Some(next) = served.next(delta(&served, state), &mut pool) {
                served = Arc::new(next);
                queue.extend(session.on_snapshot(served.clone()));
            }
            for _ in 0..acks % 4 {
                let Some(response) = queue.pop_front() else { break };
                take(&response, &mut held);
                queue.extend(session.on_request(&answer(&response, None)).unwrap().responses);
            }
        }
        for _ in 0..1000 {
            let Some(response) = queue.pop_front() else { break };
            take(&response, &mut held);
            queue.extend(session.on_request(&answer(&response, None)).unwrap().responses);
        }
        let mut expected = BTreeMap::new();
        for kind in ResourceType::ALL {
            for (name, entry) in served.of(kind).iter().filter(|(name, _)| wanted(kind, name)) {
                expected.insert((kind.type_url().to_owned(), name.to_string()), entry.version.to_string());
            }
        }
        prop_assert_eq!(held, expected);
        prop_assert!(session.in_sync());
    }
}
