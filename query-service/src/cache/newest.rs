//! The newest items of a timeline, or of what an author has posted.

use super::slots::Remembered;
use crate::views::entry::TimelineItem;

/// Entries of one cached timeline, of one cached author feed.
pub const MOST_ENTRIES: usize = 200;

/// The newest items of something.
#[derive(Clone, Debug)]
pub struct NewestItems {
    /// Newest first.
    pub(super) items: Vec<TimelineItem>,
    /// Everything above this id is in `items`.
    pub complete_above: i64,
}

pub type Timeline = NewestItems;
pub type AuthorFeed = NewestItems;

impl Remembered for NewestItems {
    fn append(&mut self, item: TimelineItem) {
        self.insert(item);
    }
}

impl NewestItems {
    /// `items` are all there are above `complete_above`, newest first.
    pub fn new(items: Vec<TimelineItem>, complete_above: i64) -> Self {
        let mut head = Self {
            items,
            complete_above,
        };
        head.bound();
        head
    }

    /// At most `most` items below `before`, newest first, and above what they are complete.
    pub fn below(&self, before: i64, most: usize) -> (Vec<TimelineItem>, i64) {
        let begin = self
            .items
            .partition_point(|item| item.entry.get() >= before);
        let items: Vec<TimelineItem> = self.items[begin..].iter().take(most).copied().collect();
        let complete_above = match items.last() {
            Some(last) if items.len() == most => last.entry.get() - 1,
            Some(_) | None => self.complete_above,
        };
        (items, complete_above)
    }

    fn insert(&mut self, item: TimelineItem) {
        if item.entry.get() <= self.complete_above {
            return;
        }
        let at = self.items.partition_point(|other| other.entry > item.entry);
        if self
            .items
            .get(at)
            .is_none_or(|other| other.entry != item.entry)
        {
            self.items.insert(at, item);
            self.bound();
        }
    }

    fn bound(&mut self) {
        if let Some(first_out) = self.items.get(MOST_ENTRIES) {
            self.complete_above = self.complete_above.max(first_out.entry.get());
            self.items.truncate(MOST_ENTRIES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::contract::ids::Id;

    fn item(entry: i64) -> TimelineItem {
        TimelineItem {
            entry: Id::new(entry).unwrap(),
            post: Id::new(entry).unwrap(),
            by: Id::new(1).unwrap(),
        }
    }

    fn ids(items: &[TimelineItem]) -> Vec<i64> {
        items.iter().map(|item| item.entry.get()).collect()
    }

    #[test]
    fn a_head_takes_new_lines_in_order_and_says_how_far_it_reaches() {
        let mut head = NewestItems::new(vec![item(30), item(20)], 10);
        for entry in [25, 40, 25, 10, 5] {
            head.insert(item(entry));
        }
        assert_eq!(ids(&head.items), [40, 30, 25, 20]);
        let (items, complete) = head.below(i64::MAX, 10);
        assert_eq!((ids(&items), complete), (vec![40, 30, 25, 20], 10));
        let (items, complete) = head.below(30, 1);
        assert_eq!((ids(&items), complete), (vec![25], 24));
        for entry in 100..100 + MOST_ENTRIES as i64 {
            head.insert(item(entry));
        }
        assert_eq!((head.items.len(), head.complete_above), (MOST_ENTRIES, 40));
    }
}
