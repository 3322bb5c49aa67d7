//! Work that a message leaves behind: large fan-outs, and older entries after a follow.
//!
//! Jobs are rows; a slice of one is done between two batches, by the same task that folds, so
//! that nothing races. A crash repeats a slice; entries are hints, and repeating is harmless.

use std::collections::{BTreeMap, HashMap, HashSet};

use shared::contract::ids::UserId;

use super::fold::{FAN_OUT_BATCH, Fold};
use super::partition_writer::PartitionWriter;
use super::sizes::{KEPT, Sizes};
use crate::views::changes::Changes;
use crate::views::documents::{FanOutRow, PulledRow};
use crate::views::entry::{Entry, TimelineItem};
use crate::views::error::ViewError;
use crate::views::fail_point::FailPoint;
use crate::views::transaction::CommitError;
use crate::views::writer::ViewWriter;

/// Edges whose older entries are inserted in one slice.
const EDGES_PER_SLICE: usize = 1_000;
/// Entries after which a slice has done enough: each may be to another reader, and one message has
/// to name them.
const ENTRIES_PER_SLICE: usize = 2_000;
/// One slice of the oldest fan-out, if there is one.
pub async fn fan_out(
    fold: &mut Fold,
    writer: &mut PartitionWriter,
    sizes: &mut Sizes,
) -> Result<bool, CommitError> {
    let (views, partition) = (writer.views.clone(), writer.partition);
    fold.load_fan_outs().await?;
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
        .generation()
        .followers_in(author, partition, next, FAN_OUT_BATCH)
        .await?;
    fold.inactive_readers.learn(&followers).await?;
    let seq = u64::try_from(s).unwrap_or(0);
    let item = TimelineItem {
        entry,
        post,
        by: author,
    };
    let entries: Vec<Entry> = followers
        .iter()
        .filter(|reader| !fold.inactive_readers.is_inactive(**reader))
        .map(|reader| Entry {
            reader: *reader,
            item,
            seq,
        })
        .collect();
    let mut changes = Changes::default();
    let reached = followers
        .last()
        .filter(|_| followers.len() == FAN_OUT_BATCH);
    match reached {
        Some(last) => changes.fan_out_reached(partition, entry, *last),
        None => {
            let PulledRow { jobs, hot } = views.generation().pulled_row(partition, author).await?;
            changes.fan_out_done(partition, entry, author, jobs > 1 || hot);
        }
    }
    writer.commit_job(&entries, changes).await?;
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
    writer: &mut PartitionWriter,
    sizes: &mut Sizes,
) -> Result<bool, CommitError> {
    if !fold.pending.is_waiting() {
        return Ok(false);
    }
    let views = writer.views.clone();
    let passed = views.passed().await?;
    let edges = fold.pending.ripe(&passed, EDGES_PER_SLICE).await?;
    if edges.is_empty() {
        return Ok(false);
    }
    let (entries, edges) = if views.fails_at(FailPoint::NoBackfill) {
        (Vec::new(), edges)
    } else {
        older_entries(&views, &edges).await?
    };
    let mut changes = Changes::default();
    for (follower, followee) in &edges {
        changes.edge_not_pending(*follower, *followee);
    }
    writer.commit_job(&entries, changes).await?;
    for edge in &edges {
        fold.pending.remove(*edge);
    }
    sizes.grow(&entries);
    Ok(true)
}

/// The followees' author feed entries above each follower's horizon, at most [`KEPT`] for each edge;
/// where there are more, the horizon rises first. Comes with the edges that are done by these
/// entries: about [`ENTRIES_PER_SLICE`] are enough for one slice.
async fn older_entries(
    views: &ViewWriter,
    edges: &[(UserId, UserId)],
) -> Result<(Vec<Entry>, Vec<(UserId, UserId)>), ViewError> {
    let mut by_followee: BTreeMap<UserId, Vec<UserId>> = BTreeMap::new();
    for (follower, followee) in edges {
        by_followee.entry(*followee).or_default().push(*follower);
    }
    let followees: Vec<UserId> = by_followee.keys().copied().collect();
    let with_feed: HashSet<UserId> = views
        .generation()
        .with_feed(&followees)
        .await?
        .into_iter()
        .collect();
    let followers: Vec<UserId> = edges.iter().map(|(follower, _)| *follower).collect();
    let horizons = if with_feed.is_empty() {
        HashMap::new()
    } else {
        views.generation().horizons(&followers).await?
    };
    let horizon_of = |reader: &UserId| horizons.get(reader).copied().unwrap_or(0);
    let (mut entries, mut done) = (Vec::new(), Vec::new());
    for (followee, readers) in by_followee {
        if entries.len() >= ENTRIES_PER_SLICE {
            break;
        }
        let lowest = readers.iter().map(horizon_of).min().unwrap_or(0);
        let feed = if with_feed.contains(&followee) {
            views
                .generation()
                .feed_above(followee, lowest, KEPT + 1)
                .await?
        } else {
            Vec::new()
        };
        let (feed, beyond) = feed.split_at(feed.len().min(KEPT));
        for reader in readers {
            if entries.len() >= ENTRIES_PER_SLICE {
                break;
            }
            if let Some((entry, _)) = beyond.first() {
                views.raise_horizon(reader, entry.get()).await?;
            }
            let horizon = horizon_of(&reader);
            let above = feed.iter().filter(|(entry, _)| entry.get() > horizon);
            entries.extend(above.map(|(entry, row)| Entry {
                reader,
                item: TimelineItem {
                    entry: *entry,
                    post: row.post,
                    by: followee,
                },
                seq: u64::try_from(row.s).unwrap_or(0),
            }));
            done.push((reader, followee));
        }
    }
    Ok((entries, done))
}
