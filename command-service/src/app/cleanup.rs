//! The job that removes the relations of users who left: their follows, their followers, their
//! reposts and their replies, in two passes.

use std::time::Duration;

use futures_util::StreamExt;
use shared::contract::events::{Edge as Ends, LogStream};
use shared::contract::ids::{PostId, UserId};
use shared::contract::time::Timestamp;
use shared::resilience;
use shared::runtime::error_chain::Chain;
use shared::runtime::failing::Failing;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::App;
use super::context::{DEADLINE, STATUS_TTL};
use super::load::FoundPost;
use super::ports::{DeactivationCleanup, Relation, StoreError};
use crate::domain::edge::{self, follow_stream};
use crate::domain::post;
use crate::domain::user::AccountStatus;

/// Passes over all relations.
const PASSES: u32 = 2;
/// Between them: longer than a command may run on a status read before the deactivation.
const BETWEEN_PASSES: Duration = DEADLINE
    .saturating_add(STATUS_TTL)
    .saturating_add(Duration::from_secs(1));
/// After this long a job whose user is still there belongs to a command that came to nothing. Far
/// above the time that a command may take while the database comes and goes.
const ABANDONED: Duration = Duration::from_secs(600);
/// How long one step may take before another replica tries it.
const LEASE: Duration = Duration::from_secs(30);
/// Jobs of replicas that are gone are found within this time.
const POLL: Duration = Duration::from_secs(5);
/// Events looked at in a step, and how many relations are removed at once.
const STEP: u32 = 500;
const AT_ONCE: usize = 8;

impl App {
    /// Carries out cleanups until it is stopped.
    pub async fn run_cleanups(&self, stop: CancellationToken) {
        let (mut backoff, failing) = (resilience::background(), Failing::default());
        while !stop.is_cancelled() {
            let step = self.cleanup_step().await;
            if step.is_ok() && failing.ends() {
                info!("deactivated users' relations are removed again");
            }
            match step {
                Ok(true) => {
                    backoff.reset();
                    continue;
                }
                Ok(false) => backoff.reset(),
                Err(error) if error.is_transient() => {}
                Err(error) => {
                    if failing.begins(&error) {
                        warn!(error = %Chain(&error), "a deactivated user's relations are not removed yet");
                    }
                }
            }
            // Only timers and wake-ups are dropped here, never a database call.
            tokio::select! {
                () = self.cleanups.notified() => {}
                () = tokio::time::sleep(POLL + backoff.next_delay()) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// One step of one job that is due; whether there was one.
    pub async fn cleanup_step(&self) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let Some(mut job) = self.store.cleanups.claim(now, LEASE).await? else {
            return Ok(false);
        };
        let user = self.load_user(job.user).await?;
        if user.is_none_or(|user| user.status != AccountStatus::Deactivated) {
            self.wait_for_event(&job, now).await?;
            return Ok(true);
        }
        // In each pass: a command that was under way may have written more of the account.
        if job.after.is_none() && job.relation == Relation::ALL[0] {
            self.store.sessions.close_all(job.user).await?;
            self.store.accounts.forget(job.user).await?;
        }
        let relations = self
            .store
            .log
            .relations(job.user, job.relation, job.after, STEP)
            .await?;
        self.remove_relations(job.user, &relations).await?;
        if let Some(last) = relations.last() {
            job.after = Some(*last);
            self.store.cleanups.save(&job, now).await?;
        } else {
            self.advance(job, now).await?;
        }
        Ok(true)
    }

    /// The job was planned, the event is not there yet, or never will be.
    async fn wait_for_event(
        &self,
        job: &DeactivationCleanup,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if now >= later(job.planned_at, ABANDONED) {
            self.store.cleanups.remove(job).await
        } else {
            self.store.cleanups.save(job, later(now, POLL)).await
        }
    }

    /// One kind is done: the next, then all once more, then nothing is left.
    async fn advance(
        &self,
        mut job: DeactivationCleanup,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        job.after = None;
        let next = Relation::ALL
            .iter()
            .skip_while(|it| **it != job.relation)
            .nth(1);
        if let Some(next) = next {
            job.relation = *next;
            return self.store.cleanups.save(&job, now).await;
        }
        if job.passes + 1 < PASSES {
            job.relation = Relation::ALL[0];
            job.passes += 1;
            let due = later(now, BETWEEN_PASSES);
            return self.store.cleanups.save(&job, due).await;
        }
        info!(user.id = %job.user, "all relations of user {} are removed", job.user);
        self.store.cleanups.remove(&job).await
    }

    async fn remove_relations(
        &self,
        user: UserId,
        relations: &[LogStream],
    ) -> Result<(), StoreError> {
        let work: Vec<_> = relations
            .iter()
            .map(|it| self.remove_relation(user, *it))
            .collect();
        let ended = futures_util::stream::iter(work).buffer_unordered(AT_ONCE);
        let ended: Vec<Result<(), StoreError>> = ended.collect().await;
        ended.into_iter().collect()
    }

    async fn remove_relation(&self, user: UserId, stream: LogStream) -> Result<(), StoreError> {
        match stream {
            LogStream::Follow { follower, followee } => {
                self.end_edge(Ends { follower, followee }, user).await
            }
            LogStream::Repost { post, .. } => self.end_repost(user, post).await,
            LogStream::Post(reply) => self.end_reply(user, reply).await,
            LogStream::User(_) | LogStream::Like { .. } => Ok(()),
        }
    }

    pub(super) async fn end_edge(&self, ends: Ends, actor: UserId) -> Result<(), StoreError> {
        let (owner, stream): (UserId, LogStream) = follow_stream(ends);
        let decide = |edge: &edge::Edge| Ok(edge::end_follow(edge, ends));
        let toggled = self.toggle(owner, stream, actor, actor.get(), decide).await;
        if toggled?.changed {
            self.store.follows.release(ends.follower).await?;
        }
        Ok(())
    }

    pub(super) async fn end_repost(&self, user: UserId, post: PostId) -> Result<(), StoreError> {
        let Some(reposted) = self.created_post(post).await? else {
            return Ok(());
        };
        let stream = LogStream::Repost { user, post };
        let decide = |edge: &edge::Edge| Ok(edge::end_repost(edge, &reposted));
        let toggled = self.toggle(user, stream, user, user.get(), decide).await;
        toggled?;
        Ok(())
    }

    pub(super) async fn end_reply(&self, user: UserId, reply: PostId) -> Result<(), StoreError> {
        let decide = |found: &FoundPost| Ok(post::end_post(&found.post));
        let deleted = self.delete(user, user.get(), reply, decide).await;
        deleted?;
        Ok(())
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(time.millis().saturating_add(by))
}
