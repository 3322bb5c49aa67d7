//! Keeps stored timelines bounded, whatever restarts.
//!
//! How many entries a reader has is known exactly once somebody has looked, and from their
//! registration on if that was folded here. It is forgotten with every restart, so a reader of whom
//! nothing is known is looked at by chance: one in `LOOK` of the entries that they are sent leads
//! to a look. That needs no memory, so no restart starts it anew: a timeline holds [`KEPT`] entries
//! and `SLACK` more while it is known, and however often partitions change hands, 600 past
//! [`KEPT`] are left with a chance of one in a hundred million. Looks are paid by entries: as many
//! as are due by what was inserted, in the same step.

use std::collections::{HashMap, VecDeque};

use shared::contract::ids::UserId;

use crate::views::entry::Entry;
use crate::views::error::ViewError;
use crate::views::writer::ViewWriter;

/// Entries a timeline is trimmed to.
pub const KEPT: usize = 800;
/// A timeline is trimmed when it has this many more.
const SLACK: u16 = 200;
const FULL: u16 = KEPT as u16 + SLACK;
/// Entries to readers nothing is known of, for one look at one of them.
const LOOK: u32 = 32;
/// Readers trimmed by one command.
const TOGETHER: usize = 16;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Size {
    Known(u16),
    /// To be looked at.
    Due,
}

/// How many entries readers have: says when to look, never what is there.
#[derive(Debug, Default)]
pub struct Sizes {
    /// Readers that may be remembered.
    most: usize,
    known: HashMap<UserId, Size>,
    due: VecDeque<UserId>,
    /// Entries inserted since the last trim.
    inserted: usize,
}

impl Sizes {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    /// Readers who have nothing yet.
    pub fn begin(&mut self, readers: &[UserId]) {
        for reader in readers {
            self.remember(*reader, Size::Known(0));
        }
    }

    /// Counts new entries.
    pub fn grow(&mut self, entries: &[Entry]) {
        self.inserted += entries.len();
        for Entry { reader, .. } in entries {
            let is_due = match self.known.get_mut(reader) {
                Some(Size::Known(size)) => {
                    *size += 1;
                    *size >= FULL
                }
                Some(Size::Due) => false,
                None => rand::random_range(0..LOOK) == 0,
            };
            if is_due && self.due.len() <= self.most {
                self.remember(*reader, Size::Due);
                self.due.push_back(*reader);
            }
        }
    }

    /// Whether somebody is to be looked at.
    pub fn is_behind(&self) -> bool {
        !self.due.is_empty()
    }

    /// Looks at those who are due, and trims those who have too many: as many as keep pace with
    /// what was inserted. Says whether there were any.
    pub async fn trim(&mut self, views: &ViewWriter) -> Result<bool, ViewError> {
        let mut budget = self.inserted / LOOK as usize + TOGETHER;
        self.inserted = 0;
        let any = self.is_behind();
        while budget > 0 && self.is_behind() {
            let some = self.due.len().min(budget).min(TOGETHER);
            let readers: Vec<UserId> = self.due.iter().take(some).copied().collect();
            let left = views.trim(&readers, KEPT).await?;
            self.due.drain(..some);
            for (reader, left) in left {
                self.known.remove(&reader);
                self.remember(reader, Size::Known(u16::try_from(left).unwrap_or(FULL)));
            }
            budget -= some;
        }
        Ok(any)
    }

    fn remember(&mut self, reader: UserId, size: Size) {
        if self.known.len() >= self.most && !self.known.contains_key(&reader) {
            // Those who are due stay, or they would be due twice.
            self.known.retain(|_, size| *size == Size::Due);
            if size != Size::Due && self.known.len() >= self.most {
                return;
            }
        }
        self.known.insert(reader, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(reader: i64, count: usize) -> Vec<Entry> {
        let entry = Entry {
            reader: UserId::new(reader).unwrap(),
            item: crate::views::entry::TimelineItem {
                entry: shared::contract::ids::EntryId::new(7).unwrap(),
                post: shared::contract::ids::PostId::new(7).unwrap(),
                by: UserId::new(9).unwrap(),
            },
            seq: 1,
        };
        vec![entry; count]
    }

    #[test]
    fn who_is_known_is_due_when_full_and_once() {
        let mut sizes = Sizes::new(10);
        sizes.begin(&[UserId::new(1).unwrap()]);
        sizes.grow(&entries(1, usize::from(FULL) - 1));
        assert!(!sizes.is_behind());
        sizes.grow(&entries(1, 500));
        assert_eq!(sizes.due.len(), 1);
    }

    #[test]
    fn who_is_not_known_is_looked_at_after_a_while_and_what_is_remembered_is_bounded() {
        let mut sizes = Sizes::new(10);
        for reader in 1..=1_000 {
            sizes.grow(&entries(reader, 1));
        }
        // Of a thousand, one in 32 is drawn; the queue takes eleven.
        assert_eq!(sizes.due.len(), 11);
        assert!(sizes.known.len() <= 11, "{}", sizes.known.len());
        let mut nothing = Sizes::new(0);
        nothing.begin(&[UserId::new(1).unwrap()]);
        nothing.grow(&entries(1, 1_000));
        assert_eq!((nothing.due.len(), nothing.known.len()), (1, 1));
    }
}
