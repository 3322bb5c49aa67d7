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
use actix_web::web::{self, Data, Path, ServiceConfig};
use serde::Deserialize;
use shared::contract::ids::{PostId, UserId};
use shared::web::problem::{Code, Problem};
use shared::web::routing::{no_such_path, path_config, resource};

use crate::accounts::OwnAddresses;
use crate::reads::bodies::UserView;
use crate::reads::executor::CachePolicy;
use crate::reads::model::ReadModel;
use crate::reads::unanswered::Unanswered;
use extract::{Limit, Params, ReadRequest};
pub use live::WaitingRoom;
use responses::Response;

/// Base of every route.
pub const BASE: &str = "/api/v1";

/// Every route of this service, as method and pattern below [`BASE`]; tests and the Postman
/// collection are checked against it.
pub const ROUTES: [(&str, &str); 11] = [
    ("GET", "/timeline"),
    ("GET", "/timeline/stream"),
    ("GET", "/posts/{id}"),
    ("GET", "/posts/{id}/replies"),
    ("GET", "/users/by-username/{name}"),
    ("GET", "/users/{id}"),
    ("GET", "/users/{id}/posts"),
    ("GET", "/users/{id}/followers"),
    ("GET", "/users/{id}/following"),
    ("GET", "/users/{id}/mutuals"),
    ("GET", "/users/{id}/relationship"),
];

pub fn configure(config: &mut ServiceConfig) {
    config.app_data(path_config());
    config.service(
        web::scope(BASE)
            .service(resource("/timeline", [(Method::GET, web::to(timeline))]))
            .service(resource(
                "/timeline/stream",
                [(Method::GET, web::to(live::stream))],
            ))
            .service(resource("/posts/{id}", [(Method::GET, web::to(post))]))
            .service(resource(
                "/posts/{id}/replies",
                [(Method::GET, web::to(replies))],
            ))
            .service(resource(
                "/users/by-username/{name}",
                [(Method::GET, web::to(user_by_name))],
            ))
            .service(resource("/users/{id}", [(Method::GET, web::to(user))]))
            .service(resource(
                "/users/{id}/posts",
                [(Method::GET, web::to(posts_of))],
            ))
            .service(resource(
                "/users/{id}/followers",
                [(Method::GET, web::to(followers))],
            ))
            .service(resource(
                "/users/{id}/following",
                [(Method::GET, web::to(following))],
            ))
            .service(resource(
                "/users/{id}/mutuals",
                [(Method::GET, web::to(mutuals))],
            ))
            .service(resource(
                "/users/{id}/relationship",
                [(Method::GET, web::to(relationship))],
            ))
            .default_service(web::to(no_such_path)),
    );
    config.default_service(web::to(no_such_path));
}

/// What is answered before there are views to read.
pub fn configure_start(config: &mut ServiceConfig) {
    config.service(web::scope(BASE).service(resource(
        "/timeline/stream",
        [(Method::GET, web::to(live::stream_at_start))],
    )));
    config.default_service(web::to(live::not_yet));
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
