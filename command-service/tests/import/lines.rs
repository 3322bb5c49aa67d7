//! JSON lines, in any order.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_are_imported_by_the_rules_and_bad_ones_are_told() {
    let app = TestApp::spawn();
    let folder = tempfile::tempdir().unwrap();
    let mut text = lines(&[
        json!({ "type": "user", "username": "Ada", "email": "ada@x.org", "password": "correct horse", "bio": "engines" }),
        json!({ "type": "user", "username": "bob", "display_name": "Bob" }),
        json!({ "type": "user", "username": "eve", "email": "ADA@x.org" }),
        json!({ "type": "follow", "follower": "ada", "followee": "BOB" }),
        json!({ "type": "follow", "follower": "ada", "followee": "nobody" }),
        json!({ "type": "post", "username": "ada", "content": "first", "id": "p1" }),
        json!({ "type": "post", "username": "bob", "content": "second", "id": "p2", "reply_to": "p1" }),
        json!({ "type": "post", "username": "bob", "content": "third", "reply_to": "p2" }),
        json!({ "type": "post", "username": "bob", "content": "lost", "reply_to": "p9" }),
        json!({ "type": "like", "username": "bob", "post": "p1" }),
        json!({ "type": "repost", "username": "bob", "post": "p1" }),
        json!({ "type": "like", "username": "bob", "post": "p9" }),
    ]);
    text.push_str("nonsense\n");
    let path = file(folder.path(), "data.ndjson", &text);
    let path = path.to_str().unwrap();
    let first = import(&app, &[path]);
    assert_eq!(first.status.code(), Some(2));
    let told = said(&first.stderr);
    for line in [3, 5, 9, 12, 13] {
        assert!(told.contains(&format!("line {line}: ")), "{line}: {told}");
    }
    assert!(
        said(&first.stdout).contains("appended 2 users, 1 follows, 3 posts, 1 likes, 1 reposts")
    );
    let log = app.log().await;
    check(&log);
    let posts: Vec<&Event> = log
        .iter()
        .filter(|event| event.payload.kind() == "post.created")
        .collect();
    let Payload::PostCreated(reply) = &posts[1].payload else {
        panic!("a post")
    };
    assert_eq!(reply.reply_to.unwrap().post.get(), posts[0].id.get());
    let second = import(&app, &[path]);
    assert!(said(&second.stdout).starts_with("nothing appended; 8 already there, 5 refused"));
    assert_eq!(app.log().await.len(), log.len());
    app.wait_until_ready().await;
    app.login("ada").await.accepted(200);
    app.login("bob").await.refused(401, "bad_credentials");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_respects_what_happened_since() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let eve = app.account("eve").await;
    let folder = tempfile::tempdir().unwrap();
    let text = lines(&[
        json!({ "type": "follow", "follower": "ada", "followee": "bob" }),
        json!({ "type": "follow", "follower": "bob", "followee": "ada" }),
        json!({ "type": "follow", "follower": "eve", "followee": "ada" }),
        json!({ "type": "post", "username": "eve", "content": "not now" }),
    ]);
    // Ada followed and unfollowed by hand; bob follows already; eve is suspended.
    for method in ["POST", "DELETE"] {
        app.command(&ada, method, &format!("/users/{}/follow", bob.id))
            .await
            .accepted(200);
    }
    app.command(&bob, "POST", &format!("/users/{}/follow", ada.id))
        .await
        .accepted(200);
    app.core()
        .await
        .app
        .moderate("eve", ModerationAction::Suspend)
        .await
        .unwrap();
    let path = file(folder.path(), "data.ndjson", &text);
    let first = import(&app, &[path.to_str().unwrap()]);
    assert_eq!(first.status.code(), Some(2), "{}", said(&first.stderr));
    assert!(
        said(&first.stdout).contains("appended 1 follows; 1 already there, 2 refused"),
        "{}",
        said(&first.stdout)
    );
    assert_eq!(
        app.versions(&format!("follow:{}:{}", ada.id, bob.id)).await,
        [1, 2, 3]
    );
    assert!(
        app.versions(&format!("follow:{}:{}", eve.id, ada.id))
            .await
            .is_empty()
    );
    // Unfollowed again by hand, a second run does not follow once more.
    app.command(&ada, "DELETE", &format!("/users/{}/follow", bob.id))
        .await
        .accepted(200);
    import(&app, &[path.to_str().unwrap()]);
    assert_eq!(
        app.versions(&format!("follow:{}:{}", ada.id, bob.id)).await,
        [1, 2, 3, 4]
    );
    app.end().await;
}

/// The reply to each post, by what they say.
fn parents(log: &[Event]) -> HashMap<String, String> {
    let mut by_id = HashMap::new();
    let mut parents = HashMap::new();
    for event in log {
        if let Payload::PostCreated(post) = &event.payload {
            by_id.insert(event.id.get(), post.content.clone());
            if let Some(parent) = post.reply_to {
                parents.insert(post.content.clone(), by_id[&parent.post.get()].clone());
            }
        }
    }
    parents
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_may_come_in_any_order_and_behind_a_byte_order_mark() {
    let app = TestApp::spawn();
    let reply = |id: &str, to: &str| json!({ "type": "post", "username": "ada", "content": id, "id": id, "reply_to": to });
    let mut values = vec![
        json!({ "type": "like", "username": "bob", "post": "p0" }),
        json!({ "type": "repost", "username": "bob", "post": "p3" }),
        json!({ "type": "follow", "follower": "bob", "followee": "ada" }),
    ];
    // A chain backwards, a circle, one whose parent never comes, one before an unnamed one's twin.
    values.extend(
        (1..=40)
            .rev()
            .map(|n| reply(&format!("p{n}"), &format!("p{}", n - 1))),
    );
    values.extend([
        reply("c1", "c2"),
        reply("c2", "c1"),
        reply("l1", "l2"),
        reply("s", "s"),
    ]);
    let echo = json!({ "type": "post", "username": "bob", "content": "echo", "reply_to": "p0" });
    values.extend([echo.clone(), post_line("p0"), echo]);
    values.push(json!({ "type": "post", "username": "ada", "content": "root", "id": "p0" }));
    values.push(json!({ "type": "user", "username": "ada" }));
    values.push(json!({ "type": "user", "username": "bob" }));
    let text = format!("\u{feff}{}", lines(&values).replace('\n', "\r\n"));
    let run = |path: &'static str| {
        let mut child = app
            .program(&["import", path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        child.wait_with_output().unwrap()
    };
    let first = run("-");
    let (told, faults) = (said(&first.stdout), said(&first.stderr));
    assert_eq!(first.status.code(), Some(2), "{faults}");
    let expected =
        "appended 2 users, 1 follows, 44 posts, 1 likes, 1 reposts; 0 already there, 4 refused";
    assert!(told.starts_with(expected), "{told}{faults}");
    for (line, parent) in [(44, "c2"), (45, "c1"), (46, "l2"), (47, "s")] {
        let fault = format!("line {line}: no post {parent} in the input");
        assert!(faults.contains(&fault), "{faults}");
    }
    let log = app.log().await;
    check(&log);
    let parents = parents(&log);
    assert_eq!(parents.len(), 41);
    assert_eq!(
        (&*parents["p1"], &*parents["p40"], &*parents["echo"]),
        ("root", "p39", "root")
    );
    // A pipe by name can be read only once, too.
    let again = run("/dev/stdin");
    let told = said(&again.stdout);
    assert!(
        told.starts_with("nothing appended; 49 already there, 4 refused"),
        "{told}"
    );
    assert_eq!(app.log().await.len(), log.len());
    app.end().await;
}

/// Twice as many as may wait in memory.
#[tokio::test(flavor = "multi_thread")]
async fn more_replies_than_may_wait_are_written_in_another_look() {
    const CROWD: usize = 10_200;
    let app = TestApp::spawn();
    let folder = tempfile::tempdir().unwrap();
    let mut text = lines(&[json!({ "type": "user", "username": "ada" })]);
    let unnamed = |content: &str, to: &str| json!({ "type": "post", "username": "ada", "content": content, "reply_to": to });
    // Let go first; said again behind its parent, it is another.
    text.push_str(&lines(&[
        unnamed("echo", "root"),
        unnamed("to a reply", "r7"),
    ]));
    for n in 0..CROWD {
        let reply = json!({ "type": "post", "username": "ada", "content": format!("r{n}"), "id": format!("r{n}"), "reply_to": "root" });
        text.push_str(&format!("{reply}\n"));
    }
    text.push_str(&lines(&[
        json!({ "type": "post", "username": "ada", "content": "root", "id": "root" }),
        unnamed("echo", "root"),
        unnamed("alone", "nobody"),
    ]));
    let path = file(folder.path(), "data.ndjson", &text);
    let arguments = [path.to_str().unwrap()];
    let first = import(&app, &arguments);
    let (told, faults) = (said(&first.stdout), said(&first.stderr));
    let posts = CROWD + 4;
    let expected = format!("appended 1 users, {posts} posts; 0 already there, 1 refused");
    assert!(told.starts_with(&expected), "{told}{faults}");
    let fault = format!("line {}: no post nobody", CROWD + 6);
    assert!(faults.contains(&fault), "{faults}");
    let log = app.log().await;
    check(&log);
    let echoes = contents(&log).into_iter().filter(|said| *said == "echo");
    assert_eq!(echoes.count(), 2);
    assert_eq!(parents(&log)["to a reply"], "r7");
    let second = import(&app, &arguments);
    let expected = format!("nothing appended; {} already there, 1 refused", posts + 1);
    assert!(
        said(&second.stdout).starts_with(&expected),
        "{}",
        said(&second.stdout)
    );
    app.end().await;
}
