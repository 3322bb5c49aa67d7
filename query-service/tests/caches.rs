//! What a replica remembers equals the model as soon as it was told, whatever it loaded when; and
//! what a live stream is sent while its reader comes back.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

mod common;
#[path = "caches/merges.rs"]
mod merges;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::World;
use futures_util::FutureExt;
use query_service::invalidation::Subscriber;
use query_service::live::{Live, Refused};
use query_service::operator::verify::{Cuts, List, Visible, read_log};
use query_service::reads::{ReadFrom, ReadModel, Unanswered};
use query_service::startup::{Role, measured};
use shared::contract::events::PostRef;
use shared::contract::ids::{Id, UserId};
use shared::contract::partition::Partitions;
use shared::runtime::telemetry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A value older than the last messages would be believed for a minute. So long is not waited.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads what clients read, all the time, so that loads begin before and end after messages.
async fn read_on(
    views: ReadModel,
    users: Vec<UserId>,
    done: Arc<AtomicBool>,
) -> Result<(), Unanswered> {
    while !done.load(Ordering::Relaxed) {
        for user in &users {
            let views = views.with(ReadFrom::CacheThenDatabase);
            views.home(*user, 20, None).await?;
            views.user(*user).await?;
            views.posts_of(*user, Some(*user), 20, None).await?;
        }
    }
    Ok(())
}

/// All metrics of this process; from the first call on there are some.
fn metrics() -> String {
    let partitions = Partitions::new(1).expect("one is enough");
    telemetry::init_metrics(&measured(partitions, Role::All)).render()
}

/// Lookups that were hits, by now.
fn hits() -> u64 {
    metrics()
        .lines()
        .filter(|line| line.contains("cache_looks_total") && line.contains("\"hit\""))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_equals_the_model_while_people_act_and_folds_restart() {
    metrics();
    let mut world = World::new("caches", 2, 6, 31).await;
    let people = (0..10).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let mut fold = world.fold().await;
    let views = world.views().await;
    let (_switch, current) = tokio::sync::watch::channel(views.clone());
    let stop = CancellationToken::new();
    let live = Live::new(current.clone(), stop.clone());
    let follow = Subscriber::new(current, live).run(
        world.nats.clone(),
        world.settings.names.clone(),
        stop.clone(),
    );
    let follow = tokio::spawn(follow);
    let rounds = if std::env::var("MICROBLOG_CHAOS").is_ok_and(|form| form == "long") {
        60
    } else {
        8
    };
    let mut from_memory = 0;
    for round in 0..rounds {
        let (done, mut readers) = (Arc::<AtomicBool>::default(), JoinSet::new());
        for _ in 0..3 {
            let users = world.history.users().to_vec();
            readers.spawn(read_on(views.clone(), users, done.clone()));
        }
        for _ in 0..6 {
            let events = (0..15).map(|_| world.history.act()).collect();
            world.publish(events).await;
        }
        if round % 3 == 1 {
            fold.stop().await;
            fold = world.fold().await;
        }
        done.store(true, Ordering::Relaxed);
        while let Some(read) = readers.join_next().await {
            read.expect("no panic").expect("a read while people act");
        }
        from_memory += equals_the_model(&world, &views, round).await;
    }
    assert!(hits() > 1_000, "hardly anything was remembered");
    assert!(from_memory > rounds, "hardly a page was in memory");
    println!(
        "{rounds} rounds, {} hits, {from_memory} pages from memory",
        hits()
    );
    stop.cancel();
    follow.await.expect("no panic");
    fold.stop().await;
    world.clean_up().await;
}

/// How many first pages were all in memory; they equal the model as well.
async fn equals_the_model(world: &World, views: &ReadModel, round: usize) -> usize {
    let mut from_memory = 0;
    let model = read_log(&world.log).await.expect("the log");
    let give_up = tokio::time::Instant::now() + PATIENCE;
    for user in model.users() {
        let expected = model.visible(user, &Cuts::default());
        loop {
            let shown = Visible::of(&views.with(ReadFrom::CacheThenDatabase), user)
                .await
                .expect("a read");
            let differences = expected.differences(user, &shown);
            if differences.is_empty() {
                break;
            }
            let late = tokio::time::Instant::now() > give_up;
            if late {
                let direct = Visible::of(views, user).await.expect("a read");
                let direct = expected.differences(user, &direct);
                panic!("round {round}: {differences:#?}, from the database: {direct:#?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Who has left is refused before any timeline is read: nobody waited for theirs above.
        let Some(expected) = expected.lists.get(&List::Home) else {
            continue;
        };
        let Some(memory) = views.with(ReadFrom::CacheThenDatabase).cache_only() else {
            continue;
        };
        match List::Home.page(&memory, user, 100, None).await {
            Ok(page) => {
                let expected = expected.first().map_or(&[][..], |page| page);
                assert_eq!(page.items, expected, "round {round}, user {user}");
                from_memory += 1;
            }
            Err(error) => assert!(matches!(error, Unanswered::CacheMiss), "{error}"),
        }
    }
    from_memory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_two_repost_does_not_send_the_next_reader_to_the_database() {
    let mut world = World::new("again", 1, 100, 34).await;
    let people = (0..4).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let [reader, author, one, other] = world.history.users()[..] else {
        panic!("four were registered")
    };
    let mut events = Vec::new();
    for followee in [author, one, other] {
        events.push(world.history.toggle_follow(reader, followee));
    }
    for _ in 0..100 {
        events.push(world.history.post(author, None));
    }
    let post = events.last().map(|event| event.id.cast()).unwrap();
    for user in [one, other] {
        let post = PostRef { post, author };
        events.push(world.history.toggle_repost(user, post));
    }
    world.publish(events).await;
    let (fold, views) = (world.fold().await, world.views().await);
    let stop = CancellationToken::new();
    let (_switch, current) = tokio::sync::watch::channel(views.clone());
    let live = Live::new(current.clone(), stop.clone());
    let names = world.settings.names.clone();
    let follow =
        tokio::spawn(Subscriber::new(current, live).run(world.nats.clone(), names, stop.clone()));
    world.caught_up(&views).await;
    common::eventually("the page is remembered", async || {
        let read = views
            .with(ReadFrom::CacheThenDatabase)
            .home(reader, 20, None)
            .await;
        let loaded = read.expect("a timeline");
        assert_eq!(loaded.items.len(), 20);
        let Some(memory) = views.with(ReadFrom::CacheThenDatabase).cache_only() else {
            return false;
        };
        memory
            .home(reader, 20, None)
            .await
            .is_ok_and(|page| page == loaded)
    })
    .await;
    stop.cancel();
    follow.await.expect("no panic");
    fold.stop().await;
    world.clean_up().await;
}

/// A scroll may go on at another replica. What it reads there is no timeline's newest part, whatever
/// that replica's clock says.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_by_a_cursor_is_never_remembered_as_the_newest() {
    let mut world = World::new("ahead", 1, 100, 35).await;
    let people = (0..2).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let (reader, author) = (world.history.users()[0], world.history.users()[1]);
    world.history.go_ahead_of_the_clock(Duration::from_secs(60));
    let mut events = vec![world.history.toggle_follow(reader, author)];
    events.extend((0..9).map(|_| world.history.post(author, None)));
    world.publish(events).await;
    let (fold, views) = (world.fold().await, world.views().await);
    world.caught_up(&views).await;
    let other = world.views().await;
    let stop = CancellationToken::new();
    let (_switch, current) = tokio::sync::watch::channel(other.clone());
    let live = Live::new(current.clone(), stop.clone());
    let names = world.settings.names.clone();
    let follow =
        tokio::spawn(Subscriber::new(current, live).run(world.nats.clone(), names, stop.clone()));
    common::eventually("the other replica is told of changes", async || {
        other
            .with(ReadFrom::CacheThenDatabase)
            .cache_only()
            .is_some()
    })
    .await;
    let first = views.home(reader, 3, None).await.unwrap();
    assert_eq!(first.items.len(), 3);
    let cursor = first.next_cursor.as_deref();
    let second = other
        .with(ReadFrom::CacheThenDatabase)
        .home(reader, 3, cursor)
        .await
        .unwrap();
    assert_eq!(second.items.len(), 3);
    for _ in 0..3 {
        let shown = other
            .with(ReadFrom::CacheThenDatabase)
            .home(reader, 3, None)
            .await
            .unwrap();
        assert_eq!(shown.items, first.items);
        let of = other
            .with(ReadFrom::CacheThenDatabase)
            .posts_of(author, None, 3, None)
            .await
            .unwrap();
        let of = of.expect("an author").items;
        assert_eq!(of[0].post_id, first.items[0].post_id);
    }
    stop.cancel();
    follow.await.expect("no panic");
    fold.stop().await;
    world.clean_up().await;
}

/// Whoever resumes while what they miss is trimmed gets it from the author feeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_resumption_misses_nothing_that_is_trimmed_meanwhile() {
    const POSTS: usize = 100;
    let mut world = World::new("trims", 1, 1_000, 36).await;
    let people = (0..2).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let (reader, author) = (world.history.users()[0], world.history.users()[1]);
    let mut events = vec![world.history.toggle_follow(reader, author)];
    events.extend((0..POSTS).map(|_| world.history.post(author, None)));
    world.publish(events).await;
    let (fold, views) = (world.fold().await, world.views().await);
    world.caught_up(&views).await;
    common::eventually("all is in the timeline", async || {
        views.newer_than(reader, 0).await.unwrap().1.len() == POSTS
    })
    .await;
    fold.stop().await;
    let writer = common::writer(&views).await;
    let (_, all) = views.newer_than(reader, 0).await.unwrap();
    for round in 0..POSTS / 2 - 1 {
        // The oldest that is stored was sent before; the next is trimmed with it, at some moment.
        let oldest = 2 * round;
        let trim = async {
            tokio::time::sleep(Duration::from_micros(round as u64 % 16 * 600)).await;
            writer.trim(&[reader], POSTS - oldest - 2).await.unwrap()
        };
        let resumed = views.newer_than(reader, all[oldest].0);
        let (resumed, _) = tokio::join!(resumed, trim);
        assert_eq!(resumed.unwrap().1, all[oldest + 1..], "round {round}");
    }
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_notices_nothing_is_believed_and_in_bad_times_it_is_served() {
    let mut world = World::new("stale", 1, 100, 32).await;
    let people = (0..3).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let fold = world.fold().await;
    world.assert_equal_to_the_model("caught up").await;
    let (reader, views) = (world.history.users()[0], world.views().await);
    let before = views
        .with(ReadFrom::CacheThenDatabase)
        .home(reader, 20, None)
        .await
        .unwrap();
    let post = world.history.post(reader, None);
    world.publish(vec![post]).await;
    world.assert_equal_to_the_model("a post").await;
    // Nobody told this replica, and it knows that.
    let now = views
        .with(ReadFrom::CacheThenDatabase)
        .home(reader, 20, None)
        .await
        .unwrap();
    // The second look knows how far back to look at once, and so does what it remembers.
    views
        .with(ReadFrom::CacheThenDatabase)
        .home(reader, 20, None)
        .await
        .unwrap();
    assert_eq!((before.items.len(), now.items.len()), (0, 1));
    // With the database away what was read last is served; what was never read is not made up.
    let stale = views
        .with(ReadFrom::StaleCache)
        .home(reader, 20, None)
        .await
        .unwrap();
    assert_eq!(stale, now);
    let other = world.history.users()[1];
    let unknown = views.with(ReadFrom::StaleCache).home(other, 20, None).await;
    assert!(matches!(unknown, Err(Unanswered::CacheMiss)));
    fold.stop().await;
    world.clean_up().await;
}

/// 10,000 streams are served, 1,000 more wait for a place, and no more; 20 are of one reader.
async fn streams_are_bounded(views: &ReadModel) {
    let (_switch, current) = tokio::sync::watch::channel(views.clone());
    let live = Live::new(current, CancellationToken::new());
    let subscribe = async |number: i64| live.subscribe(Id::new(number + 1).expect("an id")).await;
    let mut served = Vec::new();
    for number in 0..10_000 {
        served.push(subscribe(number / 20).await.expect("a place"));
    }
    assert_eq!(subscribe(0).await.err(), Some(Refused::Reader));
    let mut waiting = Vec::new();
    for number in 0..1_000 {
        waiting.push(subscribe(1_000 + number).await.expect("it may wait"));
    }
    assert_eq!(subscribe(2_000).await.err(), Some(Refused::Process));
    assert!(live.wait().is_none());
    assert!(served[0].placed().now_or_never().is_some(), "at once");
    assert!(
        waiting[0].placed().now_or_never().is_none(),
        "all are taken"
    );
    served.pop();
    waiting[0].placed().await;
    // What it waited with is free again.
    let next = subscribe(2_000).await.expect("it may wait");
    assert_eq!(subscribe(2_001).await.err(), Some(Refused::Process));
    drop((served, waiting, next));
    let mut again = subscribe(0).await.expect("all are gone");
    again.placed().now_or_never().expect("at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_misses_nothing_while_its_reader_comes_back() {
    let mut world = World::new("back", 2, 100, 33).await;
    world.idle_after = Some(Duration::from_millis(500));
    let people = (0..2).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let (reader, author) = (world.history.users()[0], world.history.users()[1]);
    let follow = world.history.toggle_follow(reader, author);
    world.publish(vec![follow]).await;
    let (fold, views) = (world.fold().await, world.views().await);
    let own = views.partitions().of(reader);
    common::eventually("whoever stays away is parked", async || {
        views
            .generation()
            .some_inactive(own, 100)
            .await
            .unwrap()
            .contains(&reader)
    })
    .await;
    let (mut at, mut expected, mut sent) = (views.position_now().await.unwrap(), vec![], vec![]);
    let mut back = 0;
    // Some before they are fanned out to again, some after.
    while back < 20 {
        let post = world.history.post(author, None);
        expected.push(post.id.get());
        world.publish(vec![post]).await;
        views.note_seen(reader).await.unwrap();
        let (all_up_to, posts) = views.newer_than(reader, at).await.unwrap();
        sent.extend(posts.iter().map(|(_, post)| post.post_id.get()));
        assert!(sent.len() < 2_000, "they do not come back");
        at = at.max(all_up_to);
        back += usize::from(
            !views
                .generation()
                .some_inactive(own, 100)
                .await
                .unwrap()
                .contains(&reader),
        );
    }
    common::eventually("everything is applied", async || {
        views.position_now().await.unwrap() as usize >= expected.len() + 3
    })
    .await;
    let (_, posts) = views.newer_than(reader, at).await.unwrap();
    sent.extend(posts.iter().map(|(_, post)| post.post_id.get()));
    assert_eq!(sent, expected);
    // Who resumes from long ago gets the same again, oldest first.
    let (_, posts) = views.newer_than(reader, 0).await.unwrap();
    let again: Vec<i64> = posts.iter().map(|(_, post)| post.post_id.get()).collect();
    assert_eq!(again, expected);
    streams_are_bounded(&views).await;
    fold.stop().await;
    world.clean_up().await;
}
