//! Responses: JSON with an entity tag, pages with a link to the next, a mark on what is stale.

use std::collections::BTreeMap;
use std::future::Future;

use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue, LINK, VARY};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use shared::web::problem::Problem;

use super::errors::{internal, not_found};
use super::extract::{Caller, ReadRequest};
use super::{etag, link};
use crate::reads::bodies::Page;
use crate::reads::executor::{CachePolicy, Read};
use crate::reads::model::ReadModel;
use crate::reads::unanswered::Unanswered;

pub type Response = Result<HttpResponse, Problem>;

/// Marks what was answered from memory alone.
const SERVED: HeaderName = HeaderName::from_static("x-served");

impl<C: Caller> ReadRequest<C> {
    /// One thing, or 404.
    pub async fn one<T, F>(
        self,
        policy: CachePolicy,
        read: impl FnOnce(ReadModel) -> F + Clone + Send + 'static,
    ) -> Response
    where
        T: Serialize + Send + 'static,
        F: Future<Output = Result<Option<T>, Unanswered>> + Send + 'static,
    {
        let found = self.executor.run(policy, read).await?;
        self.shown(found)
    }

    /// The response that shows what was found.
    pub fn shown<T: Serialize>(&self, found: Read<T>) -> Response {
        self.shown_with_next(found, |_| None)
    }

    /// The same, with a link to the page whose cursor `next` says.
    pub fn shown_with_next<T: Serialize>(
        &self,
        found: Read<T>,
        next: impl FnOnce(&T) -> Option<&str>,
    ) -> Response {
        let item = found.item.ok_or_else(not_found)?;
        let answer = tagged(&self.request, &item, next(&item))?;
        Ok(marked(answer, found.stale))
    }

    /// All `items` that were asked for by their ids.
    pub async fn all<T, F>(
        self,
        items: &'static str,
        policy: CachePolicy,
        read: impl FnOnce(ReadModel) -> F + Clone + Send + 'static,
    ) -> Response
    where
        T: Serialize + Send + 'static,
        F: Future<Output = Result<Vec<T>, Unanswered>> + Send + 'static,
    {
        let read = move |views: ReadModel| async move { read(views).await.map(Some) };
        let Read { item, stale } = self.executor.run(policy, read).await?;
        let item = item.map(|all| BTreeMap::from([(items, all)]));
        self.shown(Read { item, stale })
    }

    /// A page of `items`, or 404.
    pub async fn page<T, F>(
        self,
        items: &str,
        policy: CachePolicy,
        read: impl FnOnce(ReadModel) -> F + Clone + Send + 'static,
    ) -> Response
    where
        T: Serialize + Send + 'static,
        F: Future<Output = Result<Option<Page<T>>, Unanswered>> + Send + 'static,
    {
        let found = self.executor.run(policy, read).await?;
        self.shown_page(items, found)
    }

    /// The response that shows a page of `items`.
    pub fn shown_page<T: Serialize>(&self, items: &str, found: Read<Page<T>>) -> Response {
        let page = &found.item.ok_or_else(not_found)?;
        let body = PageBody { items, page };
        let answer = tagged(&self.request, &body, page.next_cursor.as_deref())?;
        Ok(marked(answer, found.stale))
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

/// 200 with a weak entity tag of the body, or 304 where the caller has just that.
fn tagged(request: &HttpRequest, body: &impl Serialize, next: Option<&str>) -> Response {
    let json = serde_json::to_vec(body).map_err(|_| internal())?;
    Ok(etag::answer(
        request,
        "application/json",
        json.into(),
        |answer| {
            answer
                .insert_header((CACHE_CONTROL, "private, no-cache"))
                .insert_header((VARY, "Authorization"));
            if let Some(cursor) = next {
                answer.insert_header((LINK, link::to_next_page(request, cursor)));
            }
        },
    ))
}
