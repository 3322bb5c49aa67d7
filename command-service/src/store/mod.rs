//! The store on MongoDB: the only room that knows its documents.
//!
//! | collection | what |
//! |---|---|
//! | `events` | the log (`shared::log`) |
//! | `usernames` | who has a name; unique by `_id`, for good |
//! | `emails` | who has an address (`shared::accounts`), until they leave; unique by `_id` |
//! | `credentials` | Argon2id hashes |
//! | `sessions` | one document per family of refresh tokens |
//! | `follow_counts`, `post_quotas`, `edit_quotas` | guards of limits; the log is what they guard |
//! | `jobs` | farewells of users who left |
//!
//! The driver's futures are polled to their end, never dropped: commands run in tasks of their
//! own (`App::run`), and nothing here is wrapped in `select!` or `timeout`.

mod accounts;
mod errors;
mod farewells;
mod follows;
mod indexes;
mod log;
mod quotas;
mod sessions;
mod streams;
mod views;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mongodb::{Collection, Database};
use shared::consistency::Position;
use shared::database_clock::{DatabaseClock, Look};
use shared::events::{Event, LogStream};
use shared::ids::{EventId, PostId, UserId};
use shared::log::LogDocument;
use shared::resilience::Breaker;
use shared::tasks::Tasks;
use shared::time::{Clock, Timestamp};

use crate::app::store::{
    AccountName, Append, Counts, Farewell, Limited, NewAccount, Outcome, Projected, Quota,
    QuotaState, Reaction, Receipt, Receipts, Registered, Renewal, Result, Rotation, Session, Store,
    StoreError, Tie,
};
use crate::domain::user::{Standing, User};
use errors::{retry, translate};

/// MongoDB behind [`Store`].
pub struct MongoStore {
    log: log::Log,
    streams: streams::Streams,
    accounts: accounts::Accounts,
    sessions: sessions::Sessions,
    follows: follows::FollowCounts,
    posts: quotas::Quotas,
    edits: quotas::Quotas,
    farewells: farewells::Farewells,
    views: views::Views,
    database: Database,
    clock: Arc<DatabaseClock>,
    /// Uniqueness holds only once the indexes are there.
    prepared: Arc<AtomicBool>,
    /// Told of every answer, asked by nobody here: commands pass it on their way in.
    breaker: Arc<Breaker>,
}

impl MongoStore {
    /// A store on this database; `views` is where the query service keeps its own. `clock` learns
    /// from every look at the database's.
    pub fn new(
        database: Database,
        views: Database,
        clock: Arc<DatabaseClock>,
        tasks: Tasks,
        breaker: Arc<Breaker>,
    ) -> Self {
        let events: Collection<LogDocument> = database.collection(shared::log::COLLECTION);
        Self {
            log: log::Log::new(events.clone()),
            streams: streams::Streams::new(events.clone()),
            accounts: accounts::Accounts::new(&database, events.clone()),
            sessions: sessions::Sessions::new(&database),
            follows: follows::FollowCounts::new(&database, events),
            posts: quotas::Quotas::new(&database, quotas::POSTS),
            edits: quotas::Quotas::new(&database, quotas::EDITS),
            farewells: farewells::Farewells::new(&database),
            views: views::Views::new(views, tasks),
            database,
            clock,
            prepared: Arc::default(),
            breaker,
        }
    }

    /// Learns the time and makes the indexes. Nothing is appended before.
    pub async fn prepare(&self) -> Result<()> {
        self.look().await?;
        indexes::make(&self.database).await.map_err(translate)?;
        self.prepared.store(true, Ordering::Release);
        Ok(())
    }

    /// Looks at the database's clock; also whether it answers.
    pub async fn look(&self) -> Result<Look> {
        let look = Look::at(&self.database).await.map_err(translate)?;
        self.clock.learn(&look);
        Ok(look)
    }

    /// [`retry`], with the outcome told to the breaker.
    async fn ask<T, F, A>(&self, attempt: F) -> Result<T>
    where
        F: Fn() -> A,
        A: Future<Output = std::result::Result<T, errors::Fault>>,
    {
        self.heard(retry(attempt).await)
    }

    fn heard<T>(&self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Err(StoreError::Unavailable(_)) => self.breaker.failed(),
            Ok(_)
            | Err(StoreError::NotPrepared | StoreError::Corrupt(_) | StoreError::Unexpected(_)) => {
                self.breaker.answered();
            }
        }
        outcome
    }

    fn quotas(&self, of: Limited) -> &quotas::Quotas {
        match of {
            Limited::Posts => &self.posts,
            Limited::Edits => &self.edits,
        }
    }

    fn prepared(&self) -> Result<()> {
        let prepared = self.prepared.load(Ordering::Acquire);
        prepared.then_some(()).ok_or(StoreError::NotPrepared)
    }
}

#[async_trait]
impl Store for MongoStore {
    async fn append(&self, append: &Append) -> Result<Outcome> {
        self.prepared()?;
        self.heard(self.log.append(append).await)
    }

    async fn append_all(&self, appends: &[Append]) -> Result<Vec<bool>> {
        self.prepared()?;
        self.heard(self.log.append_all(appends).await)
    }

    async fn last(&self, owner: UserId, stream: LogStream) -> Result<Option<Event>> {
        self.ask(|| self.streams.last(owner, stream)).await
    }

    async fn latest(&self, owner: UserId) -> Result<Vec<Position>> {
        let now = self.clock.now();
        self.ask(|| self.streams.latest(owner, now)).await
    }

    async fn user(&self, user: UserId) -> Result<Option<User>> {
        self.ask(|| self.streams.user(user)).await
    }

    async fn user_before(&self, user: UserId, id: EventId) -> Result<Option<User>> {
        self.ask(|| self.streams.user_before(user, id)).await
    }

    async fn post_created(&self, post: PostId) -> Result<Option<Event>> {
        self.ask(|| self.log.post_created(post)).await
    }

    async fn receipt(&self, owner: UserId, key: &str) -> Result<Option<Receipt>> {
        self.ask(|| self.log.receipt(owner, key)).await
    }

    async fn receipts(&self, keys: &[(UserId, String)]) -> Result<Receipts> {
        self.ask(|| self.log.receipts(keys)).await
    }

    async fn standings(&self, users: &[UserId]) -> Result<HashMap<UserId, (Standing, EventId)>> {
        self.ask(|| self.streams.standings(users)).await
    }

    async fn register(&self, account: &NewAccount) -> Result<Registered> {
        self.prepared()?;
        self.heard(self.accounts.register(std::slice::from_ref(account)).await)
    }

    async fn register_all(&self, accounts: &[NewAccount]) -> Result<bool> {
        self.prepared()?;
        let registered = self.heard(self.accounts.register(accounts).await);
        Ok(registered? == Registered::Done)
    }

    async fn find_account(&self, name: &AccountName) -> Result<Option<UserId>> {
        self.ask(|| self.accounts.find(name)).await
    }

    async fn users_named(&self, usernames: &[String]) -> Result<HashMap<String, UserId>> {
        self.ask(|| self.accounts.users_named(usernames)).await
    }

    async fn users_at(&self, emails: &[String]) -> Result<HashMap<String, UserId>> {
        self.ask(|| self.accounts.users_at(emails)).await
    }

    async fn password_hash(&self, user: UserId) -> Result<Option<String>> {
        self.ask(|| self.accounts.password_hash(user)).await
    }

    async fn address(&self, user: UserId) -> Result<Option<String>> {
        self.ask(|| self.accounts.address(user)).await
    }

    async fn forget_account(&self, user: UserId) -> Result<()> {
        self.ask(|| self.accounts.forget(user)).await
    }

    async fn open_session(&self, session: &Session) -> Result<()> {
        self.prepared()?;
        self.ask(|| self.sessions.open(session)).await
    }

    async fn renew_session(&self, renewal: &Renewal) -> Result<Rotation> {
        self.ask(|| self.sessions.renew(renewal)).await
    }

    async fn has_session_from(&self, user: UserId, origin: &[u8; 32]) -> Result<bool> {
        self.ask(|| self.sessions.is_from(user, origin)).await
    }

    async fn session_user(&self, family: &str) -> Result<Option<UserId>> {
        self.ask(|| self.sessions.user(family)).await
    }

    async fn close_session(&self, family: &str) -> Result<()> {
        self.ask(|| self.sessions.close(family)).await
    }

    async fn close_sessions_of(&self, user: UserId) -> Result<()> {
        self.ask(|| self.sessions.close_all(user)).await
    }

    async fn reserve_follow(&self, follower: UserId, limit: u32) -> Result<Option<u32>> {
        // A lost answer may count one too many, never one too few.
        self.ask(|| self.follows.reserve(follower, limit)).await
    }

    async fn release_follow(&self, follower: UserId) -> Result<()> {
        // Asked once: twice might give back what was not taken.
        self.follows.release(follower).await.map_err(translate)
    }

    async fn count_follows(&self, follower: UserId) -> Result<u32> {
        self.ask(|| self.follows.count(follower)).await
    }

    async fn recount_follows(&self, followers: &[UserId]) -> Result<()> {
        self.ask(|| self.follows.mark_stale(followers)).await
    }

    async fn reserve(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState> {
        self.ask(|| self.quotas(of).reserve(user, quota)).await
    }

    async fn quota(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState> {
        self.ask(|| self.quotas(of).look(user, quota)).await
    }

    async fn release(&self, of: Limited, user: UserId, window_start: Timestamp) -> Result<()> {
        let released = self.quotas(of).release(user, window_start).await;
        released.map_err(translate)
    }

    async fn plan_farewell(&self, user: UserId, now: Timestamp) -> Result<()> {
        self.ask(|| self.farewells.plan(user, now)).await
    }

    async fn claim_farewell(&self, now: Timestamp, lease: Duration) -> Result<Option<Farewell>> {
        self.ask(|| self.farewells.claim(now, lease)).await
    }

    async fn save_farewell(&self, job: &Farewell, due: Timestamp) -> Result<()> {
        self.ask(|| self.farewells.save(job, due)).await
    }

    async fn drop_farewell(&self, job: &Farewell) -> Result<()> {
        self.ask(|| self.farewells.drop(job)).await
    }

    async fn ties(
        &self,
        user: UserId,
        tie: Tie,
        after: Option<LogStream>,
        limit: u32,
    ) -> Result<Vec<LogStream>> {
        self.ask(|| self.log.ties(user, tie, after, limit)).await
    }

    async fn projected(&self, reaction: Reaction, post: PostId, user: UserId) -> Projected {
        self.views.projected(reaction, post, user).await
    }

    async fn counts(&self, user: UserId) -> Counts {
        self.views.counts(user).await
    }
}
