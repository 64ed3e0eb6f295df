//! What a request asks for, and what the client says that it holds.

use mesh::ResourceType;

use super::{Must, TypeState};
use crate::xds::served::{Entries, Name, Version};
use crate::xds::session::Violation;
use crate::xds::session::holding::Held;
use crate::xds::wire::DeltaRequest;

/// Bytes of one name; our longest are three Kubernetes names and a port.
pub(in crate::xds::session) const MOST_NAME: usize = 1024;
/// The name that stands for every resource (xDS protocol, "wildcard subscriptions").
const WILDCARD: &str = "*";

impl TypeState {
    /// Takes the subscription part of a request; tells how many names were looked at besides those that it names.
    pub fn subscribe(&mut self, request: &DeltaRequest, entries: &Entries) -> Result<usize, Violation> {
        check(self.kind, request)?;
        let lists = [&request.resource_names_subscribe, &request.resource_names_unsubscribe];
        let stars = lists.iter().filter(|names| names.iter().any(|name| name == WILDCARD)).count();
        let looked = stars * (entries.len() + self.dirty.len());
        if self.subscribed {
            self.unsubscribe(&request.resource_names_unsubscribe, entries);
            self.add(&request.resource_names_subscribe, entries);
        } else {
            self.subscribed = true;
            self.first(request, entries);
        }
        Ok(looked)
    }

    /// The first request of the type in this stream: what the client says it holds is believed, as far as it itself is
    /// concerned. It says nothing about the content: nobody knows who sent it that, and whether.
    fn first(&mut self, request: &DeltaRequest, entries: &Entries) {
        let named = &request.resource_names_subscribe;
        self.wildcard = named.is_empty() || named.iter().any(|name| name == WILDCARD);
        for name in named.iter().filter(|name| *name != WILDCARD) {
            let (name, served) = shared(name, entries);
            self.names.insert(name, served);
        }
        for (name, version) in &request.initial_resource_versions {
            if self.wants(name) {
                let foreign = || Held::Foreign(Version::from(version.as_str()));
                let (name, held) = match entries.get_key_value(name.as_str()) {
                    Some((name, entry)) if *entry.version == **version => {
                        (name.clone(), Held::Known(entry.clone()))
                    }
                    Some((name, _)) => (name.clone(), foreign()),
                    None => (Name::from(name.as_str()), foreign()),
                };
                self.held.insert(name, held);
            }
        }
        let nothing = self.held.is_empty();
        let asked = self.names.iter().cloned().map(|name| {
            let holds = !nothing && self.holds(&name).is_some();
            (name, if holds { Must::IfDifferent } else { Must::Answer })
        });
        let asked = asked.collect();
        self.mark_all(asked);
        if self.wildcard {
            self.mark_everything(entries);
        }
    }

    fn add(&mut self, names: &[String], entries: &Entries) {
        for name in names.iter().filter(|name| *name != WILDCARD) {
            let (name, served) = shared(name, entries);
            if !self.names.contains(&name) {
                self.names.insert(name.clone(), served);
                if !self.wildcard {
                    self.held.remove(name.clone());
                }
            }
            // The client may have forgotten it (envoyproxy/envoy#22418): always answered, even if it was refused
            // before.
            self.refused.remove(&name);
            self.mark(name, Must::Answer);
        }
        // However often it says so.
        if names.iter().any(|name| name == WILDCARD) {
            self.wildcard = true;
            self.mark_everything(entries);
        }
    }

    fn unsubscribe(&mut self, names: &[String], entries: &Entries) {
        if names.iter().any(|name| name == WILDCARD) {
            self.wildcard = false;
            self.dirty.retain(|name, _| self.names.contains(name));
            self.refused.retain(|name, _| self.names.contains(name));
            self.withheld.retain(|name, _| self.names.contains(name));
        }
        for name in names.iter().filter(|name| *name != WILDCARD) {
            if !self.names.contains(name) && self.held.version(name).is_none() {
                continue;
            }
            let (name, _) = shared(name, entries);
            self.names.remove(&name);
            if self.wildcard {
                // Still covered: the protocol wants it sent again, or the word that it is gone.
                self.mark(name, Must::Answer);
            } else {
                self.held.remove(name.clone());
                self.dirty.remove(&name);
                self.refused.remove(&name);
                self.withheld.remove(&name);
            }
        }
    }

    fn mark_everything(&mut self, entries: &Entries) {
        let gone: Vec<_> = self.held.names().filter(|name| !entries.contains_key(*name)).cloned().collect();
        let all = entries.keys().cloned().chain(gone).map(|name| (name, Must::IfDifferent));
        self.mark_all(all.collect());
    }

    fn mark_all(&mut self, all: Vec<(Name, Must)>) {
        if self.dirty.is_empty() {
            // Mostly in order already: much cheaper than one after the other.
            self.dirty = all.into_iter().collect();
            return;
        }
        for (name, must) in all {
            self.mark(name, must);
        }
    }
}

/// The name as it is shared with others, and whether it is that of something served.
fn shared(name: &str, entries: &Entries) -> (Name, bool) {
    match entries.get_key_value(name) {
        Some((name, _)) => (name.clone(), true),
        None => (Name::from(name), false),
    }
}

fn check(kind: ResourceType, request: &DeltaRequest) -> Result<(), Violation> {
    let names = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
    let versions = request.initial_resource_versions.iter().flat_map(|(name, version)| [name, version]);
    match names.chain(versions).map(String::len).find(|bytes| *bytes > MOST_NAME) {
        Some(bytes) => Err(Violation::NameTooLong { resource_type: kind.as_str(), bytes }),
        None => Ok(()),
    }
}
