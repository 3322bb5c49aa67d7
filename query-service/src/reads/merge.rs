//! Below the horizon nothing is stored for a reader: the author feeds of everybody they follow are
//! merged, thousands of them for one page.
//!
//! It takes as many seeks as they follow people, whatever the page's length. So one merge finds
//! the newest few hundred entries, and remembers them for the pages after it, as long as no message
//! names one of these author feeds. Author feeds are asked for together where the database answers that
//! with seeks, and only for what is newer than the entries found so far.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use futures_util::{StreamExt, TryStreamExt, stream};
use shared::contract::ids::{EntryId, UserId};

use super::hints::Merged;
use super::model::ReadModel;
use super::posts::MOST_TOGETHER;
use super::scan::List;
use super::timeline::{Reader, Span};
use super::unanswered::Unanswered;
use super::visibility::Candidate;
use super::windows::took_too_long;
use crate::cache::ReadFrom;
use crate::metric_rows::CACHE_LOOKUPS;
use crate::views::documents::AuthorFeedRow;
use crate::views::entry::TimelineItem;
use crate::views::generation::View;
use crate::views::keys::{between, first_id, now_id};

/// Entries that one merge finds.
const KEPT: usize = MOST_TOGETHER;
/// Author feeds asked for with one query, where the database seeks each.
const TOGETHER: usize = 64;
/// Rows of so many author feeds; where there are more, only newer ones are wanted.
const MOST_ROWS: usize = 2_000;
/// What a query may take where it could be for less.
const HURRY: Duration = Duration::from_millis(100);
/// Author feeds asked for at the same time, where each takes a query.
const AT_ONCE: usize = 2;
/// Rows of one author feed, where each takes a query.
const MOST_OF_ONE: usize = 50;
/// Rows of an author feed looked at, at a time, for what is new.
const LOOKBACK: usize = 100;
/// Sixteen milliseconds of ids.
const NARROWEST: i64 = 16 << 16;
const NARROWER: i64 = 16;

impl ReadModel {
    /// What everybody whom the reader follows has below `before`.
    pub(super) async fn span_below_horizon(
        &self,
        reader: &Reader,
        before: i64,
    ) -> Result<Span, Unanswered> {
        if let Some(span) = self.merged_before(reader, before) {
            return Ok(span);
        }
        self.may_load()?;
        // Entries are younger than their author's account.
        let mut authors = reader.everybody();
        authors.retain(|author| author.get() < before);
        let since = self.caches().since_now();
        let depth = self.hints().depths.get(&reader.id).unwrap_or(i64::MAX);
        let top = before.min(now_id());
        let mut complete_above = top.saturating_sub(depth).max(0);
        let mut candidates = BTreeMap::new();
        self.merge(&authors, &mut candidates, &mut complete_above, before)
            .await?;
        if candidates.is_empty() && complete_above > 0 {
            // Everything at once: a look takes as many seeks again.
            complete_above = 0;
            self.merge(&authors, &mut candidates, &mut complete_above, before)
                .await?;
        }
        let spanned = top.saturating_sub(complete_above);
        let depth = if complete_above == 0 {
            i64::MAX
        } else if candidates.len() < KEPT / 2 {
            spanned.saturating_mul(8)
        } else {
            spanned.saturating_mul(2)
        };
        self.hints().depths.insert(reader.id, depth);
        if self.reads_from() == ReadFrom::CacheThenDatabase {
            let merged = Merged {
                following: reader.edges.following.clone(),
                before,
                complete_above,
                items: candidates.values().rev().map(|it| it.item).collect(),
                since,
            };
            self.hints().merged.insert(reader.id, Arc::new(merged));
        }
        Ok(Span {
            candidates,
            complete_above,
        })
    }

    /// The same from memory, if nothing of it can have changed.
    fn merged_before(&self, reader: &Reader, before: i64) -> Option<Span> {
        if !matches!(
            self.reads_from(),
            ReadFrom::CacheThenDatabase | ReadFrom::CacheOnly
        ) {
            return None;
        }
        let found = self.merged_within(reader, before);
        let outcome = if found.is_some() { "hit" } else { "miss" };
        CACHE_LOOKUPS.of(["merges", outcome]).increment(1);
        found
    }

    fn merged_within(&self, reader: &Reader, before: i64) -> Option<Span> {
        let merged = self.hints().merged.get(&reader.id)?;
        let within = before <= merged.before && before > merged.complete_above.saturating_add(1);
        let involved = |author: UserId| reader.may_see(author);
        let holds = within
            && merged.following == reader.edges.following
            && self.caches().unchanged(&merged.since, involved);
        holds.then(|| {
            let below = merged.items.iter().filter(|item| item.entry.get() < before);
            let candidates = below.map(|item| (item.entry, Candidate::new(*item, true)));
            Span {
                candidates: candidates.collect(),
                complete_above: merged.complete_above,
            }
        })
    }

    /// # Errors
    /// `Expensive` if the read has no permits to merge so many author feeds.
    pub(super) fn may_merge(&self, feeds: usize) -> Result<(), Unanswered> {
        let thousands = u32::try_from(feeds / 1_000).unwrap_or(u32::MAX);
        self.may_be_expensive(thousands.saturating_add(1))
    }

    /// Merges the author feeds of `authors` between `complete_above` and `before`. What is found is
    /// bounded: where there is more, completeness ends higher up.
    pub(super) async fn merge(
        &self,
        authors: &[UserId],
        candidates: &mut BTreeMap<EntryId, Candidate>,
        complete_above: &mut i64,
        before: i64,
    ) -> Result<(), Unanswered> {
        self.may_merge(authors.len())?;
        let mut low = *complete_above;
        let top = before.min(now_id());
        for some in authors.chunks(TOGETHER) {
            let (items, complete) = loop {
                let found = if self.seeks_many_ranges() {
                    let may_narrow = top - low > NARROWEST;
                    self.feeds_together(some, low, before, may_narrow).await?
                } else {
                    Some(self.feeds_one_by_one(some, low, before).await?)
                };
                match found {
                    Some(found) => break found,
                    None => low = top - ((top - low) / NARROWER).max(NARROWEST),
                }
            };
            low = low.max(complete);
            let new = items.into_iter().map(|item| Candidate::new(item, true));
            candidates.extend(new.map(|candidate| (candidate.item.entry, candidate)));
            candidates.retain(|entry, _| entry.get() > low);
            if let Some(first_out) = candidates.keys().rev().nth(KEPT) {
                low = first_out.get();
                candidates.retain(|entry, _| entry.get() > low);
            }
        }
        *complete_above = low;
        Ok(())
    }

    /// What an author feed has with a sequence above `low`, up to `high`.
    pub(super) async fn feed_since(
        &self,
        author: UserId,
        low: i64,
        high: i64,
    ) -> Result<Vec<(i64, TimelineItem)>, Unanswered> {
        let mut scan = self.scan(List::of(View::AuthorFeed, author, 0), i64::MAX);
        let (mut found, mut older) = (Vec::new(), 0);
        loop {
            let look = self
                .read_window::<AuthorFeedRow>(&mut scan, LOOKBACK)
                .await?;
            for (_, row) in &look.rows {
                // An author's ids and sequences rise together but for clocks that differ.
                older = if row.s > low { 0 } else { older + 1 };
                if row.s > low && row.s <= high {
                    found.extend(row.item(author).map(|item| (row.s, item)));
                }
            }
            if scan.is_done() || older >= LOOKBACK / 2 {
                return Ok(found);
            }
        }
    }

    /// Rows of some author feeds between `low` and `before`, and above what they are complete; `None`
    /// if they are too many, or take too long.
    async fn feeds_together(
        &self,
        authors: &[UserId],
        low: i64,
        before: i64,
        may_narrow: bool,
    ) -> Result<Option<(Vec<TimelineItem>, i64)>, Unanswered> {
        self.may_load()?;
        let ranges = authors.iter();
        let ranges: Vec<Document> = ranges
            .map(|author| between(&author.to_key(), low, before))
            .collect();
        let rows = self.rows::<AuthorFeedRow>(View::AuthorFeed);
        let mut query = rows.find(doc! { "$or": ranges });
        if may_narrow {
            let limit = i64::try_from(MOST_ROWS + 1).unwrap_or(i64::MAX);
            query = query.limit(limit).max_time(HURRY);
        }
        let found: Result<Vec<AuthorFeedRow>, _> = match query.await {
            Ok(rows) => rows.try_collect().await,
            Err(error) => Err(error),
        };
        let rows = match found {
            Ok(rows) => rows,
            Err(error) if may_narrow && took_too_long(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.has_read(rows.len());
        if may_narrow && rows.len() > MOST_ROWS {
            return Ok(None);
        }
        let items = rows.iter().filter_map(|row| row.item(first_id(&row.id)?));
        Ok(Some((items.collect(), low)))
    }

    async fn feeds_one_by_one(
        &self,
        authors: &[UserId],
        low: i64,
        before: i64,
    ) -> Result<(Vec<TimelineItem>, i64), Unanswered> {
        let of = |author: UserId| async move {
            let range = between(&author.to_key(), low, before);
            let rows: Vec<AuthorFeedRow> =
                self.newest(View::AuthorFeed, range, MOST_OF_ONE).await?;
            let is_cut = rows.len() == MOST_OF_ONE;
            let items: Vec<TimelineItem> = rows.iter().filter_map(|row| row.item(author)).collect();
            let lowest = items.last().filter(|_| is_cut);
            let complete_above = lowest.map_or(low, |lowest| lowest.entry.get() - 1);
            Ok::<_, Unanswered>((items, complete_above))
        };
        // To their ends, also where one fails: a query is never dropped half way.
        let found = stream::iter(authors.iter().copied()).map(of);
        let found: Vec<Result<_, Unanswered>> = found.buffer_unordered(AT_ONCE).collect().await;
        let (mut all, mut complete_above) = (Vec::new(), low);
        for one in found {
            let (items, complete) = one?;
            complete_above = complete_above.max(complete);
            all.extend(items);
        }
        Ok((all, complete_above))
    }
}
