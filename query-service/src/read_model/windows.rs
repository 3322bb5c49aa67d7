//! Lists are read in windows of ids, as narrow as a page needs.
//!
//! A database need not stop a range scan at the limit: MongoDB does, the embedded engine reads the
//! whole range first. So every look at a list is bounded on both sides. Ids are times, but a list
//! is spread over them in its own way: a window begins as wide as what last filled a page of that
//! list, grows while it finds too little, and shrinks when the database says that it took too long.

use std::time::Duration;

use bson::Document;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;

use super::generation::View;
use super::keys::between;
use super::{ViewError, Views};

/// How a list is spread over ids, as its last page showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Down to where the first page looked, once there was one.
    first_low: Option<i64>,
    /// The ids that a page spans, where the last one ended.
    width: i64,
}

/// One list: its rows are keyed `prefix ‖ id`, under several prefixes where partitions keep their
/// own part.
pub(super) struct List {
    pub view: View,
    /// Names the list among those of its view.
    pub subject: i64,
    pub prefixes: Vec<Vec<u8>>,
    /// No id of the list is at or below this.
    pub floor: i64,
    /// About how many rows it has.
    pub rows: i64,
}

/// Where a scan of a list stands.
pub(super) struct Scan {
    list: List,
    /// Everything from here on was looked at.
    before: i64,
    width: i64,
    /// The first window reaches down to here.
    first_low: Option<i64>,
    /// The lowest id seen, and how many ids a page spans there.
    seen: Option<(i64, i64)>,
    from_the_top: bool,
    /// How often the database may still be told to hurry.
    hurries: u8,
}

/// What one look found.
pub(super) struct Look<T> {
    /// Newest first.
    pub rows: Vec<(i64, T)>,
    /// There are no others above this id.
    pub complete_above: i64,
}

/// A row that is listed under the id that its key ends with.
pub(super) trait Listed: DeserializeOwned + Send + Sync + Unpin {
    fn listed_id(&self) -> Option<i64>;
}

/// Sixteen milliseconds of ids.
const NARROWEST: i64 = 16 << 16;
/// The first window of a long list that nothing else is known of: about a second.
const FIRST: i64 = 1_024 << 16;
/// A list of so many rows at the most is read as a whole: that costs as much as a look or two.
const SHORT: i64 = 1_000;
const WIDER: i64 = 8;
/// Fewer rows do not say how dense a list is.
const FEW: usize = 4;
const NARROWER: i64 = 16;
/// What a window may take where it could be narrower. Far more than a page needs.
const HURRY: Duration = Duration::from_millis(40);
const MOST_HURRIES: u8 = 8;
/// Prefixes asked at the same time.
const AT_ONCE: usize = 2;

impl Scan {
    /// Whether all of the list was looked at.
    pub fn is_done(&self) -> bool {
        self.before <= self.list.floor.saturating_add(1)
    }

    /// A position below which nothing was looked at yet: that of a cursor.
    pub fn before(&self) -> i64 {
        self.before
    }

    /// The next window: above `low`, below `high`.
    fn window(&self) -> (i64, i64) {
        let top = self.before.min(super::timeline::now_id());
        let low = match self.first_low {
            Some(low) if low < top => low,
            Some(_) | None => top.saturating_sub(self.width),
        };
        (low.max(self.list.floor), self.before)
    }

    fn narrow(&mut self) {
        let (low, high) = self.window();
        let top = high.min(super::timeline::now_id());
        self.width = ((top - low) / NARROWER).max(NARROWEST);
        self.first_low = None;
        self.hurries = self.hurries.saturating_sub(1);
    }

    fn is_narrowest(&self) -> bool {
        let (low, high) = self.window();
        high.min(super::timeline::now_id()) - low <= NARROWEST
    }

    fn went_to<T>(&mut self, look: &Look<T>, found_enough: bool) {
        self.first_low = None;
        self.before = look.complete_above.saturating_add(1);
        if let Some((lowest, _)) = look.rows.last() {
            let page = match look.rows.get(look.rows.len() / 2) {
                // Half of these rows, and as many again as there were: a page and more.
                Some((middle, _)) if look.rows.len() >= FEW => (middle - lowest).saturating_mul(3),
                Some(_) | None => self.width,
            };
            self.seen = Some((*lowest, page));
        }
        if !found_enough {
            self.width = self.width.saturating_mul(WIDER);
        }
    }
}

impl Views {
    /// A scan of a list below `before`, newest first.
    pub(super) fn scan(&self, list: List, before: i64) -> Scan {
        let known = self.inner.reaches.get(&(list.view, list.subject));
        let from_the_top = before == i64::MAX;
        let unknown = if list.rows <= SHORT { i64::MAX } else { FIRST };
        Scan {
            before,
            width: known.map_or(unknown, |known| known.width),
            first_low: known
                .filter(|_| from_the_top)
                .and_then(|known| known.first_low),
            seen: None,
            from_the_top,
            hurries: MOST_HURRIES,
            list,
        }
    }

    /// One step down a list: at most `most` rows of each prefix, of the next window.
    pub(super) async fn look_at<T: Listed>(
        &self,
        scan: &mut Scan,
        most: usize,
    ) -> Result<Look<T>, ViewError> {
        loop {
            let (low, high) = scan.window();
            let hurry = (scan.hurries > 0 && !scan.is_narrowest()).then_some(HURRY);
            let view = scan.list.view;
            let look = |prefix: &Vec<u8>| {
                let range = between(prefix, low, high);
                self.newest_within::<T>(view, range, most, hurry)
            };
            // One alone first: where it takes too long for one it does for all.
            let Some((first, others)) = scan.list.prefixes.split_first() else {
                return Err(ViewError::Corrupt("a list without a place"));
            };
            let mut looks = vec![look(first).await];
            if matches!(looks[..], [Ok(Some(_))]) {
                let others: Vec<_> = others.iter().map(look).collect();
                // To their ends, also where one fails: a query is never dropped half way.
                let others = stream::iter(others).buffer_unordered(AT_ONCE);
                looks.extend(others.collect::<Vec<_>>().await);
            }
            let looks: Result<Option<Vec<Vec<T>>>, ViewError> = looks.into_iter().collect();
            let Some(found) = looks? else {
                scan.narrow();
                continue;
            };
            let found_enough = found.iter().map(Vec::len).sum::<usize>() >= most;
            let look = Look::of(found, low, most);
            scan.went_to(&look, found_enough);
            return Ok(look);
        }
    }

    /// The newest rows of a range; `None` if that took longer than it may.
    async fn newest_within<T: Listed>(
        &self,
        view: View,
        range: Document,
        most: usize,
        time: Option<Duration>,
    ) -> Result<Option<Vec<T>>, ViewError> {
        self.may_load()?;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.rows::<T>(view);
        let mut query = rows.find(range).sort(bson::doc! { "_id": -1 }).limit(limit);
        if let Some(time) = time {
            query = query.max_time(time);
        }
        let found: Result<Vec<T>, _> = match query.await {
            Ok(rows) => rows.try_collect().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(rows) => {
                self.has_read(rows.len());
                Ok(Some(rows))
            }
            Err(error) if time.is_some() && took_too_long(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers how wide the list's next window should be, after a page that was filled or reached
    /// the list's end, or one that was cut short.
    pub(super) fn remember_reach(&self, scan: &Scan, is_cut: bool) {
        let key = (scan.list.view, scan.list.subject);
        let known = self.inner.reaches.get(&key).and_then(|it| it.first_low);
        let lowest = scan.seen.map(|(lowest, _)| lowest - 1);
        let first_low = if scan.from_the_top {
            lowest.or(known)
        } else {
            known
        };
        let width = if is_cut {
            // The next page goes on as this one would have: wider, where little was found.
            scan.width
        } else if scan.is_done() && scan.from_the_top {
            // All there is fits on a page.
            i64::MAX
        } else {
            let page = scan.seen.map_or(0, |(_, page)| page);
            page.max(NARROWEST)
        };
        self.inner.reaches.insert(key, Reach { first_low, width });
    }
}

impl<T: Listed> Look<T> {
    /// Merges what the prefixes had above `low`. One that had `most` may have more below those.
    fn of(found: Vec<Vec<T>>, low: i64, most: usize) -> Self {
        let mut complete_above = low;
        let mut all: Vec<(i64, T)> = Vec::new();
        for rows in found {
            let is_cut = rows.len() == most;
            let rows: Vec<(i64, T)> = rows
                .into_iter()
                .filter_map(|row| Some((row.listed_id()?, row)))
                .collect();
            if let Some((lowest, _)) = rows.last().filter(|_| is_cut) {
                complete_above = complete_above.max(lowest - 1);
            }
            all.extend(rows);
        }
        all.retain(|(id, _)| *id > complete_above);
        all.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        Self {
            rows: all,
            complete_above,
        }
    }
}

/// Whether the database gave up since the query's time was over.
pub(super) fn took_too_long(error: &mongodb::error::Error) -> bool {
    const MAX_TIME_EXPIRED: i32 = 50;
    matches!(error.kind.as_ref(), mongodb::error::ErrorKind::Command(command) if command.code == MAX_TIME_EXPIRED)
}
