//! A view as Envoy resources. Takes no decision.

use crate::snapshot::Snapshot;
use crate::view::View;

/// Renders a view. Equal views give equal bytes.
#[must_use]
pub fn render(view: &View) -> Snapshot {
    let _ = view;
    Snapshot::default()
}
