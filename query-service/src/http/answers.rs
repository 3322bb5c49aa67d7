//! Answers: JSON with an entity tag, pages with a link to the next, errors as problems.

use std::future::Future;

use actix_web::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, LINK, VARY};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::json;
use shared::error_chain::Chain;
use shared::problem::{Code, Problem};
use shared::resilience::Refused;
use tracing::error;
use xxhash_rust::xxh3::xxh3_64;

use super::extract::Consistency;
use crate::read_model::view::Page;
use crate::read_model::{CurrentViews, ViewError, Views};

pub type Answer = Result<HttpResponse, Problem>;

/// Runs a read to its end even if the client goes away: dropping a database call half way costs
/// the connection it runs on. Past the gate's bound, or while the database is away, it is not
/// begun.
pub async fn detached<T, F>(
    after: Consistency,
    views: &Data<CurrentViews>,
    read: impl FnOnce(Views) -> F + Send + 'static,
) -> Result<Option<T>, Problem>
where
    T: Send + 'static,
    F: Future<Output = Result<Option<T>, ViewError>> + Send,
{
    let views = views.borrow().clone();
    let Consistency { token, gate } = after;
    let place = gate.enter().await.map_err(refused)?;
    let work = tokio::spawn(async move {
        let _place = place;
        if let Some(token) = token {
            views.wait_for(&token).await?;
        }
        read(views).await
    });
    let outcome: Result<_, ViewError> = gate.attend(work).await.map_err(refused)?;
    outcome.map_err(|error| {
        if error.is_away() {
            gate.breaker().failed();
        }
        problem(&error)
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

/// One thing, or 404.
pub fn single(request: &HttpRequest, item: Option<impl Serialize>) -> Answer {
    let item = item.ok_or_else(not_found)?;
    tagged(request, &item, None)
}

/// A page of `items`, or 404.
pub fn page(request: &HttpRequest, items: &str, page: Option<Page<impl Serialize>>) -> Answer {
    let page = page.ok_or_else(not_found)?;
    let body = json!({ items: page.items, "next_cursor": page.next_cursor });
    tagged(request, &body, page.next_cursor.as_deref())
}

fn not_found() -> Problem {
    Problem::new(Code::NotFound, "there is nothing here")
}

/// 200 with a weak entity tag of the body, or 304 where the caller has just that.
fn tagged(request: &HttpRequest, body: &impl Serialize, next: Option<&str>) -> Answer {
    let json = serde_json::to_vec(body)
        .map_err(|_| Problem::new(Code::Internal, "something went wrong here"))?;
    let tag = format!("W/\"{:016x}\"", xxh3_64(&json));
    let known = request
        .headers()
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let same = known.is_some_and(|known| {
        known
            .split(',')
            .any(|one| one.trim() == tag || one.trim() == "*")
    });
    let mut response = if same {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response
        .insert_header((ETAG, tag))
        .insert_header((CACHE_CONTROL, "private, no-cache"))
        .insert_header((VARY, "Authorization"));
    if let Some(link) = next.and_then(|cursor| next_link(request, cursor)) {
        response.insert_header((LINK, link));
    }
    if same {
        Ok(response.finish())
    } else {
        Ok(response.content_type("application/json").body(json))
    }
}

/// The same request with the next cursor: RFC 8288.
fn next_link(request: &HttpRequest, cursor: &str) -> Option<String> {
    let connection = request.connection_info();
    let others = request
        .query_string()
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let query: Vec<&str> = others.collect();
    let separator = if query.is_empty() { "" } else { "&" };
    // Quotes and angle brackets would end the link early.
    let plain = |text: &str| !text.contains(['<', '>', '"', ',', ' ']);
    let url = format!(
        "{}://{}{}?{}{separator}cursor={cursor}",
        connection.scheme(),
        connection.host(),
        request.path(),
        query.join("&")
    );
    plain(&url).then(|| format!("<{url}>; rel=\"next\""))
}

/// What a failed read means to a caller. Internals are logged, never told.
fn problem(fault: &ViewError) -> Problem {
    match fault {
        ViewError::BadCursor => Problem::new(Code::BadCursor, fault.to_string()),
        ViewError::NotYetVisible => Problem::new(Code::NotYetVisible, "ask again in a second"),
        // Told once, by whoever found out.
        ViewError::Away => Problem::new(Code::Unavailable, "the views cannot be read now"),
        ViewError::Database(_) => {
            tracing::warn!(error = %Chain(fault), "a read failed");
            Problem::new(Code::Unavailable, "the views cannot be read now")
        }
        ViewError::Corrupt(_) | ViewError::Refused(_) | ViewError::OtherPartitions { .. } => {
            error!(error = %Chain(fault), "a read failed");
            Problem::new(Code::Internal, "something went wrong here")
        }
    }
}
