//! The routes: each extracts, converts, makes one call into [`crate::app`], and maps.

mod auth;
mod errors;
mod extract;
mod posts;
mod responses;
mod users;

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::web::{Data, ServiceConfig, to};
use jsonwebtoken::jwk::JwkSet;
use shared::auth::token::KEY_SET;
use shared::web::routing::{Endpoint, serve_routes};

pub fn configure(config: &mut ServiceConfig) {
    serve_routes(config, endpoints());
}

fn endpoints() -> Vec<Endpoint> {
    const POST: Method = Method::POST;
    const DELETE: Method = Method::DELETE;
    vec![
        (Method::GET, KEY_SET, to(key_set)),
        (POST, "/api/v1/auth/login", to(auth::sign_in)),
        (POST, "/api/v1/auth/refresh", to(auth::refresh)),
        (POST, "/api/v1/auth/logout", to(auth::sign_out)),
        (POST, "/api/v1/users", to(users::register)),
        (Method::PATCH, "/api/v1/users/me", to(users::edit_profile)),
        (DELETE, "/api/v1/users/me", to(users::deactivate)),
        (POST, "/api/v1/users/{id}/follow", to(users::follow)),
        (DELETE, "/api/v1/users/{id}/follow", to(users::unfollow)),
        (POST, "/api/v1/posts", to(posts::create)),
        (DELETE, "/api/v1/posts/{id}", to(posts::delete)),
        (POST, "/api/v1/posts/{id}/like", to(posts::like)),
        (DELETE, "/api/v1/posts/{id}/like", to(posts::unlike)),
        (POST, "/api/v1/posts/{id}/repost", to(posts::repost)),
        (DELETE, "/api/v1/posts/{id}/repost", to(posts::unrepost)),
    ]
}

/// Anybody may have the keys, and keep them for a while.
async fn key_set(keys: Data<JwkSet>) -> HttpResponse {
    let for_a_while = (
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=300"),
    );
    HttpResponse::Ok().insert_header(for_a_while).json(&**keys)
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
