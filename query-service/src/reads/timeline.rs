//! Home timelines: a range read of stored entries, merged with the author feeds of authors that are
//! pulled, checked, and filled up until the page is full.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::doc;
use futures_util::{StreamExt, stream};
use shared::contract::ids::{EntryId, UserId};
use shared::contract::partition::Partition;

use super::bodies::{Page, PostView};
use super::cursor::CursorKind;
use super::model::ReadModel;
use super::posts::{Filling, MOST_TOGETHER};
use super::unanswered::Unanswered;
use super::visibility::Candidate;
use crate::cache::{Edges, Lookup, MOST_ENTRIES, NewestItems, Pulled, RecentlyPulled};
use crate::views::documents::{AuthorFeedRow, EntryRow, KeyRow, ReaderRow};
use crate::views::entry::TimelineItem;
use crate::views::fail_point::FailPoint;
use crate::views::generation::View;
use crate::views::keys::{between, last_id, now_id};

/// What is known of a reader when a page begins.
pub(super) struct Reader {
    pub id: UserId,
    pub edges: Arc<Edges>,
    /// Of those they follow, whose author feed must be merged: hot, being fanned out, or just followed.
    pub pulled: Vec<UserId>,
}

/// How many rows are taken of each source at a time.
#[derive(Clone, Copy)]
struct Take {
    /// Enough, where they are remembered.
    remembered: usize,
    /// At most, where the database is asked.
    loaded: usize,
}

/// Candidates of a span of time, and how far down they are complete.
pub(super) struct Span {
    pub candidates: BTreeMap<EntryId, Candidate>,
    /// Everything above this id is in `candidates`.
    pub complete_above: i64,
}

/// The first span to look at for a reader we know nothing of, in milliseconds.
const FIRST_WINDOW: i64 = 60 * 60 * 1_000;
const SHORTEST_WINDOW: i64 = 1_000;
/// Rows taken at once even for a short page: what costs is the span, and more is remembered.
const LEAST_LOADED: usize = 50;
/// Back to the first id.
const EVERYTHING: i64 = i64::MAX >> 16;
const WIDER: i64 = 8;
/// Where a page without a cursor begins. Only what begins here can be extended by what comes, and is
/// remembered as the newest: ids may be ahead of this replica's clock, so that no clock can tell.
const NEWEST: i64 = i64::MAX;
/// Author feeds read at a time.
const PULLS_AT_ONCE: usize = 4;
/// Author feeds that any page may merge: more are expensive.
pub(super) const CHEAP_PULLS: usize = 64;

impl ReadModel {
    /// A page of a reader's home timeline.
    pub async fn home(
        &self,
        reader: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<PostView>, Unanswered> {
        let mut before = self.position(CursorKind::Home, reader.get(), cursor)?;
        let state = self.reader(reader).await?;
        let mut filling = Filling::new(limit);
        let remembered = self.hints().windows.get(&reader).unwrap_or(FIRST_WINDOW);
        let mut window = remembered;
        let top = before.min(now_id());
        let ends = |window, filled| {
            self.hints().windows.insert(reader, window);
            self.filled_page(CursorKind::Home, reader.get(), filled)
        };
        let is_stale = self.is_stale();
        let mut take = Take {
            remembered: if is_stale { MOST_ENTRIES } else { limit + 1 },
            loaded: LEAST_LOADED.max(limit + 1),
        };
        loop {
            let span = self.span(&state, before, window, take).await?;
            let is_empty = span.candidates.is_empty();
            let candidates = state.visible(span.candidates);
            let (mut known, mut whole) = (&candidates[..], true);
            if is_stale {
                known = self.remembered_run(&candidates, limit + 1);
                whole = known.last() == candidates.last();
            }
            if let Some(last) = self.fill(&mut filling, known, Some(reader)).await? {
                let reached = (top - last.get()) >> 16;
                return ends(next_window(reached, remembered), filling.finish());
            }
            if !whole {
                // What comes next is not remembered.
                self.may_load()?;
            }
            if span.complete_above <= 0 || self.fails_at(FailPoint::NoRefill) {
                // All there is fits on a page: the next look takes it at once.
                return ends(EVERYTHING, filling.end());
            }
            before = span.complete_above + 1;
            // Short: look further back at once; where nothing was, everywhere. Below the horizon a
            // look asks for every followee's author feed, so that looks are what costs.
            window = if is_empty {
                EVERYTHING
            } else {
                window.saturating_mul(WIDER)
            };
            if self.is_used_up() {
                // The next page looks as far as this one would have: with the same window a scroll
                // to posts of last year would take pages by the thousand, all of them empty.
                return ends(window.min(top >> 16), filling.cut_at(before));
            }
            take.loaded = (take.loaded * 2).min(MOST_TOGETHER);
        }
    }

    async fn horizon(&self, reader: UserId) -> Result<i64, Unanswered> {
        Ok(self.reader_row(reader).await?.horizon)
    }

    pub(super) async fn reader_row(&self, reader: UserId) -> Result<ReaderRow, Unanswered> {
        self.may_load()?;
        let row: Option<ReaderRow> = self
            .rows(View::Readers)
            .find_one(doc! { "_id": reader.get() })
            .await?;
        Ok(row.unwrap_or_default())
    }

    /// Edges first, then what is pulled, then entries, the horizon last: an edge that is seen was
    /// pending before, so its older entries are pulled or inserted by the time they are read.
    pub(super) async fn reader(&self, id: UserId) -> Result<Reader, Unanswered> {
        let edges = self.edges(id).await?;
        let partition = self.partitions().of(id);
        let everywhere = self.pulled(partition).await?;
        let mut pulled: Vec<UserId> = everywhere
            .authors
            .iter()
            .chain(everywhere.lately.authors())
            .filter(|author| edges.following.binary_search(author).is_ok())
            .chain(&edges.pending)
            .chain(edges.lately.authors())
            .copied()
            .collect();
        pulled.sort_unstable();
        pulled.dedup();
        Ok(Reader { id, edges, pulled })
    }

    async fn edges(&self, reader: UserId) -> Result<Arc<Edges>, Unanswered> {
        let loading = match self.look(&self.caches().edges, &reader) {
            Lookup::Hit(edges) => return Ok(edges),
            Lookup::Miss(loading) => loading,
        };
        self.may_load()?;
        let sorted = |rows: Vec<KeyRow>| -> Vec<UserId> {
            let mut users: Vec<UserId> = rows.iter().filter_map(|row| last_id(&row.id)).collect();
            users.sort_unstable();
            users
        };
        let mut standing = between(&reader.to_key(), 0, i64::MAX);
        standing.insert("on", true);
        let following = sorted(self.all(View::Following, standing).await?);
        let pending = between(&reader.to_key(), 0, i64::MAX);
        let mut pending = sorted(self.all(View::Pending, pending).await?);
        pending.retain(|author| following.binary_search(author).is_ok());
        let lately = match self.caches().edges.last(&reader) {
            Some(before) => {
                let new = following.iter();
                let new = new.filter(|author| before.following.binary_search(author).is_err());
                let done = before.pending.iter().chain(before.lately.authors());
                let done = done.filter(|author| following.binary_search(author).is_ok());
                new.chain(done).copied().collect()
            }
            None => {
                // Whom they follow since their entries were remembered nobody knows.
                self.caches().timelines.invalidate(&reader);
                Vec::new()
            }
        };
        let edges = Arc::new(Edges {
            following,
            pending,
            lately: RecentlyPulled::new(lately),
        });
        loading.store(edges.clone());
        Ok(edges)
    }

    /// The authors whom all their readers in a partition pull.
    async fn pulled(&self, partition: Partition) -> Result<Arc<Pulled>, Unanswered> {
        let loading = match self.look(&self.caches().pulled, &partition) {
            Lookup::Hit(pulled) => return Ok(pulled),
            Lookup::Miss(loading) => loading,
        };
        self.may_load()?;
        let range = between(&partition.0.to_be_bytes(), 0, i64::MAX);
        let rows: Vec<KeyRow> = self.all(View::Pulled, range).await?;
        let authors: Vec<UserId> = rows.iter().filter_map(|row| last_id(&row.id)).collect();
        let before = self.caches().pulled.last(&partition);
        let lately = before.iter().flat_map(|before| {
            let done = before.authors.iter().chain(before.lately.authors());
            done.filter(|author| authors.binary_search(author).is_err())
        });
        let lately = RecentlyPulled::new(lately.copied().collect());
        let pulled = Arc::new(Pulled { authors, lately });
        loading.store(Arc::clone(&pulled));
        Ok(pulled)
    }

    /// Candidates below `before`, from a span of `window` milliseconds.
    async fn span(
        &self,
        reader: &Reader,
        before: i64,
        window: i64,
        take: Take,
    ) -> Result<Span, Unanswered> {
        let low = before
            .min(now_id())
            .saturating_sub(window.saturating_mul(1 << 16))
            .max(0);
        let Some((items, mut complete_above)) = self.stored(reader.id, low, before, take).await?
        else {
            return self.span_below_horizon(reader, before).await;
        };
        let mut candidates: BTreeMap<EntryId, Candidate> = items
            .into_iter()
            .map(|item| (item.entry, Candidate::new(item, false)))
            .collect();
        self.pull(
            &reader.pulled,
            &mut candidates,
            &mut complete_above,
            before,
            take,
        )
        .await?;
        candidates.retain(|entry, _| entry.get() > complete_above);
        Ok(Span {
            candidates,
            complete_above,
        })
    }

    /// The newest stored entries below `before`, and above what they are complete:
    /// `low` unless that is below the horizon, or more was taken. `None` if all of it is.
    async fn stored(
        &self,
        reader: UserId,
        low: i64,
        before: i64,
        take: Take,
    ) -> Result<Option<(Vec<TimelineItem>, i64)>, Unanswered> {
        if let Lookup::Hit(head) = self.look(&self.caches().timelines, &reader)
            && before > head.complete_above + 1
        {
            let (items, complete_above) = head.below(before, take.remembered);
            let enough = items.len() == take.remembered || complete_above <= low;
            if enough || self.is_stale() {
                return Ok(Some((items, complete_above)));
            }
        }
        self.may_load()?;
        let loading = self.caches().load(&self.caches().timelines, &reader);
        let range = between(&reader.to_key(), low, before);
        let rows: Vec<EntryRow> = self.newest(View::Timeline, range, take.loaded).await?;
        // The horizon after the entries: what was trimmed in between is below it by now.
        let horizon = self.horizon(reader).await?;
        if before <= horizon + 1 {
            return Ok(None);
        }
        let mut items: Vec<TimelineItem> = rows.iter().filter_map(EntryRow::item).collect();
        let mut complete_above = low.max(horizon);
        if let Some(last) = items.last().filter(|_| rows.len() == take.loaded) {
            complete_above = complete_above.max(last.entry.get() - 1);
        }
        items.retain(|item| item.entry.get() > complete_above);
        if before == NEWEST {
            loading.store(Arc::new(NewestItems::new(items.clone(), complete_above)));
        }
        Ok(Some((items, complete_above)))
    }

    /// Merges the author feeds of `authors` between `complete_above` and `before`; where one has more
    /// than is taken at a time, completeness ends higher up.
    async fn pull(
        &self,
        authors: &[UserId],
        candidates: &mut BTreeMap<EntryId, Candidate>,
        complete_above: &mut i64,
        before: i64,
        take: Take,
    ) -> Result<(), Unanswered> {
        let low = *complete_above;
        let mut add = |(items, complete): (Vec<TimelineItem>, i64)| {
            *complete_above = (*complete_above).max(complete);
            let proven = items.into_iter().map(|item| Candidate::new(item, true));
            candidates.extend(proven.map(|candidate| (candidate.item.entry, candidate)));
        };
        let mut unknown = Vec::new();
        for author in authors {
            match self.remembered_feed(*author, low, before, take) {
                Some(found) => add(found),
                None => unknown.push(*author),
            }
        }
        // More than a page may load are merged, and a merge remembers none of them: so each first
        // page loads, and remembers, some, and the pages after it have fewer to merge.
        let loaded = if unknown.len() > CHEAP_PULLS && before != NEWEST {
            0
        } else {
            unknown.len().min(CHEAP_PULLS)
        };
        let rest = unknown.split_off(loaded);
        if !rest.is_empty() {
            self.may_load()?;
            // Before the loads: whoever has to begin again would make them twice.
            self.may_merge(rest.len())?;
        }
        let loads = stream::iter(unknown)
            .map(|author| self.load_feed(author, low, before, take))
            .buffer_unordered(PULLS_AT_ONCE);
        // To their ends, also where one fails: a query is never dropped half way.
        let found: Vec<Result<_, Unanswered>> = loads.collect().await;
        for found in found {
            add(found?);
        }
        if !rest.is_empty() {
            self.merge(&rest, candidates, complete_above, before)
                .await?;
        }
        Ok(())
    }

    /// The newest rows of an author feed between `low` and `before`, and above what they are complete,
    /// if they are remembered.
    fn remembered_feed(
        &self,
        author: UserId,
        low: i64,
        before: i64,
        take: Take,
    ) -> Option<(Vec<TimelineItem>, i64)> {
        if let Lookup::Hit(head) = self.look(&self.caches().author_feeds, &author) {
            let (mut items, complete_above) = head.below(before, take.remembered);
            let enough = complete_above <= low || items.len() == take.remembered;
            // From memory the page ends where that does, as long as it gets anywhere.
            let some = before > head.complete_above + 1 && self.is_stale();
            if enough || some {
                items.retain(|item| item.entry.get() > low);
                return Some((items, complete_above.max(low)));
            }
        }
        None
    }

    async fn load_feed(
        &self,
        author: UserId,
        low: i64,
        before: i64,
        take: Take,
    ) -> Result<(Vec<TimelineItem>, i64), Unanswered> {
        self.may_load()?;
        let loading = self.caches().load(&self.caches().author_feeds, &author);
        let range = between(&author.to_key(), low, before);
        let rows: Vec<AuthorFeedRow> = self.newest(View::AuthorFeed, range, take.loaded).await?;
        let items: Vec<TimelineItem> = rows.iter().filter_map(|row| row.item(author)).collect();
        let mut complete_above = low;
        if let Some(last) = items.last().filter(|_| rows.len() == take.loaded) {
            complete_above = complete_above.max(last.entry.get() - 1);
        }
        if before == NEWEST {
            loading.store(Arc::new(NewestItems::new(items.clone(), complete_above)));
        }
        Ok((items, complete_above))
    }
}

/// The window of a reader's next look, when this one was `remembered` and a page took `reached`
/// milliseconds of it.
///
/// It stays while it fits: a window that grew with the age of the newest posts would reach further
/// back than what is in memory, each time a little, and every page would load again. Short pages do
/// not make the next long one look twice.
fn next_window(reached: i64, remembered: i64) -> i64 {
    let wanted = reached.max(SHORTEST_WINDOW) * 2;
    if (reached..=wanted * 2).contains(&remembered) {
        remembered
    } else {
        wanted.max(remembered / 2)
    }
}

impl Reader {
    pub fn may_see(&self, by: UserId) -> bool {
        by == self.id || self.edges.following.binary_search(&by).is_ok()
    }

    /// Those that the reader may see, newest first.
    fn visible(&self, candidates: BTreeMap<EntryId, Candidate>) -> Vec<Candidate> {
        let newest_first = candidates.into_values().rev();
        newest_first.filter(|it| self.may_see(it.item.by)).collect()
    }

    /// Themselves, and all whom they follow.
    pub fn everybody(&self) -> Vec<UserId> {
        self.edges
            .following
            .iter()
            .copied()
            .chain([self.id])
            .collect()
    }
}
