//! Home timelines: a range read of stored entries, merged with the outboxes of authors that are
//! pulled, checked, and filled up until the page is full.

use std::collections::{BTreeMap, HashSet};

use bson::doc;
use futures_util::{StreamExt, TryStreamExt, stream};
use shared::ids::{EntryId, UserId};

use super::cursor::CursorKind;
use super::generation::View;
use super::keys::{between, last_id};
use super::posts::Filling;
use super::rows::{EntryRow, KeyRow, OutboxRow, PARKED, ReaderRow};
use super::sabotage::Sabotage;
use super::view::{Page, PostView};
use super::visibility::Candidate;
use super::{ViewError, Views};

/// What is known of a reader when a page begins.
struct Reader {
    id: UserId,
    /// Everyone they follow.
    following: HashSet<UserId>,
    /// Of those, whose outbox must be merged: hot, being fanned out, or just followed.
    pulled: Vec<UserId>,
}

/// Candidates of a span of time, and how far down they are complete.
struct Span {
    candidates: BTreeMap<EntryId, Candidate>,
    /// Everything above this id is in `candidates`.
    complete_above: i64,
}

/// The first span to look at for a reader we know nothing of, in milliseconds.
const FIRST_WINDOW: i64 = 60 * 60 * 1_000;
const WIDER: i64 = 8;
/// Entries of a live stream sent at a time: who is further behind reads the timeline.
const MOST_NEWER: usize = 800;
/// Outboxes read at a time: more than this is no faster on one connection pool.
const PULLS_AT_ONCE: usize = 8;

impl Views {
    /// A page of a reader's home timeline.
    pub async fn home(
        &self,
        reader: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<PostView>, ViewError> {
        let mut before = self.position(CursorKind::Home, reader.get(), cursor)?;
        let state = self.reader(reader).await?;
        let mut filling = Filling::new(limit);
        let mut window = self.0.windows.get(&reader).unwrap_or(FIRST_WINDOW);
        let top = before.min(now_id());
        loop {
            let span = self.span(&state, before, window, limit + 1).await?;
            let candidates: Vec<Candidate> = span
                .candidates
                .into_values()
                .rev()
                .filter(|candidate| state.may_see(candidate.by))
                .collect();
            for chunk in candidates.chunks(limit + 1) {
                let shown = self.show(chunk, Some(reader)).await?;
                for (candidate, shown) in chunk.iter().zip(shown) {
                    if filling.offer(candidate.entry.get(), shown).is_full() {
                        self.0
                            .windows
                            .insert(reader, ((top - candidate.entry.get()) >> 16).max(1_000) * 2);
                        return self.finish(reader, filling.finish());
                    }
                }
            }
            if span.complete_above <= 0 || self.is_sabotaged(Sabotage::NoRefill) {
                return self.finish(reader, filling.end());
            }
            before = span.complete_above + 1;
            // Short: look further back at once.
            window = window.saturating_mul(WIDER);
        }
    }

    /// The lowest sequence that all partitions have applied.
    pub async fn position_now(&self) -> Result<u64, ViewError> {
        let checkpoints = self.checkpoints().await?;
        let of = |partition| {
            checkpoints
                .iter()
                .find(|(at, _)| *at == partition)
                .map_or(0, |(_, at)| at.seq)
        };
        Ok(self.partitions().all().map(of).min().unwrap_or(0))
    }

    /// What has become visible to a reader after `seq`, up to the sequence that all partitions
    /// have applied, which comes with it. Rising sequences; at most `MOST_NEWER`.
    pub async fn newer_than(
        &self,
        reader: UserId,
        seq: u64,
    ) -> Result<(u64, Vec<(u64, PostView)>), ViewError> {
        let now = self.position_now().await?;
        if now <= seq {
            return Ok((now, Vec::new()));
        }
        let mut state = self.reader(reader).await?;
        if self.horizon(reader).await? == PARKED {
            state.pulled = state.following.iter().copied().chain([reader]).collect();
        }
        let newer = doc! { "$gt": super::write::signed(seq), "$lte": super::write::signed(now) };
        let mut found = BTreeMap::new();
        let mut range = between(&reader.to_key(), 0, i64::MAX);
        range.insert("s", newer.clone());
        for row in self
            .newest::<EntryRow>(View::Timeline, range, MOST_NEWER)
            .await?
        {
            if let Some(entry) = last_id(&row.id).filter(|_| state.may_see(row.by)) {
                found.insert(
                    row.s,
                    Candidate {
                        entry,
                        post: row.post,
                        by: row.by,
                        proven: false,
                    },
                );
            }
        }
        for author in state.pulled {
            let mut range = between(&author.to_key(), 0, i64::MAX);
            range.insert("s", newer.clone());
            for row in self
                .newest::<OutboxRow>(View::Outbox, range, MOST_NEWER)
                .await?
            {
                if let Some(entry) = last_id(&row.id) {
                    found.insert(
                        row.s,
                        Candidate {
                            entry,
                            post: row.post,
                            by: author,
                            proven: true,
                        },
                    );
                }
            }
        }
        let candidates: Vec<Candidate> = found.values().copied().collect();
        let shown = self.show(&candidates, Some(reader)).await?;
        let numbered = found.into_keys().zip(shown);
        let posts = numbered
            .filter_map(|(seq, post)| Some((u64::try_from(seq).ok()?, post?)))
            .collect();
        Ok((now, posts))
    }

    fn finish(
        &self,
        reader: UserId,
        (items, next): (Vec<PostView>, Option<i64>),
    ) -> Result<Page<PostView>, ViewError> {
        self.page(CursorKind::Home, reader.get(), items, next)
    }

    async fn horizon(&self, reader: UserId) -> Result<i64, ViewError> {
        let row: Option<ReaderRow> = self
            .rows(View::Readers)
            .find_one(doc! { "_id": reader.get() })
            .await?;
        Ok(row.unwrap_or_default().horizon)
    }

    /// Readers who are seen are fanned out to. To be noted before anything is read: who is parked
    /// now is merged, and soon re-activated. Whoever merely compares does not note it.
    pub async fn note_seen(&self, reader: UserId) -> Result<(), ViewError> {
        if self.0.seen.contains_key(&reader) {
            return Ok(());
        }
        self.seen(reader, now_id() >> 16).await?;
        self.0.seen.insert(reader, ());
        Ok(())
    }

    /// Edges first, then what is pulled, then entries, the horizon last: an edge that is seen was
    /// pending before, so its older entries are pulled or inserted by the time they are read.
    async fn reader(&self, id: UserId) -> Result<Reader, ViewError> {
        let mut edges = between(&id.to_key(), 0, i64::MAX);
        edges.insert("on", true);
        let rows: Vec<KeyRow> = self.all(View::Following, edges).await?;
        let following: HashSet<UserId> = rows.iter().filter_map(|row| last_id(&row.id)).collect();
        let partition = self.partitions().of(id);
        let hot = between(&partition.0.to_be_bytes(), 0, i64::MAX);
        let pending = between(&id.to_key(), 0, i64::MAX);
        let (hot, pending): (Vec<KeyRow>, Vec<KeyRow>) = tokio::try_join!(
            self.all(View::Pulled, hot),
            self.all(View::Pending, pending)
        )?;
        let mut pulled: Vec<UserId> = hot
            .iter()
            .chain(&pending)
            .filter_map(|row| last_id(&row.id))
            .filter(|author| following.contains(author))
            .collect();
        pulled.sort_unstable();
        pulled.dedup();
        Ok(Reader {
            id,
            following,
            pulled,
        })
    }

    /// Candidates below `before`, from a span of `window` milliseconds, about `want` per source.
    async fn span(
        &self,
        reader: &Reader,
        before: i64,
        window: i64,
        want: usize,
    ) -> Result<Span, ViewError> {
        let low = before
            .min(now_id())
            .saturating_sub(window.saturating_mul(1 << 16))
            .max(0);
        let range = between(&reader.id.to_key(), low, before);
        let entries: Vec<EntryRow> = self.newest(View::Timeline, range, want).await?;
        // The horizon after the entries: what was trimmed in between is below it by now.
        let horizon = self.horizon(reader.id).await?;
        if before <= horizon + 1 {
            return self.span_below_horizon(reader, low, before, want).await;
        }
        let mut candidates = BTreeMap::new();
        let mut complete_above = low.max(horizon);
        let full = entries.len() == want;
        for row in entries {
            let Some(entry) = last_id(&row.id) else {
                continue;
            };
            candidates.insert(
                entry,
                Candidate {
                    entry,
                    post: row.post,
                    by: row.by,
                    proven: false,
                },
            );
        }
        if full && let Some(lowest) = candidates.keys().next() {
            complete_above = complete_above.max(lowest.get() - 1);
        }
        self.pull(
            &reader.pulled,
            &mut candidates,
            &mut complete_above,
            before,
            want,
        )
        .await?;
        candidates.retain(|entry, _| entry.get() > complete_above);
        Ok(Span {
            candidates,
            complete_above,
        })
    }

    /// Nothing is stored below the horizon for sure: every followee's outbox is merged.
    async fn span_below_horizon(
        &self,
        reader: &Reader,
        low: i64,
        before: i64,
        limit: usize,
    ) -> Result<Span, ViewError> {
        let mut candidates = BTreeMap::new();
        let mut complete_above = low;
        let all: Vec<UserId> = reader
            .following
            .iter()
            .copied()
            .chain([reader.id])
            .collect();
        self.pull(&all, &mut candidates, &mut complete_above, before, limit)
            .await?;
        candidates.retain(|entry, _| entry.get() > complete_above);
        Ok(Span {
            candidates,
            complete_above,
        })
    }

    /// Merges the outboxes of `authors` between `complete_above` and `before`; where one has more
    /// than `limit`, completeness ends higher up.
    async fn pull(
        &self,
        authors: &[UserId],
        candidates: &mut BTreeMap<EntryId, Candidate>,
        complete_above: &mut i64,
        before: i64,
        limit: usize,
    ) -> Result<(), ViewError> {
        let low = *complete_above;
        let mut outboxes = stream::iter(authors.iter().copied())
            .map(|author| async move {
                let range = between(&author.to_key(), low, before);
                let rows = self.newest::<OutboxRow>(View::Outbox, range, limit).await;
                rows.map(|rows| (author, rows))
            })
            .buffer_unordered(PULLS_AT_ONCE);
        while let Some((author, rows)) = outboxes.try_next().await? {
            let lowest = rows
                .last()
                .and_then(|row| last_id::<shared::ids::EntryKind>(&row.id));
            if let Some(lowest) = lowest.filter(|_| rows.len() == limit) {
                *complete_above = (*complete_above).max(lowest.get() - 1);
            }
            for row in rows {
                let Some(entry) = last_id(&row.id) else {
                    continue;
                };
                candidates.insert(
                    entry,
                    Candidate {
                        entry,
                        post: row.post,
                        by: author,
                        proven: true,
                    },
                );
            }
        }
        Ok(())
    }
}

impl Reader {
    fn may_see(&self, by: UserId) -> bool {
        by == self.id || self.following.contains(&by)
    }
}

/// The id that an event made now would have, a little ahead for clocks that differ.
fn now_id() -> i64 {
    use shared::time::Clock;
    (shared::time::SystemClock.now().millis() + 5_000) << 16
}
