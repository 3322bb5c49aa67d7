//! What commands decide on: what is too far ahead, and what has a long history.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

use command_service::app::store::{Append, Store};
use serde_json::json;
use shared::events::{Event, LogStream, Payload, PostCreated};
use shared::ids::{Id, PostId, SEQUENCE_BITS, UserId};
use shared::time::{Clock, SystemClock};

use super::support::{Account, TestApp};

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
    let ahead = Append {
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
    core.store.append(&ahead).await.unwrap();
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
