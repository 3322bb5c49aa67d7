//! What goes wrong: nothing that is less than a backup is one, and nothing half restored is used.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::connections::log_identity::LogId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::support::{Answer, database_uri};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_cut_backup_is_refused_and_leaves_a_database_that_services_refuse() {
    let scene = Scene::new().await;
    let length = std::fs::read(&scene.file).unwrap().len();
    let mut targets = Vec::new();
    let end = |bytes: &mut Vec<u8>| bytes.truncate(length - 40);
    let flip = |bytes: &mut Vec<u8>| bytes[length - 40] ^= 0x10;
    for (name, change, says) in [
        ("cut", &end as &dyn Fn(&mut Vec<u8>), "cut off"),
        ("flipped", &flip, "damaged"),
    ] {
        let file = scene.changed(name, change);
        let checked = restore(&scene.app, &scene.app.uri, &file, &["--check"]).await;
        assert_eq!(checked.status.code(), Some(1));
        assert!(said(&checked).contains(says), "{}", said(&checked));
        let uri = database_uri();
        let output = restore(&scene.app, &uri, &file, &[]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(says), "{}", said(&output));
        assert!(
            said(&output).contains("run the restore again"),
            "{}",
            said(&output)
        );
        refused_until_restored(&scene, &uri).await;
        targets.push(uri);
    }
    // Wherever it is, nothing of a damaged part comes as far as the database.
    let flip = |bytes: &mut Vec<u8>| bytes[length / 2] ^= 0x10;
    let file = scene.changed("flipped in the middle", flip);
    let uri = database_uri();
    let output = restore(&scene.app, &uri, &file, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("damaged"), "{}", said(&output));
    targets.push(uri);
    let whole = restore(&scene.app, &scene.app.uri, &scene.file, &["--check"]).await;
    assert!(
        whole.status.success() && said(&whole).contains("the backup is whole"),
        "{}",
        said(&whole)
    );
    scene.end(&targets).await;
}

/// A service on a half restored database says so and takes nothing; the restore run again makes it
/// whole.
async fn refused_until_restored(scene: &Scene, uri: &str) {
    let tokens = scene.app.login("ada").await;
    let refresh_token = tokens.accepted(200).text("refresh_token");
    // A cleanup is due: it would write.
    let jobs = database(uri).await.collection::<Document>("jobs");
    let past = bson::DateTime::from_millis(1_000);
    let due = doc! { "_id": "farewell:1", "kind": "farewell", "user": 1_i64, "planned_at": past,
    "passes": 0_i64, "due": past };
    jobs.insert_one(&due).await.unwrap();
    let mut app = TestApp::spawn_with(&[("MONGODB_URI", uri)]);
    eventually("it says why it is not ready", || async {
        let ready = app.http.get(format!("{}/readyz", app.ops)).send().await;
        match ready {
            Ok(ready) if ready.status() == 503 => {
                let text = ready.text().await.unwrap();
                text.contains("a restore has not finished")
            }
            Ok(_) | Err(_) => false,
        }
    })
    .await;
    let answer: Answer = app.register("eve").await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    let refreshed = serde_json::json!({ "refresh_token": refresh_token });
    let answer = app.post("/auth/refresh", refreshed).await;
    assert_eq!(answer.status, 503, "not that it is none: {}", answer.body);
    app.halt().await;
    let kept = jobs.find_one(doc! { "_id": "farewell:1" }).await.unwrap();
    assert_eq!(kept, Some(due), "it is left alone");
    let again = run(command(&scene.app, Some(uri), &["backup", "-"])).await;
    assert_eq!(again.status.code(), Some(1), "a half is not worth a backup");
    let output = restore(&scene.app, uri, &scene.file, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        scene.events().await,
        all(&database(uri).await, "events").await
    );
    let app = TestApp::spawn_with(&[("MONGODB_URI", uri)]);
    app.wait_until_ready().await;
    app.login("ada").await.accepted(200);
    let mut app = app;
    app.halt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_backup_of_this_format_changes_nothing() {
    let scene = Scene::new().await;
    let uri = database_uri();
    let newer = scene.changed("newer", |bytes| bytes[8 + "microblog backup ".len()] = b'9');
    let other = scene.changed("other", |bytes| *bytes = b"{\"type\":\"user\"}\n".to_vec());
    let empty = scene.changed("empty", |bytes| bytes.clear());
    for (file, says) in [
        (newer, "format 9"),
        (other, "no backup"),
        (empty, "no backup"),
    ] {
        let output = restore(&scene.app, &uri, &file, &[]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
    let nowhere = restore(&scene.app, &uri, Path::new("/nowhere/at.all"), &[]).await;
    assert_eq!(nowhere.status.code(), Some(1));
    let names = database(&uri).await.list_collection_names().await.unwrap();
    assert_eq!(names, Vec::<String>::new());
    let without = run(command(&scene.app, Some(&uri), &["restore"])).await;
    assert_eq!(without.status.code(), Some(64));
    scene.end(&[uri]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_used_and_a_file_that_is_there_are_left_as_they_are() {
    let scene = Scene::new().await;
    let before = scene.events().await;
    let output = restore(&scene.app, &scene.app.uri, &scene.file, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("is not empty (") && said(&output).contains("events"),
        "{}",
        said(&output)
    );
    let output = backup(&scene.app, &scene.file).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("is there already"),
        "{}",
        said(&output)
    );
    assert_eq!(scene.events().await, before);
    // A relay that runs holds its lease.
    let uri = database_uri();
    let leases = database(&uri).await.collection::<Document>("leases");
    let later = bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 60_000);
    let lease = doc! { "_id": "relay", "holder": "x", "epoch": 1_i64, "expires_at": later };
    leases.insert_one(lease).await.unwrap();
    let output = restore(&scene.app, &uri, &scene.file, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("a command-service runs"),
        "{}",
        said(&output)
    );
    scene.end(&[uri]).await;
}

/// A restore from standard input that has got all but the last bytes.
async fn almost(scene: &Scene, uri: &str) -> (Child, Vec<u8>) {
    let mut bytes = std::fs::read(&scene.file).unwrap();
    let rest = bytes.split_off(bytes.len() - 30);
    let mut child = command(&scene.app, Some(uri), &["restore", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
    let (target, wanted) = (database(uri).await, scene.events().await.len());
    eventually("the events are there", || async {
        all(&target, "events").await.len() == wanted
    })
    .await;
    (child, rest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_killed_or_interrupted_is_run_again() {
    let scene = Scene::new().await;
    let uri = database_uri();
    let (mut child, _) = almost(&scene, &uri).await;
    child.kill().unwrap();
    child.wait().unwrap();
    refused_until_restored(&scene, &uri).await;
    let other = database_uri();
    let (mut child, _) = almost(&scene, &other).await;
    // The rest may come yet: an end of its input would be another reason to fail.
    let open = child.stdin.take();
    interrupt(&child);
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    drop(open);
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(
        said(&output).contains("run the restore again"),
        "{}",
        said(&output)
    );
    refused_until_restored(&scene, &other).await;
    scene.end(&[uri, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_writes_meanwhile_is_noticed() {
    let scene = Scene::new().await;
    let uri = database_uri();
    let (mut child, rest) = almost(&scene, &uri).await;
    let events = database(&uri).await.collection::<Document>("events");
    events.insert_one(doc! { "_id": 7_i64 }).await.unwrap();
    child.stdin.take().unwrap().write_all(&rest).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("somebody else writes"),
        "{}",
        said(&output)
    );
    refused_until_restored(&scene, &uri).await;
    scene.end(&[uri]).await;
}

fn interrupt(child: &Child) {
    let id = child.id().to_string();
    let status = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(status.success());
}

/// A way to the database on which no more than so many bytes come back on a connection. It stays open.
async fn narrow_way(host: String) -> std::net::SocketAddr {
    const MOST: u64 = 1_000_000;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let host = host.clone();
            tokio::spawn(async move {
                let far = tokio::net::TcpStream::connect(&host).await.unwrap();
                let (mut from_near, mut to_near) = near.into_split();
                let (from_far, mut to_far) = far.into_split();
                let mut some = tokio::io::AsyncReadExt::take(from_far, MOST);
                tokio::join!(
                    async { tokio::io::copy(&mut from_near, &mut to_far).await },
                    async { tokio::io::copy(&mut some, &mut to_near).await },
                )
            });
        }
    });
    address
}

/// Adds so many thousand bytes, which cannot be made smaller. More than 6,000 are more than pipes and
/// buffers hold.
async fn add_noise(scene: &Scene, count: u64) {
    let noise: Vec<Document> = (0..count)
        .map(|n| {
            let bytes: Vec<u8> = (0..1_000).map(|_| rand::random::<u8>()).collect();
            let subtype = bson::spec::BinarySubtype::Generic;
            let bytes = bson::Binary { subtype, bytes };
            doc! { "_id": format!("noise-{n}"), "noise": bytes }
        })
        .collect();
    let jobs = scene.app.database().await.collection::<Document>("jobs");
    jobs.insert_many(noise).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_interrupted_or_killed_leaves_no_backup() {
    let scene = Scene::new().await;
    add_noise(&scene, 3_000).await;
    let authority = scene.app.uri.trim_start_matches("mongodb://").to_owned();
    let host = authority.split('/').next().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("never.backup");
    for kills in [false, true] {
        // It begins, and cannot end.
        let way = narrow_way(host.clone()).await;
        let uri = scene.app.uri.replace(&host, &way.to_string());
        // Direct: the replica set would tell the other address.
        let (server, _) = uri.split_once('?').unwrap();
        let uri = format!("{server}?directConnection=true");
        let child = command(&scene.app, Some(&uri), &["backup", file.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let begun = || async {
            let found = files(folder.path());
            found.iter().any(|name| name.ends_with(".partial"))
        };
        eventually("it has begun", begun).await;
        if kills {
            child.kill().unwrap();
        } else {
            interrupt(&child);
        }
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let output = output.await.unwrap();
        if !kills {
            assert_eq!(output.status.code(), Some(130), "{}", said(&output));
            assert_eq!(files(folder.path()), Vec::<String>::new());
        }
        assert!(!file.exists());
    }
    // Nobody could remove what a kill left. It says what it is, and is no backup.
    let left = files(folder.path());
    let [left] = left.as_slice() else {
        panic!("{left:?}")
    };
    assert!(
        left.starts_with(".microblog-") && left.ends_with(".partial"),
        "{left}"
    );
    let checked = restore(
        &scene.app,
        &scene.app.uri,
        &folder.path().join(left),
        &["--check"],
    )
    .await;
    assert_eq!(checked.status.code(), Some(1), "{}", said(&checked));
    scene.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_nobody_reads_does_not_keep_a_backup_from_ending() {
    let scene = Scene::new().await;
    add_noise(&scene, 3_000).await;
    let mut child = command(&scene.app, None, &["backup", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 8];
    let mut out = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut first).unwrap();
    interrupt(&child);
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(ended.code(), Some(130));
    // And one whose reader goes away fails.
    drop(out);
    let mut child = command(&scene.app, None, &["backup", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    assert_eq!(output.await.unwrap().status.code(), Some(1));
    scene.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_another_log_and_sessions_can_be_left_out() {
    let scene = Scene::new().await;
    let live = scene.app.database().await;
    let own = OwnLog::new(&live);
    let id = own.id_or(LogId::random()).await.unwrap();
    let file = scene.folder.path().join("named.backup");
    assert!(backup(&scene.app, &file).await.status.success());
    let uri = database_uri();
    let output = restore(&scene.app, &uri, &file, &["--as-copy", "--sign-out"]).await;
    assert!(output.status.success(), "{}", said(&output));
    let copy = database(&uri).await;
    let named = OwnLog::new(&copy).id().await.unwrap();
    assert!(
        named.is_some_and(|named| named != id),
        "an identity of its own"
    );
    assert!(all(&copy, "sessions").await.is_empty());
    assert_eq!(all(&copy, "credentials").await.len(), 2);
    assert_eq!(scene.events().await, all(&copy, "events").await);
    scene.end(&[uri]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_log_is_backed_up_and_restored_only_where_that_is_meant() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty.backup");
    let output = backup(&app, &file).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("the log has no event"),
        "{}",
        said(&output)
    );
    assert_eq!(files(folder.path()), Vec::<String>::new());
    let path = file.to_str().unwrap();
    let output = run(command(&app, None, &["backup", "--empty", path])).await;
    assert!(output.status.success(), "{}", said(&output));
    let uri = database_uri();
    for more in [&[] as &[&str], &["--check"]] {
        let output = restore(&app, &uri, &file, more).await;
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        assert!(
            said(&output).contains("has no event"),
            "{more:?}: {}",
            said(&output)
        );
    }
    let target = database(&uri).await;
    assert!(
        OwnLog::new(&target).id().await.is_err(),
        "nothing goes on from there"
    );
    let output = restore(&app, &uri, &file, &["--empty"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(OwnLog::new(&target).id().await.is_ok());
    target.drop().await.unwrap();
    app.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_during_which_a_restore_begins_is_none() {
    let scene = Scene::new().await;
    add_noise(&scene, 12_000).await;
    let own = OwnLog::new(&scene.app.database().await);
    for restores in [false, true] {
        let mut child = command(&scene.app, None, &["backup", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut out, &mut [0; 8]).unwrap();
        // It has begun, and waits until the rest is read.
        let says = if restores {
            own.begin_restore(LogId::random()).await.unwrap();
            "holds a part of a backup"
        } else {
            own.restore_id(LogId::random()).await.unwrap();
            "became another log"
        };
        let output = tokio::task::spawn_blocking(move || {
            std::io::copy(&mut out, &mut std::io::sink()).unwrap();
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
    scene.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_whose_log_is_replaced_below_it_writes_nothing_more() {
    for restores in [false, true] {
        let uri = database_uri();
        let log = database(&uri).await;
        let own = OwnLog::new(&log);
        own.id_or(LogId::random()).await.unwrap();
        let mut app = TestApp::spawn_with(&[("MONGODB_URI", &uri)]);
        let ada = app.account("ada").await;
        if restores {
            own.begin_restore(LogId::random()).await.unwrap();
        } else {
            log.drop().await.unwrap();
        }
        eventually("it says that its log is another", || async {
            let ready = app.http.get(format!("{}/readyz", app.ops)).send().await;
            let Ok(ready) = ready else { return false };
            let is_not_ready = ready.status() == 503;
            let says = ready.text().await.unwrap();
            is_not_ready && says.contains("another than this process began with")
        })
        .await;
        app.register("eve").await.refused(503, "unavailable");
        let body = serde_json::json!({ "content": "to whom?" });
        let posted = app.command_with(&ada, "POST", "/posts", body).await;
        posted.refused(503, "unavailable");
        // Nobody is told that their password or their token is good for nothing.
        app.login("ada").await.refused(503, "unavailable");
        let password = serde_json::json!({ "password": crate::support::PASSWORD });
        let left = app.command_with(&ada, "DELETE", "/users/me", password);
        left.await.refused(503, "unavailable");
        app.halt().await;
        // One that begins then has what it needs.
        if !restores {
            assert!(all(&log, "usernames").await.is_empty());
            let mut app = TestApp::spawn_with(&[("MONGODB_URI", &uri)]);
            app.account("eve").await;
            app.halt().await;
        }
        log.drop().await.unwrap();
    }
}

/// A way to the database on which the first message that contains some bytes is held.
struct HeldWay {
    address: std::net::SocketAddr,
    held: tokio::sync::oneshot::Receiver<()>,
    go: tokio::sync::oneshot::Sender<()>,
}

impl HeldWay {
    async fn new(host: String, holds: &'static [u8]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, held) = tokio::sync::oneshot::channel();
        let (go, waits) = tokio::sync::oneshot::channel();
        let hold = Arc::new(Mutex::new(Some((told, waits))));
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = tokio::net::TcpStream::connect(&host).await.unwrap();
                let (mut from_near, mut to_near) = near.into_split();
                let (mut from_far, mut to_far) = far.into_split();
                let hold = hold.clone();
                tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
                tokio::spawn(async move {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(n @ 1..) = from_near.read(&mut bytes).await {
                        let has = bytes[..n].windows(holds.len()).any(|it| it == holds);
                        let first = has.then(|| hold.lock().unwrap().take()).flatten();
                        if let Some((told, waits)) = first {
                            let _ = told.send(());
                            let _ = waits.await;
                        }
                        if to_far.write_all(&bytes[..n]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, held, go }
    }
}

/// A restore that is about to send some bytes to the database: they are held.
async fn held(scene: &Scene, uri: &str, holds: &'static [u8]) -> (Child, HeldWay) {
    let authority = uri.trim_start_matches("mongodb://");
    let host = authority.split('/').next().unwrap();
    let mut way = HeldWay::new(host.to_owned(), holds).await;
    let (server, _) = uri.split_once('?').unwrap();
    let server = server.replace(host, &way.address.to_string());
    let through = format!("{server}?directConnection=true");
    let file = scene.file.to_str().unwrap();
    let child = command(&scene.app, Some(&through), &["restore", file])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let reached = tokio::time::timeout(Duration::from_secs(20), &mut way.held).await;
    reached.expect("it comes to that").unwrap();
    (child, way)
}

async fn released(child: Child, way: HeldWay) -> Output {
    way.go.send(()).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    output.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_dropped_before_the_database_says_that_it_is_not_whole() {
    let scene = Scene::new().await;
    let uri = database_uri();
    let target = database(&uri).await;
    let own = OwnLog::new(&target);
    target.create_collection("events").await.unwrap();
    let (child, way) = held(&scene, &uri, b"\x02drop\0").await;
    assert!(own.is_being_restored().await.unwrap(), "the first one");
    // And another, as of a pod that was replaced while it ran, takes over what this one has begun.
    let (other, others_way) = held(&scene, &uri, b"\x02drop\0").await;
    let output = released(child, way).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(own.is_being_restored().await.unwrap(), "the other one");
    // It notices what the first one has written meanwhile.
    let output = released(other, others_way).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(own.id().await.is_err(), "no half is taken for the whole");
    let output = restore(&scene.app, &uri, &scene.file, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(scene.events().await, all(&target, "events").await);
    scene.end(&[uri]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_just_before_a_restore_began_is_kept() {
    let scene = Scene::new().await;
    let uri = database_uri();
    let target = database(&uri).await;
    let own = OwnLog::new(&target);
    let id = own.id_or(LogId::random()).await.unwrap();
    // The mark that says that a restore has begun names it.
    let (child, way) = held(&scene, &uri, b"\x02run\0").await;
    let events = target.collection::<Document>("events");
    events.insert_one(doc! { "_id": 7_i64 }).await.unwrap();
    let output = released(child, way).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("is not empty"), "{}", said(&output));
    assert!(
        !said(&output).contains("run the restore again"),
        "{}",
        said(&output)
    );
    assert_eq!(events.count_documents(doc! {}).await.unwrap(), 1);
    assert_eq!(own.id().await.unwrap(), Some(id), "the log it was");
    scene.end(&[uri]).await;
}
