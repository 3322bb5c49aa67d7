//! The jobs that end the ties of users who left.

use std::time::Duration;

use bson::{DateTime, doc};
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};
use shared::events::LogStream;
use shared::ids::UserId;
use shared::time::Timestamp;

use super::errors::Fault;
use crate::app::store::{Farewell, Tie};

const COLLECTION: &str = "jobs";
const KIND: &str = "farewell";

type Attempt<T> = std::result::Result<T, Fault>;

pub(super) struct Farewells {
    jobs: Collection<FarewellDocument>,
}

#[derive(Serialize, Deserialize)]
struct FarewellDocument {
    #[serde(rename = "_id")]
    id: String,
    kind: String,
    user: UserId,
    planned_at: Timestamp,
    passes: i64,
    tie: String,
    after: Option<LogStream>,
    due: DateTime,
}

impl Farewells {
    pub(super) fn new(database: &Database) -> Self {
        Self {
            jobs: database.collection(COLLECTION),
        }
    }

    /// A job that is there keeps its place, and is as young as a new one.
    pub(super) async fn plan(&self, user: UserId, now: Timestamp) -> Attempt<()> {
        let planned = doc! {
            "$set": { "planned_at": date(now) },
            "$setOnInsert": {
                "kind": KIND,
                "user": user.get(),
                "passes": 0_i64,
                "tie": name(Tie::ALL[0]),
                "after": null,
                "due": date(now),
            },
        };
        let job = doc! { "_id": id(user) };
        self.jobs.update_one(job, planned).upsert(true).await?;
        Ok(())
    }

    pub(super) async fn claim(&self, now: Timestamp, lease: Duration) -> Attempt<Option<Farewell>> {
        let due = doc! { "kind": KIND, "due": { "$lte": date(now) } };
        let until = now.millis() + i64::try_from(lease.as_millis()).unwrap_or(0);
        let take = doc! { "$set": { "due": DateTime::from_millis(until) } };
        let job = self
            .jobs
            .find_one_and_update(due, take)
            .sort(doc! { "due": 1 })
            .await?;
        Ok(job.map(Farewell::from))
    }

    pub(super) async fn save(&self, job: &Farewell, due: Timestamp) -> Attempt<()> {
        let progress = doc! { "$set": {
            "passes": i64::from(job.passes),
            "tie": name(job.tie),
            "after": job.after.map(|stream| stream.to_string()),
            "due": date(due),
        } };
        let job = doc! { "_id": id(job.user) };
        self.jobs.update_one(job, progress).await?;
        Ok(())
    }

    /// Unless it has been planned again since it was claimed.
    pub(super) async fn drop(&self, job: &Farewell) -> Attempt<()> {
        let unchanged = doc! { "_id": id(job.user), "planned_at": date(job.planned_at) };
        self.jobs.delete_one(unchanged).await?;
        Ok(())
    }
}

impl From<FarewellDocument> for Farewell {
    fn from(document: FarewellDocument) -> Self {
        let tie = Tie::ALL.into_iter().find(|tie| name(*tie) == document.tie);
        Self {
            user: document.user,
            planned_at: document.planned_at,
            passes: u32::try_from(document.passes).unwrap_or(0),
            tie: tie.unwrap_or(Tie::ALL[0]),
            after: document.after,
        }
    }
}

fn name(tie: Tie) -> &'static str {
    match tie {
        Tie::Followees => "followees",
        Tie::Followers => "followers",
        Tie::Reposts => "reposts",
        Tie::Replies => "replies",
    }
}

fn id(user: UserId) -> String {
    format!("{KIND}:{user}")
}

fn date(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.millis())
}
