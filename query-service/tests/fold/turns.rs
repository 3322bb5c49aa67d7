//! Whoever makes, shows and drops generations: one at a time, and what is shown is never dropped.

use bson::{DateTime, Document, doc};
use query_service::views::generation::Catalog;

use super::common::{World, eventually};

/// Another's lease that does not end while the test runs.
fn taken() -> Document {
    let much_later = DateTime::from_millis(DateTime::now().timestamp_millis() + 3_600_000);
    doc! { "holder": "another", "epoch": 1_000_i64, "expires_at": much_later }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_shows_nothing_that_is_dropped_and_drops_nothing_that_is_shown() {
    let world = World::new("turns", 1, 5, 21).await;
    let views = world.views().await;
    let catalog = Catalog::new(&world.views_database());
    let new = catalog.create(views.partitions()).await.expect("a row");
    let (first, second) = (views.generation().number, new.number);
    assert!(!catalog.retire(first).await.expect("a look"), "it is shown");
    assert!(catalog.switch(first, second).await.expect("a switch"));
    assert!(
        !catalog.retire(second).await.expect("a look"),
        "it is shown"
    );
    assert!(catalog.retire(first).await.expect("a row less"));
    assert!(!catalog.switch(second, first).await.expect("a look"));
    // Many at once: whatever wins, what is shown is there.
    for _ in 0..10 {
        let now = catalog.current().await.expect("a look").expect("views");
        let next = catalog.create(now.partitions).await.expect("a row");
        let (shown, retired) = tokio::join!(
            catalog.switch(now.number, next.number),
            catalog.retire(next.number)
        );
        assert_ne!(shown.expect("a switch"), retired.expect("a row less"));
        assert!(catalog.current().await.expect("a look").is_some());
    }
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_whose_turn_was_taken_changes_nothing_more() {
    let mut world = World::new("turn", 1, 5, 22).await;
    let people = (0..3).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let shown = world.views().await.generation().number;
    // It waits: nobody folds its generation.
    let database = world.views_database();
    let mut partition = taken();
    partition.insert("_id", "partition-0");
    let leases = database.collection::<Document>("g2_leases");
    leases.insert_one(partition).await.expect("a lease");
    let turns = Catalog::new(&database).operators();
    let take = async {
        let building = doc! { "_id": 2, "state": "building" };
        let generations = database.collection::<Document>("generations");
        eventually("it has begun", async || {
            let row = generations.find_one(building.clone()).await;
            row.expect("a look").is_some()
        })
        .await;
        let taken = doc! { "$set": taken() };
        let lease = turns.update_one(doc! { "_id": "rebuild" }, taken).await;
        assert_eq!(lease.expect("a lease").matched_count, 1);
    };
    let (output, ()) = tokio::join!(world.query_service("1", &["rebuild"]), take);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("stood still for so long"), "{said}");
    let now = Catalog::new(&database).current().await;
    assert_eq!(now.expect("a look").expect("views").number, shown);
    world.clean_up().await;
}
