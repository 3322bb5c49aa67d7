//! A backup is taken while everything that writes is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::support::{Account, database_uri};

/// Backups in one load, one after the other.
const BACKUPS: usize = 3;

/// One who posts, follows and likes, in turns with signing in again.
async fn write(app: &TestApp, me: &Account, other: &Account, count: usize) {
    let says = format!("{} says {count}", me.username);
    let post = app.create_post(me, &says).await;
    let edge = if count.is_multiple_of(2) {
        "POST"
    } else {
        "DELETE"
    };
    let follow = format!("/users/{}/follow", other.id);
    app.command(me, edge, &follow).await.accepted(200);
    let like = format!("/posts/{post}/like");
    app.command(other, "POST", &like).await.accepted(200);
    app.login(&me.username).await.accepted(200);
}

/// One who comes, and every second time leaves again.
async fn come_and_go(app: &TestApp, count: usize) {
    let me = app.account(&format!("guest_{count}")).await;
    let refreshed = serde_json::json!({ "refresh_token": me.refresh });
    app.post("/auth/refresh", refreshed).await.accepted(200);
    if count.is_multiple_of(2) {
        let leave = serde_json::json!({ "password": crate::support::PASSWORD });
        let left = app.command_with(&me, "DELETE", "/users/me", leave).await;
        left.accepted(204);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_a_prefix_of_the_commit_order_with_all_that_belongs_to_it() {
    let app = Arc::new(TestApp::spawn_with(&[("POST_QUOTA", "1000000")]));
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let live = app.database().await;
    let mut order = live
        .collection::<Document>("events")
        .watch()
        .pipeline([doc! { "$match": { "operationType": "insert" } }])
        .await
        .unwrap();
    let before: BTreeSet<i64> = ids(&live).await;
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let writers = [0, 1, 2].map(|kind| {
        let (app, stop, count) = (app.clone(), stop.clone(), count.clone());
        let (ada, bob) = (ada.clone(), bob.clone());
        tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                match kind {
                    0 => write(&app, &ada, &bob, n).await,
                    1 => write(&app, &bob, &ada, n).await,
                    _ => come_and_go(&app, n).await,
                }
                n += 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let folder = tempfile::tempdir().unwrap();
    let mut taken = Vec::new();
    for n in 0..BACKUPS {
        let wanted = count.load(Ordering::Relaxed) + 5;
        eventually("they write", || async {
            count.load(Ordering::Relaxed) >= wanted
        })
        .await;
        let acknowledged = ids(&live).await;
        let file = folder.path().join(format!("{n}.backup"));
        let output = backup(&app, &file).await;
        assert!(output.status.success(), "{}", said(&output));
        println!("{}", said(&output).trim());
        taken.push((file, acknowledged));
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let (in_all, live_events) = (ids(&live).await, all(&live, "events").await);
    let mut committed: Vec<i64> = Vec::new();
    while committed.len() < in_all.len() - before.len() {
        if let Some(change) = order.next_if_any().await.unwrap() {
            let key = change.document_key.unwrap();
            committed.push(key.get_i64("_id").unwrap());
        }
    }
    drop(order);
    let modes = files(folder.path());
    assert_eq!(modes.len(), BACKUPS, "nothing else is left: {modes:?}");
    let mut targets = Vec::new();
    for (file, acknowledged) in &taken {
        let uri = database_uri();
        let output = restore(&app, &uri, file, &[]).await;
        assert!(output.status.success(), "{}", said(&output));
        let copy = database(&uri).await;
        let restored = ids(&copy).await;
        assert!(
            acknowledged.is_subset(&restored),
            "all that was acknowledged before it began"
        );
        let first = committed.iter().take(restored.len() - before.len());
        let prefix: BTreeSet<i64> = before.iter().chain(first).copied().collect();
        assert_eq!(restored, prefix, "a prefix of the commit order");
        same_events(&live_events, &all(&copy, "events").await);
        belongs_together(&copy).await;
        same_indexes(&live, &copy).await;
        assert_eq!(
            OwnLog::new(&copy).id().await.unwrap(),
            OwnLog::new(&live).id().await.unwrap()
        );
        targets.push(copy);
    }
    // The last one was taken of a database that went on: the sessions of a quiet one are the same.
    let file = folder.path().join("quiet.backup");
    assert!(backup(&app, &file).await.status.success());
    let uri = database_uri();
    let output = restore(&app, &uri, &file, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    let copy = database(&uri).await;
    for name in live.list_collection_names().await.unwrap() {
        if !["leases", "relay_marks"].contains(&name.as_str()) {
            assert_eq!(all(&live, &name).await, all(&copy, &name).await, "{name}");
        }
    }
    targets.push(copy);
    for target in targets {
        target.drop().await.unwrap();
    }
    let app = Arc::into_inner(app).expect("nobody else has it");
    app.end().await;
}

async fn ids(database: &Database) -> BTreeSet<i64> {
    let events = all(database, "events").await;
    events
        .values()
        .map(|event| event.get_i64("_id").unwrap())
        .collect()
}

/// An event never changes, but that an address in it is emptied when its user leaves.
fn same_events(live: &BTreeMap<String, Document>, copy: &BTreeMap<String, Document>) {
    for (id, event) in copy {
        assert_eq!(Some(event), live.get(id));
    }
}

/// Who is registered has all that a registration writes, and counters cover what they count.
async fn belongs_together(copy: &Database) {
    let events = all(copy, "events").await;
    let (names, addresses) = (all(copy, "usernames").await, all(copy, "emails").await);
    let credentials = all(copy, "credentials").await;
    let of = |kind: &str, field: &str| -> Vec<i64> {
        let those = events
            .values()
            .filter(|event| event.get_str("type").ok() == Some(kind));
        those.map(|event| event.get_i64(field).unwrap()).collect()
    };
    let users = |rows: &BTreeMap<String, Document>, field: &str| -> BTreeSet<i64> {
        rows.values()
            .map(|row| row.get_i64(field).unwrap())
            .collect()
    };
    let registered: BTreeSet<i64> = of("user.registered", "_id").into_iter().collect();
    let left: BTreeSet<i64> = of("user.deactivated", "actor").into_iter().collect();
    let stay: BTreeSet<i64> = registered.difference(&left).copied().collect();
    assert_eq!(users(&names, "user"), registered, "usernames");
    let known = users(&credentials, "_id");
    assert!(
        stay.is_subset(&known) && known.is_subset(&registered),
        "credentials"
    );
    let reached = users(&addresses, "user");
    assert!(
        stay.is_subset(&reached) && reached.is_subset(&registered),
        "addresses"
    );
    for session in all(copy, "sessions").await.values() {
        assert!(
            registered.contains(&session.get_i64("user").unwrap()),
            "a session of nobody"
        );
    }
    let posts = of("post.created", "actor");
    for quota in all(copy, "post_quotas").await.values() {
        let author = quota.get_i64("_id").unwrap();
        let made = posts.iter().filter(|post| **post == author).count();
        let used = quota.get_i64("used").unwrap();
        assert!(
            used >= i64::try_from(made).unwrap(),
            "{used} for {made} posts"
        );
    }
    let is_like = |event: &&Document| event.get_str("type").ok() == Some("like.liked");
    let likes: Vec<&Document> = events.values().filter(is_like).collect();
    assert!(!likes.is_empty(), "there are likes");
    for like in likes {
        let post = like.get_document("data").unwrap().get_i64("post").unwrap();
        assert!(
            events.contains_key(&bson::Bson::Int64(post).to_string()),
            "a like of nothing"
        );
    }
}

async fn same_indexes(live: &Database, copy: &Database) {
    for name in ["events", "usernames", "emails", "sessions"] {
        let of = async |database: &Database| {
            let rows = database.collection::<Document>(name);
            let mut names = rows.list_index_names().await.unwrap();
            names.sort();
            names
        };
        assert_eq!(of(live).await, of(copy).await, "{name}");
    }
}
