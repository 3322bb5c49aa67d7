//! Use cases: one file each, and each the same three steps: load, decide, append.
//!
//! * [`store`]: the one trait behind which the database is.
//! * [`append`]: ids, lost answers, and deciding again when somebody was faster.
//! * [`mod@error`]: why a command was not accepted.
//! * `register`, `sign_in`, `edit_profile`, `deactivate`, `moderate`: users.
//! * `create_post`, `delete_post`, `follow`, `react`: posts and edges.
//! * [`limits`], [`passwords`]: what keeps callers from overdoing it.
//!
//! A command runs to its end even if whoever sent it goes away ([`App::run`]); it is never left
//! in the middle.

pub mod append;
mod create_post;
mod deactivate;
mod delete_post;
mod edit_profile;
pub mod error;
mod follow;
pub mod limits;
mod moderate;
pub mod passwords;
mod react;
mod register;
mod sign_in;
pub mod store;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, describe_counter};
use moka::future::Cache;
use shared::consistency::ConsistencyToken;
use shared::error_chain::Chain;
use shared::events::LogStream;
use shared::ids::{IdGenerator, PostId, UserId};
use shared::resilience::Gate;
use shared::tasks::Tasks;
use shared::time::Clock;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::{Instrument, warn};

pub use create_post::{Created, NewPost};
pub use edit_profile::Edited;
pub use error::CommandError;
pub use follow::Followed;
pub use moderate::Verdict;
pub use react::Reacted;
pub use sign_in::{SignIn, Tokens};

use crate::domain::post::Post;
use crate::domain::text::Password;
use crate::domain::user::{Standing, User};
use crate::keys::Signer;
use limits::{Limits, LoginLimits};
use passwords::Passwords;
use store::{Quota, Result as StoreResult, Store};

/// Labels: `command` (a fixed set), `outcome` (accepted, rejected, refused, failed).
const COMMANDS: &str = "command_service_commands_total";

/// How long a standing may be believed without looking.
const STANDING_TTL: Duration = Duration::from_secs(1);
const STANDINGS_CACHED: u64 = 100_000;
/// Posts never change what is remembered of them: author, parent.
const POSTS_CACHED: u64 = 200_000;
/// Nobody waits longer for an answer. Above the retries of one append (1 s) and the wait for a
/// turn at hashing (2 s), so that most get the better answer. A database that has gone silent
/// ends the wait much earlier ([`Gate`]).
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The use cases and what they share.
pub struct App {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ids: IdGenerator,
    signer: Arc<Signer>,
    passwords: Passwords,
    users: Cache<UserId, Arc<User>>,
    /// Users as decided here, for as long as an older look at them may be remembered above.
    decided: Cache<UserId, Arc<User>>,
    posts: Cache<PostId, Post>,
    login_limits: LoginLimits,
    limits: Limits,
    tasks: Tasks,
    /// Where commands run: not on a web worker, which may end before they do.
    runtime: Handle,
    gate: Gate,
    farewells: Notify,
}

/// What [`App`] is made of.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub signer: Arc<Signer>,
    pub tasks: Tasks,
    /// What commands pass on their way to the store.
    pub gate: Gate,
    pub quota: Quota,
    /// Off in load tests.
    pub limit_logins: bool,
}

/// An accepted command's value, and the token with which reads can wait for it.
#[derive(Debug)]
pub struct Accepted<T> {
    pub value: T,
    pub token: ConsistencyToken,
}

/// What an accepted command was about, for its token.
#[derive(Clone, Copy, Debug)]
struct Own {
    stream: LogStream,
    version: i64,
    actor: UserId,
    /// As in [`ConsistencyToken`].
    owner: UserId,
    /// Whether the command appended the event.
    changed: bool,
}

tokio::task_local! {
    /// The W3C `traceparent` of the command that this task carries out.
    static TRACE: Option<String>;
}

/// The trace of the command at work; none outside one.
fn current_trace() -> Option<String> {
    TRACE.try_with(Clone::clone).ok().flatten()
}

impl App {
    /// To be called on the runtime that commands shall run on.
    pub fn new(parts: Parts) -> Self {
        describe_counter!(COMMANDS, "Commands by name and outcome");
        Self {
            store: parts.store,
            clock: parts.clock,
            ids: IdGenerator::default(),
            signer: parts.signer,
            passwords: Passwords::new(),
            users: Cache::builder()
                .max_capacity(STANDINGS_CACHED)
                .time_to_live(STANDING_TTL)
                .build(),
            decided: Cache::builder()
                .max_capacity(STANDINGS_CACHED)
                .time_to_live(DEADLINE + STANDING_TTL)
                .build(),
            posts: Cache::new(POSTS_CACHED),
            login_limits: LoginLimits::new(parts.limit_logins),
            limits: Limits::new(parts.quota),
            tasks: parts.tasks,
            runtime: Handle::current(),
            gate: parts.gate,
            farewells: Notify::new(),
        }
    }

    /// Carries a command out to its end even if the caller goes away, and waits for it as long
    /// as a caller would.
    pub async fn run<T, W>(
        self: &Arc<Self>,
        command: &'static str,
        trace: Option<String>,
        work: impl FnOnce(Arc<Self>) -> W,
    ) -> Result<T, CommandError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, CommandError>> + Send + 'static,
    {
        let result = self.run_detached(trace, work(self.clone())).await;
        let outcome = match &result {
            Ok(_) => "accepted",
            Err(error) if error.is_rejection() => "rejected",
            // Counted, not told each time: there may be thousands a second.
            Err(CommandError::Overloaded | CommandError::Away) => "refused",
            Err(fault) => {
                warn!(command, error = %Chain(fault), "{command} failed");
                "failed"
            }
        };
        counter!(COMMANDS, "command" => command, "outcome" => outcome).increment(1);
        result
    }

    async fn run_detached<T: Send + 'static>(
        &self,
        trace: Option<String>,
        work: impl Future<Output = Result<T, CommandError>> + Send + 'static,
    ) -> Result<T, CommandError> {
        let place = self.gate.enter().await?;
        let task = async move {
            let result = TRACE.scope(trace, work).await;
            drop(place);
            result
        };
        let handle = {
            let _main = self.runtime.enter();
            self.tasks.run(task.in_current_span())
        };
        self.gate.attend(handle).await?
    }

    /// For bulk loading, which decides and appends many at once.
    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    pub(crate) async fn hash_password(&self, password: Password) -> Result<String, CommandError> {
        self.passwords.hash(password).await
    }

    /// Makes what the first request would otherwise wait for.
    pub async fn warm_up(&self) -> Result<(), CommandError> {
        self.passwords.warm_up().await
    }

    /// The user as known at most [`STANDING_TTL`] ago, or as decided here since. However many ask
    /// at once, one asks the store.
    async fn find_user(&self, user: UserId) -> StoreResult<Option<Arc<User>>> {
        let load = async {
            match self.load_user(user).await {
                Ok(Some(loaded)) => Ok(Arc::new(loaded)),
                Ok(None) => Err(None),
                Err(error) => Err(Some(error)),
            }
        };
        let found = match self.users.try_get_with(user, load).await {
            Ok(found) => found,
            Err(failed) => {
                return match failed.as_ref() {
                    None => Ok(None),
                    Some(error) => Err(error.again()),
                };
            }
        };
        // A look that began before a decision may be remembered after it.
        let decided = self.decided.get(&user).await;
        let newer = decided.filter(|decided| decided.version > found.version);
        Ok(Some(newer.unwrap_or(found)))
    }

    /// The user as of now.
    async fn load_user(&self, user: UserId) -> StoreResult<Option<User>> {
        self.store.user(user).await
    }

    /// The user as of now, unless they have left.
    async fn present(&self, user: UserId) -> StoreResult<Option<User>> {
        let user = self.load_user(user).await?;
        Ok(user.filter(|user| user.standing.is_visible()))
    }

    /// The user behind an access token. A token outlives the user's registration only if the
    /// user left, or if the token is of another deployment.
    async fn actor(&self, actor: UserId) -> Result<Arc<User>, CommandError> {
        self.find_user(actor).await?.ok_or(CommandError::NoActor)
    }

    /// The token of an accepted command: it covers all that its actor has had accepted by now.
    ///
    /// A command that changed something is accepted whether that can be read or not: its own
    /// event stands behind all that was accepted before the command began.
    async fn token(&self, own: Own) -> StoreResult<ConsistencyToken> {
        let Own {
            stream,
            version,
            actor,
            owner,
            changed,
        } = own;
        let mut latest = match self.store.latest(actor).await {
            Ok(latest) => latest,
            Err(error) if changed => {
                warn!(error = %Chain(&error), "a token names its own command alone");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        // What is known of its own stream is said once.
        let known = latest.iter().position(|other| other.stream == stream);
        let known = known.map(|at| latest.remove(at).version);
        Ok(ConsistencyToken {
            stream,
            version: known.map_or(version, |known| known.max(version)),
            actor,
            owner,
            latest,
        })
    }

    /// The token of a command on a user's own account.
    async fn own_token(&self, user: &User, changed: bool) -> StoreResult<ConsistencyToken> {
        self.token(Own {
            stream: LogStream::User(user.id),
            version: user.version,
            actor: user.id,
            owner: user.id,
            changed,
        })
        .await
    }

    /// A post with its author's standing; the event ids read on the way bound the new event's.
    async fn find_post(&self, post: PostId) -> StoreResult<Option<FoundPost>> {
        let Some(created) = self.created_post(post).await? else {
            return Ok(None);
        };
        let stream = LogStream::Post(post);
        let (last, author) = tokio::join!(
            self.store.last(created.author, stream),
            self.find_user(created.author)
        );
        let last = last?;
        let version = last.as_ref().map_or(1, |event| event.version);
        let author = author?.map_or(Standing::Deactivated, |author| author.standing);
        Ok(Some(FoundPost {
            post: Post {
                deleted: version > 1,
                ..created
            },
            author,
            version,
            read: last.map_or(post.get(), |event| event.id.get()),
        }))
    }

    async fn created_post(&self, post: PostId) -> StoreResult<Option<Post>> {
        if let Some(known) = self.posts.get(&post).await {
            return Ok(Some(known));
        }
        let event = self.store.post_created(post).await?;
        let found = event.as_ref().and_then(Post::created);
        if let Some(found) = found {
            self.posts.insert(post, found).await;
        }
        Ok(found)
    }
}

/// A post as loaded for a decision.
#[derive(Clone, Copy, Debug)]
struct FoundPost {
    post: Post,
    author: Standing,
    version: i64,
    /// The greatest event id that was read.
    read: i64,
}

impl FoundPost {
    fn seen(&self) -> (&Post, Standing) {
        (&self.post, self.author)
    }
}
