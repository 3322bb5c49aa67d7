//! Whether the views reflect a write, by the consistency token that the write was answered with.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use shared::contract::consistency::ConsistencyToken;
use shared::contract::events::LogStream;
use shared::contract::partition::Partition;

use super::model::ReadModel;
use super::unanswered::Unanswered;
use crate::cache::ReadFrom;
use crate::views::error::ViewError;
use crate::views::generation::View;
use crate::views::keys::Key;

impl ReadModel {
    /// A handle that reflects all that a token covers; `None` if the views do not yet. It reads
    /// from the database alone if what is remembered may be older than the write.
    pub async fn reflecting(&self, token: &ConsistencyToken) -> Result<Option<Self>, Unanswered> {
        let Some(seq) = self.reflects(token).await? else {
            return Ok(None);
        };
        let told = |partition| self.caches().has_heard(partition, seq);
        let current = self.partitions().all().all(told);
        let from = if current {
            self.reads_from()
        } else {
            ReadFrom::Database
        };
        Ok(Some(self.reading(from)))
    }

    /// The sequence from which on the views reflect all that a token covers; `None` if they do
    /// not yet.
    ///
    /// Every event it names has its row, and every partition has passed the last of them: what was
    /// accepted before may concern any of them.
    async fn reflects(&self, token: &ConsistencyToken) -> Result<Option<u64>, Unanswered> {
        let mut wanted: BTreeMap<View, Vec<(Key, i64)>> = BTreeMap::new();
        for position in token.positions() {
            // Version 0 is what holds before the first event: nothing to wait for.
            if position.version > 0 {
                let (view, key) = row_of(position.stream);
                wanted
                    .entry(view)
                    .or_default()
                    .push((key, position.version));
            }
        }
        let mut seq = 0;
        for (view, rows) in wanted {
            match self.rows_reach(view, &rows).await? {
                Some(reached) => seq = seq.max(reached),
                None => return Ok(None),
            }
        }
        if seq == 0 {
            return Ok(Some(0));
        }
        let checkpoints = self.checkpoints().await?;
        let passed = |partition: Partition| {
            checkpoints
                .iter()
                .any(|(at, checkpoint)| *at == partition && checkpoint.seq >= seq)
        };
        Ok(self.partitions().all().all(passed).then_some(seq))
    }

    /// The greatest sequence of these rows, if each has its version.
    async fn rows_reach(
        &self,
        view: View,
        wanted: &[(Key, i64)],
    ) -> Result<Option<u64>, Unanswered> {
        let keys: Vec<Bson> = wanted.iter().map(|(key, _)| key.bson()).collect();
        let found: Vec<Document> = self
            .rows::<Document>(view)
            .find(doc! { "_id": { "$in": keys } })
            .projection(doc! { "v": 1, "s": 1 })
            .await?
            .try_collect()
            .await?;
        let mut reached = 0;
        for (key, version) in wanted {
            let row = found.iter().find(|row| row.get("_id") == Some(&key.bson()));
            let at = row.and_then(|row| Some((row.get_i64("v").ok()?, row.get_i64("s").ok()?)));
            match at {
                Some((v, s)) if v >= *version => {
                    let seq = u64::try_from(s).map_err(|_| ViewError::Corrupt("a sequence"))?;
                    reached = reached.max(seq);
                }
                Some(_) | None => return Ok(None),
            }
        }
        Ok(Some(reached))
    }
}

/// The row that shows what a log stream has come to.
fn row_of(stream: LogStream) -> (View, Key) {
    match stream {
        LogStream::User(user) => (View::Users, Key::id(user)),
        LogStream::Post(post) => (View::Posts, Key::id(post)),
        LogStream::Follow { follower, followee } => {
            (View::Following, Key::pair(follower, followee))
        }
        LogStream::Like { user, post } => (View::Likes, Key::pair(post, user)),
        LogStream::Repost { user, post } => (View::Reposts, Key::pair(post, user)),
    }
}
