//! Which services a pod with given labels may be picked by, without asking each: a service is found under one label of
//! its selector.

use std::collections::{BTreeMap, BTreeSet};

use crate::ingest::ServicePart;

/// Label to value to the services that are found under it.
#[derive(Debug, Clone, Default)]
pub(super) struct Selectors(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Selectors {
    /// Takes what a service selects now instead of before.
    pub(super) fn set(&mut self, service: &str, old: Option<&ServicePart>, new: Option<&ServicePart>) {
        let [old, new] = [old, new].map(|part| part.and_then(|part| part.selector.first_key_value()));
        if old == new {
            return;
        }
        if let Some((label, value)) = old
            && let Some(values) = self.0.get_mut(label)
            && let Some(services) = values.get_mut(value)
        {
            services.remove(service);
            if services.is_empty() {
                values.remove(value);
            }
            if values.is_empty() {
                self.0.remove(label);
            }
        }
        if let Some((label, value)) = new {
            let values = self.0.entry(label.clone()).or_default();
            values.entry(value.clone()).or_default().insert(service.to_owned());
        }
    }

    /// Every service whose selector may pick a pod with these labels, and perhaps others.
    pub(super) fn may_pick(&self, labels: &BTreeMap<String, String>) -> impl Iterator<Item = &String> {
        labels.iter().filter_map(|(label, value)| self.0.get(label)?.get(value)).flatten()
    }
}
