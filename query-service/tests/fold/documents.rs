//! The documents of the views are a stored format: other builds, and the command service, read them.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use query_service::views::generation::View;

use crate::common::{World, eventually};

/// Every row that the fold makes of a fixed history, in the order of the keys. Written by the build
/// that made rows field by field; `UPDATE_GOLDEN=1` writes it again.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/documents.txt");

/// Not compared: a checkpoint names its session, a dead letter its time, and which old entries a
/// follow brings depends on when its job is done.
const VARIES: [View; 3] = [View::Checkpoints, View::DeadLetters, View::Timeline];

/// A document with its fields in the order of their names: in which one they were written depends
/// on how many events were folded at once.
fn sorted(row: Document) -> Bson {
    let fields: BTreeMap<String, Bson> = row.into_iter().collect();
    Bson::Document(fields.into_iter().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fold_makes_the_documents_that_it_always_made() {
    let mut world = World::new("documents", 2, 6, 41).await;
    world.history.begin_at(1_700_000_000_000);
    let mut events: Vec<_> = (0..8).map(|_| world.history.register()).collect();
    events.extend(world.history.acts(600));
    world.publish(events).await;
    let (fold, views) = (world.fold().await, world.views().await);
    world.caught_up(&views).await;
    let pending = views.generation().collection::<Document>(View::Pending);
    eventually("older entries are inserted", async || {
        pending
            .count_documents(doc! {})
            .await
            .is_ok_and(|left| left == 0)
    })
    .await;
    fold.stop().await;
    let mut shown = String::new();
    for view in View::ALL {
        if VARIES.contains(&view) {
            continue;
        }
        let collection = views.generation().collection::<Document>(view);
        let rows = collection
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .await
            .unwrap();
        let rows: Vec<Document> = rows.try_collect().await.unwrap();
        assert!(
            !rows.is_empty() || matches!(view, View::FanOuts | View::Pending),
            "{view:?}: the history makes none"
        );
        for row in rows {
            let row = sorted(row);
            shown += &format!("{} {row:?}\n", collection.name());
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &shown).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("tests/golden/documents.txt");
    for (line, (expected, shown)) in golden.lines().zip(shown.lines()).enumerate() {
        assert_eq!(shown, expected, "line {}", line + 1);
    }
    assert_eq!(golden.lines().count(), shown.lines().count());
    world.clean_up().await;
}
