//! Commands without a body, sent twice.
//!
//! Gateways in Go (Traefik, Caddy) send a request without a body again when its connection dies
//! after it was written, if it bears an `Idempotency-Key` (or the method is GET, HEAD, OPTIONS or
//! TRACE): the client asks once, and the service may be asked twice, one after the other or at once.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_a_body_sent_twice_happens_once_and_answers_the_same() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let mut tried = HashSet::new();
    for at_once in [false, true] {
        for key in [None, Some("\"of-the-client\"")] {
            let post = app.create_post(&bob, "liked by ada").await;
            let own = app.create_post(&ada, "deleted by ada").await;
            let who = app.account(&format!("u_{at_once}_{}", key.is_some())).await;
            for (method, path, stream) in commands(&post, &own, &who.id, &ada.id) {
                let events = app.versions(&stream).await.len();
                let ask = || async {
                    let mut request = app.request(method, &format!("{BASE}{path}"));
                    if let Some(key) = key {
                        request = request.header("idempotency-key", key);
                    }
                    app.send(request.bearer_auth(&ada.token)).await
                };
                let answers = if at_once {
                    join_all((0..8).map(|_| ask())).await
                } else {
                    vec![ask().await, ask().await]
                };
                let what = format!("{method} {path}, at once: {at_once}, key: {key:?}");
                for answer in &answers {
                    assert!(
                        (200..300).contains(&answer.status),
                        "{what}: {}",
                        answer.body
                    );
                    assert_eq!(answer.status, answers[0].status, "{what}");
                    assert_eq!(answer.body, answers[0].body, "{what}");
                    assert!(!answer.header("x-consistency-token").is_empty(), "{what}");
                }
                let after = app.versions(&stream).await.len();
                assert_eq!(after, events + 1, "{what}");
                tried.insert((method, pattern_of(&path)));
            }
        }
    }
    // Whatever the service has that may be sent without a body has been tried.
    let with_a_body = |path: &str| {
        path.contains("/auth/")
            || path.starts_with("/api/v1/users/me")
            || ["/api/v1/users", "/api/v1/posts"].contains(&path)
    };
    let expected = routes::of(Service::Command)
        .filter(|(_, path)| *path != KEY_SET && !with_a_body(path))
        .map(|(method, path)| (method, path.trim_start_matches(BASE).to_owned()));
    assert_eq!(tried, expected.collect());
    // The number of people that ada follows is what the follow limit counts by.
    let counts = app.database().await.collection::<Document>("follow_counts");
    let row = counts
        .find_one(doc! { "_id": ada.id.parse::<i64>().unwrap() })
        .await;
    assert_eq!(row.unwrap().unwrap().get_i64("count").unwrap(), 0);
    app.end().await;
}

/// Method, path, and the log stream in which the command leaves one event. Each is followed by what
/// takes it back.
fn commands(post: &str, own: &str, user: &str, ada: &str) -> Vec<(&'static str, String, String)> {
    let mut commands = Vec::new();
    for (path, stream) in [
        (format!("/posts/{post}/like"), format!("like:{ada}:{post}")),
        (
            format!("/posts/{post}/repost"),
            format!("repost:{ada}:{post}"),
        ),
        (
            format!("/users/{user}/follow"),
            format!("follow:{ada}:{user}"),
        ),
    ] {
        for method in ["POST", "DELETE"] {
            commands.push((method, path.clone(), stream.clone()));
        }
    }
    commands.push(("DELETE", format!("/posts/{own}"), format!("post:{own}")));
    commands
}

fn pattern_of(path: &str) -> String {
    let is_id = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = path
        .split('/')
        .map(|part| if is_id(part) { "{id}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}
