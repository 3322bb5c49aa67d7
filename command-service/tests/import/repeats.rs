//! The same posts once more: which of them are written.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_twice_is_two_posts_and_the_same_input_again_adds_none() {
    let app = TestApp::spawn();
    let folder = tempfile::tempdir().unwrap();
    let said_twice = [
        json!({ "type": "user", "username": "ada" }),
        post_line("good morning"),
        post_line("x"),
        post_line("good morning"),
    ];
    let run = |text: &str| {
        let path = file(folder.path(), "data.ndjson", text);
        let output = import(&app, &[path.to_str().unwrap()]);
        (
            output.status.code(),
            said(&output.stdout),
            said(&output.stderr),
        )
    };
    let text = lines(&said_twice);
    let (code, told, _) = run(&text);
    assert_eq!(code, Some(0));
    assert!(
        told.starts_with("appended 1 users, 3 posts; 0 already"),
        "{told}"
    );
    let log = app.log().await;
    let mut posts = contents(&log);
    posts.sort_unstable();
    assert_eq!(posts, ["good morning", "good morning", "x"]);
    let (code, told, _) = run(&text);
    assert!(
        told.starts_with("nothing appended; 4 already there"),
        "{told}"
    );
    assert_eq!(code, Some(0));
    // Half of it, as after an interruption or in a file of its own, is known.
    let half = lines(&said_twice[..2]);
    assert!(run(&half).1.starts_with("nothing appended; 2 already"));
    // More behind it is more.
    let more = format!("{text}{}", lines(&[post_line("good morning")]));
    let (_, told, _) = run(&more);
    assert!(
        told.starts_with("appended 1 posts; 4 already there"),
        "{told}"
    );
    assert!(run(&more).1.starts_with("nothing appended; 5 already"));
    // An id names one post.
    let named = |content: &str| json!({ "type": "post", "username": "ada", "content": content, "id": "p1" });
    let (code, told, faults) = run(&lines(&[named("one"), named("one"), named("two")]));
    assert_eq!(code, Some(2));
    assert!(
        told.starts_with("appended 1 posts; 1 already there, 1 refused"),
        "{told}"
    );
    assert!(
        faults.contains("line 3: line 1 gives its id to another post"),
        "{faults}"
    );
    let (code, told, faults) = run(&lines(&[named("two")]));
    assert_eq!(code, Some(2));
    assert!(
        told.starts_with("nothing appended; 0 already there, 1 refused"),
        "{told}"
    );
    assert!(
        faults.contains("line 1: an earlier import gave its id"),
        "{faults}"
    );
    // So does a username.
    let bob = |bio: &str| json!({ "type": "user", "username": "bob", "bio": bio });
    let (code, told, faults) = run(&lines(&[bob("one"), bob("one"), bob("two")]));
    assert_eq!(code, Some(2));
    assert!(
        told.starts_with("appended 1 users; 1 already there, 1 refused"),
        "{told}"
    );
    assert!(
        faults.contains("line 3: line 1 says something else of this user"),
        "{faults}"
    );
    let log = app.log().await;
    check(&log);
    assert_eq!(contents(&log).len(), 5);
    app.end().await;
}

/// Builds before this one kept the line ends of a post as they came, and made its key of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_an_earlier_build_imported_with_its_line_ends_is_not_written_again() {
    let app = TestApp::spawn();
    let folder = tempfile::tempdir().unwrap();
    let run = |values: &[serde_json::Value]| {
        let path = file(folder.path(), "data.ndjson", &lines(values));
        said(&import(&app, &[path.to_str().unwrap()]).stdout)
    };
    let user = json!({ "type": "user", "username": "ada" });
    run(std::slice::from_ref(&user));
    let ada = app.log().await[0].actor;
    let core = app.core().await;
    // `e` and an accent: the key was made of the composed form.
    let raw = "caf\u{65}\u{301}\r\nau lait";
    let kept = "caf\u{e9}\r\nau lait";
    let mut hash = Sha256::new();
    for part in ["text", &ada.to_string(), kept, ""] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let hex: String = digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let id = Id::new(ada.get() + 1_000).unwrap();
    let earlier = NewEvent {
        event: Event {
            id,
            stream: LogStream::Post(id.cast()),
            version: 1,
            actor: ada,
            at: SystemClock.now(),
            payload: Payload::PostCreated(PostCreated {
                content: kept.into(),
                reply_to: None,
            }),
        },
        owner: ada,
        key: Some(Key {
            text: format!("import:{hex}"),
            hash: 0,
        }),
        trace: None,
        nonce: 1,
    };
    core.store.ports().log.append(&earlier).await.unwrap();
    let told = run(&[user.clone(), post_line(raw)]);
    assert!(
        told.starts_with("nothing appended; 2 already there"),
        "{told}"
    );
    // One behind it that says the same is another, once.
    let more = [user, post_line(raw), post_line(raw)];
    let told = run(&more);
    assert!(
        told.starts_with("appended 1 posts; 2 already there"),
        "{told}"
    );
    let told = run(&more);
    assert!(
        told.starts_with("nothing appended; 3 already there"),
        "{told}"
    );
    app.end().await;
}
