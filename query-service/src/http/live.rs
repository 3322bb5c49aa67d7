//! `GET /timeline/stream`: new entries as server-sent events.
//!
//! A stream that cannot be served yet is accepted all the same, and waits: client libraries give
//! up for good on a 503. Only what will not get better by waiting is refused.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Version;
use actix_web::http::header::{CACHE_CONTROL, ContentType};
use actix_web::web::{Bytes, Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use shared::auth::token::{TokenError, TokenVerifier, Verified};
use shared::contract::consistency::ConsistencyToken;
use shared::resilience::AdmissionControl;
use shared::runtime::settings::Secret;
use shared::runtime::tasks::Tasks;
use shared::web::problem::{Code, Problem};
use shared::web::rate_limit::IpRateLimiter;
use shared::web::routing::bearer;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::errors::{internal, invalid_token};
use super::extract::write_to_reflect;
use super::live_stream::{Caller, LiveStream, Piece, Seen, pieces, wait_until};
use super::responses::Response;
use crate::live::{Live, MOST_WAITING, Refused};
use crate::reads::admission::{Admission, Asker};
use crate::reads::executor::ReadExecutor;
use crate::reads::model::CurrentViews;

/// Whoever has too many streams may ask again after this many seconds.
const TOO_MANY_RETRY_SECS: u64 = 60;

/// The id of the last event that the client has seen: `Last-Event-ID`, as browsers send it back,
/// or the query parameter that libraries use instead, however they spell it. The header wins. What
/// is empty is absent: so libraries say that they have seen none.
fn last_event_id(request: &HttpRequest) -> Result<Option<u64>, Problem> {
    const NAME: &str = "lasteventid";
    let header = request.headers().get("last-event-id");
    let header = header.map(|value| value.to_str().unwrap_or("?").trim().to_owned());
    let query = || {
        let pairs = Query::<Vec<(String, String)>>::from_query(request.query_string()).ok()?;
        let same = |name: &str| {
            let plain = name.replace(['-', '_'], "");
            plain.eq_ignore_ascii_case(NAME)
        };
        let values = pairs.into_inner().into_iter();
        values
            .filter(|(name, _)| same(name))
            .map(|(_, value)| value.trim().to_owned())
            .find(|value| !value.is_empty())
    };
    let Some(value) = header.filter(|value| !value.is_empty()).or_else(query) else {
        return Ok(None);
    };
    let plain = value.bytes().all(|byte| byte.is_ascii_digit());
    let seq = value.parse().ok().filter(|_| plain);
    seq.map(Some).ok_or_else(|| {
        Problem::field(
            "Last-Event-ID",
            "invalid",
            "send back the id of the last event",
        )
    })
}

pub async fn stream(
    request: HttpRequest,
    live: Data<Live>,
    verifier: Data<TokenVerifier>,
    (gate, admission): (Data<AdmissionControl>, Data<Admission>),
    (addresses, views): (Data<IpRateLimiter>, Data<CurrentViews>),
) -> Response {
    let token = access_token(&request)?;
    let verified = verified(&verifier, token).await?;
    let resume = last_event_id(&request)?;
    let mut reflect = write_to_reflect(&request)?;
    if let Some(verified) = verified {
        let who = Asker::new(Some(verified.user), addresses.of(&request));
        if is_settled(&views, &admission, who, verified, reflect.clone()).await? {
            reflect = None;
        }
    }
    let caller = match verified {
        Some(verified) => {
            let subscription = live.subscribe(verified.user).await.map_err(refused)?;
            Caller::Known(verified, subscription)
        }
        None => Caller::Unknown {
            token: Secret::new(token),
            verifier: verifier.into_inner(),
            waiting: live.wait().ok_or_else(|| refused(Refused::Process))?,
        },
    };
    let (sender, receiver) = pieces();
    let stream = LiveStream::new(
        views.get_ref().clone(),
        gate,
        live.get_ref().clone(),
        resume.map(Seen::of),
        reflect,
        sender,
    );
    live.tasks().run(stream.run(caller));
    answer(&request, receiver)
}

/// The same while the service starts: the stream waits, and is then told to come back.
pub async fn stream_at_start(
    request: HttpRequest,
    room: Data<WaitingRoom>,
    verifier: Data<TokenVerifier>,
) -> Response {
    verified(&verifier, access_token(&request)?).await?;
    last_event_id(&request)?;
    write_to_reflect(&request)?;
    let permit = room.permits.clone().try_acquire_owned();
    let permit = permit.map_err(|_| refused(Refused::Process))?;
    let (sender, receiver) = pieces();
    let stopping = room.closing.clone();
    let waiting = wait_until(stopping, room.heartbeat, sender, permit);
    room.tasks.run(waiting);
    answer(&request, receiver)
}

/// All other requests while the service starts.
pub async fn not_yet() -> Response {
    Err(Problem::new(Code::Unavailable, "the service is starting"))
}

/// Where live streams wait before there is anything to serve them from.
pub struct WaitingRoom {
    permits: Arc<Semaphore>,
    heartbeat: Duration,
    closing: CancellationToken,
    tasks: Tasks,
}

impl WaitingRoom {
    /// When `closing` fires, whoever waits comes back.
    pub fn new(heartbeat: Duration, closing: CancellationToken, tasks: &Tasks) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MOST_WAITING)),
            heartbeat,
            closing,
            tasks: tasks.clone(),
        }
    }
}

fn access_token(request: &HttpRequest) -> Result<&str, Problem> {
    match bearer(request) {
        Some(token) => Ok(token),
        None if request.headers().contains_key("authorization") => Err(invalid_token()),
        None => {
            let missing = "send an access token: Authorization: Bearer …";
            Err(Problem::new(Code::Unauthorized, missing))
        }
    }
}

/// Whom the token belongs to; `None` while its keys cannot be had.
async fn verified(verifier: &TokenVerifier, token: &str) -> Result<Option<Verified>, Problem> {
    match verifier.verified(token).await {
        Ok(verified) => Ok(Some(verified)),
        Err(TokenError::Invalid) => Err(invalid_token()),
        Err(TokenError::NoKeys) => Ok(None),
    }
}

/// Whether nothing is left to find out about the caller: 401 for one who has left. What cannot be
/// found out now, the stream finds out before it begins.
async fn is_settled(
    views: &Arc<CurrentViews>,
    admission: &Arc<Admission>,
    who: Asker,
    verified: Verified,
    reflect: Option<ConsistencyToken>,
) -> Result<bool, Problem> {
    let (views, admission) = (views.clone(), admission.clone());
    match ReadExecutor::begin(views, admission, who, Some(verified.user), reflect).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_temporary() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::Reader => {
            let detail = "you have as many live streams as one reader may have: close one";
            let mut problem = Problem::new(Code::TooManyRequests, detail);
            problem.retry_after = Some(TOO_MANY_RETRY_SECS);
            problem
        }
        Refused::Process => Problem::new(Code::Overloaded, "too many live streams: ask again"),
    }
}

/// The body ends without its last chunk unless the stream says that nobody need come back: some
/// libraries take a body that ends in order for the end of it all.
fn answer(request: &HttpRequest, receiver: mpsc::Receiver<Piece>) -> Response {
    let body = futures_util::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece::Text(text)) => Some((Ok::<Bytes, Interrupted>(text), Some(receiver))),
            Some(Piece::End) => None,
            None => {
                // The server writes what it has before it asks again.
                tokio::time::sleep(FLUSH).await;
                Some((Err(Interrupted), None))
            }
        }
    });
    let kind = "text/event-stream".parse();
    let kind = kind.map_err(|_| internal())?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header(ContentType(kind))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"));
    let is_old = request.version() < Version::HTTP_11;
    if is_old {
        response.force_close();
    }
    let mut response = response.streaming(body);
    if is_old {
        // Knows no chunks: the body ends with the connection.
        response.head_mut().no_chunking(true);
    }
    Ok(response)
}

/// What was sent last reaches the socket in this time.
const FLUSH: Duration = Duration::from_millis(20);

/// Ends a body without its last chunk.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the live stream ends here: its client comes back")]
struct Interrupted;

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn the_last_event_is_named_by_header_or_query_and_empty_is_none() {
        let named = |header: Option<&str>, query: &str| {
            let request = TestRequest::with_uri(&format!("/stream{query}"));
            let request = match header {
                Some(value) => request.insert_header(("Last-Event-ID", value)),
                None => request,
            };
            last_event_id(&request.to_http_request()).map_err(|problem| problem.code)
        };
        for (header, query, expected) in [
            (None, "", None),
            (Some("7"), "", Some(7)),
            (Some(" 7 "), "?lastEventId=8", Some(7)),
            (Some(""), "", None),
            (Some(""), "?lastEventId=8", Some(8)),
            (Some("0"), "?lastEventId=8", Some(0)),
            (None, "?lastEventId=", None),
            (None, "?a=b&lastEventId=8&c", Some(8)),
            (None, "?Last-Event-ID=8", Some(8)),
            (None, "?last-event-id=8", Some(8)),
            (None, "?last_event_id=8", Some(8)),
            (None, "?lastEventID=&lasteventid=%38", Some(8)),
            (None, "?last=8&event=8&id=8", None),
        ] {
            assert_eq!(named(header, query), Ok(expected), "{header:?} {query}");
        }
        for (header, query) in [
            (Some("abc"), ""),
            (Some("-1"), ""),
            (Some("+1"), ""),
            (Some("abc"), "?lastEventId=8"),
            (None, "?lastEventId=abc"),
            (None, "?lastEventId=99999999999999999999"),
        ] {
            assert_eq!(
                named(header, query),
                Err(Code::Invalid),
                "{header:?} {query}"
            );
        }
    }
}
