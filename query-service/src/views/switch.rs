//! Changes of what readers are shown: each in one transaction, so that nobody is ever shown a
//! generation that somebody else takes off the catalog at that moment.

use bson::doc;
use mongodb::ClientSession;
use mongodb::error::TRANSIENT_TRANSACTION_ERROR;
use shared::contract::views_schema::{POINTER, SHOWN};
use shared::resilience;
use tokio::time::{Duration, Instant};

use super::error::ViewError;
use super::generation::Catalog;
use super::transaction::commit_transaction;

/// How long a transaction that meets another's is begun again.
const CONFLICTS: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
enum Change {
    Show { from: i64, to: i64 },
    Retire(i64),
}

impl Catalog {
    /// Shows readers another generation from now on, if they are still shown `from`, and `to` is
    /// still in the catalog. Says whether both were so.
    pub async fn switch(&self, from: i64, to: i64) -> Result<bool, ViewError> {
        self.change(Change::Show { from, to }).await
    }

    /// Takes a generation off the catalog, unless readers are shown it: then false. Those who fold
    /// it stop when they look next.
    pub async fn retire(&self, number: i64) -> Result<bool, ViewError> {
        self.change(Change::Retire(number)).await
    }

    async fn change(&self, change: Change) -> Result<bool, ViewError> {
        let mut session = self.rows().client().start_session().await?;
        let (mut backoff, give_up) = (resilience::interactive(), Instant::now() + CONFLICTS);
        loop {
            session.start_transaction().await?;
            let outcome = match self.write(&mut session, change).await {
                Ok(true) => commit_transaction(&mut session).await.map(|()| true),
                outcome => {
                    // A failed abort leaves a transaction that the server ends by itself.
                    let _ = session.abort_transaction().await;
                    outcome
                }
            };
            match outcome {
                Err(ViewError::Database(fault))
                    if fault.contains_label(TRANSIENT_TRANSACTION_ERROR)
                        && Instant::now() < give_up =>
                {
                    backoff.wait().await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Either change writes the pointer, so that of two at once one is begun again.
    async fn write(&self, session: &mut ClientSession, change: Change) -> Result<bool, ViewError> {
        let rows = self.rows();
        match change {
            Change::Show { from, to } => {
                let row = rows.find_one(doc! { "_id": to });
                if row.session(&mut *session).await?.is_none() {
                    return Ok(false);
                }
                let pointer = doc! { "_id": POINTER, SHOWN: from };
                let show = doc! { "$set": { SHOWN: to, "previous": from } };
                let shown = rows.update_one(pointer, show).session(session).await?;
                Ok(shown.matched_count == 1)
            }
            Change::Retire(number) => {
                let not_shown = doc! { "_id": POINTER, SHOWN: { "$ne": number } };
                let count = doc! { "$inc": { "retired": 1_i64 } };
                let counted = rows.update_one(not_shown, count);
                if counted.session(&mut *session).await?.matched_count == 0 {
                    return Ok(false);
                }
                let before = doc! { "_id": POINTER, "previous": number };
                let nothing = doc! { "$unset": { "previous": "" } };
                let unset = rows.update_one(before, nothing);
                unset.session(&mut *session).await?;
                let row = rows.delete_one(doc! { "_id": number });
                row.session(session).await?;
                Ok(true)
            }
        }
    }
}
