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
use actix_web::web::{self, Data, ServiceConfig};
use jsonwebtoken::jwk::JwkSet;
use shared::auth::token::KEY_SET;
use shared::web::routing::{no_such_path, path_config, resource};

pub use responses::BASE;

/// Every route of this service, as method and pattern below [`BASE`]; tests and the Postman
/// collection are checked against it.
pub const ROUTES: [(&str, &str); 14] = [
    ("POST", "/users"),
    ("PATCH", "/users/me"),
    ("DELETE", "/users/me"),
    ("POST", "/users/{id}/follow"),
    ("DELETE", "/users/{id}/follow"),
    ("POST", "/auth/login"),
    ("POST", "/auth/refresh"),
    ("POST", "/auth/logout"),
    ("POST", "/posts"),
    ("DELETE", "/posts/{id}"),
    ("POST", "/posts/{id}/like"),
    ("DELETE", "/posts/{id}/like"),
    ("POST", "/posts/{id}/repost"),
    ("DELETE", "/posts/{id}/repost"),
];

pub fn configure(config: &mut ServiceConfig) {
    const POST: Method = Method::POST;
    const DELETE: Method = Method::DELETE;
    config.app_data(path_config());
    config.service(resource(KEY_SET, [(Method::GET, web::to(key_set))]));
    config.service(
        web::scope(BASE)
            .service(resource("/users", [(POST, web::to(users::register))]))
            .service(resource(
                "/users/me",
                [
                    (Method::PATCH, web::to(users::edit_profile)),
                    (DELETE, web::to(users::deactivate)),
                ],
            ))
            .service(resource(
                "/users/{id}/follow",
                [
                    (POST, web::to(users::follow)),
                    (DELETE, web::to(users::unfollow)),
                ],
            ))
            .service(resource("/auth/login", [(POST, web::to(auth::sign_in))]))
            .service(resource("/auth/refresh", [(POST, web::to(auth::refresh))]))
            .service(resource("/auth/logout", [(POST, web::to(auth::sign_out))]))
            .service(resource("/posts", [(POST, web::to(posts::create))]))
            .service(resource("/posts/{id}", [(DELETE, web::to(posts::delete))]))
            .service(resource(
                "/posts/{id}/like",
                [
                    (POST, web::to(posts::like)),
                    (DELETE, web::to(posts::unlike)),
                ],
            ))
            .service(resource(
                "/posts/{id}/repost",
                [
                    (POST, web::to(posts::repost)),
                    (DELETE, web::to(posts::unrepost)),
                ],
            ))
            .default_service(web::to(no_such_path)),
    );
    config.default_service(web::to(no_such_path));
}

/// Anybody may have the keys, and keep them for a while.
async fn key_set(keys: Data<JwkSet>) -> HttpResponse {
    let for_a_while = (
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=300"),
    );
    HttpResponse::Ok().insert_header(for_a_while).json(&**keys)
}
