//! Answers: JSON with an entity tag, pages with a link to the next, errors as problems.
//!
//! What is remembered is answered at once. Every other read needs a permit, has a budget, and ends
//! soon after its client has gone. Where the database is away, what was remembered is the answer,
//! and marked.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::{CACHE_CONTROL, ETAG, HeaderName, HeaderValue, LINK, VARY};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use shared::consistency::ConsistencyToken;
use shared::error_chain::Chain;
use shared::problem::{Code, Problem};
use shared::resilience::Refused;
use tracing::error;
use xxhash_rust::xxh3::xxh3_64;

use super::admission::{Admission, Asker, Cost};
use super::extract::{Caller, Reading};
use super::{etag, link};
use crate::read_model::budget::{ReadBudget, ReadLimits};
use crate::read_model::view::Page;
use crate::read_model::{ViewError, Views};

pub type Answer = Result<HttpResponse, Problem>;

/// What a read found.
pub struct Found<T> {
    pub item: Option<T>,
    /// From memory, while the database was away: it may be old.
    pub stale: bool,
}

/// Reads that ended early since nobody waited for them any more.
pub const ABANDONED: &str = "query_service_reads_abandoned_total";

/// Marks what was answered from memory alone.
const SERVED: HeaderName = HeaderName::from_static("x-served");

/// Whether all that a read needs may be remembered: then memory is asked first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Memory {
    Perhaps,
    Never,
}

impl<C: Caller> Reading<C> {
    /// One thing, or 404.
    pub async fn one<T, F>(
        self,
        memory: Memory,
        read: impl FnOnce(Views) -> F + Clone + Send + 'static,
    ) -> Answer
    where
        T: Serialize + Send + 'static,
        F: Future<Output = Result<Option<T>, ViewError>> + Send + 'static,
    {
        let found = self.find(memory, read).await?;
        self.shown(found)
    }

    /// The answer that shows what was found.
    pub fn shown<T: Serialize>(&self, found: Found<T>) -> Answer {
        let item = found.item.ok_or_else(not_found)?;
        Ok(marked(tagged(&self.request, &item, None)?, found.stale))
    }

    /// A page of `items`, or 404.
    pub async fn page<T, F>(
        self,
        items: &str,
        memory: Memory,
        read: impl FnOnce(Views) -> F + Clone + Send + 'static,
    ) -> Answer
    where
        T: Serialize + Send + 'static,
        F: Future<Output = Result<Option<Page<T>>, ViewError>> + Send + 'static,
    {
        let found = self.find(memory, read).await?;
        let page = &found.item.ok_or_else(not_found)?;
        let body = PageBody { items, page };
        let answer = tagged(&self.request, &body, page.next_cursor.as_deref())?;
        Ok(marked(answer, found.stale))
    }

    /// The same for a list, which costs more than other reads.
    pub fn expensive(self) -> Self {
        Self {
            cost: Cost::Expensive(1),
            ..self
        }
    }

    /// Reads, or refuses to begin. A read that finds out that it is an expensive one is begun
    /// again, without the permit it had. Where the database is away or silent, what is remembered
    /// is served, unless the answer must reflect a write.
    pub async fn find<T, F>(
        &self,
        memory: Memory,
        read: impl FnOnce(Views) -> F + Clone + Send + 'static,
    ) -> Result<Found<T>, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<Option<T>, ViewError>> + Send + 'static,
    {
        let now = || self.views.borrow().cached();
        let current = self.reflecting.as_ref().map_or_else(now, Views::still);
        // Needs no place: nothing of it waits for anything. Where the database is away it may be
        // old, and is said to be, below.
        let ask_memory = memory == Memory::Perhaps && !self.gate.breaker().is_open();
        if let Some(remembered) = current.from_memory().filter(|_| ask_memory) {
            match Box::pin(read.clone()(remembered)).await {
                Err(ViewError::NotRemembered) => (),
                Ok(item) => return Ok(Found { item, stale: false }),
                Err(error) => return Err(problem(&error)),
            }
        }
        let (reading, stale) = (read.clone(), current.stale());
        let admission = &self.admission;
        let cheap = self.cost == Cost::Cheap;
        let again = cheap.then(|| (read.clone(), current.clone()));
        let found = attempt(admission, self.cost, self.who, current, reading).await;
        let found = match (found, again) {
            (Err(Failure::Read(ViewError::Expensive { permits })), Some((read, current))) => {
                let cost = Cost::Expensive(permits);
                attempt(admission, cost, self.who, current, read).await
            }
            (found, _) => found,
        };
        match found.map_err(Failure::into_problem) {
            Ok(item) => Ok(Found { item, stale: false }),
            Err(problem) if problem.code == Code::Unavailable && self.reflecting.is_none() => {
                match Box::pin(read(stale)).await {
                    Ok(item) => Ok(Found { item, stale: true }),
                    Err(_) => Err(problem),
                }
            }
            Err(problem) => Err(problem),
        }
    }
}

/// Waits until the views reflect a write, at most a second. Each look needs a permit of its own:
/// whoever waits holds none.
pub async fn until_visible(
    admission: &Admission,
    who: Asker,
    views: &Views,
    token: ConsistencyToken,
) -> Result<Views, Problem> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const LONGEST_PAUSE: Duration = Duration::from_millis(100);
    let (began, mut pause) = (Instant::now(), Duration::from_millis(2));
    let token = Arc::new(token);
    loop {
        let token = token.clone();
        let look = async move |looking: Views| looking.reflecting(&token).await;
        if let Some(reflecting) = load(admission, who, views, look).await? {
            // Its budget was the look's.
            return Ok(reflecting);
        }
        if began.elapsed() >= PATIENCE {
            return Err(problem(&ViewError::NotYetVisible));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One cheap read.
pub async fn load<T, F>(
    admission: &Admission,
    who: Asker,
    views: &Views,
    read: impl FnOnce(Views) -> F,
) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ViewError>> + Send + 'static,
{
    let read = attempt(admission, Cost::Cheap, who, views.clone(), read);
    read.await.map_err(Failure::into_problem)
}

/// Why a read has no result.
enum Failure {
    Refused(Refused),
    Read(ViewError),
}

impl Failure {
    fn into_problem(self) -> Problem {
        match self {
            Self::Refused(why) => refused(why),
            Self::Read(error) => problem(&error),
        }
    }
}

/// Runs a read in a task of its own, which holds the permit until it has ended: a database call is
/// never dropped half way. When nobody waits any more, be it that the client has gone or that the
/// deadline has passed, the read ends before its next query. It is made with the permit: whoever
/// waits for one, and there may be thousands, is small.
async fn attempt<T, F>(
    admission: &Admission,
    cost: Cost,
    who: Asker,
    views: Views,
    read: impl FnOnce(Views) -> F,
) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ViewError>> + Send + 'static,
{
    let permit = admission.enter(cost, who).await.map_err(Failure::Refused)?;
    let budget = ReadBudget::new(ReadLimits::OF_A_REQUEST, cost != Cost::Cheap);
    let _waiting = budget.abandon_on_drop();
    let read = read(views.within(budget));
    let work = tokio::spawn(async move {
        let _permit = permit;
        let found = read.await;
        if matches!(found, Err(ViewError::Abandoned)) {
            metrics::counter!(ABANDONED).increment(1);
        }
        found
    });
    let gate = admission.gate();
    let outcome: Result<_, ViewError> = gate.attend(work).await.map_err(Failure::Refused)?;
    outcome.map_err(|error| {
        if error.is_away() {
            gate.breaker().failed();
        }
        Failure::Read(error)
    })
}

fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::Away => problem(&ViewError::Away),
        Refused::Full => Problem::new(Code::Overloaded, "too many reads at once"),
        Refused::Late => Problem::new(Code::Unavailable, "the read took too long"),
        Refused::Panicked => Problem::new(Code::Internal, "something went wrong here"),
    }
}

fn marked(mut answer: HttpResponse, stale: bool) -> HttpResponse {
    if stale {
        let value = HeaderValue::from_static("stale");
        answer.headers_mut().insert(SERVED, value);
    }
    answer
}

/// A page as sent: the name of what it lists comes from the route.
struct PageBody<'a, T> {
    items: &'a str,
    page: &'a Page<T>,
}

impl<T: Serialize> Serialize for PageBody<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.items, &self.page.items)?;
        map.serialize_entry("next_cursor", &self.page.next_cursor)?;
        map.end()
    }
}

fn not_found() -> Problem {
    Problem::new(Code::NotFound, "there is nothing here")
}

/// 200 with a weak entity tag of the body, or 304 where the caller has just that.
fn tagged(request: &HttpRequest, body: &impl Serialize, next: Option<&str>) -> Answer {
    let json = serde_json::to_vec(body)
        .map_err(|_| Problem::new(Code::Internal, "something went wrong here"))?;
    let tag = format!("{:016x}", xxh3_64(&json));
    let same = etag::is_known(request, &tag);
    let mut response = if same {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response
        .insert_header((ETAG, format!("W/\"{tag}\"")))
        .insert_header((CACHE_CONTROL, "private, no-cache"))
        .insert_header((VARY, "Authorization"));
    if let Some(cursor) = next {
        response.insert_header((LINK, link::to_next_page(request, cursor)));
    }
    if same {
        Ok(response.finish())
    } else {
        Ok(response.content_type("application/json").body(json))
    }
}

/// What a failed read means to a caller. Internals are logged, never told.
fn problem(fault: &ViewError) -> Problem {
    match fault {
        ViewError::BadCursor => Problem::new(Code::BadCursor, fault.to_string()),
        ViewError::NotYetVisible => Problem::new(Code::NotYetVisible, "ask again in a second"),
        // Told once, by whoever found out.
        ViewError::Away => Problem::new(Code::Unavailable, "the views cannot be read now"),
        ViewError::Busy => Problem::new(Code::Overloaded, "too many reads at once"),
        // Nobody reads this: whoever waited is gone.
        ViewError::Abandoned => Problem::new(Code::Unavailable, "the read took too long"),
        ViewError::Database(_) | ViewError::NotRemembered => {
            tracing::warn!(error = %Chain(fault), "a read failed");
            Problem::new(Code::Unavailable, "the views cannot be read now")
        }
        ViewError::Corrupt(_)
        | ViewError::Refused(_)
        | ViewError::Expensive { .. }
        | ViewError::OtherPartitions { .. } => {
            error!(error = %Chain(fault), "a read failed");
            Problem::new(Code::Internal, "something went wrong here")
        }
    }
}
