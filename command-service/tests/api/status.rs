//! The suspended, and those who leave.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_suspended_sign_in_and_write_nothing() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let post = app.create_post(&ada, "before").await;
    let core = app.core().await;
    core.app
        .moderate("ADA", ModerationAction::Suspend)
        .await
        .unwrap();
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
    core.app
        .moderate("ada", ModerationAction::Unsuspend)
        .await
        .unwrap();
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
    let relations =
        doc! { "type": { "$in": ["follow.unfollowed", "repost.unreposted", "post.deleted"] } };
    eventually("every relation of ada is removed", || async {
        app.log_where(relations.clone()).await.len() == 5
    })
    .await;
    assert_eq!(app.log_where(edges).await.len(), 3);
    // Other posts stay, unseen; likes stay counted.
    assert_eq!(app.versions(&format!("post:{post}")).await, [1]);
    assert_eq!(app.versions(&format!("like:{}:{bobs}", ada.id)).await, [1]);
    let ended = app.log_where(relations).await;
    assert!(
        ended
            .iter()
            .all(|event| event.actor.to_string() == ada.id && event.version == 2)
    );
    let status = format!("follow:{}:{}", eve.id, bob.id);
    assert_eq!(app.versions(&status).await, [1]);
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
    // Another replica's, which no cleanup follows here.
    let now = SystemClock.now();
    let leave = NewEvent {
        event: Event {
            id: Id::new(now.millis() << SEQUENCE_BITS).expect("an id"),
            stream: LogStream::User(bob_id),
            version: 2,
            actor: bob_id,
            at: now,
            payload: Payload::UserDeactivated(NoData {}),
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
