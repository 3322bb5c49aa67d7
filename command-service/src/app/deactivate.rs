//! Leaving: one event, then a durable job that ends every standing tie of who left, so that nobody
//! else's numbers count them. Likes stay; other posts are hidden by their author's status. The
//! address and the password are forgotten; the name stays reserved.
//!
//! The job is written before the event: a crash between the two leaves a job that finds its
//! user still there and goes away after a while. The ties are looked at twice, the second time
//! when hardly a command can still believe an older status; a command that was slower than that
//! looks after itself, once its event is in the log.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use shared::error_chain::Chain;
use shared::events::{Edge as Ends, LogStream, Payload};
use shared::ids::{PostId, UserId};
use shared::resilience;
use shared::time::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::context::{DEADLINE, STATUS_TTL};
use super::error::Refusal;
use super::load::FoundPost;
use super::login_limits::Purpose;
use super::ports::{Farewell, StoreError, Tie};
use super::{Accepted, App, CommandError};
use crate::domain::edge::{self, follow_stream};
use crate::domain::post;
use crate::domain::text::Password;
use crate::domain::user::{self, AccountStatus, User};

/// Passes over all ties.
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
/// Events of ties per step, and how many ties are ended at once.
const STEP: u32 = 500;
const AT_ONCE: usize = 8;

impl App {
    /// Deactivates the actor's own account; the password is asked for once more.
    pub async fn deactivate(
        &self,
        actor: UserId,
        password: Password,
        address: Option<IpAddr>,
    ) -> Result<Accepted<User>, CommandError> {
        if self.is_deactivated(actor).await? {
            return Err(Refusal::NoActor.into());
        }
        // Whoever has a stolen token guesses no faster than whoever has none. Counted by itself:
        // whoever has none keeps nobody from leaving.
        let account = actor.to_string();
        self.may_try(Purpose::Leave, Some(actor), &account, address)
            .await?;
        let hash = self.store.accounts.password_hash(actor).await?;
        if !self.passwords.verify(password, hash).await? {
            return Err(Refusal::BadCredentials.into());
        }
        self.store.cleanups.plan(actor, self.clock.now()).await?;
        let accepted = self
            .change_user(actor, |user| Ok(user::deactivate(user)))
            .await?;
        if let Err(error) = self.store.accounts.forget(actor).await {
            // The farewell does it, and so does whoever wants the address before.
            warn!(error = %Chain(&error), "the account of who left is not forgotten yet");
        }
        self.farewells.notify_one();
        Ok(accepted)
    }

    /// Carries out farewells until it is stopped.
    pub async fn run_farewells(&self, stop: CancellationToken) {
        let mut backoff = resilience::background();
        while !stop.is_cancelled() {
            match self.farewell_step().await {
                Ok(true) => {
                    backoff.reset();
                    continue;
                }
                Ok(false) => backoff.reset(),
                Err(error) if error.is_transient() => {}
                Err(error) => {
                    warn!(error = %Chain(&error), "a deactivation's ties are not ended yet");
                }
            }
            // Only timers and wake-ups are dropped here, never a database call.
            tokio::select! {
                () = self.farewells.notified() => {}
                () = tokio::time::sleep(POLL + backoff.next_delay()) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// One step of one job that is due; whether there was one.
    pub async fn farewell_step(&self) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let Some(mut job) = self.store.cleanups.claim(now, LEASE).await? else {
            return Ok(false);
        };
        let user = self.load_user(job.user).await?;
        if user.is_none_or(|user| user.status != AccountStatus::Deactivated) {
            self.wait_for_event(&job, now).await?;
            return Ok(true);
        }
        if job.passes == 0 && job.after.is_none() && job.tie == Tie::ALL[0] {
            self.store.sessions.close_all(job.user).await?;
            self.store.accounts.forget(job.user).await?;
        }
        let ties = self
            .store
            .log
            .ties(job.user, job.tie, job.after, STEP)
            .await?;
        self.end_ties(job.user, &ties).await?;
        if let Some(last) = ties.last() {
            job.after = Some(*last);
            self.store.cleanups.save(&job, now).await?;
        } else {
            self.turn(job, now).await?;
        }
        Ok(true)
    }

    /// The job was planned, the event is not there yet, or never will be.
    async fn wait_for_event(&self, job: &Farewell, now: Timestamp) -> Result<(), StoreError> {
        if now >= later(job.planned_at, ABANDONED) {
            self.store.cleanups.remove(job).await
        } else {
            self.store.cleanups.save(job, later(now, POLL)).await
        }
    }

    /// One kind is done: the next, then all once more, then nothing is left.
    async fn turn(&self, mut job: Farewell, now: Timestamp) -> Result<(), StoreError> {
        job.after = None;
        let next = Tie::ALL.iter().skip_while(|tie| **tie != job.tie).nth(1);
        if let Some(next) = next {
            job.tie = *next;
            return self.store.cleanups.save(&job, now).await;
        }
        if job.passes + 1 < PASSES {
            job.tie = Tie::ALL[0];
            job.passes += 1;
            let due = later(now, BETWEEN_PASSES);
            return self.store.cleanups.save(&job, due).await;
        }
        info!(user.id = %job.user, "every tie of user {} has ended", job.user);
        self.store.cleanups.remove(&job).await
    }

    async fn end_ties(&self, user: UserId, ties: &[LogStream]) -> Result<(), StoreError> {
        let work: Vec<_> = ties.iter().map(|tie| self.end_tie(user, *tie)).collect();
        let ended = futures_util::stream::iter(work).buffer_unordered(AT_ONCE);
        let ended: Vec<Result<(), StoreError>> = ended.collect().await;
        ended.into_iter().collect()
    }

    async fn end_tie(&self, user: UserId, tie: LogStream) -> Result<(), StoreError> {
        match tie {
            LogStream::Follow { follower, followee } => {
                self.end_edge(Ends { follower, followee }, user).await
            }
            LogStream::Repost { post, .. } => self.end_repost(user, post).await,
            LogStream::Post(reply) => self.end_reply(user, reply).await,
            LogStream::User(_) | LogStream::Like { .. } => Ok(()),
        }
    }

    /// Whether somebody has left, as of now: asked when an event of theirs is in the log. A
    /// deactivation that is not seen then comes later, and its farewell finds the event. So no
    /// tie of who left outlives both, however long a command took and however old the statuses
    /// were that it believed.
    pub(super) async fn is_deactivated(&self, user: UserId) -> Result<bool, StoreError> {
        let last = self.store.streams.last(user, LogStream::User(user)).await?;
        // Nothing comes after a deactivation.
        Ok(last.is_none_or(|event| matches!(event.payload, Payload::UserDeactivated(_))))
    }

    pub(super) async fn end_edge(&self, ends: Ends, actor: UserId) -> Result<(), StoreError> {
        let (owner, stream): (UserId, LogStream) = follow_stream(ends);
        let decide = |edge: &edge::Edge| Ok(edge::end_follow(edge, ends));
        let switched = self.switch(owner, stream, actor, actor.get(), decide).await;
        if switched?.changed {
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
        let switched = self.switch(user, stream, user, user.get(), decide).await;
        switched?;
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
