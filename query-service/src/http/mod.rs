//! The routes: each extracts, makes one call into the read model, and maps. Only one's own profile
//! asks the account as well.

pub mod admission;
mod answers;
mod etag;
mod extract;
mod link;
mod live;
mod live_stream;

use actix_web::http::Method;
use actix_web::web::{self, Data, Path, ServiceConfig};
use serde::Deserialize;
use shared::http::{no_such_path, path_config, resource};
use shared::ids::{PostId, UserId};
use shared::problem::{Code, Problem};

use crate::accounts::OwnAddresses;
use crate::read_model::view::UserView;
use crate::read_model::{ViewError, Views};
use answers::{Answer, Memory};
use extract::{Limit, Params, Reading};
pub use live::WaitingRoom;

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

async fn timeline(reading: Reading<UserId>, query: Params<TimelineQuery>) -> Answer {
    let TimelineQuery {
        limit,
        cursor,
        user_id,
    } = query.0;
    let caller = reading.caller;
    if user_id.is_some_and(|user| user != caller) {
        return Err(Problem::new(
            Code::Forbidden,
            "a home timeline is shown to its reader alone",
        ));
    }
    let read = move |views: Views| async move {
        views.note_seen(caller).await?;
        views
            .home(caller, limit.get(), cursor.as_deref())
            .await
            .map(Some)
    };
    reading.page("posts", Memory::Perhaps, read).await
}

async fn post(reading: Reading, id: Path<PostId>) -> Answer {
    let (id, caller) = (id.into_inner(), reading.caller);
    let read = move |views: Views| async move { views.post(id, caller).await };
    reading.one(Memory::Perhaps, read).await
}

async fn replies(reading: Reading, id: Path<PostId>, query: Params<PageQuery>) -> Answer {
    let PageQuery { limit, cursor } = query.0;
    let (id, caller) = (id.into_inner(), reading.caller);
    let read = move |views: Views| async move {
        views
            .replies_to(id, caller, limit.get(), cursor.as_deref())
            .await
    };
    reading.expensive().page("posts", Memory::Never, read).await
}

async fn user(reading: Reading, addresses: Data<OwnAddresses>, id: Path<UserId>) -> Answer {
    let id = id.into_inner();
    let read = move |views: Views| async move { views.user(id).await };
    profile(&reading, &addresses, read).await
}

async fn user_by_name(
    reading: Reading,
    addresses: Data<OwnAddresses>,
    name: Path<String>,
) -> Answer {
    let name = name.into_inner();
    let read = move |views: Views| async move { views.user_by_name(&name).await };
    profile(&reading, &addresses, read).await
}

/// A user, with their e-mail address where it is they who ask. While the database is away nobody
/// asks it for an address.
async fn profile<F>(
    reading: &Reading,
    addresses: &OwnAddresses,
    read: impl FnOnce(Views) -> F + Clone + Send + 'static,
) -> Answer
where
    F: Future<Output = Result<Option<UserView>, ViewError>> + Send + 'static,
{
    let mut found = reading.find(Memory::Perhaps, read).await?;
    if let Some(user) = &mut found.item
        && reading.caller == Some(user.user_id)
        && !found.stale
    {
        user.email = addresses.of(user.user_id).await;
    }
    reading.shown(found)
}

async fn posts_of(reading: Reading, id: Path<UserId>, query: Params<PageQuery>) -> Answer {
    let PageQuery { limit, cursor } = query.0;
    let (id, caller) = (id.into_inner(), reading.caller);
    let read = move |views: Views| async move {
        views
            .posts_of(id, caller, limit.get(), cursor.as_deref())
            .await
    };
    reading.expensive().page("posts", Memory::Never, read).await
}

async fn followers(reading: Reading, id: Path<UserId>, query: Params<PageQuery>) -> Answer {
    let PageQuery { limit, cursor } = query.0;
    let id = id.into_inner();
    let read = move |views: Views| async move {
        views.followers(id, limit.get(), cursor.as_deref()).await
    };
    reading.expensive().page("users", Memory::Never, read).await
}

async fn following(reading: Reading, id: Path<UserId>, query: Params<PageQuery>) -> Answer {
    let PageQuery { limit, cursor } = query.0;
    let id = id.into_inner();
    let read = move |views: Views| async move {
        views.following(id, limit.get(), cursor.as_deref()).await
    };
    reading.expensive().page("users", Memory::Never, read).await
}

async fn mutuals(reading: Reading, id: Path<UserId>, query: Params<PageQuery>) -> Answer {
    let PageQuery { limit, cursor } = query.0;
    let id = id.into_inner();
    let read =
        move |views: Views| async move { views.mutuals(id, limit.get(), cursor.as_deref()).await };
    reading.expensive().page("users", Memory::Never, read).await
}

async fn relationship(reading: Reading<UserId>, id: Path<UserId>) -> Answer {
    let (id, caller) = (id.into_inner(), reading.caller);
    let read = move |views: Views| async move { views.relationship(caller, id).await };
    reading.one(Memory::Never, read).await
}
