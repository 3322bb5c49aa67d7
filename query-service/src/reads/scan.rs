//! Where a reading of one list stands, and how wide its next window of ids is.

use serde::de::DeserializeOwned;
use shared::contract::ids::Id;

use crate::views::generation::View;
use crate::views::keys::now_id;

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

/// What one read of a window found.
pub(super) struct WindowRows<T> {
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
const MOST_HURRIES: u8 = 8;

impl List {
    /// The posts of a user, the replies to a post: none is older than whose they are.
    pub fn of<K>(view: View, subject: Id<K>, rows: i64) -> Self {
        Self {
            view,
            subject: subject.get(),
            prefixes: vec![subject.to_key().to_vec()],
            floor: subject.get(),
            rows,
        }
    }

    /// Names the list among all lists.
    pub fn key(&self) -> (View, i64) {
        (self.view, self.subject)
    }
}

impl Scan {
    /// A scan below `before`, newest first, by what an earlier page of the list has shown.
    pub fn new(list: List, before: i64, known: Option<Reach>) -> Self {
        let from_the_top = before == i64::MAX;
        let unknown = if list.rows <= SHORT { i64::MAX } else { FIRST };
        Self {
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

    pub fn list(&self) -> &List {
        &self.list
    }

    /// Whether the database may be told to hurry: the window could still be narrower.
    pub fn may_hurry(&self) -> bool {
        self.hurries > 0 && !self.is_narrowest()
    }

    /// How wide the list's next window should be, after a page that was filled or reached the
    /// list's end, or one that was cut short. `known` is from the page before.
    pub fn reach(&self, known: Option<Reach>, is_cut: bool) -> Reach {
        let known = known.and_then(|it| it.first_low);
        let lowest = self.seen.map(|(lowest, _)| lowest - 1);
        let first_low = if self.from_the_top {
            lowest.or(known)
        } else {
            known
        };
        let width = if is_cut {
            // The next page goes on as this one would have: wider, where little was found.
            self.width
        } else if self.is_done() && self.from_the_top {
            // All there is fits on a page.
            i64::MAX
        } else {
            let page = self.seen.map_or(0, |(_, page)| page);
            page.max(NARROWEST)
        };
        Reach { first_low, width }
    }

    /// Whether all of the list was looked at.
    pub fn is_done(&self) -> bool {
        self.before <= self.list.floor.saturating_add(1)
    }

    /// A position below which nothing was looked at yet: that of a cursor.
    pub fn before(&self) -> i64 {
        self.before
    }

    /// The next window: above `low`, below `high`.
    pub fn window(&self) -> (i64, i64) {
        let top = self.before.min(now_id());
        let low = match self.first_low {
            Some(low) if low < top => low,
            Some(_) | None => top.saturating_sub(self.width),
        };
        (low.max(self.list.floor), self.before)
    }

    pub fn narrow(&mut self) {
        let (low, high) = self.window();
        let top = high.min(now_id());
        self.width = ((top - low) / NARROWER).max(NARROWEST);
        self.first_low = None;
        self.hurries = self.hurries.saturating_sub(1);
    }

    fn is_narrowest(&self) -> bool {
        let (low, high) = self.window();
        high.min(now_id()) - low <= NARROWEST
    }

    pub fn went_to<T>(&mut self, read: &WindowRows<T>, found_enough: bool) {
        self.first_low = None;
        self.before = read.complete_above.saturating_add(1);
        if let Some((lowest, _)) = read.rows.last() {
            let page = match read.rows.get(read.rows.len() / 2) {
                // Half of these rows, and as many again as there were: a page and more.
                Some((middle, _)) if read.rows.len() >= FEW => (middle - lowest).saturating_mul(3),
                Some(_) | None => self.width,
            };
            self.seen = Some((*lowest, page));
        }
        if !found_enough {
            self.width = self.width.saturating_mul(WIDER);
        }
    }
}

impl<T: Listed> WindowRows<T> {
    /// Merges what the prefixes had above `low`. One that had `most` may have more below those.
    pub fn of(found: Vec<Vec<T>>, low: i64, most: usize) -> Self {
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
