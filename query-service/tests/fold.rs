//! Random interleavings of everything people do, folded with restarts, equal a plain model.

mod common;

use common::World;
use query_service::read_model::generation::Catalog;

/// Seeds per shape: a few in `make test`, many in `make chaos`.
fn seeds() -> u64 {
    if std::env::var("MICROBLOG_CHAOS").is_ok_and(|mode| mode == "long") {
        12
    } else {
        1
    }
}

async fn random_history(partitions: u16, threshold: u64, seed: u64) {
    const PEOPLE: usize = 12;
    const STEPS: usize = 10;
    const EVENTS_PER_STEP: usize = 60;
    let mut world = World::new("fold", partitions, threshold, seed).await;
    let people = (0..PEOPLE).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let mut fold = world.fold().await;
    for step in 0..STEPS {
        let events = (0..EVENTS_PER_STEP).map(|_| world.history.act()).collect();
        world.publish(events).await;
        match step % 3 {
            // Stopped at a batch's end, and started again while events wait.
            0 => {
                fold.stop().await;
                fold = world.fold().await;
            }
            1 => world.publish_junk().await,
            _ => (),
        }
        if step % 4 == 3 {
            world
                .assert_equal_to_the_model(&format!(
                    "partitions {partitions}, threshold {threshold}, seed {seed}, step {step}"
                ))
                .await;
        }
    }
    world
        .assert_equal_to_the_model(&format!(
            "partitions {partitions}, threshold {threshold}, seed {seed}, end"
        ))
        .await;
    fold.stop().await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_equal_the_model_with_4_partitions() {
    for seed in 0..seeds() {
        random_history(4, 100_000, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_equal_the_model_with_hot_authors() {
    for seed in 100..100 + seeds() {
        random_history(1, 3, seed).await;
        random_history(2, 3, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scroll_past_the_horizon_shows_every_entry_once() {
    let mut world = World::new("horizon", 2, 100_000, 7).await;
    let people: Vec<_> = (0..12).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let users = world.history.users().to_vec();
    let fold = world.fold().await;
    let follows = users[1..]
        .iter()
        .map(|followee| world.history.toggle_follow(users[0], *followee))
        .collect();
    world.publish(follows).await;
    for _ in 0..16 {
        let posts = (0..11)
            .flat_map(|n| std::iter::repeat_n(n, 10))
            .map(|n| world.history.post(users[n + 1], None))
            .collect();
        world.publish(posts).await;
    }
    // 1,760 entries, 800 kept: most of the scroll merges outboxes.
    world.assert_equal_to_the_model("past the horizon").await;
    fold.stop().await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_with_other_partitions_shows_the_same_and_can_be_reverted() {
    let mut world = World::new("rebuild", 2, 5, 11).await;
    let people = (0..10).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let events = (0..200).map(|_| world.history.act()).collect();
    world.publish(events).await;
    let fold = world.fold().await;
    world.assert_equal_to_the_model("before").await;
    let shape = |world: &World| {
        let views = world
            .log
            .client()
            .database(&query_service::startup::views_database(world.log.name()));
        async move {
            Catalog::new(&views)
                .current()
                .await
                .unwrap()
                .map(|now| (now.number, now.partitions.count()))
                .unwrap()
        }
    };
    assert_eq!(shape(&world).await, (1, 2));
    for (partitions, arguments, expected) in [
        ("3", vec![], (2, 3)),
        ("3", vec!["--revert"], (1, 2)),
        ("3", vec!["--revert"], (2, 3)),
        ("3", vec!["--drop"], (2, 3)),
    ] {
        let output = world
            .query_service(partitions, &[vec!["rebuild"], arguments].concat())
            .await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(shape(&world).await, expected);
        world.assert_equal_to_the_model("after").await;
    }
    fold.stop().await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_are_parked_and_return_see_everything() {
    let mut world = World::new("idle", 2, 100_000, 21).await;
    // Whoever has not read for two seconds is parked: most are, most of the time.
    world.idle_after = Some(std::time::Duration::from_secs(2));
    let people = (0..10).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let fold = world.fold().await;
    for round in 0..4 {
        let events = (0..80).map(|_| world.history.act()).collect();
        world.publish(events).await;
        // Some come back, and soon are away again; comparing alone brings nobody back.
        for reader in world.history.users().iter().skip(round).step_by(3) {
            world.views().await.note_seen(*reader).await.unwrap();
        }
        world
            .assert_equal_to_the_model(&format!("round {round}"))
            .await;
    }
    let views = world.views().await;
    let parked = async || {
        let mut parked = 0;
        for partition in views.partitions().all() {
            parked += views.parked_in(partition).await.unwrap().len();
        }
        parked
    };
    common::eventually("everybody who stays away is parked", async || {
        parked().await >= world.history.users().len()
    })
    .await;
    let events = (0..80).map(|_| world.history.act()).collect();
    world.publish(events).await;
    world.assert_equal_to_the_model("after being parked").await;
    let reader = world.history.users()[0];
    let own = views.partitions().of(reader);
    world.views().await.note_seen(reader).await.unwrap();
    common::eventually("whoever reads is fanned out to again", async || {
        !views.parked_in(own).await.unwrap().contains(&reader)
    })
    .await;
    let events = (0..80).map(|_| world.history.act()).collect();
    world.publish(events).await;
    world.assert_equal_to_the_model("after coming back").await;
    fold.stop().await;
    world.clean_up().await;
}
