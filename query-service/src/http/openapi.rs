//! The operations of this service, for its OpenAPI document.

use serde_json::{Value, json};
use shared::web::openapi::headers::{LINK, SERVED};
use shared::web::openapi::parameters::{header, ids, of_a_page, path, query, query_id};
use shared::web::openapi::schemas::string;
use shared::web::openapi::tags::{FOLLOWS, POSTS, REACTIONS, SESSIONS, TIMELINE, USERS};
use shared::web::openapi::{Access, Answer, Operation, document as of};
use shared::web::problem::Code;
use shared::web::routes::Service;

use super::sessions::SessionView;
use crate::reads::bodies::{PostView, Relationship, RelationshipWith, Thread, UserView};

/// The document of this service.
pub fn document() -> Value {
    let operations = [sessions(), users(), follows(), posts(), timeline()];
    of(Service::Query, operations.into_iter().flatten().collect())
}

fn user_example() -> Value {
    json!({
        "user_id": "117467262156800001", "username": "ada", "display_name": "Ada",
        "bio": "First of them", "verified": false, "created_at": "2026-11-28T09:20:00.000Z",
        "followers_count": 1, "following_count": 0, "posts_count": 1,
    })
}

fn post_example() -> Value {
    json!({
        "entry_id": "117467262156800003", "post_id": "117467262156800003",
        "user_id": "117467262156800001", "username": "ada", "display_name": "Ada",
        "content": "Hello, world", "created_at": "2026-11-28T09:20:00.000Z",
        "reply_to_post_id": null, "likes_count": 1, "reposts_count": 0, "replies_count": 0,
        "liked": true, "reposted": false, "reposted_by": null,
    })
}

/// A list, in pages.
fn list(path: &'static str, id: &'static str) -> Operation {
    let list = Operation::query(path, id).takes(of_a_page());
    list.refuses(&[Code::Invalid, Code::BadCursor])
}

/// Several things, by their ids.
fn by_ids(path: &'static str, id: &'static str, text: &str) -> Operation {
    let text = format!("1 to 100 different ids, with commas between them. {text}");
    let some = Operation::query(path, id).takes([ids(&text)]);
    some.refuses(&[Code::Invalid])
}

const LEFT_OUT: &str = "What is unknown or gone is left out.";

fn posts_page() -> Answer {
    let example = json!({ "posts": [post_example()], "next_cursor": "AQAB" });
    Answer::page::<PostView>("posts", "A page, newest first.", example).with(&[&LINK])
}

fn users_page() -> Answer {
    let example = json!({ "users": [user_example()], "next_cursor": null });
    let text = "A page, those with the newest accounts first.";
    Answer::page::<UserView>("users", text, example).with(&[&LINK])
}

fn sessions() -> Vec<Operation> {
    let own = Answer::all::<SessionView>(
        "sessions",
        "The one used last is first; at most 100.",
        json!({ "sessions": [{
            "id": "Jxu--2oce4bC7V6RSN60EA", "created_at": "2026-11-28T09:20:00.000Z",
            "last_used_at": "2026-11-28T09:20:00.000Z", "expires_at": "2026-12-28T09:20:00.000Z",
            "current": true,
        }] }),
    );
    vec![
        Operation::query("/api/v1/auth/sessions", "listSessions")
            .by(Access::User)
            .says(SESSIONS, "Where the caller is signed in", "")
            .answers(own),
    ]
}

fn users() -> Vec<Operation> {
    let user = || {
        let text = "The user; with `email`, if it is they who ask.";
        Answer::json::<UserView>(200, text, user_example()).with(&[&SERVED])
    };
    let name = path("name", "The username, in any case.", string());
    let some = Answer::all::<UserView>(
        "users",
        "Those there are, in the order asked for, without `email`.",
        json!({ "users": [user_example()] }),
    );
    vec![
        by_ids("/api/v1/users", "listUsers", "Of users.")
            .says(USERS, "Users, by their ids", LEFT_OUT)
            .answers(some.with(&[&SERVED])),
        Operation::query("/api/v1/users/me", "getMe")
            .by(Access::User)
            .says(
                USERS,
                "The caller's own profile",
                "For clients that have no more than an access token. 503 `not_yet_visible` for a moment after the \
                 registration.",
            )
            .answers(user()),
        Operation::query("/api/v1/users/by-username/{name}", "getUserByUsername")
            .says(USERS, "A user, by name", "")
            .takes([name])
            .refuses(&[Code::NotFound])
            .answers(user()),
        Operation::query("/api/v1/users/{id}", "getUser")
            .says(USERS, "A user", "")
            .answers(user()),
    ]
}

fn follows() -> Vec<Operation> {
    let relationship = json!({ "following": true, "followed_by": false });
    vec![
        list("/api/v1/users/{id}/followers", "listFollowers")
            .says(FOLLOWS, "Who follows a user", "")
            .answers(users_page()),
        list("/api/v1/users/{id}/following", "listFollowing")
            .says(FOLLOWS, "Whom a user follows", "")
            .answers(users_page()),
        list("/api/v1/users/{id}/mutuals", "listMutuals")
            .says(FOLLOWS, "Who follows a user, and is followed back", "")
            .answers(users_page()),
        Operation::query("/api/v1/users/{id}/relationship", "getRelationship")
            .says(FOLLOWS, "How the caller and a user stand", "")
            .by(Access::User)
            .answers(Answer::json::<Relationship>(
                200,
                "Whether the caller follows the user, and is followed by them.",
                relationship,
            )),
        by_ids("/api/v1/relationships", "listRelationships", "Of users.")
            .by(Access::User)
            .says(FOLLOWS, "How the caller and several users stand", LEFT_OUT)
            .answers(Answer::all::<RelationshipWith>(
                "relationships",
                "Those there are, in the order asked for.",
                json!({ "relationships": [
                    { "user_id": "117467262156800002", "following": true, "followed_by": false },
                ] }),
            )),
    ]
}

fn posts() -> Vec<Operation> {
    let some = Answer::all::<PostView>(
        "posts",
        "Those there are, in the order asked for.",
        json!({ "posts": [post_example()] }),
    );
    let thread = json!({
        "ancestors": [], "more_ancestors": false, "post": post_example(), "replies": [], "next_cursor": null,
    });
    vec![
        by_ids("/api/v1/posts", "listPosts", "Of posts.")
            .says(POSTS, "Posts, by their ids", LEFT_OUT)
            .answers(some.with(&[&SERVED])),
        list("/api/v1/posts/{id}/thread", "getThread")
            .says(
                POSTS,
                "A post, what it answers, and what answers it",
                "The ancestors are those from the first post down, at most 40. Of the replies it is a page.",
            )
            .answers(
                Answer::json::<Thread>(200, "The thread.", thread).with(&[&LINK]),
            ),
        list("/api/v1/posts/{id}/likes", "listLikers")
            .says(REACTIONS, "Who likes a post", "")
            .answers(users_page()),
        list("/api/v1/posts/{id}/reposts", "listReposters")
            .says(REACTIONS, "Who reposted a post", "")
            .answers(users_page()),
        list("/api/v1/users/{id}/posts", "listPostsOfUser")
            .says(POSTS, "What a user posted and reposted", "")
            .answers(posts_page()),
        Operation::query("/api/v1/posts/{id}", "getPost")
            .says(POSTS, "A post", "")
            .answers(Answer::json::<PostView>(200, "The post.", post_example()).with(&[&SERVED])),
        list("/api/v1/posts/{id}/replies", "listReplies")
            .says(POSTS, "The replies to a post", "")
            .answers(posts_page()),
    ]
}

fn timeline() -> Vec<Operation> {
    let sequence = || {
        string()
            .pattern(Some("^[0-9]{0,18}$"))
            .examples([json!("42")])
    };
    let last = "The `id:` of the last event that the client has seen: the stream goes on behind it. Without one it \
        begins now.";
    let user_id = query_id("user_id", "If it is sent, the caller.");
    vec![
        list("/api/v1/timeline", "getTimeline")
            .by(Access::User)
            .says(
                TIMELINE,
                "The caller's home timeline",
                "Each post and repost by the caller, and by those whom they follow, is one entry, newest first. A page \
                 shows a post once, at its newest entry.",
            )
            .takes([user_id])
            .refuses(&[Code::Forbidden])
            .answers(posts_page().with(&[&SERVED])),
        Operation::query("/api/v1/timeline/stream", "streamTimeline")
            .by(Access::User)
            .says(
                TIMELINE,
                "New entries of the home timeline, as they come",
                "Server-sent events: `event: post`, whose `data:` is a `Post`; key on `entry_id`, since an entry may \
                 come twice. Comments keep the connection open: one at least each 15 seconds. While the stream \
                 cannot be served yet it is 200 all the same, and waits. It ends with a comment that says why \
                 (`: goodbye`, `: token expired`, `: unauthorized`, `: too many live streams`), and the connection is \
                 broken off: come back after `retry:` with the last id. Only after `: account deactivated` there is \
                 nothing to come back to. A reader has at most 20 streams.",
            )
            .takes([
                header("Last-Event-ID", last, sequence()),
                query("lastEventId", "The same as `Last-Event-ID`, which wins.", sequence()),
            ])
            .refuses(&[Code::Invalid])
            .answers(Answer::events::<PostView>(
                "post",
                "A stream, which has no end of its own.",
                &post_example(),
            )),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use shared::contract::ids::Id;
    use shared::contract::time::Timestamp;
    use shared::web::openapi::{assert_complete, files, whole};

    use super::*;
    use crate::reads::bodies::Rendered;

    /// The document of the whole is made of this one and of the command service's, as it is
    /// checked in: that is written first.
    #[test]
    fn the_openapi_documents_have_every_route_and_are_checked_in() {
        let document = document();
        assert_complete(Service::Query, &document);
        let write = std::env::var_os("MICROBLOG_WRITE_OPENAPI").is_some();
        files::assert_checked_in("query-service", &document, write);
        let commands = files::read("command-service").expect("the command service's document");
        let whole = whole(&commands, &document).unwrap();
        files::assert_checked_in("microblog", &whole, write);
    }

    /// What is shown of a post is written by hand: it has the fields of the schema, and all of them.
    #[test]
    fn a_post_is_what_its_schema_says() {
        let document = document();
        let schema = &document["components"]["schemas"]["Post"];
        let example = post_example();
        let post = PostView {
            entry_id: Id::new(1).unwrap(),
            post_id: Id::new(1).unwrap(),
            user_id: Id::new(2).unwrap(),
            username: String::new(),
            display_name: String::new(),
            content: String::new(),
            created_at: Timestamp::from_millis(0),
            reply_to_post_id: None,
            likes_count: 0,
            reposts_count: 0,
            replies_count: 0,
            liked: None,
            reposted: None,
            reposted_by: None,
            rendered: Rendered::default(),
        };
        let sent = serde_json::to_value(post).unwrap();
        let keys = |value: &Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let needed: BTreeSet<String> = serde_json::from_value(schema["required"].clone()).unwrap();
        assert_eq!(keys(&sent), keys(&schema["properties"]));
        assert_eq!(keys(&sent), keys(&example));
        assert_eq!(keys(&sent), needed);
    }
}
