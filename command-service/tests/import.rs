//! Importing: in bulk, by the rules, and exactly once however often it is interrupted.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

mod support;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bson::doc;
use command_service::app::Verdict;
use command_service::app::ports::{Append, Key};
use serde_json::json;
use sha2::{Digest, Sha256};
use shared::events::{Event, LogStream, Payload, PostCreated};
use shared::ids::Id;
use shared::time::{Clock, SystemClock};
use support::{TestApp, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_command-service");

fn command(app: &TestApp, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .env_clear()
        .envs(app.vars().iter().map(|(name, value)| (name, value)))
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn import(app: &TestApp, arguments: &[&str]) -> Output {
    let mut all = vec!["import"];
    all.extend(arguments);
    command(app, &all).output().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    path
}

/// A graph that is no tree, with comments, a loop, and an edge said twice.
fn edges(nodes: u64) -> String {
    let mut text = String::from("# a graph\n% of ours\n");
    for a in 1..=nodes {
        for b in [a * 7 % nodes + 1, a * 13 % nodes + 1] {
            text.push_str(&format!("{a} {b}\n"));
        }
    }
    text.push_str("5 5\n");
    text
}

/// The edges of [`edges`] that can be follows.
fn distinct(text: &str) -> HashSet<(u64, u64)> {
    text.lines()
        .filter(|line| !line.starts_with(['#', '%']))
        .map(|line| {
            let (a, b) = line.split_once(' ').unwrap();
            (a.parse().unwrap(), b.parse().unwrap())
        })
        .filter(|(a, b)| a != b)
        .collect()
}

/// Every stream's versions are 1, 2, 3 and so on, and every event has its own id.
fn check(log: &[Event]) {
    let mut versions: HashMap<String, i64> = HashMap::new();
    for event in log {
        let last = versions.entry(event.stream.to_string()).or_default();
        assert_eq!(event.version, *last + 1, "{}", event.stream);
        *last = event.version;
    }
}

fn kinds(log: &[Event]) -> HashMap<&'static str, usize> {
    let mut kinds = HashMap::new();
    for event in log {
        *kinds.entry(event.payload.kind()).or_default() += 1;
    }
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_list_is_imported_once_however_often_it_is_run() {
    let app = TestApp::spawn();
    let folder = tempfile::tempdir().unwrap();
    let text = edges(60);
    let path = file(folder.path(), "edges", &text);
    let arguments = ["--edges", path.to_str().unwrap(), "--posts-per-user", "3"];
    let first = import(&app, &arguments);
    // The loop is a line that cannot be loaded.
    assert_eq!(first.status.code(), Some(2), "{}", said(&first.stderr));
    assert!(said(&first.stderr).contains("nobody follows themselves"));
    let log = app.log().await;
    check(&log);
    let expected = distinct(&text);
    assert_eq!(kinds(&log)["user.registered"], 60);
    assert_eq!(kinds(&log)["follow.followed"], expected.len());
    assert_eq!(kinds(&log)["post.created"], 180);
    // Authors take turns.
    let authors: Vec<_> = log
        .iter()
        .filter(|event| matches!(event.payload, Payload::PostCreated(_)))
        .map(|event| event.actor)
        .collect();
    assert_eq!(authors[..60].iter().collect::<HashSet<_>>().len(), 60);
    assert_eq!(authors[..60], authors[60..120]);
    let second = import(&app, &arguments);
    assert!(
        said(&second.stdout).starts_with("nothing appended"),
        "{}",
        said(&second.stdout)
    );
    assert_eq!(app.log().await.len(), log.len());
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_at_any_moment_is_completed_by_the_next() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let folder = tempfile::tempdir().unwrap();
    let text = edges(1_500);
    let path = file(folder.path(), "edges", &text);
    let arguments = [
        "import",
        "--undirected",
        "--edges",
        path.to_str().unwrap(),
        "--posts-per-user",
        "2",
    ];
    for millis in [60, 150, 300, 500, 800] {
        let mut child = command(&app, &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = import(&app, &arguments[1..]);
    assert_eq!(last.status.code(), Some(2), "{}", said(&last.stderr));
    let log = app.log().await;
    check(&log);
    let both: HashSet<(u64, u64)> = distinct(&text)
        .into_iter()
        .flat_map(|(a, b)| [(a, b), (b, a)])
        .collect();
    assert_eq!(kinds(&log)["user.registered"], 1_500);
    assert_eq!(kinds(&log)["follow.followed"], both.len());
    assert_eq!(kinds(&log)["post.created"], 3_000);
    let usernames: HashSet<String> = log
        .iter()
        .filter_map(|event| {
            let Payload::UserRegistered(data) = &event.payload else {
                return None;
            };
            Some(data.username.clone())
        })
        .collect();
    assert_eq!(usernames.len(), 1_500);
    app.end().await;
}

fn lines(values: &[serde_json::Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

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
        .moderate("eve", Verdict::Suspend)
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

fn post_line(content: &str) -> serde_json::Value {
    json!({ "type": "post", "username": "ada", "content": content })
}

/// What posts say, in the order of the log.
fn contents(log: &[Event]) -> Vec<&str> {
    let mut contents = Vec::new();
    for event in log {
        if let Payload::PostCreated(post) = &event.payload {
            contents.push(post.content.as_str());
        }
    }
    contents
}

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
    let earlier = Append {
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
        let mut child = command(&app, &["import", path])
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

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_will_do() {
    let app = TestApp::spawn();
    let mut child = command(&app, &["import", "--posts-per-user", "2", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = lines(&[
        json!({ "type": "user", "username": "ada" }),
        json!({ "type": "user", "username": "bob" }),
        json!({ "type": "follow", "follower": "ada", "followee": "bob" }),
    ]);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(
        said(&output.stdout).starts_with(
            "appended 2 users, 1 follows, 4 posts; 0 already there, 0 refused; 7 events"
        )
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_a_database_that_is_away() {
    let app = TestApp::spawn();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "data",
        "{\"type\":\"user\",\"username\":\"ada\"}\n",
    );
    let host = app
        .uri
        .trim_start_matches("mongodb://")
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let uri = format!(
        "{}&serverSelectionTimeoutMS=300",
        app.uri.replace(&host, &address.to_string())
    )
    .replace("?&", "?directConnection=true&");
    let mut child = command(&app, &["import", path.to_str().unwrap()])
        .env("MONGODB_URI", uri)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stderr.take().unwrap());
    let reading = tokio::task::spawn_blocking(move || {
        let mut told = told.lines();
        let waits = told.any(|line| line.unwrap().contains("waiting: "));
        (waits, told)
    });
    let (waits, told) = reading.await.unwrap();
    assert!(waits, "it says that it goes on trying");
    // The database comes: a door in front of the real one opens.
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let door = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(&host).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let ending = tokio::task::spawn_blocking(move || {
        let rest: Vec<String> = told.map(Result::unwrap).collect();
        (child.wait().unwrap(), rest)
    });
    let (status, rest) = ending.await.unwrap();
    assert!(status.success(), "{rest:?}");
    assert_eq!(app.log().await.len(), 1);
    door.abort();
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_verdicts_come_from_the_command_line() {
    let app = TestApp::spawn();
    let (ada, _bob) = (app.account("ada").await, app.account("bob").await);
    let one = command(&app, &["token", "Ada"]).output().unwrap();
    let token = said(&one.stdout).trim().to_owned();
    let request = app.request("POST", "/api/v1/posts").bearer_auth(&token);
    app.send(request.json(&json!({ "content": "by token" })))
        .await
        .accepted(201);
    let two = command(&app, &["token", "ada", "bob"]).output().unwrap();
    let two = said(&two.stdout);
    assert_eq!(
        two.lines()
            .map(|line| line.split_once('\t').unwrap().0)
            .collect::<Vec<_>>(),
        ["ada", "bob"]
    );
    let nobody = command(&app, &["token", "nobody"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    // A key made now would be nobody's: there is none, and none is made.
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("jwt.pem");
    let keyless = |arguments: &[&str]| {
        let mut command = command(&app, arguments);
        command
            .env("JWT_PRIVATE_KEY_FILE", &nowhere)
            .output()
            .unwrap()
    };
    assert_eq!(keyless(&["token", "ada"]).status.code(), Some(1));
    assert!(keyless(&["admin", "verify", "ada"]).status.success());
    assert!(!nowhere.exists());
    let suspended = command(&app, &["admin", "suspend", "ada"])
        .output()
        .unwrap();
    assert!(suspended.status.success(), "{}", said(&suspended.stderr));
    eventually("the suspension is known", || async {
        let answer = app
            .command_with(&ada, "POST", "/posts", json!({ "content": "x" }))
            .await;
        answer.status == 403
    })
    .await;
    assert_eq!(
        app.log_where(doc! { "type": "user.suspended" }).await.len(),
        1
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_settings_and_arguments_end_with_64_and_say_every_fault() {
    let output = Command::new(BINARY)
        .env_clear()
        .env("MONGODB_URI", "canary")
        .env("POST_QUOTA", "canary")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let told = said(&output.stderr);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(!told.contains("canary"));
    let output = Command::new(BINARY)
        .env_clear()
        .arg("nonsense")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let output = Command::new(BINARY)
        .env_clear()
        .arg("--help")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
}
