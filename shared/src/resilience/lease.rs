//! Leases with epochs, by the database's clock.
//!
//! A lease makes one holder *active*; correctness never depends on it: a holder may be paused
//! past the end of its lease and go on. The epoch or a sequence must refuse what it then writes
//! (the relay's fence, the checkpoint's guard).

use std::time::Duration;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::options::ReturnDocument;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::runtime::error_chain::Chain;
use crate::runtime::failing::Failing;
use crate::runtime::mongo_errors::is_duplicate;

/// One name to be held by at most one holder at a time.
#[derive(Clone, Debug)]
pub struct Lease {
    leases: Collection<Document>,
    name: String,
    holder: String,
    length: Duration,
}

/// The names of those leases of a collection that nobody holds: one question for all.
pub async fn free_leases(leases: &Collection<Document>) -> mongodb::error::Result<Vec<String>> {
    let found = leases.find(expired()).projection(doc! { "_id": 1 }).await?;
    let found: Vec<Document> = found.try_collect().await?;
    let names = found.iter().filter_map(|lease| lease.get_str("_id").ok());
    Ok(names.map(str::to_owned).collect())
}

/// What is true of a lease that nobody holds.
fn expired() -> Document {
    doc! { "$expr": { "$lte": ["$expires_at", "$$NOW"] } }
}

/// A lease that was held when the database answered. Epochs grow with every new holder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeldLease {
    pub epoch: i64,
}

impl Lease {
    pub fn new(
        leases: Collection<Document>,
        name: impl Into<String>,
        holder: impl Into<String>,
        length: Duration,
    ) -> Self {
        Self {
            leases,
            name: name.into(),
            holder: holder.into(),
            length,
        }
    }

    /// Takes the lease if it is free, expired or ours; `None` if another holds it.
    pub async fn acquire(&self) -> mongodb::error::Result<Option<HeldLease>> {
        self.create_if_missing().await?;
        let ours = doc! { "$eq": ["$holder", self.holder.as_str()] };
        let free = doc! { "$or": [
            { "holder": self.holder.as_str() },
            expired(),
        ] };
        // A new holder gets a new epoch; one that comes back keeps its own.
        let take = doc! { "$set": {
            "epoch": { "$cond": [ours, "$epoch", { "$add": ["$epoch", 1_i64] }] },
            "holder": self.holder.as_str(),
            "expires_at": self.expiry(),
        } };
        self.update(free, take).await
    }

    /// Extends a lease held at `epoch`; `None` if it was lost.
    pub async fn renew(&self, held: HeldLease) -> mongodb::error::Result<Option<HeldLease>> {
        self.renew_with(held, Document::new()).await
    }

    /// As [`Self::renew`], and leaves `note` on the lease: fields that others can read with
    /// [`Self::note`], and that outlive the holder. It must not name the lease's own.
    pub async fn renew_with(
        &self,
        held: HeldLease,
        note: Document,
    ) -> mongodb::error::Result<Option<HeldLease>> {
        let still = doc! { "holder": self.holder.as_str(), "epoch": held.epoch };
        let mut set = note;
        set.insert("expires_at", self.expiry());
        self.update(still, doc! { "$set": set }).await
    }

    /// The lease's document, with the fields of [`Self::renew_with`]; `None` if it was never held.
    pub async fn note(&self) -> mongodb::error::Result<Option<Document>> {
        self.leases.find_one(doc! { "_id": &self.name }).await
    }

    /// Gives the lease up, so that another need not wait for its end.
    pub async fn release(&self, held: HeldLease) -> mongodb::error::Result<()> {
        let ours = doc! { "_id": &self.name, "holder": &self.holder, "epoch": held.epoch };
        let free = doc! { "$set": { "holder": "", "expires_at": bson::DateTime::MIN } };
        self.leases.update_one(ours, free).await.map(|_| ())
    }

    pub fn length(&self) -> Duration {
        self.length
    }

    /// Renews a lease three times in its length until `done`; says so when it is `lost`.
    pub async fn keep(self, held: HeldLease, done: CancellationToken, lost: CancellationToken) {
        let (name, failing) = (&self.name, Failing::default());
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.length / 3) => (),
                () = done.cancelled() => return,
            }
            match self.renew(held).await {
                Ok(Some(_)) => {
                    if failing.ends() {
                        info!(lease = name, "the lease {name} is renewed again");
                    }
                }
                Ok(None) => return lost.cancel(),
                // Whatever cannot be reached cannot be written to either; others may take it soon.
                Err(error) => {
                    if failing.begins(&error) {
                        warn!(lease = name, error = %Chain(&error), "the lease {name} is not renewed");
                    }
                }
            }
        }
    }

    fn expiry(&self) -> Document {
        let millis = i64::try_from(self.length.as_millis()).unwrap_or(i64::MAX);
        doc! { "$dateAdd": { "startDate": "$$NOW", "unit": "millisecond", "amount": millis } }
    }

    async fn update(
        &self,
        mut filter: Document,
        change: Document,
    ) -> mongodb::error::Result<Option<HeldLease>> {
        filter.insert("_id", &self.name);
        let row = self
            .leases
            .find_one_and_update(filter, vec![change])
            .return_document(ReturnDocument::After)
            .await?;
        Ok(row
            .and_then(|row| row.get_i64("epoch").ok())
            .map(|epoch| HeldLease { epoch }))
    }

    async fn create_if_missing(&self) -> mongodb::error::Result<()> {
        if self
            .leases
            .find_one(doc! { "_id": &self.name })
            .await?
            .is_some()
        {
            return Ok(());
        }
        let free = doc! { "_id": &self.name, "holder": "", "epoch": 0_i64, "expires_at": bson::DateTime::MIN };
        match self.leases.insert_one(free).await {
            Err(error) if !is_duplicate(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
