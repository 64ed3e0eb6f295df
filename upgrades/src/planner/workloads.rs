//! The workloads of a namespace: what each step says, and what may be done now.

use crds::mesh_upgrade::StepState;

use super::Walk;
use crate::facts::{Namespace, Proxy, Slot};
use crate::plan::{Action, Cost, Reach, Step, What};
use crate::swap;
use crate::waiting::{Place, WaitingOn};
use crate::workload::{Look, Manner, Next};

impl Walk<'_> {
    /// Plans the workloads of a namespace; returns whether all are done.
    pub(super) fn workloads(&mut self, name: &str, namespace: &Namespace, movable: bool) -> bool {
        let looks: Vec<(Look<'_>, Next)> = namespace
            .workloads
            .iter()
            .map(|(id, workload)| {
                let place = Place { namespace: name.to_owned(), workload: id.clone() };
                let (catalogue, now) = (&self.observed.catalogue, self.observed.now);
                let unhealthy = self.observed.unhealthy.get(&place).copied();
                let target = self.target;
                let look = Look { place, namespace, workload, target, catalogue, now, unhealthy };
                let next = look.next();
                (look, next)
            })
            .filter(|(look, _)| look.meshed())
            .collect();
        let open = self.open && movable;
        if open {
            self.moving += looks.iter().filter(|(_, next)| matches!(next, Next::Moving(_))).count();
        }
        let mut done = true;
        for (look, next) in looks {
            done &= matches!(next, Next::Done | Next::Stays(_) | Next::Aside(_));
            self.workload(&look, next, open);
        }
        done
    }

    fn workload(&mut self, look: &Look<'_>, next: Next, open: bool) {
        let (moved, old) = (look.moved().count(), look.old().count());
        self.moved += moved;
        self.total += moved + old;
        self.count_restarts(look);
        let (how, no_swap) = look.manner();
        let what = match how {
            Manner::Stays(why) => What::Leave { place: look.place.clone(), why },
            manner => What::Move { place: look.place.clone(), manner, no_swap, moved, total: moved + old },
        };
        let (state, waiting) = match next {
            Next::Done | Next::Stays(_) => (StepState::Done, None),
            _ if !open => (StepState::Pending, None),
            Next::Moving(wait) => (StepState::Running, Some(wait)),
            Next::Held(wait) | Next::Aside(wait) => (StepState::Waiting, Some(wait)),
            Next::EvictIdle(pod) => self.evict(look, &pod, Cost::Nothing),
            Next::Evict { pod, budget } => {
                let cost = match (how, budget) {
                    (Manner::EvictWithGap(_), budget) => Cost::Gap { budget },
                    (_, Some(budget)) => Cost::Budget(budget),
                    (_, None) => Cost::Replica,
                };
                self.evict(look, &pod, cost)
            }
            Next::Swap { pod, live, budgets } => self.swap(look, &pod, live, &budgets),
            Next::Surge(mark) => self.surge(look, mark),
        };
        if !matches!(waiting, Some(WaitingOn::Turn { .. })) {
            self.waiting.extend(waiting.clone());
        }
        // Within a namespace all workloads have their turn together.
        let reach = if open { Reach::Reached } else { Reach::Announced };
        self.steps.push(Step { what, state, waiting, reach, health: look.health() });
    }

    /// Pods that the namespace wants swapped in place and that have to be restarted.
    fn count_restarts(&mut self, look: &Look<'_>) {
        if !look.namespace.hot_swap || matches!(look.manner().0, Manner::Stays(_)) {
            return;
        }
        let why = look.old().filter_map(|(_, pod)| swap::possible(pod, self.target, look.catalogue).err());
        self.restarts.extend(why);
    }

    /// How many workloads may be on the move now. The first one ever moved is the canary: until one sidecar of the
    /// target serves in good order, it is alone, so a release that doesn't work at all costs one pod.
    fn limit(&self) -> usize {
        let mut pods = self
            .observed
            .namespaces
            .values()
            .flat_map(|n| n.workloads.values())
            .flat_map(|w| w.pods.values());
        let proven = pods.any(|pod| {
            !pod.terminating
                && pod.revision.as_deref() == Some(self.target)
                && pod.ready
                && pod.proxy == Proxy::InSync
        });
        if proven { self.desired.workloads_at_once.max(1) } else { 1 }
    }

    /// Nothing when a workload may begin to move now, which then counts; else why not.
    fn turn(&mut self) -> Option<(StepState, Option<WaitingOn>)> {
        let limit = self.limit();
        if self.moving >= limit {
            return Some((StepState::Pending, Some(WaitingOn::Turn { limit })));
        }
        self.moving += 1;
        None
    }

    fn evict(&mut self, look: &Look<'_>, pod: &str, cost: Cost) -> (StepState, Option<WaitingOn>) {
        let namespace = look.place.namespace.clone();
        let paid_by = match &cost {
            Cost::Budget(budget) | Cost::Gap { budget: Some(budget) } => {
                Some((namespace.clone(), budget.clone()))
            }
            Cost::Nothing | Cost::Replica | Cost::Gap { budget: None } => None,
        };
        if let Some(key) = &paid_by
            && self.budgets.get(key).is_none_or(|left| *left == 0)
        {
            let wait = WaitingOn::Budget { namespace, budget: key.1.clone(), pod: pod.to_owned() };
            return (StepState::Waiting, Some(wait));
        }
        if let Some(wait) = self.turn() {
            return wait;
        }
        if let Some(left) = paid_by.and_then(|key| self.budgets.get_mut(&key)) {
            *left -= 1;
        }
        let uid = look.workload.pods.get(pod).map(|pod| pod.uid.clone()).unwrap_or_default();
        let workload = look.place.workload.clone();
        self.actions.push(Action::Evict { namespace, workload, pod: pod.to_owned(), uid, cost });
        (StepState::Running, None)
    }

    fn swap(
        &mut self,
        look: &Look<'_>,
        pod: &str,
        live: Slot,
        budgets: &[String],
    ) -> (StepState, Option<WaitingOn>) {
        if let Some(wait) = self.turn() {
            return wait;
        }
        for budget in budgets {
            let key = (look.place.namespace.clone(), budget.clone());
            if let Some(left) = self.budgets.get_mut(&key) {
                *left = left.saturating_sub(1);
            }
        }
        self.actions.push(Action::Swap {
            namespace: look.place.namespace.clone(),
            workload: look.place.workload.clone(),
            pod: pod.to_owned(),
            uid: look.workload.pods.get(pod).map(|pod| pod.uid.clone()).unwrap_or_default(),
            expect: live,
            to: self.target.to_owned(),
            at: self.observed.now,
        });
        (StepState::Running, None)
    }

    fn surge(&mut self, look: &Look<'_>, mark: String) -> (StepState, Option<WaitingOn>) {
        if let Some(wait) = self.turn() {
            return wait;
        }
        self.actions.push(Action::Surge {
            namespace: look.place.namespace.clone(),
            deployment: look.place.workload.name.clone(),
            expect: look.workload.moved_to.clone(),
            mark,
        });
        (StepState::Running, None)
    }
}
