//! What goes wrong: nothing that is less than a backup is one, and nothing half restored is used.

use super::*;
use crate::support::{Answer, database_uri};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_cut_backup_is_refused_and_leaves_a_database_that_services_refuse() {
    let scene = Scene::new().await;
    let length = std::fs::read(&scene.file).unwrap().len();
    let mut targets = Vec::new();
    let end = |bytes: &mut Vec<u8>| bytes.truncate(length - 40);
    let flip = |bytes: &mut Vec<u8>| bytes[length / 2] ^= 0x10;
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
    app.halt().await;
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
    let (child, _) = almost(&scene, &other).await;
    interrupt(&child);
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = output.await.unwrap();
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

/// Adds what is more than pipes and buffers hold, and cannot be made smaller.
async fn add_noise(scene: &Scene) {
    let noise: Vec<Document> = (0..3_000_u64)
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
    add_noise(&scene).await;
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
    add_noise(&scene).await;
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
    let id = own.id_or(shared::connections::log_identity::LogId::random());
    let id = id.await.unwrap();
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
