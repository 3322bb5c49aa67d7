//! Lists are read in windows of ids, as narrow as a page needs.
//!
//! A database need not stop a range scan at the limit: MongoDB does, the embedded engine reads the
//! whole range first. So every read of a list is bounded on both sides. Ids are times, but a list
//! is spread over them in its own way: a window begins as wide as what last filled a page of that
//! list, grows while it finds too little, and shrinks when the database says that it took too long.

use std::time::Duration;

use bson::Document;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::model::ReadModel;
use super::scan::{List, Listed, Scan, WindowRows};
use super::unanswered::Unanswered;
use crate::views::error::ViewError;
use crate::views::generation::View;
use crate::views::keys::between;

/// What a window may take where it could be narrower. Far more than a page needs.
const HURRY: Duration = Duration::from_millis(40);
/// Prefixes asked at the same time.
const AT_ONCE: usize = 2;

impl ReadModel {
    /// A scan of a list below `before`, newest first.
    pub(super) fn scan(&self, list: List, before: i64) -> Scan {
        let known = self.hints().reaches.get(&list.key());
        Scan::new(list, before, known)
    }

    /// One step down a list: at most `most` rows of each prefix, of the next window.
    pub(super) async fn read_window<T: Listed>(
        &self,
        scan: &mut Scan,
        most: usize,
    ) -> Result<WindowRows<T>, Unanswered> {
        loop {
            let (low, high) = scan.window();
            let hurry = scan.may_hurry().then_some(HURRY);
            let view = scan.list().view;
            let look = |prefix: &Vec<u8>| {
                let range = between(prefix, low, high);
                self.newest_within::<T>(view, range, most, hurry)
            };
            // One alone first: where it takes too long for one it does for all.
            let Some((first, others)) = scan.list().prefixes.split_first() else {
                return Err(ViewError::Corrupt("a list without a place").into());
            };
            let mut looks = vec![look(first).await];
            if matches!(looks[..], [Ok(Some(_))]) {
                let others: Vec<_> = others.iter().map(look).collect();
                // To their ends, also where one fails: a query is never dropped half way.
                let others = stream::iter(others).buffer_unordered(AT_ONCE);
                looks.extend(others.collect::<Vec<_>>().await);
            }
            let looks: Result<Option<Vec<Vec<T>>>, Unanswered> = looks.into_iter().collect();
            let Some(found) = looks? else {
                scan.narrow();
                continue;
            };
            let found_enough = found.iter().map(Vec::len).sum::<usize>() >= most;
            let read = WindowRows::of(found, low, most);
            scan.went_to(&read, found_enough);
            return Ok(read);
        }
    }

    /// The newest rows of a range; `None` if that took longer than it may.
    async fn newest_within<T: Listed>(
        &self,
        view: View,
        range: Document,
        most: usize,
        time: Option<Duration>,
    ) -> Result<Option<Vec<T>>, Unanswered> {
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
        let reaches = &self.hints().reaches;
        let key = scan.list().key();
        reaches.insert(key, scan.reach(reaches.get(&key), is_cut));
    }
}

/// Whether the database gave up since the query's time was over.
pub(super) fn took_too_long(error: &mongodb::error::Error) -> bool {
    const MAX_TIME_EXPIRED: i32 = 50;
    matches!(error.kind.as_ref(), mongodb::error::ErrorKind::Command(command) if command.code == MAX_TIME_EXPIRED)
}
