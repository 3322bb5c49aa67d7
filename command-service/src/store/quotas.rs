//! Quotas: so many posts, or edits of a profile, in a window that begins with its first one, over
//! all replicas, by the database's clock.

use std::time::Duration;

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};
use shared::contract::ids::UserId;
use shared::contract::time::Timestamp;

use super::calls::{Call, Calls};
use super::errors::{Fault, is_duplicate, translate};
use crate::app::ports::{self, Limited, Quota, QuotaState, Result};

const POSTS: &str = "post_quotas";
const EDITS: &str = "edit_quotas";

type Attempt<T> = std::result::Result<T, Fault>;

pub(super) struct Quotas {
    posts: Collection<QuotaDocument>,
    edits: Collection<QuotaDocument>,
    calls: Calls,
}

#[derive(Serialize, Deserialize)]
struct QuotaDocument {
    #[serde(rename = "_id")]
    author: UserId,
    start: DateTime,
    used: i64,
    granted: bool,
    /// When the last one asked.
    asked: DateTime,
}

#[async_trait]
impl ports::Quotas for Quotas {
    async fn reserve(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState> {
        self.calls.require_prepared()?;
        let attempt = || self.try_reserve(of, user, quota);
        let call = match of {
            Limited::Posts => Call {
                span: "findAndModify post_quotas",
                operation: "findAndModify",
                collection: POSTS,
            },
            Limited::Edits => Call {
                span: "findAndModify edit_quotas",
                operation: "findAndModify",
                collection: EDITS,
            },
        };
        self.calls.ask_traced(&call, attempt).await
    }

    async fn state(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState> {
        self.calls.ask(|| self.try_state(of, user, quota)).await
    }

    /// Gives back a place in its own window; a later window owes nothing.
    async fn release(&self, of: Limited, user: UserId, window_start: Timestamp) -> Result<()> {
        let window = doc! {
            "_id": user.get(),
            "start": DateTime::from_millis(window_start.millis()),
            "used": { "$gt": 0_i64 },
        };
        let give_back = doc! { "$inc": { "used": -1_i64 } };
        // Asked once: twice might give back what was not taken.
        let released = self.rows(of).update_one(window, give_back).await;
        released.map(drop).map_err(translate)
    }
}

impl Quotas {
    pub(super) fn new(database: &Database, calls: Calls) -> Self {
        Self {
            posts: database.collection(POSTS),
            edits: database.collection(EDITS),
            calls,
        }
    }

    fn rows(&self, of: Limited) -> &Collection<QuotaDocument> {
        match of {
            Limited::Posts => &self.posts,
            Limited::Edits => &self.edits,
        }
    }

    /// One atomic update: no two replicas give the same place away.
    async fn try_reserve(&self, of: Limited, author: UserId, quota: Quota) -> Attempt<QuotaState> {
        let row = doc! { "_id": author.get() };
        let reserved = self
            .rows(of)
            .find_one_and_update(row, reservation(quota))
            .return_document(ReturnDocument::After)
            .await?;
        match reserved {
            Some(row) => Ok(state(&row, quota)),
            None => {
                self.create(of, author).await?;
                Err(Fault::Unsettled)
            }
        }
    }

    /// By this machine's clock, which a second's skew from the database's does not matter to.
    async fn try_state(&self, of: Limited, author: UserId, quota: Quota) -> Attempt<QuotaState> {
        let row = self.rows(of).find_one(doc! { "_id": author.get() }).await?;
        let now = DateTime::now();
        let state = row.map(|row| state(&QuotaDocument { asked: now, ..row }, quota));
        // A window that is over has nothing left of it, and the next begins with a post.
        Ok(state
            .filter(|state| !state.resets_in.is_zero())
            .unwrap_or_else(|| QuotaState {
                granted: true,
                remaining: quota.posts,
                window_start: Timestamp::from_millis(now.timestamp_millis()),
                resets_in: Duration::ZERO,
            }))
    }

    /// A row apart from the reservation: not every server answers with the document when two
    /// upserts of one row meet.
    async fn create(&self, of: Limited, author: UserId) -> Attempt<()> {
        let long_over = QuotaDocument {
            author,
            start: DateTime::from_millis(0),
            used: 0,
            granted: false,
            asked: DateTime::from_millis(0),
        };
        match self.rows(of).insert_one(long_over).await {
            Err(error) if !is_duplicate(&error) => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn reservation(quota: Quota) -> Vec<Document> {
    let window = i64::try_from(quota.window.as_secs()).unwrap_or(i64::MAX);
    let ends = doc! { "$dateAdd": { "startDate": "$start", "unit": "second", "amount": window } };
    let is_over = doc! { "$lte": [ends, "$$NOW"] };
    let in_window = doc! {
        "start": { "$cond": [is_over.clone(), "$$NOW", "$start"] },
        "used": { "$cond": [is_over, 0_i64, "$used"] },
        "asked": "$$NOW",
    };
    let granted = doc! { "granted": { "$lt": ["$used", i64::from(quota.posts)] } };
    let used = doc! { "used": { "$cond": ["$granted", { "$add": ["$used", 1_i64] }, "$used"] } };
    vec![
        doc! { "$set": in_window },
        doc! { "$set": granted },
        doc! { "$set": used },
    ]
}

fn state(row: &QuotaDocument, quota: Quota) -> QuotaState {
    let passed = row.asked.timestamp_millis() - row.start.timestamp_millis();
    let passed = Duration::from_millis(u64::try_from(passed).unwrap_or(0));
    let left = i64::from(quota.posts) - row.used;
    QuotaState {
        granted: row.granted,
        remaining: u32::try_from(left).unwrap_or(0),
        window_start: Timestamp::from_millis(row.start.timestamp_millis()),
        resets_in: quota.window.saturating_sub(passed),
    }
}
