//! What the use cases share: the store, caches, limits, and how a command is carried out.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use shared::contract::ids::{IdGenerator, PostId, UserId};
use shared::contract::time::Clock;
use shared::contract::trace_parent::TraceParent;
use shared::resilience::AdmissionControl;
use shared::runtime::error_chain::Chain;
use shared::runtime::tasks::Tasks;
use shared::runtime::trace::{self, Kind, Span};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::{Instrument, warn};

use super::error::{CommandError, Unavailable};
use super::login_limits::LoginLimits;
use super::passwords::Passwords;
use super::ports::{Quota, Store};
use crate::domain::post::Post;
use crate::domain::text::Password;
use crate::domain::user::User;
use crate::keys::Signer;
use crate::metric_rows::{COMMANDS, QUOTA_REFUSALS};

/// How long a status may be believed without looking.
pub(super) const STATUS_TTL: Duration = Duration::from_secs(1);
const STATUSES_CACHED: u64 = 100_000;
/// Posts never change what is remembered of them: author, parent.
const POSTS_CACHED: u64 = 200_000;
/// Nobody waits longer for an answer. Above the retries of one append (1 s) and the wait for a
/// turn at hashing (2 s), so that most get the better answer. A database that has gone silent
/// ends the wait much earlier ([`AdmissionControl`]).
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The use cases and what they share.
pub struct App {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: IdGenerator,
    pub(super) signer: Arc<Signer>,
    pub(super) passwords: Passwords,
    pub(super) users: Cache<UserId, Arc<User>>,
    /// Users as decided here, for as long as an older look at them may be remembered above.
    pub(super) decided: Cache<UserId, Arc<User>>,
    pub(super) posts: Cache<PostId, Post>,
    pub(super) login_limits: LoginLimits,
    pub(super) quota: Quota,
    tasks: Tasks,
    /// Where commands run: not on a web worker, which may end before they do.
    runtime: Handle,
    gate: AdmissionControl,
    pub(super) cleanups: Notify,
}

/// What [`App`] is made of.
pub struct Parts {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub signer: Arc<Signer>,
    pub tasks: Tasks,
    /// What commands pass on their way to the store.
    pub gate: AdmissionControl,
    pub quota: Quota,
    /// Off in load tests.
    pub limit_logins: bool,
}

tokio::task_local! {
    /// The trace of the command that this task carries out, for where nothing is traced.
    static TRACE: Option<TraceParent>;
    /// Whether the request at work has become a command, which counts by itself.
    static COUNTED: Cell<bool>;
}

/// Serves a request, and counts what was rejected before it became a command: a body that cannot be
/// read, a field that is not valid, a caller whom nobody knows.
pub async fn counting_rejections<T, E>(
    command: &'static str,
    serve: impl Future<Output = Result<T, E>>,
    is_rejected: impl FnOnce(&T) -> bool,
) -> Result<T, E> {
    COUNTED
        .scope(Cell::new(false), async {
            let answer = serve.await?;
            if !COUNTED.with(Cell::get) && is_rejected(&answer) {
                COMMANDS.of([command, "rejected"]).increment(1);
            }
            Ok(answer)
        })
        .await
}

/// What is appended now comes from this span of the command at work, or else from its caller's; none
/// outside a command.
pub(super) fn current_trace() -> Option<String> {
    let caller = || TRACE.try_with(|trace| *trace).ok().flatten();
    let trace = trace::current().or_else(caller)?;
    Some(trace.to_string())
}

impl App {
    /// To be called on the runtime that commands shall run on.
    pub fn new(parts: Parts) -> Self {
        Self {
            store: parts.store,
            clock: parts.clock,
            ids: IdGenerator::default(),
            signer: parts.signer,
            passwords: Passwords::new(),
            users: Cache::builder()
                .max_capacity(STATUSES_CACHED)
                .time_to_live(STATUS_TTL)
                .build(),
            decided: Cache::builder()
                .max_capacity(STATUSES_CACHED)
                .time_to_live(DEADLINE + STATUS_TTL)
                .build(),
            posts: Cache::new(POSTS_CACHED),
            login_limits: LoginLimits::new(parts.limit_logins),
            quota: parts.quota,
            tasks: parts.tasks,
            runtime: Handle::current(),
            gate: parts.gate,
            cleanups: Notify::new(),
        }
    }

    /// Carries a command out to its end even if the caller goes away, and waits for it as long
    /// as a caller would.
    pub async fn run<T, W>(
        self: &Arc<Self>,
        command: &'static str,
        trace: Option<TraceParent>,
        work: impl FnOnce(Arc<Self>) -> W,
    ) -> Result<T, CommandError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, CommandError>> + Send + 'static,
    {
        // Outside a request there is nobody to tell.
        let _ = COUNTED.try_with(|counted| counted.set(true));
        let span = Span::part(Kind::Internal, command);
        let running = self.run_detached(trace, work(self.clone()));
        let result = span.around(running).await;
        if let Err(CommandError::LimitReached(limit)) = &result {
            QUOTA_REFUSALS.of([limit.name()]).increment(1);
        }
        let outcome = match &result {
            Ok(_) => "accepted",
            Err(error) if error.is_rejection() => "rejected",
            // Counted, not told each time: there may be thousands a second.
            Err(CommandError::Unavailable(Unavailable::Overloaded | Unavailable::Away)) => {
                "refused"
            }
            Err(fault) => {
                warn!(command, error = %Chain(fault), "{command} failed");
                "failed"
            }
        };
        COMMANDS.of([command, outcome]).increment(1);
        span.says("microblog.outcome", outcome);
        if matches!(outcome, "refused" | "failed") {
            span.fails(outcome);
        }
        result
    }

    async fn run_detached<T: Send + 'static>(
        &self,
        trace: Option<TraceParent>,
        work: impl Future<Output = Result<T, CommandError>> + Send + 'static,
    ) -> Result<T, CommandError> {
        let permit = self.gate.acquire().await?;
        let task = async move {
            let result = TRACE.scope(trace, work).await;
            drop(permit);
            result
        };
        let handle = {
            let _main = self.runtime.enter();
            self.tasks.run(trace::carry(task.in_current_span()))
        };
        self.gate.wait_for(handle).await?
    }

    /// For bulk loading, which decides and appends many at once.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) async fn hash_password(&self, password: Password) -> Result<String, CommandError> {
        self.passwords.hash(password).await
    }

    /// Makes what the first request would otherwise wait for.
    pub async fn warm_up(&self) -> Result<(), CommandError> {
        self.passwords.warm_up().await
    }
}
