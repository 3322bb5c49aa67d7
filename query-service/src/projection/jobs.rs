//! Work that a message leaves behind: large fan-outs, older entries after a follow, trimming.
//!
//! Jobs are rows; a slice of one is done between two batches, by the same task that folds, so
//! that nothing races. A crash repeats a slice; entries are hints, and repeating is harmless.

use std::collections::{BTreeMap, HashMap};

use bson::doc;
use shared::ids::UserId;
use shared::partition::Partition;

use super::fold::{FAN_OUT_BATCH, Fold};
use crate::read_model::changes::Changes;
use crate::read_model::generation::View;
use crate::read_model::keys::Key;
use crate::read_model::rows::FanOutRow;
use crate::read_model::sabotage::Sabotage;
use crate::read_model::write::{Checkpoint, CommitError, Entry};
use crate::read_model::{ViewError, Views};

/// Entries a timeline is trimmed to.
pub const KEPT: usize = 800;
/// A timeline is trimmed when it may have this many more.
const SLACK: u16 = 200;
/// Edges whose older entries are inserted in one slice.
const EDGES_PER_SLICE: usize = 1_000;
/// Readers whose sizes are remembered per partition.
const MOST_SIZES: usize = 500_000;

/// One slice of the oldest fan-out, if there is one.
pub async fn fan_out(
    fold: &mut Fold,
    views: &Views,
    partition: Partition,
    at: &Checkpoint,
    sizes: &mut Sizes,
) -> Result<bool, CommitError> {
    let Some((&key, job)) = fold.fan_outs.iter().next() else {
        return Ok(false);
    };
    let FanOutRow {
        author,
        entry,
        post,
        s,
        next,
        ..
    } = *job;
    let followers = views
        .followers_in(author, partition, next, FAN_OUT_BATCH)
        .await?;
    let seq = u64::try_from(s).unwrap_or(0);
    let entries: Vec<Entry> = followers
        .iter()
        .filter(|reader| !fold.idle.is_parked(**reader))
        .map(|reader| Entry {
            reader: *reader,
            entry,
            post,
            by: author,
            seq,
        })
        .collect();
    views.insert_entries(&entries).await?;
    let row = Key::in_partition(partition, entry);
    let mut changes = Changes::default();
    let reached = followers
        .last()
        .filter(|_| followers.len() == FAN_OUT_BATCH);
    match reached {
        Some(last) => changes.set(View::FanOuts, row, doc! { "next": last.get() }),
        None => {
            changes.delete(View::FanOuts, row);
            let pulled = Key::in_partition(partition, author);
            let others = fold
                .fan_outs
                .values()
                .any(|job| job.author == author && job.entry != entry);
            let hot = views.follower_count(author, partition).await?.hot;
            if others || hot {
                changes.add(View::Pulled, pulled, "jobs", -1);
            } else {
                changes.delete(View::Pulled, pulled);
            }
        }
    }
    views.commit(partition, &changes, at, at).await?;
    match (reached, fold.fan_outs.get_mut(&key)) {
        (Some(last), Some(job)) => job.next = last.get(),
        _ => {
            fold.fan_outs.remove(&key);
        }
    }
    sizes.grow(&entries);
    Ok(true)
}

/// Older entries for edges whose author's partition has passed the follow: one slice. Says
/// whether anything was done.
pub async fn backfill(
    fold: &mut Fold,
    views: &Views,
    partition: Partition,
    at: &Checkpoint,
    sizes: &mut Sizes,
) -> Result<bool, CommitError> {
    if fold.pending.is_empty() {
        return Ok(false);
    }
    let passed: HashMap<Partition, u64> = views
        .checkpoints()
        .await?
        .into_iter()
        .map(|(partition, checkpoint)| (partition, checkpoint.seq))
        .collect();
    let of = views.partitions();
    let ripe =
        |followee: UserId, seq: u64| passed.get(&of.of(followee)).is_some_and(|at| *at >= seq);
    let edges: Vec<(UserId, UserId)> = fold
        .pending
        .iter()
        .filter(|((_, followee), seq)| ripe(*followee, **seq))
        .map(|(edge, _)| *edge)
        .take(EDGES_PER_SLICE)
        .collect();
    if edges.is_empty() {
        return Ok(false);
    }
    let entries = if views.is_sabotaged(Sabotage::NoBackfill) {
        Vec::new()
    } else {
        older_entries(views, &edges).await?
    };
    views.insert_entries(&entries).await?;
    let mut changes = Changes::default();
    for (follower, followee) in &edges {
        changes.delete(View::Pending, Key::pair(*follower, *followee));
    }
    views.commit(partition, &changes, at, at).await?;
    for edge in &edges {
        fold.pending.remove(edge);
    }
    sizes.grow(&entries);
    Ok(true)
}

/// The followees' outbox entries above each follower's horizon, at most [`KEPT`] for each edge;
/// where there are more, the horizon rises first.
async fn older_entries(views: &Views, edges: &[(UserId, UserId)]) -> Result<Vec<Entry>, ViewError> {
    let mut by_followee: BTreeMap<UserId, Vec<UserId>> = BTreeMap::new();
    for (follower, followee) in edges {
        by_followee.entry(*followee).or_default().push(*follower);
    }
    let followees: Vec<UserId> = by_followee.keys().copied().collect();
    let with_outbox = views.with_outbox(&followees).await?;
    if with_outbox.is_empty() {
        return Ok(Vec::new());
    }
    let followers: Vec<UserId> = edges.iter().map(|(follower, _)| *follower).collect();
    let horizons = views.horizons(&followers).await?;
    let mut entries = Vec::new();
    for followee in with_outbox {
        let readers = &by_followee[&followee];
        let lowest = readers
            .iter()
            .map(|reader| horizons.get(reader).copied().unwrap_or(0))
            .min()
            .unwrap_or(0);
        let outbox = views.outbox_above(followee, lowest, KEPT + 1).await?;
        let (outbox, beyond) = outbox.split_at(outbox.len().min(KEPT));
        for reader in readers {
            if let Some((entry, _)) = beyond.first() {
                views.raise_horizon(*reader, entry.get()).await?;
            }
            let horizon = horizons.get(reader).copied().unwrap_or(0);
            let above = outbox.iter().filter(|(entry, _)| entry.get() > horizon);
            entries.extend(above.map(|(entry, row)| Entry {
                reader: *reader,
                entry: *entry,
                post: row.post,
                by: followee,
                seq: u64::try_from(row.s).unwrap_or(0),
            }));
        }
    }
    Ok(entries)
}

/// About how many entries readers have: says when to look, never what is there.
#[derive(Debug, Default)]
pub struct Sizes {
    entries: HashMap<UserId, u16>,
    over: Vec<UserId>,
}

impl Sizes {
    /// Counts new entries. A reader not seen before is taken to be half full.
    pub fn grow(&mut self, entries: &[Entry]) {
        const UNKNOWN: u16 = 400;
        const FULL: u16 = 1_000;
        if self.entries.len() > MOST_SIZES {
            self.entries.clear();
        }
        for entry in entries {
            let size = self.entries.entry(entry.reader).or_insert(UNKNOWN);
            *size += 1;
            if *size == FULL {
                self.over.push(entry.reader);
            }
            // Counted again from below the limit, should the trim fail.
            *size = (*size).min(FULL + SLACK);
        }
    }

    /// Trims the next reader who may have too many. Says whether there was one.
    pub async fn trim_next(&mut self, views: &Views) -> Result<bool, ViewError> {
        let Some(reader) = self.over.last().copied() else {
            return Ok(false);
        };
        let left = views.trim(reader, KEPT).await?;
        self.over.pop();
        self.entries
            .insert(reader, u16::try_from(left).unwrap_or(u16::MAX));
        Ok(true)
    }
}
