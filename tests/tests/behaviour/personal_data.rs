//! Personal data: an email address is stored with the account only, and an account that is
//! deactivated is no longer counted or served.

use bson::{Document, doc};
use futures_util::TryStreamExt;
use reqwest::StatusCode;
use serde_json::Value;
use system_tests::api::Answer;
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually};

use super::text;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_is_counted_nowhere_and_refused_by_reads_that_know_it() {
    let _alone = alone().await;
    let world = World::start(&[]).await;
    let api = world.api();
    let (author, leaver) = (api.register("author").await, api.register("leaver").await);
    let post = author.post("stays", "key").await.accepted().value;
    leaver.follow(&author.user_id).await.accepted();
    leaver.like(&post).await.accepted();
    leaver.repost(&post).await.accepted();
    let reply = leaver.reply(&post, "me too").await.accepted();
    let path = format!("/posts/{post}");
    let counts = |answer: &Answer| {
        ["likes_count", "reposts_count", "replies_count"].map(|count| answer.body[count].as_i64())
    };
    let before = author.get(&path, Some(&reply.consistency)).await;
    assert_eq!(counts(&before.expect("a post")), [Some(1); 3]);
    // Their own session is remembered as good.
    let timeline = leaver.get("/timeline", Some(&reply.consistency)).await;
    assert_eq!(timeline.expect("an answer").status, StatusCode::OK);
    let left = leaver.leave().await.accepted().consistency;
    let own = format!("/users/{}", leaver.user_id);
    for path in ["/timeline", &own, &path] {
        let answer = leaver.get(path, Some(&left)).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    eventually("likes alone are counted", PATIENCE, async || {
        let now = author.get(&path, None).await.ok()?;
        (counts(&now) == [Some(1), Some(0), Some(0)]).then_some(())
    })
    .await;
    let verified = world.verify().await;
    println!("{verified}");
}

/// Every document of a database that mentions `text`, as `collection: document`.
async fn mentions(database: &mongodb::Database, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in database.list_collection_names().await.expect("names") {
        let rows = database.collection::<Document>(&name).find(doc! {}).await;
        let rows: Vec<Document> = rows.expect("rows").try_collect().await.expect("rows");
        let rows = rows.iter().map(|row| format!("{name}: {row}"));
        found.extend(rows.filter(|row| row.contains(text)));
    }
    found
}

/// How many messages there are on the stream, and those that mention `text`.
async fn messages_with(world: &World, text: &str) -> (u64, Vec<String>) {
    let stream = world.stream().await;
    let last = stream
        .get_info()
        .await
        .expect("its state")
        .state
        .last_sequence;
    let mut found = Vec::new();
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.expect("a message");
        let body = String::from_utf8_lossy(&message.payload).into_owned();
        let message = format!("{} {:?} {body}", message.subject, message.headers);
        found.extend(message.contains(text).then_some(message));
    }
    (last, found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_shown_to_its_user_and_is_nowhere_but_with_the_account() {
    const ADDRESS: &str = "@example.com";
    let _alone = alone().await;
    let world = World::start(&[]).await;
    let api = world.api();
    let (kada, other) = (api.register("kada").await, api.register("other").await);
    let own = format!("/users/{}", kada.user_id);
    let edited = kada.rename("Kada").await.accepted().consistency;
    for path in [&own, "/users/by-username/KADA"] {
        let answer = kada.get(path, Some(&edited)).await.expect("an answer");
        assert_eq!(text(&answer.body, "email"), "kada@example.com", "{path}");
        let answer = other.get(path, Some(&edited)).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body.get("email"), None, "{path}: shown to another");
    }
    // The Kelvin sign is no k: nobody can register or sign in with it, so nobody is found by it.
    let kelvin = kada.get("/users/by-username/%E2%84%AAada", None).await;
    assert_eq!(kelvin.expect("an answer").status, StatusCode::NOT_FOUND);
    // Where they are signed in is shown to them alone, too.
    let [own, others] = [&kada, &other].map(|who| who.get("/auth/sessions", None));
    let [own, others] = [own.await.expect("a list"), others.await.expect("a list")];
    let list = own.body["sessions"].as_array().expect("sessions");
    assert_eq!((list.len(), &list[0]["current"]), (1, &Value::Bool(true)));
    for time in ["created_at", "last_used_at", "expires_at"] {
        assert!(text(&list[0], time).ends_with('Z'), "{list:?}");
    }
    assert_eq!(others.status, StatusCode::OK);
    assert_ne!(others.body["sessions"][0]["id"], list[0]["id"]);
    kada.change_email("Kada.Two@example.com").await.accepted();
    let answer = kada.get("/users/me", None).await.expect("an answer");
    assert_eq!(text(&answer.body, "email"), "Kada.Two@example.com");
    let (log, views) = (world.log().await, world.views().await);
    let (messages, found) = messages_with(&world, ADDRESS).await;
    assert!(
        messages >= 3,
        "two registrations and an edit, not {messages}"
    );
    assert_eq!(found, Vec::<String>::new(), "on the stream");
    assert_eq!(mentions(&views, ADDRESS).await, Vec::<String>::new());
    let with_accounts = mentions(&log, ADDRESS).await;
    assert_eq!(with_accounts.len(), 2, "{with_accounts:?}");
    assert!(with_accounts.iter().all(|row| row.starts_with("emails: ")));
    // A row that an earlier build has folded is emptied when the service starts.
    let users = views.collection::<Document>("g1_users");
    let id: i64 = kada.user_id.parse().expect("an id");
    let before = doc! { "$set": { "email": "kada@example.com" } };
    let changed = users.update_one(doc! { "_id": id }, before).await;
    assert_eq!(changed.expect("an update").modified_count, 1);
    world.query.process.terminate();
    world.query.process.wait(PATIENCE).await;
    world.query.start().await;
    eventually("the row holds no address", PATIENCE, async || {
        mentions(&views, ADDRESS).await.is_empty().then_some(())
    })
    .await;
    println!("{}", world.verify().await);

    kada.leave().await.accepted();
    for database in [&log, &views] {
        let left = mentions(database, "ada.").await;
        assert_eq!(left, Vec::<String>::new(), "after they left");
    }
    let again = api.register_at("kada_2", "KADA.TWO@example.com").await;
    assert_eq!(again, StatusCode::CREATED, "the address is free");
    let (_, found) = messages_with(&world, ADDRESS).await;
    assert_eq!(found, Vec::<String>::new(), "on the stream");
}
