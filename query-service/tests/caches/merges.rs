//! Timelines that are merged when they are read: what is in memory of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use query_service::invalidation::Subscriber;
use query_service::live::Live;
use query_service::operator::verify::{Cuts, List, read_log};
use query_service::reads::{ReadFrom, Unanswered};
use tokio_util::sync::CancellationToken;

use super::common::{self, World};
use super::{equals_the_model, metrics, read_on};

/// Looks for what a merge found that were hits, by now.
fn merges_from_memory() -> u64 {
    let lines = metrics();
    let hits = lines.lines().filter(|line| {
        line.contains("cache_looks_total") && line.contains("merges") && line.contains("\"hit\"")
    });
    hits.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_is_remembered_equals_the_model_while_people_act() {
    metrics();
    let mut world = World::new("merges", 2, 100_000, 41).await;
    // Everybody is inactive, and reads by merging.
    world.idle_after = Some(Duration::from_millis(1));
    let people = (0..8).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let (fold, views) = (world.fold().await, world.views().await);
    let (_switch, current) = tokio::sync::watch::channel(views.clone());
    let stop = CancellationToken::new();
    let names = world.settings.names.clone();
    let live = Live::new(current.clone(), stop.clone());
    let follow = Subscriber::new(current, live).run(world.nats.clone(), names, stop.clone());
    let follow = tokio::spawn(follow);
    world.caught_up(&views).await;
    common::eventually("everybody is parked", async || {
        let users = world.history.users();
        views
            .generation()
            .inactive_among(users)
            .await
            .unwrap()
            .len()
            == users.len()
    })
    .await;
    for round in 0..6 {
        let (done, users) = (Arc::<AtomicBool>::default(), world.history.users().to_vec());
        let reader = tokio::spawn(read_on(views.clone(), users, done.clone()));
        for _ in 0..4 {
            let events = (0..15).map(|_| world.history.act()).collect();
            world.publish(events).await;
        }
        done.store(true, Ordering::Relaxed);
        reader.await.expect("no panic").expect("a read");
        equals_the_model(&world, &views, round).await;
        // Nobody acts any more: what was merged is asked again, and once more.
        equals_the_model(&world, &views, round).await;
    }
    let hits = merges_from_memory();
    println!("{hits} merges from memory");
    assert!(hits > 20, "hardly a merge was remembered");
    stop.cancel();
    follow.await.expect("no panic");
    fold.stop().await;
    world.clean_up().await;
}

/// More authors are merged when read than one page may load: each page loads some more.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_of_hundreds_of_celebrities_is_in_memory_after_a_few_pages() {
    const AUTHORS: usize = 200;
    let mut world = World::new("celebrities", 2, 1, 51).await;
    let people = (0..=AUTHORS).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let (fold, views) = (world.fold().await, world.views().await);
    let (_switch, current) = tokio::sync::watch::channel(views.clone());
    let stop = CancellationToken::new();
    let names = world.settings.names.clone();
    let live = Live::new(current.clone(), stop.clone());
    let subscriber = Subscriber::new(current, live);
    let follow = tokio::spawn(subscriber.run(world.nats.clone(), names, stop.clone()));
    let users = world.history.users().to_vec();
    let (reader, authors) = users.split_first().expect("they were registered");
    let mut events = Vec::new();
    for author in authors {
        events.push(world.history.toggle_follow(*reader, *author));
    }
    // Followed first: what comes after it is fanned out on read.
    world.publish(events).await;
    world.caught_up(&views).await;
    let events = authors
        .iter()
        .map(|author| world.history.post(*author, None));
    let events = events.collect();
    world.publish(events).await;
    world.caught_up(&views).await;
    let model = read_log(&world.log).await.expect("the log");
    let expected = model.visible(*reader, &Cuts::default());
    let expected = expected.lists[&List::Home][0].clone();
    assert_eq!(expected.len(), 100, "a page of posts");
    let cached = views.with(ReadFrom::CacheThenDatabase);
    let pages = AtomicUsize::new(0);
    common::eventually("a page is in memory", async || {
        let page = List::Home.page(&cached, *reader, 100, None).await;
        assert_eq!(page.expect("a read").items, expected);
        pages.fetch_add(1, Ordering::Relaxed);
        let Some(memory) = cached.cache_only() else {
            return false;
        };
        match List::Home.page(&memory, *reader, 100, None).await {
            Ok(page) => page.items == expected,
            Err(error) => {
                assert!(matches!(error, Unanswered::CacheMiss), "{error}");
                false
            }
        }
    })
    .await;
    println!("in memory after {} pages", pages.into_inner());
    stop.cancel();
    follow.await.expect("no panic");
    fold.stop().await;
    world.clean_up().await;
}
