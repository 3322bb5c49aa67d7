//! The fold of one partition: events in, changes of rows and new entries out.
//!
//! A pure, ordered fold but for what it must look up: followers and their counts, kept in memory
//! while the partition is held. The families of events are in `users`, `follows` and `posts`.

mod follows;
mod posts;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use shared::contract::events::{Event, Payload};
use shared::contract::ids::UserId;
use shared::contract::partition::Partition;
use shared::contract::time::Timestamp;
use shared::contract::trace_parent::TraceParent;

use super::inactive_readers::InactiveReaders;
use super::memory::Memory;
use super::pending::Pending;
use crate::views::changes::{Changes, Reaction, Stamp};
use crate::views::dead_letters::DeadLetter;
use crate::views::documents::{AccountStatus, FanOutRow, FollowersRow};
use crate::views::entry::Entry;
use crate::views::error::ViewError;
use crate::views::generation::Generation;

/// Followers in one batch of a fan-out: past this it becomes a durable job.
pub const FAN_OUT_BATCH: usize = 1_000;
/// What a list of followers costs beside its ids, in bytes.
const LIST: usize = 96;
const ID: usize = size_of::<UserId>();

/// What a partition's fold knows beside the views; all of it can be loaded again.
pub struct Fold {
    views: Generation,
    partition: Partition,
    /// Followers in this partition past which an author is hot here.
    hot_above: i64,
    memory: Memory,
    followers: HashMap<UserId, Vec<UserId>>,
    /// What `followers` costs, in bytes.
    cached: usize,
    counts: HashMap<UserId, FollowersRow>,
    pub inactive_readers: InactiveReaders,
    pub pending: Pending,
    /// Fan-outs under way, oldest first.
    pub fan_outs: BTreeMap<(i64, i64), FanOutRow>,
    /// More of them wait in the views.
    more_fan_outs: bool,
}

/// What one batch of events amounts to.
#[derive(Default)]
pub struct Batch {
    pub changes: Changes,
    pub entries: Vec<Entry>,
    /// Authors with something new whom readers here pull, and its sequence.
    pub pulled: Vec<(UserId, u64)>,
    /// Readers who have registered, and have no entries before this batch.
    pub new_readers: Vec<UserId>,
    /// When its posts were written.
    pub posted: Vec<Timestamp>,
    /// How many entries each of its posts and reposts has made.
    pub fanned_out: Vec<usize>,
    /// Messages that were not understood, and their traces; their rows are among the changes.
    pub letters: Vec<(DeadLetter, Option<TraceParent>)>,
    /// Edges of this batch by followee: on top of what the views hold.
    edges: HashMap<UserId, BTreeMap<UserId, bool>>,
}

impl Fold {
    /// Loads what is unfinished.
    pub async fn load(
        views: Generation,
        partition: Partition,
        celebrity_threshold: u64,
        idle_after: Option<Duration>,
        memory: Memory,
    ) -> Result<Self, ViewError> {
        let memory = memory.share(views.partitions);
        let share = celebrity_threshold / u64::from(views.partitions.count());
        let mut fold = Self {
            partition,
            hot_above: i64::try_from(share).unwrap_or(i64::MAX),
            memory,
            followers: HashMap::new(),
            cached: 0,
            counts: HashMap::new(),
            inactive_readers: InactiveReaders::load(&views, partition, idle_after, memory.inactive)
                .await?,
            pending: Pending::new(views.clone(), partition, memory.pending),
            fan_outs: BTreeMap::new(),
            more_fan_outs: true,
            views,
        };
        fold.load_fan_outs().await?;
        Ok(fold)
    }

    /// The oldest fan-outs under way, once those in memory are done.
    pub async fn load_fan_outs(&mut self) -> Result<(), ViewError> {
        if self.fan_outs.is_empty() && self.more_fan_outs {
            let most = self.memory.fan_outs;
            let jobs = self.views.fan_outs(self.partition, most).await?;
            self.more_fan_outs = jobs.len() == most;
            let keyed = jobs
                .into_iter()
                .map(|job| ((job.entry.get(), job.author.get()), job));
            self.fan_outs = keyed.collect();
        }
        Ok(())
    }

    /// A fan-out that was just made durable: in memory unless there are very many.
    fn keep_fan_out(&mut self, job: FanOutRow) {
        if self.fan_outs.len() < self.memory.fan_outs {
            self.fan_outs
                .insert((job.entry.get(), job.author.get()), job);
        } else {
            self.more_fan_outs = true;
        }
    }

    /// Bounds what is kept in memory. Between batches only: within one, it is ahead of the views.
    pub fn forget(&mut self) {
        if self.counts.len() > self.memory.counts {
            self.counts.clear();
        }
        if self.cached > self.memory.followers {
            self.followers.clear();
            self.cached = 0;
        }
    }

    /// Looks up what the events of a batch need, all at once rather than one after the other.
    pub async fn prepare<'a>(
        &mut self,
        events: impl Iterator<Item = &'a Event>,
    ) -> Result<(), ViewError> {
        let (mut counted, mut own) = (BTreeSet::new(), BTreeSet::new());
        for event in events {
            match &event.payload {
                Payload::PostCreated(_) | Payload::Reposted(_) => {
                    counted.insert(event.actor);
                    if self.is_ours(event.actor) {
                        own.insert(event.actor);
                    }
                }
                Payload::Followed(edge) | Payload::Unfollowed(edge) => {
                    if self.is_ours(edge.follower) {
                        counted.insert(edge.followee);
                    }
                }
                Payload::UserRegistered(_)
                | Payload::ProfileEdited(_)
                | Payload::UserDeactivated(_)
                | Payload::UserSuspended(_)
                | Payload::UserUnsuspended(_)
                | Payload::UserVerified(_)
                | Payload::PostDeleted(_)
                | Payload::Liked(_)
                | Payload::Unliked(_)
                | Payload::Unreposted(_) => (),
            }
        }
        let unknown = |author: &UserId| !self.counts.contains_key(author);
        let counted: Vec<UserId> = counted.into_iter().filter(unknown).collect();
        if !counted.is_empty() {
            let rows = self.views.follower_counts(&counted, self.partition).await?;
            let none = counted
                .into_iter()
                .map(|author| (author, FollowersRow::default()));
            self.counts.extend(none);
            self.counts.extend(rows);
        }
        let own: Vec<UserId> = own.into_iter().collect();
        self.inactive_readers.learn(&own).await
    }

    /// Takes one event's share of this partition into the batch.
    pub async fn apply(
        &mut self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
    ) -> Result<(), ViewError> {
        let stamp = Stamp {
            version: event.version,
            seq,
        };
        match &event.payload {
            Payload::UserRegistered(user) => self.registered(batch, stamp, event, user),
            Payload::ProfileEdited(profile) => {
                if self.is_ours(event.actor) {
                    batch.changes.profile_edited(event.actor, profile, stamp);
                }
            }
            Payload::UserDeactivated(_) => {
                self.status_changed(batch, stamp, event, AccountStatus::Deactivated);
            }
            Payload::UserSuspended(_) => {
                self.status_changed(batch, stamp, event, AccountStatus::Suspended);
            }
            Payload::UserUnsuspended(_) => {
                self.status_changed(batch, stamp, event, AccountStatus::Active);
            }
            Payload::UserVerified(_) => {
                if self.is_ours(event.actor) {
                    batch.changes.user_verified(event.actor, stamp);
                }
            }
            Payload::Followed(edge) => self.followed(batch, stamp, edge).await?,
            Payload::Unfollowed(edge) => self.unfollowed(batch, stamp, edge).await?,
            Payload::PostCreated(post) => self.post_created(batch, stamp, event, post).await?,
            Payload::PostDeleted(post) => self.post_deleted(batch, stamp, event, post),
            Payload::Liked(post) => self.reacted(batch, stamp, event, Reaction::Like, post),
            Payload::Unliked(post) => self.withdrawn(batch, stamp, event, Reaction::Like, post),
            Payload::Reposted(post) => self.reposted(batch, stamp, event, post).await?,
            Payload::Unreposted(repost) => self.unreposted(batch, stamp, event, repost),
        }
        Ok(())
    }

    fn is_ours(&self, user: UserId) -> bool {
        self.views.partitions.of(user) == self.partition
    }

    /// How many followers an author has here, with this batch.
    async fn count(&mut self, author: UserId) -> Result<&mut FollowersRow, ViewError> {
        if !self.counts.contains_key(&author) {
            let rows = self
                .views
                .follower_counts(&[author], self.partition)
                .await?;
            self.counts.extend(rows);
        }
        Ok(self.counts.entry(author).or_default())
    }

    /// An author's followers here, with this batch. For authors who are fanned out at once.
    async fn followers(&mut self, batch: &Batch, author: UserId) -> Result<&[UserId], ViewError> {
        if !self.followers.contains_key(&author) {
            // Those who unfollow in this batch are still there, and must not crowd out others.
            let most = FAN_OUT_BATCH + batch.edges.get(&author).map_or(0, BTreeMap::len);
            let mut followers = self
                .views
                .followers_in(author, self.partition, 0, most)
                .await?;
            for (follower, on) in batch.edges.get(&author).into_iter().flatten() {
                set(&mut followers, *follower, *on);
            }
            self.cached += LIST + followers.len() * ID;
            self.followers.insert(author, followers);
        }
        Ok(&self.followers[&author])
    }

    /// Remembers an edge of this batch.
    fn edge(&mut self, batch: &mut Batch, follower: UserId, followee: UserId, on: bool) {
        batch
            .edges
            .entry(followee)
            .or_default()
            .insert(follower, on);
        if let Some(followers) = self.followers.get_mut(&followee) {
            set(followers, follower, on);
            self.cached += usize::from(on) * ID;
        }
    }
}

/// Adds or removes an id of a sorted list.
fn set(ids: &mut Vec<UserId>, id: UserId, on: bool) {
    match (ids.binary_search(&id), on) {
        (Err(at), true) => ids.insert(at, id),
        (Ok(at), false) => {
            ids.remove(at);
        }
        (Ok(_), true) | (Err(_), false) => (),
    }
}
