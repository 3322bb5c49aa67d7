//! The operations of this service, for its OpenAPI document.

use serde_json::{Value, json};
use shared::auth::token::KEY_SET;
use shared::web::openapi::headers::{LOCATION, REPLAYED};
use shared::web::openapi::parameters::{header, path};
use shared::web::openapi::schemas::{session_id, string};
use shared::web::openapi::tags::{FOLLOWS, POSTS, REACTIONS, SESSIONS, USERS};
use shared::web::openapi::{Access, Answer, Operation, document as of};
use shared::web::problem::Code;
use shared::web::routes::Service;

use super::account::{ChangeEmailBody, ChangePasswordBody};
use super::auth::{RefreshBody, SignInBody, TokensView};
use super::extract::MAX_KEY;
use super::posts::{CreatePostBody, LikedView, PostView, ReactBody, RepostedView};
use super::users::{
    DeactivateBody, EditProfileBody, FollowBody, FollowedView, RegisterBody, SuccessView, UserView,
};
use super::views::KeySetView;

/// The document of this service.
pub fn document() -> Value {
    let operations = [sessions(), users(), follows(), posts(), reactions()];
    of(Service::Command, operations.into_iter().flatten().collect())
}

/// A command by a user, who may be suspended.
fn by_user(method: &'static str, path: &'static str, id: &'static str) -> Operation {
    let command = Operation::command(method, path, id).by(Access::User);
    command.refuses(&[Code::Suspended, Code::Conflict])
}

fn sessions() -> Vec<Operation> {
    let tokens = json!({
        "access_token": "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "token_type": "Bearer",
        "expires_in": 900, "refresh_token": "ZmFtaWx5.c2VjcmV0",
    });
    let refresh_token = json!({ "refresh_token": "ZmFtaWx5.c2VjcmV0" });
    let keys = json!({ "keys": [{
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "use": "sig", "alg": "EdDSA",
    }] });
    vec![
        Operation::plain(KEY_SET, "getKeySet")
            .says(
                SESSIONS,
                "The keys of access tokens",
                "A JSON Web Key Set of one to four Ed25519 keys, for whoever verifies tokens. It may be kept for \
                 five minutes. No limit counts it.",
            )
            .unlimited()
            .answers(Answer::json::<KeySetView>(200, "The keys.", keys)),
        Operation::command("POST", "/api/v1/auth/login", "login")
            .says(
                SESSIONS,
                "Sign in",
                "By username or by e-mail address. An unknown account and a wrong password are answered alike.",
            )
            .body::<SignInBody>(json!({ "username": "ada", "password": "correct horse" }))
            .refuses(&[Code::Invalid, Code::BadCredentials])
            .answers(Answer::json::<TokensView>(200, "Signed in.", tokens.clone())),
        Operation::command("POST", "/api/v1/auth/refresh", "refresh")
            .says(
                SESSIONS,
                "Stay signed in",
                "A refresh token is good once: the answer has the next one. For 30 seconds the same one gets the \
                 same answer again; used later than that, it ends the whole session.",
            )
            .body::<RefreshBody>(refresh_token.clone())
            .refuses(&[Code::BadRefreshToken])
            .answers(Answer::json::<TokensView>(200, "Still signed in.", tokens)),
        Operation::command("POST", "/api/v1/auth/logout", "logout")
            .says(
                SESSIONS,
                "Sign out",
                "Ends the session of the refresh token. One that is unknown is no error, and gets no consistency token.",
            )
            .body::<RefreshBody>(refresh_token)
            .answers(Answer::empty(204, "Signed out.")),
        Operation::command("DELETE", "/api/v1/auth/sessions", "endSessions")
            .by(Access::User)
            .says(
                SESSIONS,
                "Sign out everywhere",
                "Ends all of the caller's sessions, also the one in use. Access tokens are good until they expire.",
            )
            .answers(Answer::empty(204, "No session is left.")),
        Operation::command(
            "DELETE",
            "/api/v1/auth/sessions/{session_id}",
            "endSession",
        )
        .by(Access::User)
        .says(
            SESSIONS,
            "End one of one's sessions",
            "One that the caller does not have is no error: it may have ended before.",
        )
        .takes([path("session_id", "The id of the session.", session_id())])
        .refuses(&[Code::Invalid])
        .answers(Answer::empty(204, "The session is no more.")),
    ]
}

fn user(name: &str, bio: &str) -> Value {
    json!({
        "user_id": "117467262156800001", "username": "ada", "display_name": name, "bio": bio,
        "email": "ada@example.com", "verified": false, "created_at": "2026-11-28T09:20:00.000Z",
        "followers_count": 0, "following_count": 0, "posts_count": 0,
    })
}

fn users() -> Vec<Operation> {
    let registration =
        json!({ "username": "ada", "email": "ada@example.com", "password": "correct horse" });
    vec![
        Operation::command("POST", "/api/v1/users", "register")
            .says(USERS, "Sign up", "Makes an account. It is not signed in by that.")
            .body::<RegisterBody>(registration)
            .refuses(&[
                Code::Invalid,
                Code::UsernameTaken,
                Code::EmailTaken,
                Code::Conflict,
            ])
            .answers(
                Answer::json::<UserView>(201, "The new user.", user("ada", "")).with(&[&LOCATION]),
            ),
        by_user("PATCH", "/api/v1/users/me", "editProfile")
            .says(
                USERS,
                "Edit one's profile",
                "What is left out stays. Edits that change something are limited as posts are, and counted apart.",
            )
            .body::<EditProfileBody>(json!({ "display_name": "Ada", "bio": "First of them" }))
            .refuses(&[Code::Invalid])
            .answers(Answer::json::<UserView>(
                200,
                "The user, with the counts as last projected.",
                user("Ada", "First of them"),
            )),
        Operation::command("PUT", "/api/v1/users/me/password", "changePassword")
            .by(Access::User)
            .says(
                USERS,
                "Take another password",
                "Ends all sessions but the one in use. Sent again, it is a success again.",
            )
            .body::<ChangePasswordBody>(
                json!({ "password": "correct horse", "new_password": "battery staple" }),
            )
            .refuses(&[Code::Invalid, Code::BadCredentials])
            .answers(Answer::empty(204, "It is the password from now on.")),
        Operation::command("PUT", "/api/v1/users/me/email", "changeEmail")
            .by(Access::User)
            .says(
                USERS,
                "Take another e-mail address",
                "The old one is free at once.",
            )
            .body::<ChangeEmailBody>(
                json!({ "password": "correct horse", "email": "ada@example.com" }),
            )
            .refuses(&[Code::Invalid, Code::BadCredentials, Code::EmailTaken])
            .answers(Answer::json::<UserView>(
                200,
                "The user, with the counts as last projected.",
                user("ada", ""),
            )),
        Operation::command("DELETE", "/api/v1/users/me", "deactivate")
            .by(Access::User)
            .says(
                USERS,
                "Leave for good",
                "Profile, posts and reposts vanish, follows end, likes stay counted. The name stays reserved; the \
                 e-mail address is free at once.",
            )
            .body::<DeactivateBody>(json!({ "password": "correct horse" }))
            .refuses(&[Code::BadCredentials, Code::Conflict])
            .answers(Answer::empty(204, "The account is deactivated.")),
    ]
}

fn follows() -> Vec<Operation> {
    const PATH: &str = "/api/v1/users/{id}/follow";
    let (me, other) = ("117467262156800001", "117467262156800002");
    let ends = json!({ "follower_id": me, "followee_id": other });
    let codes = [Code::ActorMismatch, Code::SelfFollow];
    let followed = json!({ "success": true, "relationship": {
        "follower_id": me, "followee_id": other, "created_at": "2026-11-28T09:20:00.000Z",
    } });
    vec![
        by_user("POST", PATH, "follow")
            .says(FOLLOWS, "Follow a user", "Doing it again changes nothing.")
            .optional_body::<FollowBody>(ends.clone())
            .refuses(&codes)
            .refuses(&[Code::FollowLimit])
            .answers(Answer::json::<FollowedView>(200, "Followed.", followed)),
        by_user("DELETE", PATH, "unfollow")
            .says(
                FOLLOWS,
                "Follow a user no more",
                "Doing it again changes nothing.",
            )
            .optional_body::<FollowBody>(ends)
            .refuses(&codes)
            .answers(Answer::json::<SuccessView>(
                200,
                "Not followed.",
                json!({ "success": true }),
            )),
    ]
}

fn posts() -> Vec<Operation> {
    let key = header(
        "Idempotency-Key",
        "Visible ASCII, perhaps in quotes. The same key and body get the first answer again, with \
         `Idempotent-Replayed`.",
        string()
            .pattern(Some(format!(
                r#"^([!#-~]{{1,{MAX_KEY}}}|"[!#-~]{{1,{MAX_KEY}}}")$"#
            )))
            .examples([json!("8e03978e-40d5-43dd-bc93-6894a57f9324")]),
    );
    let post = json!({
        "entry_id": "117467262156800003", "post_id": "117467262156800003",
        "user_id": "117467262156800001", "username": "ada", "display_name": "Ada",
        "content": "Hello, world", "created_at": "2026-11-28T09:20:00.000Z",
        "reply_to_post_id": null, "likes_count": 0, "reposts_count": 0, "replies_count": 0,
        "liked": false, "reposted": false, "reposted_by": null,
    });
    vec![
        by_user("POST", "/api/v1/posts", "createPost")
            .says(
                POSTS,
                "Write a post, or a reply",
                "300 in three hours, which begin with the first one; verified users 900.",
            )
            .takes([key])
            .body::<CreatePostBody>(json!({ "content": "Hello, world" }))
            .refuses(&[Code::Invalid, Code::NotFound, Code::IdempotencyKeyReused])
            .answers(
                Answer::json::<PostView>(201, "The post, as its author sees it.", post)
                    .with(&[&LOCATION, &REPLAYED]),
            ),
        by_user("DELETE", "/api/v1/posts/{id}", "deletePost")
            .says(
                POSTS,
                "Delete one's post",
                "Deleting it again is a success.",
            )
            .refuses(&[Code::NotYours])
            .answers(Answer::empty(204, "The post is gone.")),
    ]
}

fn reactions() -> Vec<Operation> {
    const LIKE: &str = "/api/v1/posts/{id}/like";
    const REPOST: &str = "/api/v1/posts/{id}/repost";
    let reaction = |method, path, id, summary| {
        by_user(method, path, id)
            .says(REACTIONS, summary, "Doing it again changes nothing.")
            .optional_body::<ReactBody>(json!({ "user_id": "117467262156800001" }))
            .refuses(&[Code::ActorMismatch])
    };
    let liked = |text, count| {
        Answer::json::<LikedView>(200, text, json!({ "success": true, "likes_count": count }))
    };
    let reposted = |text, count| {
        let example = json!({ "success": true, "reposts_count": count });
        Answer::json::<RepostedView>(200, text, example)
    };
    vec![
        reaction("POST", LIKE, "like", "Like a post").answers(liked("Liked.", 1)),
        reaction("DELETE", LIKE, "unlike", "Like a post no more").answers(liked("Not liked.", 0)),
        reaction("POST", REPOST, "repost", "Repost a post").answers(reposted("Reposted.", 1)),
        reaction("DELETE", REPOST, "unrepost", "Withdraw a repost")
            .answers(reposted("Not reposted.", 0)),
    ]
}

#[cfg(test)]
mod tests {
    use shared::web::openapi::{assert_complete, files};

    use super::*;

    #[test]
    fn the_openapi_document_has_every_route_and_is_checked_in() {
        let document = document();
        assert_complete(Service::Command, &document);
        let write = std::env::var_os("MICROBLOG_WRITE_OPENAPI").is_some();
        files::assert_checked_in("command-service", &document, write);
    }
}
