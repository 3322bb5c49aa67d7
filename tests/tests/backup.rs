//! Backup under load, everything lost, restore: what was acknowledged before is there, the stream and
//! the log agree, and clients with what they had before get what the contract says. And each case of a
//! log beside a stream that is not of the same moment, by the procedures of docs/backup.md.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use system_tests::api::{Answer, Api, PASSWORD, Session};
use system_tests::events::Events;
use system_tests::history::{Action, Record, Told};
use system_tests::load::Load;
use system_tests::world::{PATIENCE, Service, World};
use system_tests::{eventually, http_client, is_long, seed};

/// What a client waits after a command.
const PACE: Duration = Duration::from_millis(20);
const CLIENTS: usize = 4;

async fn operator(world: &World, name: &str, service: &str, arguments: &[&str]) -> String {
    let (status, printed) = world.run(name, service, arguments).await;
    assert!(status.success(), "{name}: {printed}");
    let line = printed.lines().rfind(|line| !line.trim().is_empty());
    let line = line.unwrap_or_default().to_owned();
    println!("{name}: {line}");
    printed
}

async fn back_up(world: &World, name: &str) -> PathBuf {
    let file = world.file(name, "");
    std::fs::remove_file(&file).expect("a file");
    let path = file.to_str().expect("a path in UTF-8");
    operator(world, "backup", "command-service", &["backup", path]).await;
    operator(
        world,
        "check",
        "command-service",
        &["restore", "--check", path],
    )
    .await;
    file
}

async fn restore(world: &World, file: &Path) {
    let path = file.to_str().expect("a path in UTF-8");
    operator(world, "restore", "command-service", &["restore", path]).await;
}

async fn stop(services: &[&Service]) {
    for service in services {
        service.process.terminate();
    }
    for service in services {
        service.process.wait(PATIENCE).await.expect("it stops");
        // Its place in the process table is free: what `kill` does not find it only forgets.
        service.process.kill();
    }
}

/// Both agree, and readers see what the log says.
async fn agrees(world: &World) {
    world.stream_is_made().await;
    let audit = world.audit().await;
    let verified = world.verify().await;
    println!("{audit}\n{verified}");
    assert!(audit.is_clean(), "{audit:?}");
}

fn acknowledged(load: &Load) -> Vec<Record> {
    let records = load.history.records();
    let told = records.iter();
    told.filter(|record| matches!(record.told, Told::Accepted(_)))
        .cloned()
        .collect()
}

fn posts(records: &[Record]) -> BTreeSet<String> {
    let ids = records
        .iter()
        .filter_map(|record| match (&record.action, &record.told) {
            (Action::Post { .. }, Told::Accepted(id)) => id.clone(),
            _ => None,
        });
    ids.collect()
}

/// An answer of the command service to somebody.
async fn ask(
    world: &World,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Value,
) -> (StatusCode, Value) {
    let url = format!("{}/api/v1{path}", world.command.api);
    let mut request = http_client(Some(Duration::from_secs(8))).request(method, url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.json(&body).send().await.expect("an answer");
    (answer.status(), answer.json().await.unwrap_or_default())
}

/// Signs in; the refresh token.
async fn sign_in(world: &World, username: &str) -> String {
    let body = json!({ "username": username, "password": PASSWORD });
    let (status, tokens) = ask(world, Method::POST, "/auth/login", None, body).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    text(&tokens, "refresh_token")
}

async fn refresh(world: &World, token: &str) -> (StatusCode, Value) {
    let body = json!({ "refresh_token": token });
    ask(world, Method::POST, "/auth/refresh", None, body).await
}

/// An answer to a query, once the machine is quick enough for one.
async fn query(session: &Session, path: &str, after: Option<&str>) -> Answer {
    eventually("a query is answered", PATIENCE, async || {
        let answer = session.get(path, after).await.ok()?;
        (answer.body["code"] != "unavailable").then_some(answer)
    })
    .await
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().expect("a text").to_owned()
}

/// What a client had before everything was lost.
struct Held {
    session: Session,
    /// Its post, with its key and its token, from before the backup.
    kept: (String, String),
    /// The same from after it.
    lost: (String, String),
    cursor: String,
    /// Made before the backup and used after it; what that made of it; one that was never used.
    used: String,
    next: String,
    unused: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_acknowledged_before_a_backup_under_load_is_there_after_everything_was_lost() {
    let seed = seed("backup");
    let world = World::start(&[]).await;
    let api = world.api();
    let session = api.register("holder").await;
    let sessions = world.sessions(&api, "client", CLIENTS).await;
    session.post("first of two", "held-0").await.accepted();
    let kept = session.post("kept", "held-1").await.accepted();
    let cursor = {
        session.timeline(20, None, Some(&kept.consistency)).await;
        let page = session.timeline(1, None, Some(&kept.consistency)).await;
        page.next_cursor.expect("there are two posts")
    };
    let (used, unused) = (
        sign_in(&world, "holder").await,
        sign_in(&world, "holder").await,
    );
    let mut load = Load::start_mixed(sessions, PACE, seed);
    load.acknowledged(if is_long() { 2_000 } else { 100 }).await;

    let before = acknowledged(&load);
    let file = back_up(&world, "under-load.backup").await;
    let newcomer = api.register("newcomer").await;
    let lost = session.post("lost", "held-2").await.accepted();
    let (status, tokens) = refresh(&world, &used).await;
    assert_eq!(status, StatusCode::OK);
    let held = Held {
        session,
        kept: (kept.value, kept.consistency),
        lost: (lost.value, lost.consistency),
        cursor,
        used,
        next: text(&tokens, "refresh_token"),
        unused,
    };
    load.acknowledged(20).await;
    load.stop().await;

    stop(&[&world.command, &world.query]).await;
    world.wipe_mongodb().await;
    world.replace_nats_store(None).await;
    restore(&world, &file).await;
    // The views are empty too, and folded by themselves.
    world.command.start().await;
    world.query.start().await;
    agrees(&world).await;

    for id in posts(&before) {
        assert!(
            api.post(&id).await.is_some(),
            "the post {id} was acknowledged before"
        );
    }
    println!(
        "{} commands were acknowledged before, {} posts among them",
        before.len(),
        posts(&before).len()
    );
    clients_get_what_the_contract_says(&world, &api, &held).await;
    // Who came after the backup never came, and may come again.
    let (status, body) = ask(
        &world,
        Method::POST,
        "/posts",
        Some(newcomer.token()),
        json!({ "content": "?" }),
    )
    .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    api.register("newcomer").await;
    agrees(&world).await;
}

async fn clients_get_what_the_contract_says(world: &World, api: &Api, held: &Held) {
    let session = &held.session;
    // An access token is good as long as its key and its user are.
    let again = session.post("kept", "held-1").await.accepted();
    assert_eq!(again.value, held.kept.0, "the same key, the same post");
    let path = format!("/posts/{}", held.kept.0);
    let read = query(session, &path, Some(&held.kept.1)).await;
    assert_eq!(read.status, StatusCode::OK, "{}", read.body);
    // What was lost is not shown, and whoever waits for it is told to come back.
    assert!(api.post(&held.lost.0).await.is_none());
    let read = query(session, "/timeline", Some(&held.lost.1)).await;
    assert_eq!(
        (read.status, &read.body["code"], read.retry_after.as_deref()),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            &json!("not_yet_visible"),
            Some("1")
        )
    );
    let anew = session.post("lost", "held-2").await.accepted();
    assert_ne!(anew.value, held.lost.0, "an id is never used again");
    // The key that signs cursors is the views', which were lost.
    let path = format!("/timeline?limit=1&cursor={}", held.cursor);
    let page = query(session, &path, None).await;
    assert_eq!(
        (page.status, &page.body["code"]),
        (StatusCode::BAD_REQUEST, &json!("bad_cursor"))
    );
    // A session whose renewal was lost looks as if its token had been copied: it ends, and no other.
    let (status, body) = refresh(world, &held.next).await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::UNAUTHORIZED, &json!("bad_refresh_token"))
    );
    assert_eq!(refresh(world, &held.used).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(refresh(world, &held.unused).await.0, StatusCode::OK);
    sign_in(world, "holder").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_beside_a_stream_of_another_moment_is_refused_or_goes_on_and_never_mixed() {
    let world = World::start(&[]).await;
    let api = world.api();
    let session = api.register("ada").await;
    let mut known: Vec<String> = Vec::new();
    known.push(session.post("before", "k-0").await.accepted().value);
    world.audit().await;

    println!("-- a newer log beside an older stream: the broker was restored");
    let older_stream = world.copy_of_nats_store().await;
    known.push(
        session
            .post_when_possible("behind the copy of the stream")
            .await,
    );
    world.audit().await;
    stop(&[&world.command, &world.query]).await;
    world.replace_nats_store(Some(older_stream.path())).await;
    world.command.start().await;
    world.audit().await;
    rebuild(&world).await;
    world.query.start().await;
    agrees(&world).await;

    println!("-- no stream: the broker lost it");
    stop(&[&world.command, &world.query]).await;
    world.replace_nats_store(None).await;
    world.command.start().await;
    world.stream_is_made().await;
    world.audit().await;
    rebuild(&world).await;
    world.query.start().await;
    known.push(session.post_when_possible("behind the new stream").await);
    agrees(&world).await;

    println!("-- the stream of the same moment: the log was restored");
    let same = back_up(&world, "same.backup").await;
    stop(&[&world.command, &world.query]).await;
    world.log().await.drop().await.expect("the log is lost");
    restore(&world, &same).await;
    world.command.start().await;
    world.query.start().await;
    known.push(session.post_when_possible("behind the restored log").await);
    agrees(&world).await;

    println!("-- an older log beside a newer stream: the log was restored");
    let leaver = api.register("leaver").await;
    let regretted = session.post_when_possible("to be deleted").await;
    let mut stream = session.live(None).await;
    known.push(session.post_when_possible("seen before the backup").await);
    let seen = is_told(&mut stream, "seen before the backup").await;
    drop(stream);
    let file = back_up(&world, "older.backup").await;
    let lost = session.post_when_possible("behind the backup").await;
    for n in 0..6 {
        session.post_when_possible(&format!("lost too {n}")).await;
    }
    leaver.leave().await.accepted();
    session.delete(&regretted).await.accepted();
    agrees(&world).await;
    stop(&[&world.command, &world.query]).await;
    world.log().await.drop().await.expect("the log is lost");
    restore(&world, &file).await;
    world.command.process.start();
    world.query.process.start();
    for service in [&world.command, &world.query] {
        let refuses = "the stream is refused";
        service
            .readiness_becomes(refuses, |readiness| {
                !readiness.is_ready() && readiness.mentions("is newer than the log in MONGODB_URI")
            })
            .await;
    }
    // Commands are accepted all the same, and kept.
    known.push(
        session
            .post_when_possible("while the stream is refused")
            .await,
    );
    // Who left since the backup, and what was deleted since, is on the stream alone.
    let repeat = ["admin", "repeat-deletions"];
    let said = operator(&world, "repeat", "command-service", &repeat).await;
    assert!(
        said.contains("1 accounts are deactivated again and 1 posts are deleted again"),
        "{said}"
    );
    let said = operator(&world, "repeat", "command-service", &repeat).await;
    assert!(
        said.contains("0 accounts are deactivated again and 0 posts"),
        "{said}"
    );
    world.publish_unreadable("post.deleted").await;
    let process = world.operator("repeat", "command-service", &repeat);
    let (status, _) = world.run_to_end(&process).await;
    let said = process.logged();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("1 messages cannot be read by this build"),
        "{said}"
    );
    stop(&[&world.command, &world.query]).await;
    world.delete_stream().await;
    world.command.start().await;
    world.stream_is_made().await;
    world.audit().await;
    world.query.process.start();
    let told = "views that have folded more than the stream has are told";
    world
        .query
        .readiness_becomes(told, |readiness| {
            readiness.is_ready() && readiness.mentions("and the stream has ended at")
        })
        .await;
    // A stream that is open meanwhile goes on with the new views, and so does one that was before.
    let mut open = session.live(None).await;
    rebuild(&world).await;
    session.post_when_possible("in the new views").await;
    is_told(&mut open, "in the new views").await;
    let mut resumed = session.live(Some(seen)).await;
    let first = resumed.next().await.expect("an event");
    assert_eq!(first.post["content"], "while the stream is refused");
    is_told(&mut resumed, "in the new views").await;
    agrees(&world).await;
    for id in &known {
        assert!(api.post(id).await.is_some(), "{id} is kept");
    }
    for (id, why) in [
        (&lost, "what came after the backup is lost"),
        (&regretted, "what was deleted does not come back"),
    ] {
        assert!(api.post(id).await.is_none(), "{why}");
    }
    let path = format!("/users/{}", leaver.user_id);
    let left = query(&session, &path, None).await;
    assert_eq!(left.status, StatusCode::NOT_FOUND, "{}", left.body);

    println!("-- an older log beside no stream and older views: a copy is no part of it");
    let copy = world.file("copy.backup", "");
    std::fs::remove_file(&copy).expect("a file");
    operator(
        &world,
        "backup",
        "command-service",
        &["backup", copy.to_str().expect("UTF-8")],
    )
    .await;
    stop(&[&world.command, &world.query]).await;
    world.log().await.drop().await.expect("the log is lost");
    let path = copy.to_str().expect("UTF-8");
    operator(
        &world,
        "restore",
        "command-service",
        &["restore", "--as-copy", path],
    )
    .await;
    world.command.process.start();
    world
        .command
        .readiness_becomes("a copy refuses the stream of the original", |readiness| {
            !readiness.is_ready() && readiness.mentions("holds another log")
        })
        .await;
}

/// A live stream comes to a post; the id of its entry.
async fn is_told(stream: &mut Events, content: &str) -> u64 {
    let told = async {
        while let Some(event) = stream.next().await {
            if event.post["content"] == content {
                let entry = event.post["entry_id"].as_str().expect("an id");
                return entry.parse().expect("a number");
            }
        }
        panic!("the stream ended before {content}");
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    told.unwrap_or_else(|_| panic!("never told: {content}"))
}

async fn rebuild(world: &World) {
    let arguments = ["rebuild", "--accept"];
    operator(world, "rebuild", "query-service", &arguments).await;
}
