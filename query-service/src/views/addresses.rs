//! Takes e-mail addresses out of views that an earlier build has folded.
//!
//! Views have held none since revision 2 of `user.registered`; those of a user who registered
//! before would keep theirs until the next rebuild.

use bson::{Document, doc};
use shared::resilience;
use shared::runtime::error_chain::Chain;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::ViewError;
use super::generation::{Catalog, Generation, View};
use futures_util::TryStreamExt;

/// Rows changed at once: few enough not to be in the fold's way.
const ROWS: i64 = 500;

/// Empties the field in every generation, once. A fold that still writes it, of an earlier build,
/// is stopped by then or makes this start again with the next process.
pub async fn forget(catalog: Catalog, stop: CancellationToken) {
    let mut backoff = resilience::background();
    loop {
        match forget_all(&catalog, &stop).await {
            Ok(0) => return,
            Ok(rows) => return info!(rows, "took the e-mail address out of {rows} rows of users"),
            Err(error) => warn!(error = %Chain(&error), "addresses are still in the views"),
        }
        tokio::select! {
            () = backoff.wait() => (),
            () = stop.cancelled() => return,
        }
    }
}

async fn forget_all(catalog: &Catalog, stop: &CancellationToken) -> Result<u64, ViewError> {
    let mut rows = 0;
    for generation in catalog.all().await? {
        rows += forget_in(&generation, stop).await?;
    }
    Ok(rows)
}

async fn forget_in(generation: &Generation, stop: &CancellationToken) -> Result<u64, ViewError> {
    let users = generation.collection::<Document>(View::Users);
    let (mut last, mut changed) = (0, 0);
    while !stop.is_cancelled() {
        let with_address = doc! { "_id": { "$gt": last }, "email": { "$gt": "" } };
        let found = users.find(with_address).sort(doc! { "_id": 1 }).limit(ROWS);
        let found: Vec<Document> = found
            .projection(doc! { "_id": 1 })
            .await?
            .try_collect()
            .await?;
        let ids: Vec<i64> = found
            .iter()
            .filter_map(|row| row.get_i64("_id").ok())
            .collect();
        let Some(greatest) = ids.last() else {
            break;
        };
        last = *greatest;
        // Not removed: builds before revision 2 cannot read a row without the field.
        let empty = doc! { "$set": { "email": "" } };
        let update = users.update_many(doc! { "_id": { "$in": ids } }, empty);
        changed += update.await?.modified_count;
    }
    Ok(changed)
}
