//! What commands decide on: what is too far ahead, and what has a long history.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

use std::time::{Duration, Instant};

use bson::doc;
use command_service::app::ports::{Key, NewEvent};
use command_service::domain::user::User;
use futures_util::future::join_all;
use serde_json::json;
use sha2::{Digest, Sha256};
use shared::contract::consistency::ConsistencyToken;
use shared::contract::events::{Event, LogStream, NoData, Payload, PostCreated, ProfileEdited};
use shared::contract::ids::{Id, PostId, SEQUENCE_BITS, UserId};
use shared::contract::time::{Clock, SystemClock};
use shared::runtime::settings::Secret;

use super::support::{Account, Answer, TestApp};

fn user_id(account: &Account) -> UserId {
    account.id.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_builds_on_what_is_far_ahead_of_the_clock() {
    let app = TestApp::spawn_with(&[("POST_QUOTA", "2")]);
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let core = app.core().await;
    // As a build wrote it whose ids went by a machine's clock that was ten minutes ahead.
    let now = SystemClock.now();
    let id: PostId = Id::new((now.millis() + 600_000) << SEQUENCE_BITS).unwrap();
    let payload = Payload::PostCreated(PostCreated {
        content: "from the future".into(),
        reply_to: None,
    });
    let ahead = NewEvent {
        event: Event {
            id: id.cast(),
            stream: LogStream::Post(id),
            version: 1,
            actor: user_id(&ada),
            at: now,
            payload,
        },
        owner: user_id(&ada),
        key: None,
        trace: None,
        nonce: 1,
    };
    core.store.ports().log.append(&ahead).await.unwrap();
    let path = format!("/posts/{id}/like");
    let like = app.command(&bob, "POST", &path).await;
    like.refused(503, "unavailable");
    let seconds: u64 = like.header("retry-after").parse().unwrap();
    assert!((590..=600).contains(&seconds), "{seconds}");
    let reply = json!({ "content": "what?", "reply_to_post_id": id });
    let reply = app.command_with(&bob, "POST", "/posts", reply).await;
    reply.refused(503, "unavailable");
    app.command(&ada, "DELETE", &format!("/posts/{id}"))
        .await
        .refused(503, "unavailable");
    assert_eq!(app.versions(&format!("post:{id}")).await, [1]);
    // Everything else goes on, and what was refused has cost nothing.
    for text in ["one", "two"] {
        let post = app.create_post(&bob, text).await;
        let created: PostId = post.parse().unwrap();
        assert!(created < id);
    }
    app.command(&bob, "POST", &format!("/users/{}/follow", ada.id))
        .await
        .accepted(200);
    app.end().await;
}

/// Appends events to a user's own stream, from version 2 on: edits, but for those that `other`
/// names.
async fn write_history(
    app: &TestApp,
    user: &Account,
    events: i64,
    other: impl Fn(i64) -> Option<Payload>,
) {
    let core = app.core().await;
    let owner = user_id(user);
    let event = |version: i64| {
        let edited = || {
            Payload::ProfileEdited(ProfileEdited {
                display_name: format!("name {version}"),
                bio: String::new(),
            })
        };
        NewEvent {
            event: Event {
                id: Id::new(owner.get() + version).unwrap(),
                stream: LogStream::User(owner),
                version,
                actor: owner,
                at: SystemClock.now(),
                payload: other(version).unwrap_or_else(edited),
            },
            owner,
            key: None,
            trace: None,
            nonce: version,
        }
    };
    let appends: Vec<NewEvent> = (2..=events).map(event).collect();
    for batch in appends.chunks(1_000) {
        let written = core.store.ports().log.append_all(batch).await.unwrap();
        assert!(written.iter().all(|written| *written));
    }
}

/// Whoever edits their profile all day is followed as quickly as anyone, and so are the edits.
#[tokio::test(flavor = "multi_thread")]
async fn decisions_on_a_user_with_a_long_history_cost_what_they_cost_on_a_new_one() {
    let is_long = std::env::var("MICROBLOG_CHAOS").is_ok_and(|form| form == "long");
    let events = if is_long { 50_000 } else { 5_000 };
    let app = TestApp::spawn();
    let (ada, new) = (app.account("ada").await, app.account("new").await);
    // Verified and suspended for a while long ago.
    write_history(&app, &ada, events, |version| match version {
        70 => Some(Payload::UserVerified(NoData {})),
        200 => Some(Payload::UserSuspended(NoData {})),
        201 => Some(Payload::UserUnsuspended(NoData {})),
        _ => None,
    })
    .await;
    let followers = join_all((0..8).map(|n| {
        let (app, name) = (&app, format!("follower_{n}"));
        async move { app.account(&name).await }
    }))
    .await;
    let mut times = Vec::new();
    for whom in [&ada, &new] {
        let path = format!("/users/{}/follow", whom.id);
        let begun = Instant::now();
        app.command(&followers[0], "POST", &path)
            .await
            .accepted(200);
        let first = begun.elapsed();
        let mut each = Vec::new();
        for follower in &followers[1..] {
            let begun = Instant::now();
            app.command(follower, "POST", &path).await.accepted(200);
            each.push(begun.elapsed());
        }
        each.sort_unstable();
        times.push((first, each[0]));
    }
    println!(
        "a follow of a user with {events} events and of a new one, first and quickest: {times:.1?}"
    );
    // On an idle machine a few milliseconds each; whatever else runs, it delays both.
    let most = times[1].1 * 2 + Duration::from_millis(20);
    assert!(times[0].1 < most, "{times:?}");
    // Everything that the history says is known.
    let edit = json!({ "bio": "still here" });
    let begun = Instant::now();
    let edited = app.command_with(&ada, "PATCH", "/users/me", edit).await;
    println!("an edit by that user: {:.1?}", begun.elapsed());
    edited.accepted(200);
    assert_eq!(edited.body["display_name"], json!(format!("name {events}")));
    assert_eq!(edited.body["verified"], json!(true));
    assert_eq!(edited.body["username"], json!("ada"));
    let last =
        app.log_where(doc! { "stream": format!("user:{}", ada.id), "version": { "$gt": events } });
    assert_eq!(last.await.len(), 1);
    app.end().await;
}

/// What is read backwards says the same as all of it, wherever the edits, the verdicts and the
/// ends of what is read at once lie.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_read_from_the_end_is_the_user_read_whole() {
    let app = TestApp::spawn();
    let core = app.core().await;
    for (number, events) in [1, 2, 63, 64, 65, 127, 128, 129, 200, 1_100]
        .into_iter()
        .enumerate()
    {
        let name = format!("user_{number}");
        let user = app.account(&name).await;
        let odd = number % 2 == 1;
        write_history(&app, &user, events, |version| match version {
            66 if odd => Some(Payload::UserVerified(NoData {})),
            // No edit for longer than is read at once.
            90..=189 if odd && version % 2 == 0 => Some(Payload::UserSuspended(NoData {})),
            90..=189 if odd => Some(Payload::UserUnsuspended(NoData {})),
            200 if events == 200 => Some(Payload::UserDeactivated(NoData {})),
            _ => None,
        })
        .await;
        let id = user_id(&user);
        let whole = app.log_where(doc! { "stream": format!("user:{id}") }).await;
        assert_eq!(whole.len(), usize::try_from(events).unwrap());
        // Asked twice: the second time its end is remembered.
        for _ in 0..2 {
            let found = core.store.ports().streams.user(id).await.unwrap();
            assert_eq!(found, User::fold(&whole), "{events} events");
            let last = core
                .store
                .ports()
                .streams
                .last(id, LogStream::User(id))
                .await
                .unwrap();
            assert_eq!(last.as_ref(), whole.last());
        }
        for before in [1, 2, 64, 65, 66, 67, 100, 189, 201, events + 1] {
            let limit = Id::new(id.get() + before).unwrap();
            let found = core
                .store
                .ports()
                .streams
                .user_before(id, limit)
                .await
                .unwrap();
            let expected = User::fold(whole.iter().filter(|event| event.id < limit));
            assert_eq!(found, expected, "{events} events, before {before}");
        }
        let statuses = core.store.ports().streams.statuses(&[id]).await.unwrap();
        let expected = User::fold(&whole).map(|user| (user.status, user.last));
        assert_eq!(statuses.get(&id).copied(), expected);
    }
    let nobody = Id::new(7).unwrap();
    assert_eq!(core.store.ports().streams.user(nobody).await.unwrap(), None);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_have_a_quota_that_nothing_is_taken_from_for_nothing() {
    let app = TestApp::spawn_with(&[("POST_QUOTA", "3")]);
    let ada = app.account("ada").await;
    let edit = async |name: &str| {
        let body = json!({ "display_name": name });
        app.command_with(&ada, "PATCH", "/users/me", body).await
    };
    for (nth, left) in [(1, 2), (2, 1)] {
        let edited = edit(&format!("Ada {nth}")).await;
        edited.accepted(200);
        assert_eq!(edited.header("ratelimit-policy"), r#""edits";q=3;w=10800"#);
        let state = format!(r#""edits";r={left};t="#);
        assert!(edited.header("ratelimit").starts_with(&state));
        // Once more the same: nothing is appended, and nothing taken.
        edit(&format!("Ada {nth}")).await.accepted(200);
    }
    let stream = format!("user:{}", ada.id);
    assert_eq!(app.versions(&stream).await, [1, 2, 3]);
    // Of many at once as many get through as are left.
    let names: Vec<String> = (0..6).map(|n| format!("Ada at once {n}")).collect();
    let answers = join_all(names.iter().map(|name| edit(name))).await;
    let through = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(through, 1);
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.refused(429, "too_many_requests");
        assert!(refused.header("ratelimit").starts_with(r#""edits";r=0;t="#));
        assert!(!refused.header("retry-after").is_empty());
    }
    // Posts have their own, and what changes nothing is still answered.
    app.create_post(&ada, "still here").await;
    let name = app
        .log_where(doc! { "stream": &stream, "version": 4 })
        .await;
    let Payload::ProfileEdited(profile) = &name[0].payload else {
        panic!("{name:?}");
    };
    edit(&profile.display_name).await.accepted(200);
    app.end().await;
}

/// The log streams and versions that reads by an answer's token wait for.
fn covered(answer: &Answer) -> Vec<(String, i64)> {
    let token = ConsistencyToken::decode(answer.header("x-consistency-token")).unwrap();
    let positions = token.positions();
    positions
        .map(|position| (position.stream.to_string(), position.version))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_names_what_its_user_did_last_whatever_it_was_given_for() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let theirs = app.create_post(&bob, "like me").await;
    let like = format!("/posts/{theirs}/like");
    app.command(&ada, "POST", &like).await.accepted(200);
    let gone = app.create_post(&ada, "gone").await;
    let delete = format!("/posts/{gone}");
    app.command(&ada, "DELETE", &delete).await.accepted(204);
    let keyed = || {
        let request = app.request("POST", "/api/v1/posts").bearer_auth(&ada.token);
        let request = request.header("idempotency-key", "k");
        app.send(request.json(&json!({ "content": "once" })))
    };
    keyed().await.accepted(201);
    let newest = (format!("post:{}", app.create_post(&ada, "newest").await), 1);
    let same = json!({ "display_name": "ada" });
    let refresh = json!({ "refresh_token": ada.refresh });
    let unfollow = format!("/users/{}/follow", bob.id);
    for answer in [
        app.command(&ada, "POST", &like).await,
        app.command(&ada, "DELETE", &format!("/posts/{theirs}/repost"))
            .await,
        app.command(&ada, "DELETE", &unfollow).await,
        app.command(&ada, "DELETE", &delete).await,
        keyed().await,
        app.command_with(&ada, "PATCH", "/users/me", same).await,
        app.login("ada").await,
        app.post("/auth/refresh", refresh).await,
        app.post(
            "/auth/logout",
            json!({ "refresh_token": app.login("ada").await.text("refresh_token") }),
        )
        .await,
    ] {
        assert!(answer.status < 300, "{}", answer.body);
        let covered = covered(&answer);
        assert!(covered.contains(&newest), "{covered:?}");
        // Each stream once, by its latest version, and what is another's not at all.
        assert!(!covered.contains(&(format!("post:{theirs}"), 1)));
        assert!(covered.contains(&(format!("post:{gone}"), 2)));
        assert!(!covered.contains(&(format!("post:{gone}"), 1)));
    }
    // However long ago it was.
    let core = app.core().await;
    let old = app.account("old").await;
    let events = app.database().await.collection::<bson::Document>("events");
    let long_ago = user_id(&ada).get() >> 1;
    let event = events
        .find_one(doc! { "_id": user_id(&old).get() })
        .await
        .unwrap();
    let mut event = event.unwrap();
    events
        .delete_one(doc! { "_id": user_id(&old).get() })
        .await
        .unwrap();
    event.insert("_id", long_ago);
    events.insert_one(event).await.unwrap();
    let latest = core
        .store
        .ports()
        .streams
        .latest(user_id(&old))
        .await
        .unwrap();
    assert_eq!(latest.len(), 1);
    assert_eq!(latest[0].stream, LogStream::User(user_id(&old)));
    // Where it is remembered, what another replica appends since is found all the same.
    let post = app.create_post(&old, "back again").await;
    let latest = core
        .store
        .ports()
        .streams
        .latest(user_id(&old))
        .await
        .unwrap();
    assert_eq!(latest.len(), 1);
    assert_eq!(latest[0].stream.to_string(), format!("post:{post}"));
    app.end().await;
}

/// A renewal whose answer cannot be made would cost the session: the old token is used up then.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_cannot_be_answered_renews_nothing() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let core = app.core().await;
    let database = app.database().await;
    let sessions = || async {
        let sessions = database.collection::<bson::Document>("sessions");
        let session = sessions.find_one(doc! { "user": user_id(&ada).get() });
        session.await.unwrap().expect("a session")
    };
    let post = app.create_post(&ada, "unreadable soon").await;
    let id: PostId = post.parse().unwrap();
    let events = database.collection::<bson::Document>("events");
    let set_version = |version: bson::Bson| {
        let change = doc! { "$set": { "version": version } };
        events.update_one(doc! { "_id": id.get() }, change)
    };
    let before = sessions().await;
    set_version("unreadable".into()).await.unwrap();
    let refresh = || core.app.refresh(Secret::new(ada.refresh.clone()), None);
    assert!(refresh().await.is_err());
    assert_eq!(sessions().await, before);
    set_version(1_i64.into()).await.unwrap();
    assert!(refresh().await.is_ok());
    assert_ne!(sessions().await, before);
    app.end().await;
}

/// Builds before this one kept a text's line ends as they came, and made the hash of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_post_that_an_earlier_build_wrote_is_answered_for_its_request_alone() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let core = app.core().await;
    let mut hash = Sha256::new();
    hash.update(0_i64.to_be_bytes());
    hash.update("a\r\nb");
    let digest: [u8; 32] = hash.finalize().into();
    let id: PostId = Id::new(user_id(&ada).get() + 1_000).unwrap();
    let earlier = NewEvent {
        event: Event {
            id: id.cast(),
            stream: LogStream::Post(id),
            version: 1,
            actor: user_id(&ada),
            at: SystemClock.now(),
            payload: Payload::PostCreated(PostCreated {
                content: "a\r\nb".into(),
                reply_to: None,
            }),
        },
        owner: user_id(&ada),
        key: Some(Key {
            text: "http:k".into(),
            hash: i64::from_be_bytes(*digest.first_chunk().unwrap()),
        }),
        trace: None,
        nonce: 1,
    };
    core.store.ports().log.append(&earlier).await.unwrap();
    let other = app.create_post(&ada, "another").await;
    let ask = |body: serde_json::Value| {
        let request = app.request("POST", "/api/v1/posts").bearer_auth(&ada.token);
        app.send(request.header("idempotency-key", "k").json(&body))
    };
    let again = ask(json!({ "content": "a\r\nb" })).await;
    assert_eq!(again.accepted(201).header("idempotent-replayed"), "true");
    assert_eq!(again.body["post_id"], json!(id));
    for body in [
        json!({ "content": "a\r\nc" }),
        json!({ "content": "a\r\nb", "reply_to_post_id": other }),
    ] {
        ask(body).await.refused(422, "idempotency_key_reused");
    }
    app.end().await;
}
