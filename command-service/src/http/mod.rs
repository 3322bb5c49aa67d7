//! The routes: each extracts, converts, makes one call into [`crate::app`], and maps.

mod account;
mod auth;
mod errors;
mod extract;
pub mod openapi;
mod posts;
mod responses;
mod texts;
mod users;
mod views;

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{Data, ServiceConfig, to};
use actix_web::{HttpResponse, Route};
use shared::auth::token::KEY_SET;
use shared::web::routing::{Endpoint, serve_routes};

use crate::app::counting_rejections;
use crate::keys::Signer;

pub fn configure(config: &mut ServiceConfig) {
    serve_routes(config, endpoints());
}

fn endpoints() -> Vec<Endpoint> {
    const POST: Method = Method::POST;
    const DELETE: Method = Method::DELETE;
    vec![
        (Method::GET, KEY_SET, to(key_set)),
        (
            POST,
            "/api/v1/auth/login",
            command("sign_in", to(auth::sign_in)),
        ),
        (
            POST,
            "/api/v1/auth/refresh",
            command("refresh", to(auth::refresh)),
        ),
        (
            POST,
            "/api/v1/auth/logout",
            command("sign_out", to(auth::sign_out)),
        ),
        (
            DELETE,
            "/api/v1/auth/sessions",
            command("end_sessions", to(account::end_sessions)),
        ),
        (
            DELETE,
            "/api/v1/auth/sessions/{session_id}",
            command("end_session", to(account::end_session)),
        ),
        (
            POST,
            "/api/v1/users",
            command("register", to(users::register)),
        ),
        (
            Method::PATCH,
            "/api/v1/users/me",
            command("edit_profile", to(users::edit_profile)),
        ),
        (
            DELETE,
            "/api/v1/users/me",
            command("deactivate", to(users::deactivate)),
        ),
        (
            Method::PUT,
            "/api/v1/users/me/password",
            command("change_password", to(account::change_password)),
        ),
        (
            Method::PUT,
            "/api/v1/users/me/email",
            command("change_email", to(account::change_email)),
        ),
        (
            POST,
            "/api/v1/users/{id}/follow",
            command("follow", to(users::follow)),
        ),
        (
            DELETE,
            "/api/v1/users/{id}/follow",
            command("unfollow", to(users::unfollow)),
        ),
        (
            POST,
            "/api/v1/posts",
            command("create_post", to(posts::create)),
        ),
        (
            DELETE,
            "/api/v1/posts/{id}",
            command("delete_post", to(posts::delete)),
        ),
        (
            POST,
            "/api/v1/posts/{id}/like",
            command("like", to(posts::like)),
        ),
        (
            DELETE,
            "/api/v1/posts/{id}/like",
            command("unlike", to(posts::unlike)),
        ),
        (
            POST,
            "/api/v1/posts/{id}/repost",
            command("repost", to(posts::repost)),
        ),
        (
            DELETE,
            "/api/v1/posts/{id}/repost",
            command("unrepost", to(posts::unrepost)),
        ),
    ]
}

/// A route whose requests are commands of this name: what never becomes one is counted, too.
fn command(name: &'static str, route: Route) -> Route {
    route.wrap(from_fn(move |request, next: Next<BoxBody>| async move {
        let is_rejected = |answer: &ServiceResponse<BoxBody>| answer.status().is_client_error();
        counting_rejections(name, next.call(request), is_rejected).await
    }))
}

/// Anybody may have the keys, and keep them for a while.
async fn key_set(signer: Data<Signer>) -> HttpResponse {
    let for_a_while = (
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=300"),
    );
    HttpResponse::Ok()
        .insert_header(for_a_while)
        .json(signer.key_set())
}

#[cfg(test)]
mod tests {
    use shared::web::routes::Service;
    use shared::web::routing::assert_complete;

    #[test]
    fn the_endpoints_are_the_routes_of_the_table() {
        assert_complete(Service::Command, &super::endpoints());
    }
}
