//! The mark of a leadership on what it writes.

/// A status that says in which term of the operator's leadership it was written. Absent: by an operator that did not
/// say it yet.
pub trait Termed {
    /// The mark.
    fn term(&self) -> Option<i64>;
    /// Sets it.
    fn set_term(&mut self, term: i64);
}

macro_rules! termed {
    ($($status:ty),*) => {$(
        impl Termed for $status {
            fn term(&self) -> Option<i64> {
                self.leader_term
            }
            fn set_term(&mut self, term: i64) {
                self.leader_term = Some(term);
            }
        }
    )*};
}

termed!(
    crds::mesh_config::MeshConfigStatus,
    crds::mesh_upgrade::MeshUpgradeStatus,
    crds::policy_source::PolicySourceStatus
);
