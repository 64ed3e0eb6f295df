//! Services of a namespace that are too much together: whoever may create services must not fill the sidecars of all who
//! may call them. The largest are as if they were not there, and [`Mesh::problems`](super::Mesh::problems) says so.

use std::collections::BTreeMap;

use super::Space;
use crate::budget::{self, LeftOut};
use crate::ingest::{ServicePart, SlicePart};

/// A service as its namespace is to know it now; `None`: not at all.
pub(super) type Move = (String, Option<ServicePart>);

/// What the services of one namespace come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Weights {
    /// Slice to its service and number of endpoints.
    slices: BTreeMap<String, (String, u64)>,
    /// Service to the number of its endpoints.
    endpoints: BTreeMap<String, u64>,
    sizes: BTreeMap<String, u64>,
    total: u64,
    left_out: BTreeMap<String, ServicePart>,
}

impl Weights {
    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty() && self.sizes.is_empty()
    }

    /// The services that are left out, with their sizes.
    pub(super) fn left_out(&self) -> impl Iterator<Item = (&String, u64)> {
        self.left_out.keys().map(|name| (name, self.sizes.get(name).copied().unwrap_or_default()))
    }

    /// Takes a service as it is now; returns what its namespace is to know of it and of others.
    pub(super) fn set_service(&mut self, space: &Space, name: &str, part: Option<ServicePart>) -> Vec<Move> {
        self.left_out.remove(name);
        self.resize(name, part.as_ref());
        let too_much = self.too_much();
        let mut moves = self.settle(space, &too_much, Some(name));
        let over = too_much.contains_key(name);
        if over && let Some(part) = &part {
            self.left_out.insert(name.to_owned(), part.clone());
        }
        moves.push((name.to_owned(), part.filter(|_| !over)));
        moves
    }

    /// Takes a slice as it is now.
    pub(super) fn set_slice(&mut self, space: &Space, name: &str, part: Option<&SlicePart>) -> Vec<Move> {
        let new = part.map(|part| (&part.service, part.endpoints.len() as u64));
        if self.slices.get(name).map(|(service, count)| (service, *count)) == new {
            return Vec::new();
        }
        let new = new.map(|(service, count)| (service.clone(), count));
        let old = match &new {
            Some(new) => self.slices.insert(name.to_owned(), new.clone()),
            None => self.slices.remove(name),
        };
        if let Some((service, count)) = &new {
            *self.endpoints.entry(service.clone()).or_default() += count;
        }
        if let Some((service, count)) = &old
            && let Some(all) = self.endpoints.get_mut(service)
        {
            *all = all.saturating_sub(*count);
            if *all == 0 {
                self.endpoints.remove(service);
            }
        }
        for (service, _) in old.iter().chain(&new) {
            let part = self.left_out.get(service).or_else(|| space.services.get(service)).cloned();
            self.resize(service, part.as_ref());
        }
        let too_much = self.too_much();
        self.settle(space, &too_much, None)
    }

    fn resize(&mut self, name: &str, part: Option<&ServicePart>) {
        let endpoints = self.endpoints.get(name).copied().unwrap_or_default();
        let old = match part.map(|part| budget::service(part, endpoints)) {
            Some(size) => {
                self.total = self.total.saturating_add(size);
                self.sizes.insert(name.to_owned(), size)
            }
            None => self.sizes.remove(name),
        };
        self.total = self.total.saturating_sub(old.unwrap_or_default());
    }

    fn too_much(&self) -> LeftOut<String> {
        if self.total <= budget::SERVICES {
            return LeftOut::new();
        }
        budget::within(self.sizes.iter().map(|(name, size)| (*size, name.clone())), budget::SERVICES).1
    }

    /// Leaves others out, or takes them back.
    fn settle(&mut self, space: &Space, too_much: &LeftOut<String>, but: Option<&str>) -> Vec<Move> {
        if too_much.is_empty() && self.left_out.is_empty() {
            return Vec::new();
        }
        let (stay, back) =
            std::mem::take(&mut self.left_out).into_iter().partition(|(name, _)| too_much.contains_key(name));
        self.left_out = stay;
        let back: BTreeMap<String, ServicePart> = back;
        let mut moves: Vec<Move> = back.into_iter().map(|(name, part)| (name, Some(part))).collect();
        for name in too_much.keys().filter(|name| but != Some(name.as_str())) {
            if !self.left_out.contains_key(name)
                && let Some(part) = space.services.get(name)
            {
                self.left_out.insert(name.clone(), part.clone());
                moves.push((name.clone(), None));
            }
        }
        moves
    }
}
