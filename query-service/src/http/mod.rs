//! The routes: each extracts, makes one call into the read model, and maps. Only one's own profile
//! asks the account as well.

mod docs;
mod errors;
mod etag;
mod extract;
mod link;
mod live;
mod live_stream;
pub mod openapi;
mod responses;
mod sessions;
mod web_page;

use actix_web::http::Method;
use actix_web::web::{Data, Path, ServiceConfig, to};
use serde::Deserialize;
use shared::contract::ids::{PostId, PostKind, UserId, UserKind};
use shared::web::problem::{Code, Problem};
use shared::web::routes::{self, Service};
use shared::web::routing::{Endpoint, serve_routes};

use crate::accounts::OwnAccounts;
use crate::reads::bodies::UserView;
use crate::reads::error::ReadError;
use crate::reads::executor::{CachePolicy, Read};
use crate::reads::model::ReadModel;
use crate::reads::unanswered::Unanswered;
use extract::{Ids, Limit, Params, ReadRequest};
pub use live::WaitingRoom;
use responses::Response;

const STREAM: &str = "/api/v1/timeline/stream";

pub fn configure(config: &mut ServiceConfig) {
    serve_routes(config, endpoints());
}

fn endpoints() -> Vec<Endpoint> {
    const GET: Method = Method::GET;
    vec![
        (GET, "/api/v1/timeline", to(timeline)),
        (GET, STREAM, to(live::stream)),
        (GET, "/api/v1/auth/sessions", to(sessions::list)),
        (GET, "/api/v1/posts", to(posts)),
        (GET, "/api/v1/posts/{id}", to(post)),
        (GET, "/api/v1/posts/{id}/replies", to(replies)),
        (GET, "/api/v1/posts/{id}/thread", to(thread)),
        (GET, "/api/v1/posts/{id}/likes", to(likes)),
        (GET, "/api/v1/posts/{id}/reposts", to(reposts)),
        (GET, "/api/v1/relationships", to(relationships)),
        (GET, "/api/v1/users", to(users)),
        (GET, "/api/v1/users/me", to(me)),
        (GET, "/api/v1/users/by-username/{name}", to(user_by_name)),
        (GET, "/api/v1/users/{id}", to(user)),
        (GET, "/api/v1/users/{id}/posts", to(posts_of)),
        (GET, "/api/v1/users/{id}/followers", to(followers)),
        (GET, "/api/v1/users/{id}/following", to(following)),
        (GET, "/api/v1/users/{id}/mutuals", to(mutuals)),
        (GET, "/api/v1/users/{id}/relationship", to(relationship)),
        (GET, docs::PAGE, to(docs::page)),
        (GET, docs::DOCUMENT, to(docs::document)),
        (GET, web_page::INDEX, to(web_page::index)),
        (GET, web_page::FILE, to(web_page::file)),
    ]
}

/// What is answered before there are views to read.
pub fn configure_start(config: &mut ServiceConfig) {
    let endpoint = |(_, path)| match path {
        STREAM => (Method::GET, path, to(live::stream_at_start)),
        docs::PAGE => (Method::GET, path, to(docs::page)),
        docs::DOCUMENT => (Method::GET, path, to(docs::document)),
        web_page::INDEX => (Method::GET, path, to(web_page::index)),
        web_page::FILE => (Method::GET, path, to(web_page::file)),
        _ => (Method::GET, path, to(live::not_yet)),
    };
    serve_routes(config, routes::of(Service::Query).map(endpoint).collect());
}

#[derive(Deserialize)]
struct PageQuery {
    #[serde(default)]
    limit: Limit,
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct TimelineQuery {
    #[serde(default)]
    limit: Limit,
    cursor: Option<String>,
    user_id: Option<UserId>,
}

async fn timeline(request: ReadRequest<UserId>, query: Params<TimelineQuery>) -> Response {
    let TimelineQuery {
        limit,
        cursor,
        user_id,
    } = query.0;
    let caller = request.caller;
    if user_id.is_some_and(|user| user != caller) {
        return Err(Problem::new(
            Code::Forbidden,
            "a home timeline is shown to its reader alone",
        ));
    }
    let read = move |views: ReadModel| async move {
        let page = views.home(caller, limit.get(), cursor.as_deref());
        page.await.map(Some)
    };
    request.executor.note_seen(caller);
    let found = request.executor.run(CachePolicy::TryFirst, read).await?;
    request.shown_page("posts", found)
}

async fn post(request: ReadRequest, id: Path<PostId>) -> Response {
    let (id, caller) = (id.into_inner(), request.caller);
    let read = move |views: ReadModel| async move { views.post(id, caller).await };
    request.one(CachePolicy::TryFirst, read).await
}

async fn posts(request: ReadRequest, ids: Ids<PostKind>) -> Response {
    let (ids, caller) = (ids.0, request.caller);
    let read = move |views: ReadModel| async move { views.posts(&ids, caller).await };
    request
        .expensive()
        .all("posts", CachePolicy::TryFirst, read)
        .await
}

async fn replies(request: ReadRequest, id: Path<PostId>, query: Params<PageQuery>) -> Response {
    let PageQuery { limit, cursor } = query.0;
    let (id, caller) = (id.into_inner(), request.caller);
    let read = move |views: ReadModel| async move {
        views
            .replies_to(id, caller, limit.get(), cursor.as_deref())
            .await
    };
    request
        .expensive()
        .page("posts", CachePolicy::Bypass, read)
        .await
}

/// A post with what it answers, and a page of what answers it.
async fn thread(request: ReadRequest, id: Path<PostId>, query: Params<PageQuery>) -> Response {
    let PageQuery { limit, cursor } = query.0;
    let (id, caller) = (id.into_inner(), request.caller);
    let read = move |views: ReadModel| async move {
        views
            .thread(id, caller, limit.get(), cursor.as_deref())
            .await
    };
    let request = request.expensive();
    let found = request.executor.run(CachePolicy::Bypass, read).await?;
    request.shown_with_next(found, |thread| thread.next_cursor.as_deref())
}

async fn likes(request: ReadRequest, id: Path<PostId>, query: Params<PageQuery>) -> Response {
    let PageQuery { limit, cursor } = query.0;
    let id = id.into_inner();
    let read = move |views: ReadModel| async move {
        views.likers(id, limit.get(), cursor.as_deref()).await
    };
    request
        .expensive()
        .page("users", CachePolicy::Bypass, read)
        .await
}

async fn reposts(request: ReadRequest, id: Path<PostId>, query: Params<PageQuery>) -> Response {
    let PageQuery { limit, cursor } = query.0;
    let id = id.into_inner();
    let read = move |views: ReadModel| async move {
        views.reposters(id, limit.get(), cursor.as_deref()).await
    };
    request
        .expensive()
        .page("users", CachePolicy::Bypass, read)
        .await
}

async fn users(request: ReadRequest, ids: Ids<UserKind>) -> Response {
    let ids = ids.0;
    let read = move |views: ReadModel| async move { views.user_views(&ids).await };
    request
        .expensive()
        .all("users", CachePolicy::TryFirst, read)
        .await
}

/// The caller's own profile. Whoever has an access token has registered, and who has left was
/// refused: where they are not in the views, these have not come so far.
async fn me(request: ReadRequest<UserId>, own: Data<OwnAccounts>) -> Response {
    let caller = request.caller;
    let read = move |views: ReadModel| async move { views.user(caller).await };
    let found = profile(&request, &own, read).await?;
    if found.item.is_none() {
        return Err(ReadError::NotYetVisible.into());
    }
    request.shown(found)
}

async fn user(request: ReadRequest, own: Data<OwnAccounts>, id: Path<UserId>) -> Response {
    let id = id.into_inner();
    let read = move |views: ReadModel| async move { views.user(id).await };
    request.shown(profile(&request, &own, read).await?)
}

async fn user_by_name(
    request: ReadRequest,
    own: Data<OwnAccounts>,
    name: Path<String>,
) -> Response {
    let name = name.into_inner();
    let read = move |views: ReadModel| async move { views.user_by_name(&name).await };
    request.shown(profile(&request, &own, read).await?)
}

/// A user, with their e-mail address where it is they who ask. While the database is away nobody
/// asks it for an address.
async fn profile<C, F>(
    request: &ReadRequest<C>,
    own: &OwnAccounts,
    read: impl FnOnce(ReadModel) -> F + Clone + Send + 'static,
) -> Result<Read<UserView>, Problem>
where
    C: Copy + Into<Option<UserId>>,
    F: Future<Output = Result<Option<UserView>, Unanswered>> + Send + 'static,
{
    let mut found = request.executor.run(CachePolicy::TryFirst, read).await?;
    let caller: Option<UserId> = request.caller.into();
    if let Some(user) = &mut found.item
        && caller == Some(user.user_id)
        && !found.stale
    {
        user.email = own.address(user.user_id).await;
    }
    Ok(found)
}

async fn posts_of(request: ReadRequest, id: Path<UserId>, query: Params<PageQuery>) -> Response {
    let PageQuery { limit, cursor } = query.0;
    let (id, caller) = (id.into_inner(), request.caller);
    let read = move |views: ReadModel| async move {
        views
            .posts_of(id, caller, limit.get(), cursor.as_deref())
            .await
    };
    request
        .expensive()
        .page("posts", CachePolicy::Bypass, read)
        .await
}

async fn followers(request: ReadRequest, id: Path<UserId>, query: Params<PageQuery>) -> Response {
    let PageQuery { limit, cursor } = query.0;
    let id = id.into_inner();
    let read = move |views: ReadModel| async move {
        views.followers(id, limit.get(), cursor.as_deref()).await
    };
    request
        .expensive()
        .page("users", CachePolicy::Bypass, read)
        .await
}

async fn following(request: ReadRequest, id: Path<UserId>, query: Params<PageQuery>) -> Response {
    let PageQuery { limit, cursor } = query.0;
    let id = id.into_inner();
    let read = move |views: ReadModel| async move {
        views.following(id, limit.get(), cursor.as_deref()).await
    };
    request
        .expensive()
        .page("users", CachePolicy::Bypass, read)
        .await
}

async fn mutuals(request: ReadRequest, id: Path<UserId>, query: Params<PageQuery>) -> Response {
    let PageQuery { limit, cursor } = query.0;
    let id = id.into_inner();
    let read = move |views: ReadModel| async move {
        views.mutuals(id, limit.get(), cursor.as_deref()).await
    };
    request
        .expensive()
        .page("users", CachePolicy::Bypass, read)
        .await
}

async fn relationship(request: ReadRequest<UserId>, id: Path<UserId>) -> Response {
    let (id, caller) = (id.into_inner(), request.caller);
    let read = move |views: ReadModel| async move { views.relationship(caller, id).await };
    request.one(CachePolicy::Bypass, read).await
}

async fn relationships(request: ReadRequest<UserId>, ids: Ids<UserKind>) -> Response {
    let (ids, caller) = (ids.0, request.caller);
    let read = move |views: ReadModel| async move { views.relationships(caller, &ids).await };
    request
        .expensive()
        .all("relationships", CachePolicy::Bypass, read)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::web::routing::assert_complete;

    #[test]
    fn the_endpoints_are_the_routes_of_the_table() {
        assert_complete(Service::Query, &endpoints());
    }
}
