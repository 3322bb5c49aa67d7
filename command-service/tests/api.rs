//! The HTTP contract of commands, through the front door, on a real MongoDB.
//!
//! Needs `MONGODB_URI`; each test has a database of its own.

#[path = "api/decisions.rs"]
mod decisions;
mod support;

use std::collections::HashSet;

use bson::{Binary, DateTime, Document, doc, spec::BinarySubtype};
use command_service::app::Verdict;
use command_service::app::ports::Append;
use command_service::http::{BASE, ROUTES};
use futures_util::future::join_all;
use serde_json::{Value, json};
use shared::consistency::ConsistencyToken;
use shared::events::{Bare, Event, LogStream, Payload};
use shared::ids::{Id, SEQUENCE_BITS};
use shared::time::{Clock, SystemClock};
use shared::token::{KEY_SET, KeySet, TokenVerifier};
use support::{Account, Answer, PASSWORD, TestApp, eventually};

// --- users ---

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_answers_with_the_user_and_where_it_is() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let body = json!({ "username": "Ada_L", "email": "Ada@Example.org", "password": PASSWORD,
        "display_name": " Ada ", "bio": "engines" });
    let answer = app.post("/users", body).await;
    answer.accepted(201);
    let id = answer.text("user_id");
    assert_eq!(answer.header("location"), format!("{BASE}/users/{id}"));
    for (field, value) in [
        ("username", json!("ada_l")),
        ("display_name", json!("Ada")),
        ("bio", json!("engines")),
        ("email", json!("Ada@Example.org")),
        ("verified", json!(false)),
        ("followers_count", json!(0)),
        ("following_count", json!(0)),
        ("posts_count", json!(0)),
    ] {
        assert_eq!(answer.body[field], value, "{field}");
    }
    assert_eq!(write_named_by(&answer), (format!("user:{id}"), 1));
    app.end().await;
}

/// The stream and version that reads by an answer's token wait for.
fn write_named_by(answer: &Answer) -> (String, i64) {
    let token = ConsistencyToken::decode(answer.header("x-consistency-token")).expect("a token");
    (token.stream.to_string(), token.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_a_name_at_once_one_gets_it() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let body = |n: usize| json!({ "username": "ada", "email": format!("ada{n}@example.org"), "password": PASSWORD });
    let answers = join_all((0..8).map(|n| app.post("/users", body(n)))).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "username_taken");
    }
    assert_eq!(app.log().await.len(), 1);
    let emails = app.database().await.collection::<Document>("emails");
    assert_eq!(
        emails.count_documents(doc! {}).await.unwrap(),
        1,
        "losers leave nothing"
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_belongs_to_one_user_whatever_its_case() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let body = |n: usize| {
        let email = if n.is_multiple_of(2) {
            "a@example.org"
        } else {
            "A@EXAMPLE.org"
        };
        json!({ "username": format!("ada{n}"), "email": email, "password": PASSWORD })
    };
    let answers = join_all((0..6).map(|n| app.post("/users", body(n)))).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "email_taken");
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_a_registration_is_told() {
    let app = TestApp::spawn();
    let body = json!({ "username": "a b", "email": "nowhere", "password": "canary",
        "display_name": "\u{202e}ada", "bio": "x".repeat(161) });
    let answer = app.post("/users", body).await;
    answer.refused(400, "invalid");
    let fields: Vec<&str> = answer.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        ["username", "email", "password", "display_name", "bio"]
    );
    assert!(
        !answer.body.to_string().contains("canary"),
        "no secret is repeated"
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_signs_in_by_name_or_address_and_the_token_verifies() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let body = json!({ "email": "ADA@example.org", "password": PASSWORD });
    let tokens = app.post("/auth/login", body).await;
    tokens.accepted(200);
    assert_eq!(tokens.body["token_type"], "Bearer");
    assert_eq!(tokens.body["expires_in"], 900);
    assert_eq!(write_named_by(&tokens), (format!("user:{}", ada.id), 1));
    let keys = app
        .request("GET", "/.well-known/jwks.json")
        .send()
        .await
        .unwrap();
    let keys: KeySet = serde_json::from_str(&keys.text().await.unwrap()).unwrap();
    let verifier = TokenVerifier::with_keys(&keys);
    let user = verifier.verify(&tokens.text("access_token")).await.unwrap();
    assert_eq!(user.to_string(), ada.id);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_understood_as_keyboards_send_it_and_is_nobody_else_s() {
    let app = TestApp::spawn();
    let kada = app.account("kada").await;
    let sign_in = |field: &str, name: &str| {
        app.post("/auth/login", json!({ field: name, "password": PASSWORD }))
    };
    for (field, name) in [
        ("username", "kada "),
        ("username", "\tKADA\n"),
        ("email", " kada@example.org"),
        ("email", "Kada@Example.org\r\n"),
        ("username", "kada@example.org"),
        ("username", " KADA@example.org "),
    ] {
        let tokens = sign_in(field, name).await;
        tokens.accepted(200);
        assert_eq!(
            write_named_by(&tokens),
            (format!("user:{}", kada.id), 1),
            "{name:?}"
        );
    }
    // The Kelvin sign is no k, and white space inside a name is a part of it.
    for (field, name) in [
        ("username", "\u{212a}ada"),
        ("email", "\u{212a}ada@example.org"),
        ("username", "ka da"),
        ("username", "@"),
        ("email", "kada"),
    ] {
        let refused = sign_in(field, name).await;
        refused.refused(401, "bad_credentials");
    }
    app.register("\u{212a}ada").await.refused(400, "invalid");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_tidied_and_what_shows_nothing_is_refused() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let form = json!({ "username": "ada", "email": "ada@example.org", "password": PASSWORD,
        "display_name": "", "bio": "one\r\ntwo\rthree\tfour" });
    let ada = app.post("/users", form).await;
    ada.accepted(201);
    assert_eq!(ada.body["display_name"], "ada");
    assert_eq!(ada.body["bio"], "one\ntwo\nthree\tfour");
    let token = app.login("ada").await.text("access_token");
    let send = |method: &str, path: &str, body: Value| {
        let request = app.request(method, &format!("/api/v1{path}"));
        app.send(request.bearer_auth(&token).json(&body))
    };
    let edited = send("PATCH", "/users/me", json!({ "bio": "a\r\nb\tc" })).await;
    assert_eq!(edited.accepted(200).body["bio"], "a\nb\tc");
    let post = send("POST", "/posts", json!({ "content": "a\r\nb" })).await;
    assert_eq!(post.accepted(201).body["content"], "a\nb");
    let family = "\u{1f469}\u{200d}\u{1f467}\u{fe0f}";
    let post = send("POST", "/posts", json!({ "content": family })).await;
    assert_eq!(post.accepted(201).body["content"], family);
    let lines = "x\r\n".repeat(140);
    let post = send("POST", "/posts", json!({ "content": lines })).await;
    post.accepted(201);
    for (field, text, code) in [
        ("content", "\u{200b}", "blank"),
        ("content", " \u{2800}\u{3164}\n", "blank"),
        ("content", "\u{ad}\u{feff}", "blank"),
        ("content", "a\0b", "bad_character"),
        ("content", "a\u{7f}", "bad_character"),
        ("content", "a\u{85}", "bad_character"),
        ("display_name", "\u{200b}\u{2060}", "blank"),
        ("display_name", "ada\u{202e}", "bad_character"),
        ("display_name", "a\tb", "bad_character"),
        ("display_name", "", "empty"),
        ("bio", "\u{feff}", "blank"),
        ("bio", "\u{1b}[31m", "bad_character"),
    ] {
        let (method, path) = match field {
            "content" => ("POST", "/posts"),
            _ => ("PATCH", "/users/me"),
        };
        let answer = send(method, path, json!({ field: text })).await;
        answer.refused(400, "invalid");
        let fault = &answer.body["errors"][0];
        assert_eq!(
            (&fault["field"], &fault["code"]),
            (&json!(field), &json!(code)),
            "{text:?}"
        );
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_and_a_wrong_password_get_one_answer() {
    let app = TestApp::spawn();
    app.account("ada").await;
    let guess = |name: &str| json!({ "username": name, "password": "wrong horse" });
    let unknown = app.post("/auth/login", guess("nobody")).await;
    let wrong = app.post("/auth/login", guess("ada")).await;
    unknown.refused(401, "bad_credentials");
    wrong.refused(401, "bad_credentials");
    assert_eq!(unknown.body["detail"], wrong.body["detail"]);
    assert!(!unknown.header("www-authenticate").is_empty());
    for body in [
        json!({ "password": "x" }),
        json!({ "username": "a", "email": "b", "password": "x" }),
    ] {
        app.post("/auth/login", body).await.refused(400, "invalid");
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_limited_per_account_and_address() {
    let app = TestApp::spawn_with(&[("IP_RATE_PER_SECOND", "1000")]);
    app.account("ada").await; // the first attempt
    for _ in 0..9 {
        let body = json!({ "username": "ada", "password": "wrong horse" });
        app.post("/auth/login", body)
            .await
            .refused(401, "bad_credentials");
    }
    let limited = app.login("ada").await;
    limited.refused(429, "too_many_requests");
    let seconds: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds));
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_good_once_and_its_reuse_ends_the_family() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let refresh = |token: &str| app.post("/auth/refresh", json!({ "refresh_token": token }));
    let second = refresh(&ada.refresh).await;
    second.accepted(200);
    assert_eq!(write_named_by(&second), (format!("user:{}", ada.id), 1));
    let third = refresh(&second.text("refresh_token")).await;
    third.accepted(200);
    refresh(&ada.refresh)
        .await
        .refused(401, "bad_refresh_token");
    // The thief and the owner are both out.
    refresh(&third.text("refresh_token"))
        .await
        .refused(401, "bad_refresh_token");
    refresh("nonsense").await.refused(401, "bad_refresh_token");
    app.end().await;
}

/// Another replica of the same service, with its database and its key.
async fn replica(app: &TestApp) -> TestApp {
    let same = [
        "MONGODB_URI",
        "JWT_PRIVATE_KEY_FILE",
        "IP_RATE_PER_SECOND",
        "TRUSTED_PROXIES",
    ];
    let vars = app
        .vars()
        .iter()
        .filter(|(name, _)| same.contains(&name.as_str()));
    let vars: Vec<(&str, &str)> = vars.map(|(name, value)| (&**name, &**value)).collect();
    let other = TestApp::spawn_with(&vars);
    other.wait_until_ready().await;
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_refreshes_at_once_all_get_the_same_pair() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let mut other = replica(&app).await;
    let refresh = |app: &TestApp, token: &str| {
        let request = app.request("POST", "/api/v1/auth/refresh");
        let request = request.json(&json!({ "refresh_token": token }));
        async move { Answer::of(request.send().await.unwrap()).await }
    };
    let mut token = ada.refresh.clone();
    for _ in 0..5 {
        let uses = (0..8).map(|n| refresh(if n % 2 == 0 { &app } else { &other }, &token));
        let answers = join_all(uses).await;
        let pairs: HashSet<(String, String)> = answers
            .iter()
            .map(|answer| answer.accepted(200))
            .map(|answer| (answer.text("access_token"), answer.text("refresh_token")))
            .collect();
        assert_eq!(pairs.len(), 1, "one pair, from whichever replica");
        token = pairs.into_iter().next().unwrap().1;
    }
    // An answer that was lost is given again, for half a minute.
    let first = refresh(&app, &token).await;
    let again = refresh(&other, &token).await;
    assert_eq!(
        first.accepted(200).text("access_token"),
        again.accepted(200).text("access_token")
    );
    assert_eq!(first.text("refresh_token"), again.text("refresh_token"));
    let expires_in = again.body["expires_in"].as_u64().unwrap();
    assert!((890..=900).contains(&expires_in), "{expires_in}");
    let sessions = app.database().await.collection::<Document>("sessions");
    let stored = format!("{:?}", sessions.find_one(doc! {}).await.unwrap().unwrap());
    assert!(!stored.contains(&first.text("refresh_token")));
    let earlier = DateTime::from_millis(SystemClock.now().millis() - 31_000);
    let earlier = doc! { "$set": { "renewed_at": earlier } };
    sessions.update_one(doc! {}, earlier).await.unwrap();
    refresh(&app, &token)
        .await
        .refused(401, "bad_refresh_token");
    let newest = refresh(&other, &first.text("refresh_token")).await;
    newest.refused(401, "bad_refresh_token");
    other.halt().await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_a_name_keeps_its_owner_neither_out_nor_in() {
    let settings = [
        ("IP_RATE_PER_SECOND", "1000"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let app = TestApp::spawn_with(&settings);
    app.wait_until_ready().await;
    app.register("ada").await.accepted(201);
    let sign_in = |app: &TestApp, from: String, password: &str| {
        let request = app.request("POST", "/api/v1/auth/login");
        let request = request.header("x-forwarded-for", from);
        let request = request.json(&json!({ "username": "ada", "password": password }));
        async move { Answer::of(request.send().await.unwrap()).await }
    };
    let home = || "192.0.2.1".to_owned();
    let session = sign_in(&app, home(), PASSWORD).await;
    session.accepted(200);
    // 120 guesses from 12 addresses: strangers have a hundred.
    let guesses = (0..120).map(|n| sign_in(&app, format!("198.51.100.{}", n % 12), "guess"));
    let guesses = join_all(guesses).await;
    let refused = guesses.iter().filter(|answer| answer.status == 429).count();
    assert!(refused >= 20, "{refused}");
    let fresh = sign_in(&app, "203.0.113.9".to_owned(), PASSWORD).await;
    fresh.refused(429, "too_many_requests");
    sign_in(&app, home(), PASSWORD).await.accepted(200);
    // A replica that has only just begun asks the sessions whether it is the owner.
    let mut other = replica(&app).await;
    let guesses = (0..110).map(|n| sign_in(&other, format!("198.51.100.{}", n % 12), "guess"));
    let guesses = join_all(guesses).await;
    assert!(guesses.iter().any(|answer| answer.status == 429));
    sign_in(&other, "203.0.113.9".to_owned(), PASSWORD)
        .await
        .refused(429, "too_many_requests");
    sign_in(&other, home(), PASSWORD).await.accepted(200);
    let sessions = app.database().await.collection::<Document>("sessions");
    let stored = format!("{:?}", sessions.find_one(doc! {}).await.unwrap().unwrap());
    assert!(
        !stored.contains("192.0.2.1"),
        "an address is not kept: {stored}"
    );
    // Whoever is in may leave, from anywhere.
    let leave = other.request("DELETE", "/api/v1/users/me");
    let leave = leave.header("x-forwarded-for", "203.0.113.9");
    let leave = leave.bearer_auth(session.text("access_token"));
    let left = other
        .send(leave.json(&json!({ "password": PASSWORD })))
        .await;
    left.accepted(204);
    other.halt().await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_ends_the_session() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let body = || json!({ "refresh_token": ada.refresh });
    let out = app.post("/auth/logout", body()).await;
    out.accepted(204);
    assert_eq!(write_named_by(&out), (format!("user:{}", ada.id), 1));
    app.post("/auth/logout", body()).await.accepted(204);
    app.post("/auth/refresh", body())
        .await
        .refused(401, "bad_refresh_token");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_edited_in_part_and_shows_in_the_next_post() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let edited = app
        .command_with(
            &ada,
            "PATCH",
            "/users/me",
            json!({ "display_name": "Ada L." }),
        )
        .await;
    edited.accepted(200);
    assert_eq!(
        (&edited.body["display_name"], &edited.body["bio"]),
        (&json!("Ada L."), &json!(""))
    );
    let post = app
        .command_with(&ada, "POST", "/posts", json!({ "content": "hi" }))
        .await;
    assert_eq!(post.body["display_name"], "Ada L.");
    // An edit that changes nothing appends nothing.
    app.command_with(&ada, "PATCH", "/users/me", json!({}))
        .await
        .accepted(200);
    assert_eq!(app.versions(&format!("user:{}", ada.id)).await, [1, 2]);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_profile_is_answered_with_its_projected_numbers() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let database = app.database().await;
    let views = database
        .client()
        .database(&format!("{}_views", database.name()));
    let rows = |name: &str| views.collection::<Document>(name);
    let pointer = doc! { "_id": "current", "generation": 7_i64 };
    rows("generations").insert_one(pointer).await.unwrap();
    let id = |who: &Account| who.id.parse::<i64>().unwrap();
    let user = doc! { "_id": id(&ada), "following": 3_i64, "posts": 12_i64 };
    rows("g7_users").insert_one(user).await.unwrap();
    for (who, partition, n) in [(&ada, 0_u16, 4_i64), (&ada, 3, 5), (&bob, 0, 70)] {
        let bytes = [&id(who).to_be_bytes()[..], &partition.to_be_bytes()].concat();
        let subtype = BinarySubtype::Generic;
        let row = doc! { "_id": Binary { subtype, bytes }, "n": n };
        rows("g7_follower_counts").insert_one(row).await.unwrap();
    }
    let edit = json!({ "bio": "engines" });
    let edited = app.command_with(&ada, "PATCH", "/users/me", edit).await;
    for (field, number) in [
        ("followers_count", 9),
        ("following_count", 3),
        ("posts_count", 12),
    ] {
        assert_eq!(edited.accepted(200).body[field], number, "{field}");
    }
    views.drop().await.unwrap();
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_edits_are_all_kept_in_order() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let edit = |n: usize| {
        app.command_with(
            &ada,
            "PATCH",
            "/users/me",
            json!({ "bio": format!("bio {n}") }),
        )
    };
    for answer in join_all((0..12).map(edit)).await {
        answer.accepted(200);
    }
    let versions = app.versions(&format!("user:{}", ada.id)).await;
    assert_eq!(versions, (1..=13).collect::<Vec<i64>>());
    app.end().await;
}

// --- posts ---

#[tokio::test(flavor = "multi_thread")]
async fn a_post_answers_as_the_contract_says() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let created = app
        .command_with(&ada, "POST", "/posts", json!({ "content": "cafe\u{301}" }))
        .await;
    created.accepted(201);
    let id = created.text("post_id");
    assert_eq!(created.header("location"), format!("{BASE}/posts/{id}"));
    assert_eq!(
        created.header("ratelimit-policy"),
        "\"posts\";q=300;w=10800"
    );
    assert!(
        created
            .header("ratelimit")
            .starts_with("\"posts\";r=299;t=10")
    );
    assert_eq!(
        created.body,
        json!({ "entry_id": id, "post_id": id, "user_id": ada.id, "username": "ada",
            "display_name": "ada", "content": "caf\u{e9}", "created_at": created.body["created_at"],
            "reply_to_post_id": null, "likes_count": 0, "reposts_count": 0, "replies_count": 0,
            "liked": false, "reposted": false, "reposted_by": null })
    );
    let body = json!({ "content": "yes", "reply_to_post_id": id });
    let reply = app.command_with(&bob, "POST", "/posts", body).await;
    reply.accepted(201);
    assert_eq!(reply.body["reply_to_post_id"], json!(id));
    let token = ConsistencyToken::decode(reply.header("x-consistency-token")).unwrap();
    assert_eq!(
        (token.actor.to_string(), token.owner.to_string()),
        (bob.id.clone(), ada.id.clone())
    );
    assert!(reply.text("post_id").parse::<i64>().unwrap() > id.parse::<i64>().unwrap());
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_post_is_refused() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    for content in ["", "  \n", &"x".repeat(281)] {
        let answer = app
            .command_with(&ada, "POST", "/posts", json!({ "content": content }))
            .await;
        answer.refused(400, "invalid");
        assert_eq!(answer.body["errors"][0]["field"], "content");
    }
    let body = json!({ "content": "x", "reply_to_post_id": "4711" });
    app.command_with(&ada, "POST", "/posts", body)
        .await
        .refused(404, "not_found");
    let body = json!({ "content": "x", "reply_to_post_id": 4711 });
    app.command_with(&ada, "POST", "/posts", body)
        .await
        .refused(400, "malformed_body");
    // An id that names something else is no post.
    let body = json!({ "content": "x", "reply_to_post_id": ada.id });
    app.command_with(&ada, "POST", "/posts", body)
        .await
        .refused(404, "not_found");
    app.end().await;
}

fn keyed(app: &TestApp, who: &Account, key: &str, content: &str) -> reqwest::RequestBuilder {
    app.request("POST", "/api/v1/posts")
        .bearer_auth(&who.token)
        .header("idempotency-key", key)
        .json(&json!({ "content": content }))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_many_times_at_once_writes_one_post() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let answers = join_all((0..10).map(|_| app.send(keyed(&app, &ada, "k-1", "once")))).await;
    let bodies: HashSet<String> = answers
        .iter()
        .map(|answer| answer.accepted(201).body.to_string())
        .collect();
    assert_eq!(bodies.len(), 1);
    let replayed = answers
        .iter()
        .filter(|answer| answer.header("idempotent-replayed") == "true")
        .count();
    assert_eq!(replayed, 9);
    let posts = app.log_where(doc! { "type": "post.created" }).await;
    assert_eq!(posts.len(), 1);
    app.end().await;
}

/// Drops an index of the log: what it guards against must show then, or nothing here guards it.
async fn without_index(app: &TestApp, name: &str) {
    let log = app
        .database()
        .await
        .collection::<Document>(shared::log::COLLECTION);
    log.drop_index(name).await.expect("an index of that name");
}

/// A negative control of [`the_same_key_many_times_at_once_writes_one_post`].
#[tokio::test(flavor = "multi_thread")]
async fn without_its_index_the_same_key_at_once_writes_more_than_one_post() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    without_index(&app, "owner_1_key_1").await;
    eventually("two posts with one key", || async {
        let key = format!("k-{}", rand::random::<u32>());
        join_all((0..10).map(|_| app.send(keyed(&app, &ada, &key, "once")))).await;
        let with_key = doc! { "type": "post.created", "key": format!("http:{key}") };
        app.log_where(with_key).await.len() > 1
    })
    .await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_answer_is_the_first_one_even_after_a_rename() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let first = app.send(keyed(&app, &ada, "k-1", "once")).await;
    let rename = json!({ "display_name": "Another" });
    app.command_with(&ada, "PATCH", "/users/me", rename)
        .await
        .accepted(200);
    let again = app.send(keyed(&app, &ada, "\"k-1\"", "once")).await;
    assert_eq!((first.status, first.body), (again.status, again.body));
    let policy = again.headers.get("ratelimit-policy").unwrap();
    assert_eq!(policy, "\"posts\";q=300;w=10800");
    let state = again.headers.get("ratelimit").unwrap().to_str().unwrap();
    assert!(
        state.starts_with("\"posts\";r=299;t=10"),
        "a replay takes nothing: {state}"
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_request_of_one_user() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    app.send(keyed(&app, &ada, "k-1", "once"))
        .await
        .accepted(201);
    let other = app.send(keyed(&app, &ada, "k-1", "twice")).await;
    other.refused(422, "idempotency_key_reused");
    let bobs = app.send(keyed(&app, &bob, "k-1", "once")).await;
    assert_eq!(bobs.accepted(201).header("idempotent-replayed"), "");
    for key in ["", "a b", &"x".repeat(129)] {
        app.send(keyed(&app, &ada, key, "once"))
            .await
            .refused(400, "invalid");
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_is_deleted_by_its_author_and_once() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let post = app.create_post(&ada, "gone soon").await;
    let path = format!("/posts/{post}");
    app.command(&bob, "DELETE", &path)
        .await
        .refused(403, "not_yours");
    let deleted = app.command(&ada, "DELETE", &path).await;
    let token = ConsistencyToken::decode(deleted.accepted(204).header("x-consistency-token"));
    assert_eq!(token.unwrap().version, 2);
    app.command(&ada, "DELETE", &path).await.accepted(204);
    assert_eq!(app.versions(&format!("post:{post}")).await, [1, 2]);
    app.command(&ada, "DELETE", "/posts/4711")
        .await
        .refused(404, "not_found");
    app.command(&ada, "DELETE", "/posts/x")
        .await
        .refused(400, "invalid");
    for (method, what) in [
        ("POST", "like"),
        ("DELETE", "like"),
        ("POST", "repost"),
        ("DELETE", "repost"),
    ] {
        let answer = app.command(&bob, method, &format!("{path}/{what}")).await;
        answer.refused(404, "not_found");
    }
    let body = json!({ "content": "late", "reply_to_post_id": post });
    app.command_with(&bob, "POST", "/posts", body)
        .await
        .refused(404, "not_found");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_holds_for_many_at_once_and_is_given_back_for_nothing_written() {
    let app = TestApp::spawn_with(&[("POST_QUOTA", "3")]);
    let ada = app.account("ada").await;
    let missing = json!({ "content": "x", "reply_to_post_id": "4711" });
    app.command_with(&ada, "POST", "/posts", missing)
        .await
        .refused(404, "not_found");
    let post =
        |n: usize| app.command_with(&ada, "POST", "/posts", json!({ "content": format!("{n}") }));
    let answers = join_all((0..10).map(post)).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 201).count(),
        3
    );
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.refused(429, "too_many_requests");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() > 10_000);
        assert!(answer.header("ratelimit").starts_with("\"posts\";r=0;t="));
    }
    // Three times as many for verified users.
    app.core()
        .await
        .app
        .moderate("ada", Verdict::Verify)
        .await
        .unwrap();
    eventually("the verification is known", || async {
        let answer = app
            .command_with(&ada, "POST", "/posts", json!({ "content": "more" }))
            .await;
        answer.status == 201 && answer.header("ratelimit-policy") == "\"posts\";q=9;w=10800"
    })
    .await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_s_window_ends() {
    let vars = [("POST_QUOTA", "1"), ("POST_QUOTA_WINDOW_SECS", "1")];
    let app = TestApp::spawn_with(&vars);
    let ada = app.account("ada").await;
    app.create_post(&ada, "first").await;
    eventually("a new window begins", || async {
        let answer = app
            .command_with(&ada, "POST", "/posts", json!({ "content": "next" }))
            .await;
        answer.status == 201
    })
    .await;
    app.end().await;
}

// --- edges ---

#[tokio::test(flavor = "multi_thread")]
async fn following_twice_is_one_event_and_the_first_date() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let path = format!("/users/{}/follow", bob.id);
    let first = app.command(&ada, "POST", &path).await;
    first.accepted(200);
    let body = json!({ "follower_id": ada.id, "followee_id": bob.id });
    let again = app.command_with(&ada, "POST", &path, body).await;
    assert_eq!(first.body, again.accepted(200).body);
    assert_eq!(first.body["relationship"]["follower_id"], json!(ada.id));
    let token = ConsistencyToken::decode(again.header("x-consistency-token")).unwrap();
    assert_eq!(
        (token.version, token.owner.to_string()),
        (1, bob.id.clone())
    );
    app.command(&ada, "DELETE", &path).await.accepted(200);
    let undone = app.command(&ada, "DELETE", &path).await;
    assert_eq!(undone.accepted(200).body, json!({ "success": true }));
    assert_eq!(
        app.versions(&format!("follow:{}:{}", ada.id, bob.id)).await,
        [1, 2]
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_follows_and_unfollows_alternate_without_gaps() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let path = format!("/users/{}/follow", bob.id);
    for _ in 0..3 {
        let toggle = |n: usize| app.command(&ada, ["POST", "DELETE"][n % 2], &path);
        for answer in join_all((0..20).map(toggle)).await {
            answer.accepted(200);
        }
    }
    let stream = LogStream::Follow {
        follower: ada.id.parse().unwrap(),
        followee: bob.id.parse().unwrap(),
    };
    let events = app.log_where(doc! { "stream": stream.to_string() }).await;
    for (event, version) in events.iter().zip(1..) {
        assert_eq!(event.version, version, "ids and versions have one order");
        let is_follow = matches!(event.payload, Payload::Followed(_));
        assert_eq!(is_follow, version % 2 == 1);
    }
    let counts = app.database().await.collection::<Document>("follow_counts");
    let row = counts.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(
        row.get_i64("count").unwrap(),
        i64::try_from(events.len() % 2).unwrap()
    );
    app.end().await;
}

/// A negative control of [`concurrent_follows_and_unfollows_alternate_without_gaps`].
#[tokio::test(flavor = "multi_thread")]
async fn without_its_index_concurrent_follows_take_one_version_twice() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    without_index(&app, "owner_1_stream_1_version_1").await;
    let path = format!("/users/{}/follow", bob.id);
    let stream = format!("follow:{}:{}", ada.id, bob.id);
    eventually("a version is taken twice", || async {
        let toggle = |n: usize| app.command(&ada, ["POST", "DELETE"][n % 2], &path);
        join_all((0..20).map(toggle)).await;
        let versions = app.versions(&stream).await;
        let distinct: HashSet<&i64> = versions.iter().collect();
        distinct.len() < versions.len()
    })
    .await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_followed() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let own = format!("/users/{}/follow", ada.id);
    app.command(&ada, "POST", &own)
        .await
        .refused(400, "self_follow");
    app.command(&ada, "POST", "/users/4711/follow")
        .await
        .refused(404, "not_found");
    app.command(&ada, "DELETE", "/users/4711/follow")
        .await
        .refused(404, "not_found");
    app.command(&ada, "POST", "/users/ada/follow")
        .await
        .refused(400, "invalid");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_follow_limit_holds_and_a_wrong_count_heals() {
    let app = TestApp::spawn();
    let (ada, bob, eve) = (
        app.account("ada").await,
        app.account("bob").await,
        app.account("eve").await,
    );
    let follow = |who: &Account| format!("/users/{}/follow", who.id);
    app.command(&ada, "POST", &follow(&bob)).await.accepted(200);
    let counts = app.database().await.collection::<Document>("follow_counts");
    let set = |touched: DateTime| doc! { "$set": { "count": 5_000_i64, "touched": touched } };
    counts
        .update_one(doc! {}, set(DateTime::now()))
        .await
        .unwrap();
    app.command(&ada, "POST", &follow(&eve))
        .await
        .refused(403, "follow_limit");
    app.command(&ada, "POST", &follow(&bob)).await.accepted(200);
    // Nothing has moved for long: the log is counted, and it says one.
    counts
        .update_one(doc! {}, set(DateTime::from_millis(0)))
        .await
        .unwrap();
    app.command(&ada, "POST", &follow(&eve)).await.accepted(200);
    let row = counts.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(row.get_i64("count").unwrap(), 2);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn likes_and_reposts_are_counted_and_repeat_without_effect() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let post = app.create_post(&ada, "like me").await;
    for (what, field) in [("like", "likes_count"), ("repost", "reposts_count")] {
        let path = format!("/posts/{post}/{what}");
        for _ in 0..2 {
            let on = app.command(&bob, "POST", &path).await;
            assert_eq!(on.accepted(200).body, json!({ "success": true, field: 1 }));
        }
        for _ in 0..2 {
            let off = app.command(&bob, "DELETE", &path).await;
            assert_eq!(off.accepted(200).body, json!({ "success": true, field: 0 }));
        }
        assert_eq!(
            app.versions(&format!("{what}:{}:{post}", bob.id)).await,
            [1, 2]
        );
    }
    let reposts = app
        .log_where(doc! { "stream": format!("repost:{}:{post}", bob.id) })
        .await;
    let Payload::Unreposted(data) = &reposts[1].payload else {
        panic!("the second event withdraws the first");
    };
    assert_eq!(data.entry.get(), reposts[0].id.get());
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_is_the_projected_one_adjusted_by_what_is_not_projected() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let post = app.create_post(&ada, "like me").await;
    let (post_id, bob_id): (i64, i64) = (post.parse().unwrap(), bob.id.parse().unwrap());
    let database = app.database().await;
    let views = database
        .client()
        .database(&format!("{}_views", database.name()));
    let rows = |name: &str| views.collection::<Document>(name);
    let pointer = doc! { "_id": "current", "generation": 7_i64 };
    rows("generations").insert_one(pointer).await.unwrap();
    let row = doc! { "_id": post_id, "likes": 10_i64, "reposts": 5_i64 };
    rows("g7_posts").insert_one(row).await.unwrap();
    let path = format!("/posts/{post}/like");
    let liked = app.command(&bob, "POST", &path).await;
    assert_eq!(liked.body["likes_count"], 11, "not projected yet");
    let key = [post_id.to_be_bytes(), bob_id.to_be_bytes()].concat();
    let key = Binary {
        subtype: BinarySubtype::Generic,
        bytes: key,
    };
    rows("g7_likes")
        .insert_one(doc! { "_id": key, "v": 1_i64 })
        .await
        .unwrap();
    let again = app.command(&bob, "POST", &path).await;
    assert_eq!(again.body["likes_count"], 10, "projected by now");
    let unliked = app.command(&bob, "DELETE", &path).await;
    assert_eq!(unliked.body["likes_count"], 9);
    let reposted = app
        .command(&bob, "POST", &format!("/posts/{post}/repost"))
        .await;
    assert_eq!(reposted.body["reposts_count"], 6);
    views.drop().await.unwrap();
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_names_somebody_else_is_refused() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let post = app.create_post(&ada, "x").await;
    let follow = format!("/users/{}/follow", bob.id);
    for body in [
        json!({ "follower_id": bob.id }),
        json!({ "followee_id": ada.id }),
    ] {
        let answer = app.command_with(&ada, "POST", &follow, body).await;
        answer.refused(403, "actor_mismatch");
    }
    for what in ["like", "repost"] {
        let path = format!("/posts/{post}/{what}");
        let answer = app
            .command_with(&ada, "POST", &path, json!({ "user_id": bob.id }))
            .await;
        answer.refused(403, "actor_mismatch");
        let own = app
            .command_with(&ada, "POST", &path, json!({ "user_id": ada.id }))
            .await;
        own.accepted(200);
        let unknown = app
            .command_with(&ada, "POST", &path, json!({ "user": ada.id }))
            .await;
        unknown.refused(400, "malformed_body");
    }
    app.end().await;
}

// --- standing ---

#[tokio::test(flavor = "multi_thread")]
async fn the_suspended_sign_in_and_write_nothing() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let post = app.create_post(&ada, "before").await;
    let core = app.core().await;
    core.app.moderate("ADA", Verdict::Suspend).await.unwrap();
    eventually("the suspension is known", || async {
        let answer = app
            .command_with(&ada, "POST", "/posts", json!({ "content": "x" }))
            .await;
        answer.status == 403
    })
    .await;
    for (method, path) in [
        ("DELETE", format!("/posts/{post}")),
        ("POST", format!("/posts/{post}/like")),
        ("DELETE", format!("/posts/{post}/repost")),
        ("POST", format!("/users/{}/follow", bob.id)),
        ("DELETE", format!("/users/{}/follow", bob.id)),
    ] {
        app.command(&ada, method, &path)
            .await
            .refused(403, "suspended");
    }
    let edit = app
        .command_with(&ada, "PATCH", "/users/me", json!({ "bio": "x" }))
        .await;
    edit.refused(403, "suspended");
    app.login("ada").await.accepted(200);
    app.command(&bob, "POST", &format!("/posts/{post}/like"))
        .await
        .accepted(200);
    core.app.moderate("ada", Verdict::Unsuspend).await.unwrap();
    eventually("the suspension is lifted", || async {
        app.command(&ada, "DELETE", &format!("/posts/{post}"))
            .await
            .status
            == 204
    })
    .await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_gone_at_once_and_their_edges_end() {
    let mut app = TestApp::spawn();
    let (ada, bob, eve) = (
        app.account("ada").await,
        app.account("bob").await,
        app.account("eve").await,
    );
    let post = app.create_post(&ada, "mine").await;
    for (from, to) in [(&ada, &bob), (&bob, &ada), (&eve, &ada), (&eve, &bob)] {
        app.command(from, "POST", &format!("/users/{}/follow", to.id))
            .await
            .accepted(200);
    }
    let bobs = app.create_post(&bob, "his").await;
    let answer = json!({ "content": "me too", "reply_to_post_id": bobs });
    app.command_with(&ada, "POST", "/posts", answer)
        .await
        .accepted(201);
    for reaction in ["like", "repost"] {
        app.command(&ada, "POST", &format!("/posts/{bobs}/{reaction}"))
            .await
            .accepted(200);
    }
    let leave = |password: &str| {
        app.command_with(&ada, "DELETE", "/users/me", json!({ "password": password }))
    };
    leave("wrong horse").await.refused(401, "bad_credentials");
    let left = leave(PASSWORD).await;
    assert!(!left.accepted(204).header("x-consistency-token").is_empty());
    app.command_with(&ada, "POST", "/posts", json!({ "content": "x" }))
        .await
        .refused(401, "unauthorized");
    app.login("ada").await.refused(401, "bad_credentials");
    let refresh = json!({ "refresh_token": ada.refresh });
    app.post("/auth/refresh", refresh)
        .await
        .refused(401, "bad_refresh_token");
    app.register("ada").await.refused(409, "username_taken");
    for path in [
        format!("/posts/{post}/like"),
        format!("/users/{}/follow", ada.id),
    ] {
        app.command(&bob, "POST", &path)
            .await
            .refused(404, "not_found");
    }
    // The job outlives the process.
    app.restart().await;
    let edges = doc! { "type": "follow.unfollowed" };
    let ties =
        doc! { "type": { "$in": ["follow.unfollowed", "repost.unreposted", "post.deleted"] } };
    eventually("every tie of ada has ended", || async {
        app.log_where(ties.clone()).await.len() == 5
    })
    .await;
    assert_eq!(app.log_where(edges).await.len(), 3);
    // Other posts stay, unseen; likes stay counted.
    assert_eq!(app.versions(&format!("post:{post}")).await, [1]);
    assert_eq!(app.versions(&format!("like:{}:{bobs}", ada.id)).await, [1]);
    let ended = app.log_where(ties).await;
    assert!(
        ended
            .iter()
            .all(|event| event.actor.to_string() == ada.id && event.version == 2)
    );
    let standing = format!("follow:{}:{}", eve.id, bob.id);
    assert_eq!(app.versions(&standing).await, [1]);
    let jobs = app.database().await.collection::<Document>("jobs");
    eventually("the job is done", || async {
        jobs.count_documents(doc! {}).await.unwrap() == 0
    })
    .await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_who_left_is_free_at_once_and_the_name_is_not() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let body = json!({ "password": PASSWORD });
    let left = app.command_with(&ada, "DELETE", "/users/me", body).await;
    left.accepted(204);
    let with_address = |n: usize| {
        let body = json!({ "username": format!("eve_{n}"), "email": "ADA@example.org",
            "password": PASSWORD });
        app.post("/users", body)
    };
    let answers = join_all((0..6).map(with_address)).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1, "of many who want it one gets it");
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "email_taken");
    }
    let body = json!({ "username": "ada", "email": "new@example.org", "password": PASSWORD });
    app.post("/users", body)
        .await
        .refused(409, "username_taken");
    let body = json!({ "email": "ada@example.org", "password": PASSWORD });
    let tokens = app.post("/auth/login", body).await;
    assert_ne!(
        write_named_by(tokens.accepted(200)).0,
        format!("user:{}", ada.id)
    );
    let database = app.database().await;
    let credentials = database.collection::<Document>("credentials");
    let of_ada = doc! { "_id": ada.id.parse::<i64>().unwrap() };
    assert_eq!(credentials.count_documents(of_ada).await.unwrap(), 0);
    // An earlier build forgot no address: whoever wants it gets it all the same.
    let emails = database.collection::<Document>("emails");
    let older =
        doc! { "_id": "old@example.org", "user": ada.id.parse::<i64>().unwrap(), "nonce": 7_i64 };
    emails.insert_one(older).await.unwrap();
    let body = json!({ "username": "late", "email": "old@example.org", "password": PASSWORD });
    app.post("/users", body).await.accepted(201);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deactivation_overtakes_ends_itself() {
    const ROUNDS: usize = 5;
    let app = TestApp::spawn();
    // Nothing is overtaken where this machine takes more than a second for a round.
    for round in 0..ROUNDS {
        if overtaken(&app, round).await > 0 {
            return app.end().await;
        }
    }
    panic!("nothing was overtaken in {ROUNDS} rounds");
}

/// Bob leaves, and he and Ada act as if he were there. How many events had to be taken back: all
/// of those that were written were.
async fn overtaken(app: &TestApp, round: usize) -> usize {
    let named = |name: &str| format!("{name}_{round}");
    let (ada, bob, eve) = (
        app.account(&named("ada")).await,
        app.account(&named("bob")).await,
        app.account(&named("eve")).await,
    );
    let path = |who: &Account| format!("/users/{}/follow", who.id);
    let (core, id) = (app.core().await, bob.id.parse::<i64>());
    let bob_id = Id::new(id.expect("a number")).expect("an id");
    // Another replica's, which no farewell follows here.
    let now = SystemClock.now();
    let leave = Append {
        event: Event {
            id: Id::new(now.millis() << SEQUENCE_BITS).expect("an id"),
            stream: LogStream::User(bob_id),
            version: 2,
            actor: bob_id,
            at: now,
            payload: Payload::UserDeactivated(Bare {}),
        },
        owner: bob_id,
        key: None,
        trace: None,
        nonce: 1,
    };
    let post = app.create_post(&ada, "before").await;
    // From here on this replica believes for a second that bob is there.
    app.command(&eve, "POST", &path(&bob)).await.accepted(200);
    core.store
        .ports()
        .log
        .append(&leave)
        .await
        .expect("bob leaves");
    let (to_bob, to_ada) = (path(&bob), path(&ada));
    let to_post = format!("/posts/{post}/repost");
    let answer = json!({ "content": "me too", "reply_to_post_id": post });
    let (follow, own, repost, reply) = tokio::join!(
        app.command(&ada, "POST", &to_bob),
        app.command(&bob, "POST", &to_ada),
        app.command(&bob, "POST", &to_post),
        app.command_with(&bob, "POST", "/posts", answer)
    );
    follow.refused(404, "not_found");
    for own in [own, repost, reply] {
        own.refused(401, "unauthorized");
    }
    let mut streams = vec![
        format!("follow:{}:{}", ada.id, bob.id),
        format!("follow:{}:{}", bob.id, ada.id),
        format!("repost:{}:{post}", bob.id),
    ];
    let replies = doc! { "actor": bob_id.get(), "type": "post.created" };
    let replies = app.log_where(replies).await;
    streams.extend(replies.iter().map(|reply| format!("post:{}", reply.id)));
    let mut taken_back = 0;
    for stream in streams {
        let versions = app.versions(&stream).await;
        assert!(versions == [1, 2] || versions.is_empty(), "{versions:?}");
        taken_back += versions.len() / 2;
    }
    taken_back
}

// --- the envelope ---

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_a_user_wants_a_token() {
    let app = TestApp::spawn();
    for (method, pattern) in ROUTES {
        let path = format!("{BASE}{}", pattern.replace("{id}", "4711"));
        if pattern == "/users" || pattern.starts_with("/auth/") {
            continue;
        }
        let bare = app.send(app.request(method, &path)).await;
        bare.refused(401, "unauthorized");
        assert!(!bare.header("www-authenticate").is_empty());
        for token in ["x", "a.b.c"] {
            app.send(app.request(method, &path).bearer_auth(token))
                .await
                .refused(401, "unauthorized");
        }
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_frameworks_answer_in_plain_text_is_a_problem_too() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let post = |path: &str| {
        app.request("POST", &format!("{BASE}{path}"))
            .bearer_auth(&ada.token)
    };
    let json = |text: String| {
        post("/posts")
            .header("content-type", "application/json")
            .body(text)
    };
    app.send(app.request("GET", "/nowhere"))
        .await
        .refused(404, "not_found");
    app.send(app.request("GET", &format!("{BASE}/nowhere")))
        .await
        .refused(404, "not_found");
    let wrong = app.send(app.request("PUT", &format!("{BASE}/posts"))).await;
    wrong.refused(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), "POST");
    let both = app
        .send(app.request("GET", &format!("{BASE}/posts/1/like")))
        .await;
    assert_eq!(both.header("allow"), "POST, DELETE");
    let keys = async |method| app.request(method, KEY_SET).send().await.unwrap();
    let (head, whole) = (keys("HEAD").await, keys("GET").await);
    assert_eq!(head.status(), 200);
    let length = |answer: &reqwest::Response| answer.headers().get("content-length").cloned();
    assert_eq!(length(&head), length(&whole));
    assert_eq!(head.text().await.unwrap(), "");
    app.send(json("{".into()))
        .await
        .refused(400, "malformed_body");
    app.send(json(String::new()))
        .await
        .refused(400, "malformed_body");
    app.send(json(r#"{"content":"x","author":"me"}"#.into()))
        .await
        .refused(400, "malformed_body");
    app.send(json(r#"{"content":{"$gt":""}}"#.into()))
        .await
        .refused(400, "malformed_body");
    let big = json!({ "content": "x".repeat(20_000) }).to_string();
    app.send(json(big.clone()))
        .await
        .refused(413, "body_too_large");
    app.send(post("/posts").body("{}"))
        .await
        .refused(415, "unsupported_media_type");
    let like = || post("/posts/4711/like").header("content-type", "application/json");
    app.send(like().body(big))
        .await
        .refused(413, "body_too_large");
    app.send(like().body("{"))
        .await
        .refused(400, "malformed_body");
    app.send(post("/posts/4711/like").body("{}"))
        .await
        .refused(415, "unsupported_media_type");
    app.send(like()).await.refused(404, "not_found");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_away_is_carried_out_all_the_same() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let address = app.base.trim_start_matches("http://").to_owned();
    let body = json!({ "content": "written by a ghost" }).to_string();
    let request = format!(
        "POST {BASE}/posts HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        ada.token,
        body.len()
    );
    for _ in 0..10 {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.set_zero_linger().unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        drop(stream);
    }
    // Whole or absent, and the service is as well as before.
    app.create_post(&ada, "still here").await;
    for event in app.log_where(doc! { "type": "post.created" }).await {
        assert_eq!(event.version, 1);
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_of_the_list_may_call() {
    let app = TestApp::spawn_with(&[("CORS_ORIGINS", "https://a.example")]);
    let preflight = app
        .request("OPTIONS", &format!("{BASE}/posts"))
        .header("origin", "https://a.example")
        .header("access-control-request-method", "POST");
    let answer = app.send(preflight).await;
    answer.accepted(204);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://a.example"
    );
    let foreign = app
        .request("POST", &format!("{BASE}/posts"))
        .header("origin", "https://b.example");
    let answer = app.send(foreign).await;
    answer.refused(401, "unauthorized");
    assert_eq!(answer.header("access-control-allow-origin"), "");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_sends_so_many_requests_a_second() {
    let app = TestApp::spawn_with(&[("IP_RATE_PER_SECOND", "5")]);
    let request = || app.send(app.request("GET", "/nowhere"));
    let answers = join_all((0..30).map(|_| request())).await;
    let limited: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert!(limited.len() >= 15, "{} were limited", limited.len());
    limited[0].refused(429, "too_many_requests");
    assert_eq!(limited[0].header("retry-after"), "1");
    // Whoever else is at this address can still verify tokens.
    let keys = app.send(app.request("GET", KEY_SET)).await;
    keys.accepted(200);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_the_service_starts_waits_and_says_so() {
    let uri = "mongodb://127.0.0.1:9/x?directConnection=true&serverSelectionTimeoutMS=300";
    let mut app = TestApp::spawn_with(&[("MONGODB_URI", uri)]);
    let mut answer = None;
    eventually("the ports are bound", || async {
        app.http
            .get(format!("{}/livez", app.ops))
            .send()
            .await
            .is_ok()
    })
    .await;
    for _ in 0..3 {
        answer = Some(app.register("ada").await);
    }
    let answer = answer.unwrap();
    answer.refused(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "1");
    let ready = app
        .http
        .get(format!("{}/readyz", app.ops))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    let missing: Value = serde_json::from_str(&ready.text().await.unwrap()).unwrap();
    assert!(
        missing["missing"]["MongoDB answers"].is_string(),
        "{missing}"
    );
    app.halt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_counted_by_name_and_outcome() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    app.create_post(&ada, "x").await;
    let metrics = app
        .http
        .get(format!("{}/metrics", app.ops))
        .send()
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    let counted = r#"command_service_commands_total{command="create_post",outcome="accepted"}"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(!metrics.contains(&ada.id), "no ids in labels");
    app.end().await;
}
