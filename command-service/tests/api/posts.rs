//! Writing and deleting posts: idempotency keys and quotas.

use super::*;

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
        .moderate("ada", ModerationAction::Verify)
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
