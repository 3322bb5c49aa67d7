//! The routes: each extracts, makes one call into the read model, and maps. Only one's own profile
//! asks the account as well.

mod errors;
mod etag;
mod extract;
mod link;
mod live;
mod live_stream;
mod responses;

use actix_web::http::Method;
use actix_web::web::{Data, Path, ServiceConfig, to};
use serde::Deserialize;
use shared::contract::ids::{PostId, UserId};
use shared::web::problem::{Code, Problem};
use shared::web::routes::{self, Service};
use shared::web::routing::{Endpoint, serve_routes};

use crate::accounts::OwnAddresses;
use crate::reads::bodies::UserView;
use crate::reads::executor::CachePolicy;
use crate::reads::model::ReadModel;
use crate::reads::unanswered::Unanswered;
use extract::{Limit, Params, ReadRequest};
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
        (GET, "/api/v1/posts/{id}", to(post)),
        (GET, "/api/v1/posts/{id}/replies", to(replies)),
        (GET, "/api/v1/users/by-username/{name}", to(user_by_name)),
        (GET, "/api/v1/users/{id}", to(user)),
        (GET, "/api/v1/users/{id}/posts", to(posts_of)),
        (GET, "/api/v1/users/{id}/followers", to(followers)),
        (GET, "/api/v1/users/{id}/following", to(following)),
        (GET, "/api/v1/users/{id}/mutuals", to(mutuals)),
        (GET, "/api/v1/users/{id}/relationship", to(relationship)),
    ]
}

/// What is answered before there are views to read.
pub fn configure_start(config: &mut ServiceConfig) {
    let endpoint = |(_, path)| match path {
        STREAM => (Method::GET, path, to(live::stream_at_start)),
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

async fn user(request: ReadRequest, addresses: Data<OwnAddresses>, id: Path<UserId>) -> Response {
    let id = id.into_inner();
    let read = move |views: ReadModel| async move { views.user(id).await };
    profile(&request, &addresses, read).await
}

async fn user_by_name(
    request: ReadRequest,
    addresses: Data<OwnAddresses>,
    name: Path<String>,
) -> Response {
    let name = name.into_inner();
    let read = move |views: ReadModel| async move { views.user_by_name(&name).await };
    profile(&request, &addresses, read).await
}

/// A user, with their e-mail address where it is they who ask. While the database is away nobody
/// asks it for an address.
async fn profile<F>(
    request: &ReadRequest,
    addresses: &OwnAddresses,
    read: impl FnOnce(ReadModel) -> F + Clone + Send + 'static,
) -> Response
where
    F: Future<Output = Result<Option<UserView>, Unanswered>> + Send + 'static,
{
    let mut found = request.executor.run(CachePolicy::TryFirst, read).await?;
    if let Some(user) = &mut found.item
        && request.caller == Some(user.user_id)
        && !found.stale
    {
        user.email = addresses.of(user.user_id).await;
    }
    request.shown(found)
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

#[cfg(test)]
mod tests {
    use super::*;
    use shared::web::routing::assert_complete;

    #[test]
    fn the_endpoints_are_the_routes_of_the_table() {
        assert_complete(Service::Query, &endpoints());
    }
}
