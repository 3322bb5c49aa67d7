//! Follows, likes, reposts.

use super::*;

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
