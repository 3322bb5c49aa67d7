//! What has become visible to a reader since a sequence: what live streams send.
//!
//! Where a reader's stored entries do not reach back so far, the author feeds of everybody they follow
//! are walked, from the newest row down. What a walk finds beyond what is sent at a time is kept
//! for the looks after it, so that whoever resumes from long ago walks seldom.

use std::collections::BTreeMap;

use bson::doc;
use shared::contract::ids::UserId;
use tokio::sync::OwnedSemaphorePermit;

use super::bodies::PostView;
use super::model::ReadModel;
use super::timeline::{CHEAP_PULLS, Reader};
use super::unanswered::Unanswered;
use super::visibility::Candidate;
use super::walks::WalkTurn;
use crate::views::documents::{EntryRow, PARKED};
use crate::views::generation::View;
use crate::views::keys::{between, signed};

/// Entries of a live stream sent at a time.
const MOST_NEWER: usize = 800;
/// Entries that one look finds at the most: about 64 bytes each.
const MOST_FOUND: usize = 8 * MOST_NEWER;

/// What one look for a live stream found.
pub struct NewPosts {
    /// In the order of their sequences.
    pub posts: Vec<(u64, PostView)>,
    /// `posts` is all up to this sequence: at most the one that all partitions have applied.
    pub all_up_to: u64,
    /// For the look after `all_up_to`.
    pub rest: Option<Rest>,
}

/// What was found above what was sent.
pub struct Rest {
    /// It begins after this sequence.
    after: u64,
    /// It is all up to this sequence.
    all_up_to: i64,
    found: BTreeMap<i64, Candidate>,
    room: OwnedSemaphorePermit,
}

impl ReadModel {
    /// What has become visible to a reader after `seq`, in the order of sequences, and up to
    /// which sequence that is all: at most the one that all partitions have applied.
    ///
    /// At most `MOST_NEWER` at a time: ask again after the sequence it says.
    ///
    /// # Errors
    /// As [`ReadModel::newer_for_a_stream`].
    pub async fn newer_than(
        &self,
        reader: UserId,
        seq: u64,
    ) -> Result<(u64, Vec<(u64, PostView)>), Unanswered> {
        let newer = self.newer_for_a_stream(reader, seq, None, None).await?;
        Ok((newer.all_up_to, newer.posts))
    }

    /// The same for a stream that goes on: with what its last look left, and with its turn where
    /// it waited for one.
    ///
    /// # Errors
    /// `Busy` if it has to walk many author feeds, has no turn and none is free: wait for one with
    /// [`ReadModel::turn_to_walk`].
    pub async fn newer_for_a_stream(
        &self,
        reader: UserId,
        seq: u64,
        rest: Option<Rest>,
        turn: Option<WalkTurn>,
    ) -> Result<NewPosts, Unanswered> {
        let now = self.position_now().await?;
        if now <= seq {
            return Ok(NewPosts {
                posts: Vec::new(),
                all_up_to: now,
                rest: None,
            });
        }
        let state = self.reader(reader).await?;
        let high = signed(now);
        // A generation that was switched to meanwhile may not have come so far.
        let rest = rest.filter(|rest| rest.after == seq && rest.all_up_to <= high);
        let (found, room) = match rest {
            Some(rest) => {
                let (found, room) = rest.seen_by(&state);
                (found, Some(room))
            }
            None => {
                let low = signed(seq);
                (self.find_newer(state, low, high, turn).await?, None)
            }
        };
        let (found, all_up_to, rest) = found.split();
        let candidates: Vec<Candidate> = found.values().copied().collect();
        let shown = self.show(&candidates, Some(reader)).await?;
        let numbered = found.into_keys().zip(shown);
        let posts = numbered
            .filter_map(|(seq, post)| Some((u64::try_from(seq).ok()?, post?)))
            .collect();
        let all_up_to = u64::try_from(all_up_to).unwrap_or(now);
        let room = || room.or_else(|| self.walks().keep_rest());
        let rest = rest.and_then(|(found, until)| {
            Some(Rest {
                after: all_up_to,
                all_up_to: until,
                found,
                room: room()?,
            })
        });
        Ok(NewPosts {
            posts,
            all_up_to,
            rest,
        })
    }

    /// Looks for what is above `low`, up to `high`.
    async fn find_newer(
        &self,
        mut state: Reader,
        low: i64,
        high: i64,
        turn: Option<WalkTurn>,
    ) -> Result<Found, Unanswered> {
        let reader = state.id;
        let mut newer = Found::up_to(high);
        let mut range = between(&reader.to_key(), 0, i64::MAX);
        range.insert("s", doc! { "$gt": low, "$lte": high });
        for row in self.all::<EntryRow>(View::Timeline, range).await? {
            if let Some(item) = row.item().filter(|item| state.may_see(item.by)) {
                newer.insert(row.s, Candidate::new(item, false));
            }
        }
        // The entries first, then what may be missing of them: what is trimmed in between shows.
        let row = self.reader_row(reader).await?;
        let stored = between(&reader.to_key(), 0, i64::MAX);
        let trimmed = row.horizon > 0 && {
            let lowest: Vec<EntryRow> = self.oldest(View::Timeline, stored, 1).await?;
            lowest.first().is_none_or(|lowest| lowest.s > low)
        };
        // Ordinary streams wait for nobody's walk, however many authors are pulled.
        let mut walking = None;
        if row.horizon == PARKED || low < row.active_since || trimmed {
            // What came while they became inactive, or was trimmed since, is in nobody's timeline.
            state.pulled = state.everybody();
            walking = match turn {
                Some(turn) => Some(turn),
                None => self.may_walk(state.pulled.len())?,
            };
        }
        for author in state.pulled {
            for (seq, item) in self.feed_since(author, low, high).await? {
                newer.insert(seq, Candidate::new(item, true));
            }
        }
        drop(walking);
        Ok(newer)
    }

    /// Waits for leave to walk many author feeds; whoever asked first gets it first.
    pub async fn turn_to_walk(&self) -> Option<WalkTurn> {
        self.walks().turn().await
    }

    /// Leave to walk so many author feeds, at once; few need none.
    ///
    /// # Errors
    /// `Busy` if others walk.
    fn may_walk(&self, feeds: usize) -> Result<Option<WalkTurn>, Unanswered> {
        if feeds <= CHEAP_PULLS {
            return Ok(None);
        }
        self.walks().try_turn().ok_or(Unanswered::Busy).map(Some)
    }
}

/// The candidates with the lowest sequences.
struct Found {
    found: BTreeMap<i64, Candidate>,
    /// They are all up to this sequence, unless some were let go.
    up_to: i64,
    /// Something above what is kept was let go.
    cut: bool,
}

/// Candidates by sequence, and up to which sequence they are all.
type Kept = (BTreeMap<i64, Candidate>, i64);

impl Found {
    fn up_to(up_to: i64) -> Self {
        Self {
            found: BTreeMap::new(),
            up_to,
            cut: false,
        }
    }

    fn insert(&mut self, seq: i64, candidate: Candidate) {
        self.found.insert(seq, candidate);
        if self.found.len() > MOST_FOUND {
            self.found.pop_last();
            self.cut = true;
        }
    }

    /// What is sent now, up to which sequence that is all, and what is left for later.
    fn split(mut self) -> (BTreeMap<i64, Candidate>, i64, Option<Kept>) {
        let last = self.found.keys().next_back().copied();
        let up_to = last.filter(|_| self.cut).unwrap_or(self.up_to);
        let Some(first_later) = self.found.keys().nth(MOST_NEWER).copied() else {
            return (self.found, up_to, None);
        };
        let later = self.found.split_off(&first_later);
        let sent = self.found.keys().next_back().copied().unwrap_or(up_to);
        (self.found, sent, Some((later, up_to)))
    }
}

impl Rest {
    /// What of it may be seen now: somebody may not be followed any more, and a repost may have
    /// been taken back.
    fn seen_by(self, state: &Reader) -> (Found, OwnedSemaphorePermit) {
        let mut found = self.found;
        found.retain(|_, candidate| state.may_see(candidate.item.by));
        found.values_mut().for_each(|it| it.proven = false);
        let found = Found {
            found,
            up_to: self.all_up_to,
            cut: false,
        };
        (found, self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::entry::TimelineItem;
    use shared::contract::ids::Id;

    #[test]
    fn what_is_found_is_sent_in_parts_that_lose_nothing() {
        let candidate = |seq: i64| {
            let item = TimelineItem {
                entry: Id::new(seq).unwrap(),
                post: Id::new(seq).unwrap(),
                by: Id::new(1).unwrap(),
            };
            Candidate::new(item, true)
        };
        let total = MOST_FOUND as i64 + 100;
        let mut found = Found::up_to(total + 50);
        // An author feed at a time, each from its newest row down.
        for feed in 0..4 {
            let of_one = (1..=total).rev().filter(|seq| seq % 4 == feed);
            of_one.for_each(|seq| found.insert(seq, candidate(seq)));
        }
        let mut after = 0;
        loop {
            let (sent, up_to, rest) = found.split();
            let expected: Vec<i64> = (after + 1..=after + MOST_NEWER as i64).collect();
            assert_eq!(sent.into_keys().collect::<Vec<_>>(), expected);
            assert_eq!(up_to, after + MOST_NEWER as i64);
            after = up_to;
            match rest {
                Some((later, up_to)) => {
                    found = Found::up_to(up_to);
                    found.found = later;
                }
                None => break,
            }
        }
        assert_eq!(after, MOST_FOUND as i64, "the next walk goes on here");
        let mut few = Found::up_to(9);
        few.insert(7, candidate(7));
        let (sent, up_to, rest) = few.split();
        assert_eq!((sent.len(), up_to, rest.is_none()), (1, 9, true));
    }
}
