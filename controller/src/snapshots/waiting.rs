//! Streams whose pod is not known yet. Whoever has a certificate of a namespace may name pods there that do not exist;
//! what waits for them is bounded, and costs the others nothing.

use std::collections::{BTreeMap, VecDeque};

use super::{Attach, PodRef};

/// Streams that wait for one pod: as many as one may have. A newer one takes the place of the oldest.
const EACH: usize = 2;
/// Streams that wait. Beyond, the namespace with the most gives up its first.
const MOST: usize = 16_384;

/// Streams that wait, by pod.
pub(super) struct Waiting {
    by: BTreeMap<PodRef, VecDeque<Attach>>,
    /// How many of each namespace.
    of: BTreeMap<String, usize>,
    most: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self::at_most(MOST)
    }
}

impl Waiting {
    fn at_most(most: usize) -> Self {
        Self { by: BTreeMap::new(), of: BTreeMap::new(), most }
    }

    /// Takes a stream that waits. Whom there is no place for any more is dropped, which is its answer.
    pub(super) fn add(&mut self, attach: Attach) {
        let streams = self.by.entry(attach.pod.clone()).or_default();
        let before = streams.len();
        streams.retain(|one| !one.reply.is_closed());
        if streams.len() == EACH {
            streams.pop_front();
        }
        let namespace = attach.pod.namespace.clone();
        streams.push_back(attach);
        let now = streams.len();
        let count = self.of.entry(namespace).or_default();
        *count = (*count + now) - before;
        if self.len() > self.most {
            self.give_up();
        }
    }

    fn len(&self) -> usize {
        self.of.values().sum()
    }

    fn give_up(&mut self) {
        let largest = self.of.iter().max_by_key(|(_, count)| **count).map(|(namespace, _)| namespace.clone());
        let Some(namespace) = largest else { return };
        let from = PodRef { namespace, name: String::new(), uid: String::new() };
        if let Some(pod) = self.by.range(from..).next().map(|(pod, _)| pod.clone()) {
            self.take_one(&pod);
        }
    }

    fn take_one(&mut self, pod: &PodRef) -> VecDeque<Attach> {
        let taken = self.by.remove(pod).unwrap_or_default();
        if let Some(count) = self.of.get_mut(&pod.namespace) {
            *count -= taken.len();
            if *count == 0 {
                self.of.remove(&pod.namespace);
            }
        }
        taken
    }

    /// Takes out those who wait for pods of a namespace, or for the pods of one name there.
    pub(super) fn take(&mut self, namespace: &str, name: Option<&str>) -> Vec<Attach> {
        let from = PodRef {
            namespace: namespace.to_owned(),
            name: name.unwrap_or_default().to_owned(),
            uid: String::new(),
        };
        let here = |pod: &PodRef| pod.namespace == namespace && name.is_none_or(|name| pod.name == name);
        let pods: Vec<_> =
            self.by.range(from..).map(|(pod, _)| pod).take_while(|pod| here(pod)).cloned().collect();
        pods.iter().flat_map(|pod| self.take_one(pod)).collect()
    }

    /// Takes out all.
    pub(super) fn take_all(&mut self) -> Vec<Attach> {
        self.of.clear();
        std::mem::take(&mut self.by).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::{self, Receiver};

    fn attach(namespace: &str, name: &str) -> (Attach, Receiver<super::super::Feed>) {
        let (reply, answer) = oneshot::channel();
        let pod = PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: "u".to_owned() };
        (Attach { pod, reply }, answer)
    }

    fn refused(answer: &mut Receiver<super::super::Feed>) -> bool {
        answer.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn a_pod_has_two_places_and_the_newest_have_them() {
        let mut waiting = Waiting::default();
        let mut answers = Vec::new();
        for _ in 0..4 {
            let (one, answer) = attach("shop", "ghost");
            waiting.add(one);
            answers.push(answer);
        }
        assert_eq!(waiting.len(), 2);
        assert_eq!(answers.iter_mut().map(refused).collect::<Vec<_>>(), [true, true, false, false]);
        // Those who went away hold no place.
        drop(answers);
        let (one, mut answer) = attach("shop", "ghost");
        waiting.add(one);
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting.take("shop", Some("ghost")).len(), 1);
        assert!(!refused(&mut answer) || waiting.len() == 0);
    }

    #[test]
    fn whoever_names_pods_that_do_not_exist_takes_places_from_its_own_namespace() {
        let mut waiting = Waiting::at_most(10);
        let (one, mut honest) = attach("shop", "buyer-1");
        waiting.add(one);
        let mut answers = Vec::new();
        for number in 0..1000 {
            let (one, answer) = attach("attacker", &format!("ghost-{number}"));
            waiting.add(one);
            answers.push(answer);
        }
        assert_eq!(waiting.len(), 10);
        assert!(!refused(&mut honest));
        assert_eq!(waiting.take("shop", None).len(), 1);
        assert_eq!((waiting.take("shop", None).len(), waiting.take("nobody", None).len()), (0, 0));
        assert_eq!((waiting.take_all().len(), waiting.len()), (9, 0));
    }
}
