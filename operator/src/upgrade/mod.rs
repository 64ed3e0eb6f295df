//! Upgrades.

use std::sync::Arc;

use crate::context::Context;

/// Runs until the context's shutdown begins.
///
/// # Errors
/// None yet.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    ctx.shutdown.stopping.cancelled().await;
    Ok(())
}
