//! The jobs that remove the relations of users who left. What is stored of them is called by older
//! words: `farewell`, `tie`.

use std::time::Duration;

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};
use shared::contract::events::LogStream;
use shared::contract::ids::UserId;
use shared::contract::time::Timestamp;

use super::calls::Calls;
use super::errors::Fault;
use crate::app::ports::{Cleanups, DeactivationCleanup, Relation, Result};

const COLLECTION: &str = "jobs";
const KIND: &str = "farewell";

type Attempt<T> = std::result::Result<T, Fault>;

pub(super) struct CleanupJobs {
    jobs: Collection<CleanupDocument>,
    calls: Calls,
}

#[derive(Serialize, Deserialize)]
struct CleanupDocument {
    #[serde(rename = "_id")]
    id: String,
    kind: String,
    user: UserId,
    planned_at: Timestamp,
    passes: i64,
    #[serde(default)]
    tie: Option<String>,
    #[serde(default)]
    behind: Option<LogStream>,
    due: DateTime,
}

#[async_trait]
impl Cleanups for CleanupJobs {
    async fn plan(&self, user: UserId, now: Timestamp) -> Result<()> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_plan(user, now)).await
    }

    async fn claim(&self, now: Timestamp, lease: Duration) -> Result<Option<DeactivationCleanup>> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_claim(now, lease)).await
    }

    async fn save(&self, job: &DeactivationCleanup, due: Timestamp) -> Result<()> {
        self.calls.ask(|| self.try_save(job, due)).await
    }

    async fn remove(&self, job: &DeactivationCleanup) -> Result<()> {
        self.calls.ask(|| self.try_remove(job)).await
    }
}

impl CleanupJobs {
    pub(super) fn new(database: &Database, calls: Calls) -> Self {
        Self {
            jobs: database.collection(COLLECTION),
            calls,
        }
    }

    /// A job that is there begins again, and is as young as a new one.
    async fn try_plan(&self, user: UserId, now: Timestamp) -> Attempt<()> {
        let planned = doc! {
            "$set": {
                "planned_at": date(now),
                "passes": 0_i64,
                "tie": name(Relation::ALL[0]),
                "behind": null,
            },
            "$setOnInsert": { "kind": KIND, "user": user.get(), "due": date(now) },
        };
        let job = doc! { "_id": id(user) };
        self.jobs.update_one(job, planned).upsert(true).await?;
        Ok(())
    }

    async fn try_claim(
        &self,
        now: Timestamp,
        lease: Duration,
    ) -> Attempt<Option<DeactivationCleanup>> {
        let due = doc! { "kind": KIND, "due": { "$lte": date(now) } };
        let until = now.millis() + i64::try_from(lease.as_millis()).unwrap_or(0);
        let take = doc! { "$set": { "due": DateTime::from_millis(until) } };
        let job = self
            .jobs
            .find_one_and_update(due, take)
            .sort(doc! { "due": 1 })
            .await?;
        Ok(job.map(DeactivationCleanup::from))
    }

    /// Unless it has been planned again since it was claimed.
    async fn try_save(&self, job: &DeactivationCleanup, due: Timestamp) -> Attempt<()> {
        let progress = doc! { "$set": {
            "passes": i64::from(job.passes),
            "tie": name(job.relation),
            "behind": job.after.map(|stream| stream.to_string()),
            "due": date(due),
        } };
        self.jobs.update_one(as_claimed(job), progress).await?;
        Ok(())
    }

    /// Unless it has been planned again since it was claimed.
    async fn try_remove(&self, job: &DeactivationCleanup) -> Attempt<()> {
        self.jobs.delete_one(as_claimed(job)).await?;
        Ok(())
    }
}

impl From<CleanupDocument> for DeactivationCleanup {
    fn from(document: CleanupDocument) -> Self {
        let known = |it: &Relation| document.tie.as_deref() == Some(name(*it));
        let relation = Relation::ALL.into_iter().find(known);
        Self {
            user: document.user,
            planned_at: document.planned_at,
            passes: u32::try_from(document.passes).unwrap_or(0),
            relation: relation.unwrap_or(Relation::ALL[0]),
            // One that this build cannot read begins with the first kind.
            after: relation.and(document.behind),
        }
    }
}

fn as_claimed(job: &DeactivationCleanup) -> Document {
    doc! { "_id": id(job.user), "planned_at": date(job.planned_at) }
}

fn name(relation: Relation) -> &'static str {
    match relation {
        Relation::Followees => "followees",
        Relation::Followers => "followers",
        Relation::Reposts => "reposts",
        Relation::Replies => "replies",
    }
}

fn id(user: UserId) -> String {
    format!("{KIND}:{user}")
}

fn date(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.millis())
}
