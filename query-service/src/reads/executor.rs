//! Runs the reads of one request.
//!
//! What is remembered is answered at once. Every other read needs a permit, has a budget, and ends
//! soon after its client has gone. Where the database is away, what was remembered is the answer,
//! and marked as stale.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::contract::consistency::ConsistencyToken;
use shared::contract::ids::UserId;

use super::admission::{Admission, Asker, Cost};
use super::budget::{ReadBudget, ReadLimits};
use super::error::ReadError;
use super::model::{CurrentViews, ReadModel};
use super::unanswered::Unanswered;
use crate::cache::ReadFrom;
use crate::metric_rows::READS_ABANDONED;

/// What a read found.
pub struct Read<T> {
    pub item: Option<T>,
    /// It was remembered, and the database is away: it may be old.
    pub stale: bool,
}

/// Whether what is remembered is asked first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CachePolicy {
    /// All that the read needs may be remembered.
    TryFirst,
    /// The read always needs the database.
    Bypass,
}

/// Reads for one caller, and the views as the answer must reflect them.
pub struct ReadExecutor {
    views: Arc<CurrentViews>,
    admission: Arc<Admission>,
    asker: Asker,
    cost: Cost,
    /// The views that reflect the write whose token came with the request, if one did. Then what
    /// is remembered from before is no answer.
    reflecting: Option<ReadModel>,
}

impl ReadExecutor {
    /// Waits until the views reflect the write of `after`, at most a second.
    ///
    /// # Errors
    /// `Deactivated` if `user` has left, as far as these views know. While the database is away, a
    /// user who is not remembered gets no answer.
    pub async fn begin(
        views: Arc<CurrentViews>,
        admission: Arc<Admission>,
        asker: Asker,
        user: Option<UserId>,
        after: Option<ConsistencyToken>,
    ) -> Result<Self, ReadError> {
        let now = views.borrow().with(ReadFrom::CacheThenDatabase);
        // Deactivation is for good: who is remembered as deactivated need not wait.
        let known = user.and_then(|user| now.remembered_as_deactivated(user));
        if known == Some(true) {
            return Err(ReadError::Deactivated);
        }
        let reflecting = match after {
            Some(token) => Some(until_visible(&admission, asker, &now, token).await?),
            None => None,
        };
        // Asked of the views that reflect it: the write may be the user's deactivation.
        if let Some(user) = user
            && (known.is_none() || reflecting.is_some())
        {
            let views = reflecting.as_ref().unwrap_or(&now);
            if is_deactivated(&admission, asker, views, user).await? {
                return Err(ReadError::Deactivated);
            }
        }
        Ok(Self {
            views,
            admission,
            asker,
            cost: Cost::Cheap,
            reflecting,
        })
    }

    /// The same for a list, which costs more than other reads.
    #[must_use]
    pub fn expensive(self) -> Self {
        Self {
            cost: Cost::Expensive(1),
            ..self
        }
    }

    /// Reads, or refuses to begin. Where the database is away or silent, what is remembered is
    /// the answer, unless it must reflect a write.
    pub async fn run<T, F>(
        &self,
        policy: CachePolicy,
        read: impl FnOnce(ReadModel) -> F + Clone + Send + 'static,
    ) -> Result<Read<T>, ReadError>
    where
        T: Send + 'static,
        F: Future<Output = Result<Option<T>, Unanswered>> + Send + 'static,
    {
        let now = || self.views.borrow().with(ReadFrom::CacheThenDatabase);
        let current = self
            .reflecting
            .as_ref()
            .map_or_else(now, ReadModel::refreshed);
        // Needs no permit: nothing of it waits for anything. Where the database is away it may be
        // old, and is said to be, below.
        let try_first =
            policy == CachePolicy::TryFirst && !self.admission.gate().breaker().is_open();
        if let Some(remembered) = current.cache_only().filter(|_| try_first) {
            match Box::pin(read.clone()(remembered)).await {
                Err(Unanswered::CacheMiss) => (),
                Ok(item) => return Ok(Read { item, stale: false }),
                Err(error) => return Err(ReadError::Unanswered(error).logged()),
            }
        }
        let (reading, stale) = (read.clone(), current.with(ReadFrom::StaleCache));
        match self.ask_database(current, reading).await {
            Ok(item) => Ok(Read { item, stale: false }),
            Err(error) if error.is_unavailable() && self.reflecting.is_none() => {
                match Box::pin(read(stale)).await {
                    Ok(item) => Ok(Read { item, stale: true }),
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that a reader asks for their timeline, whatever the answer will be: somebody whose
    /// first page is refused must not stay inactive. The answer does not wait for it. Where it
    /// fails, the next read notes it.
    pub fn note_seen(&self, reader: UserId) {
        let views = self.views.borrow().clone();
        if !views.last_seen().begin(reader) {
            return;
        }
        let (admission, asker) = (self.admission.clone(), self.asker);
        // In a task of its own, with a permit, as every use of the database.
        let noted = self.admission.tasks().run(async move {
            let note = async move |views: ReadModel| views.note_begun(reader).await;
            if load(&admission, asker, &views, note).await.is_err() {
                views.last_seen().failed(reader);
            }
        });
        drop(noted);
    }

    /// A read that finds out that it is an expensive one is begun again, without the permit it
    /// had.
    async fn ask_database<T, F>(
        &self,
        views: ReadModel,
        read: impl FnOnce(ReadModel) -> F + Clone,
    ) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Unanswered>> + Send + 'static,
    {
        let (admission, asker) = (&self.admission, self.asker);
        let is_cheap = self.cost == Cost::Cheap;
        let again = is_cheap.then(|| (read.clone(), views.clone()));
        let found = attempt(admission, self.cost, asker, views, read).await;
        let found = match (found, again) {
            (
                Err(ReadError::Unanswered(Unanswered::Expensive { permits })),
                Some((read, views)),
            ) => attempt(admission, Cost::Expensive(permits), asker, views, read).await,
            (found, _) => found,
        };
        found.map_err(ReadError::logged)
    }
}

/// Whether the views know that the user was deactivated: what is remembered at once, else with a
/// permit.
async fn is_deactivated(
    admission: &Admission,
    asker: Asker,
    views: &ReadModel,
    user: UserId,
) -> Result<bool, ReadError> {
    if let Some(known) = views.remembered_as_deactivated(user) {
        return Ok(known);
    }
    let ask = async move |views: ReadModel| views.is_deactivated(user).await;
    match load(admission, asker, views, ask).await {
        Err(error) if error.is_unavailable() => {
            let known = views
                .with(ReadFrom::StaleCache)
                .remembered_as_deactivated(user);
            known.ok_or(error)
        }
        answer => answer,
    }
}

/// Waits until the views reflect a write, at most a second. Each look needs a permit of its own:
/// a request that waits holds none.
async fn until_visible(
    admission: &Admission,
    asker: Asker,
    views: &ReadModel,
    token: ConsistencyToken,
) -> Result<ReadModel, ReadError> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const LONGEST_PAUSE: Duration = Duration::from_millis(100);
    let (began, mut pause) = (Instant::now(), Duration::from_millis(2));
    let token = Arc::new(token);
    loop {
        let token = token.clone();
        let look = async move |looking: ReadModel| looking.reflecting(&token).await;
        if let Some(reflecting) = load(admission, asker, views, look).await? {
            // Its budget was the look's.
            return Ok(reflecting);
        }
        if began.elapsed() >= PATIENCE {
            return Err(ReadError::NotYetVisible);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One cheap read.
async fn load<T, F>(
    admission: &Admission,
    asker: Asker,
    views: &ReadModel,
    read: impl FnOnce(ReadModel) -> F,
) -> Result<T, ReadError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Unanswered>> + Send + 'static,
{
    let read = attempt(admission, Cost::Cheap, asker, views.clone(), read);
    read.await.map_err(ReadError::logged)
}

/// Runs a read in a task of its own, which holds the permit until it has ended: a database call is
/// never dropped half way. When nobody waits any more, be it that the client has gone or that the
/// deadline has passed, the read ends before its next query. It is made with the permit: a request
/// that waits for one, and there may be thousands, is small.
async fn attempt<T, F>(
    admission: &Admission,
    cost: Cost,
    asker: Asker,
    views: ReadModel,
    read: impl FnOnce(ReadModel) -> F,
) -> Result<T, ReadError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Unanswered>> + Send + 'static,
{
    let permit = admission.acquire(cost, asker).await;
    let permit = permit.map_err(ReadError::Rejected)?;
    let budget = ReadBudget::new(ReadLimits::OF_A_REQUEST, cost != Cost::Cheap);
    let _waiting = budget.abandon_on_drop();
    let read = read(views.within(budget));
    let work = admission.tasks().run(async move {
        let _permit = permit;
        let found = read.await;
        if matches!(found, Err(Unanswered::Abandoned)) {
            READS_ABANDONED.only().increment(1);
        }
        found
    });
    let gate = admission.gate();
    let outcome: Result<_, Unanswered> = gate.wait_for(work).await.map_err(ReadError::Rejected)?;
    outcome.map_err(|error| {
        if error.is_away() {
            gate.breaker().record_failure();
        }
        ReadError::Unanswered(error)
    })
}
