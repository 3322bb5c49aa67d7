//! Random interleavings of everything people do, folded with restarts and failing commits, equal a
//! plain model: past the horizon, through a rebuild, for readers who are inactive and return. With a
//! fault built in they do not.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

mod common;
#[path = "fold/documents.rs"]
mod documents;
#[path = "fold/identity.rs"]
mod identity;
#[path = "fold/lists.rs"]
mod lists;
#[path = "fold/reader.rs"]
mod reader;
#[path = "fold/threads.rs"]
mod threads;
#[path = "fold/turns.rs"]
mod turns;

use bson::doc;
use common::{World, hasty};
use query_service::operator::verify::List;
use query_service::projection::memory::Memory;
use query_service::reads::ReadModel;
use query_service::reads::posts::MOST_EXAMINED;
use query_service::views::fail_point::FailPoint;
use query_service::views::generation::{Catalog, FOLD_REVISION, View};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shared::contract::events::PostRef;
use shared::contract::ids::UserId;
use std::time::Duration;

/// The long form, as `make chaos` runs it.
fn is_long() -> bool {
    std::env::var("MICROBLOG_CHAOS").is_ok_and(|form| form == "long")
}

/// Seeds per shape: with four shapes of some 440 commands, more than 10,000 in the long form.
fn seeds() -> u64 {
    if is_long() { 8 } else { 1 }
}

/// A random history, folded with restarts and kills, read in the middle and at the end. Says what
/// differs from the model.
async fn random_history(
    partitions: u16,
    threshold: u64,
    seed: u64,
    fail_point: Option<FailPoint>,
) -> Vec<String> {
    const PEOPLE: usize = 12;
    const STEPS: usize = 10;
    let mut world = World::new("fold", partitions, threshold, seed).await;
    world.fail_point = fail_point;
    if seed.is_multiple_of(4) {
        // Whatever there is no room for is looked up.
        world.memory = Memory::NONE;
    }
    let mut dice = StdRng::seed_from_u64(seed);
    let people = (0..PEOPLE).map(|_| world.history.register()).collect();
    world.publish(people).await;
    // As old as the test: whatever it remembers of earlier reads must not show.
    let views = world.views().await;
    let mut fold = world.fold().await;
    let (mut restarts, mut kills, mut differences) = (0, 0, Vec::new());
    for _ in 0..STEPS {
        let count = dice.random_range(20..60);
        let events = world.history.acts(count);
        world.publish(events).await;
        match dice.random_range(0..8) {
            // Between any two awaits; not in the short form: a transaction that is left open
            // keeps its rows for a minute. Failing commits are tested in both.
            0 if is_long() => {
                fold.kill();
                world.expire_leases().await;
                fold = world.fold().await;
                kills += 1;
            }
            // Stopped at a batch's end, and started again while events wait.
            0..3 => {
                fold.stop().await;
                let events = world.history.acts(20);
                world.publish(events).await;
                fold = world.fold().await;
                restarts += 1;
            }
            3 => world.publish_junk().await,
            4 | 5 => world.read_meanwhile(&views).await,
            6 => differences.extend(world.differences(&views).await),
            _ => (),
        }
        if !differences.is_empty() {
            break;
        }
    }
    differences.extend(world.differences(&views).await);
    println!(
        "{partitions} partitions, threshold {threshold}, seed {seed}, {fail_point:?}: {} commands, {restarts} restarts, {kills} kills, {} differences",
        world.history.len(),
        differences.len()
    );
    fold.stop().await;
    world.clean_up().await;
    differences
}

async fn assert_equal(partitions: u16, threshold: u64, seed: u64) {
    // Every other time commits fail as well: nobody may message.
    let fail_point = (seed % 2 == 1).then_some(FailPoint::Crashes);
    let differences = random_history(partitions, threshold, seed, fail_point).await;
    let some: Vec<&String> = differences.iter().take(5).collect();
    assert!(
        some.is_empty(),
        "partitions {partitions}, threshold {threshold}, seed {seed}: {some:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_equal_the_model_where_everybody_is_fanned_out() {
    for seed in 0..seeds() {
        assert_equal(4, 100_000, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_equal_the_model_where_authors_become_hot() {
    for seed in 100..100 + seeds() {
        for partitions in [1, 2, 4] {
            assert_equal(partitions, 3, seed + u64::from(partitions)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_without_backfill_guard_or_refill_does_not_equal_the_model() {
    // None that is folded without memory: what waits for backfill is looked for every few seconds
    // there, and merged into what is read until then.
    const SEEDS: [u64; 3] = [201, 202, 203];
    let control = random_history(2, 100_000, SEEDS[0], None).await;
    assert_eq!(control, Vec::<String>::new());
    for fail_point in [
        FailPoint::NoBackfill,
        FailPoint::NoGuard,
        FailPoint::NoRefill,
    ] {
        let mut noticed = false;
        for seed in SEEDS {
            // Whether one history is read at the right moment is chance.
            let differences = random_history(2, 100_000, seed, Some(fail_point)).await;
            noticed = !differences.is_empty();
            if noticed {
                break;
            }
        }
        assert!(noticed, "{fail_point:?} was not noticed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scroll_to_old_posts_takes_few_pages_within_any_budget() {
    const POSTS: usize = 30;
    const LIMIT: usize = 2;
    let mut world = World::new("old", 2, 100_000, 5).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let years_ago = now.expect("after 1970") - Duration::from_secs(900 * 86_400);
    world.history.begin_at(years_ago.as_millis() as i64);
    let people = (0..2).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let [reader, author] = world.history.users()[..] else {
        panic!("two were registered")
    };
    let mut events = vec![world.history.toggle_follow(reader, author)];
    events.extend((0..POSTS).map(|_| world.history.post(author, None)));
    world.publish(events).await;
    let (fold, views) = (world.fold().await, hasty(&world.views().await));
    world.caught_up(&views).await;
    let (mut shown, mut pages, mut cursor) = (0, 0, None);
    loop {
        let views = views.afresh();
        let page = views.home(reader, LIMIT, cursor.as_deref()).await.unwrap();
        shown += page.items.len();
        pages += 1;
        assert!(pages <= POSTS / LIMIT + 5, "{shown} shown in {pages} pages");
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(shown, POSTS);
    fold.stop().await;
    world.clean_up().await;
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
    // 1,760 entries, 800 kept: most of the scroll merges author feeds.
    world.assert_equal_to_the_model("past the horizon").await;
    fold.stop().await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_looks_at_too_much_ends_early_and_nothing_is_missed() {
    assert_eq!(MOST_EXAMINED, 2_000, "as promised in docs/api.md");
    let mut world = World::new("early", 2, 100_000, 21).await;
    let people = (0..3).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let [author, first, leaver] = world.history.users()[..] else {
        panic!("three were registered")
    };
    let mut events = vec![world.history.post(author, None)];
    let post = PostRef {
        post: events[0].id.cast(),
        author,
    };
    events.push(world.history.post(first, Some(post)));
    for _ in 0..MOST_EXAMINED + 100 {
        events.push(world.history.post(leaver, Some(post)));
    }
    // Their replies are not shown, and not deleted yet.
    events.push(world.history.leave(leaver));
    world.publish(events).await;
    let (fold, views) = (world.fold().await, world.views().await);
    world.caught_up(&views).await;
    let replies = List::Replies(post.post).scroll(&views, author, 20);
    let replies = replies.await.unwrap();
    let shown: Vec<usize> = replies.pages.iter().map(Vec::len).collect();
    assert_eq!((shown, replies.cuts.len()), (vec![0, 1], 1));
    world
        .assert_equal_to_the_model("a page that ends early")
        .await;
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
        let views = world.views_database();
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
    // Nothing comes any more; and it knows no catalog that tells it what was dropped.
    fold.stop().await;
    for (partitions, arguments, expected) in [
        ("3", vec![], (2, 3)),
        ("3", vec!["--revert"], (1, 2)),
        ("3", vec!["--revert"], (2, 3)),
        // The first cannot be shown any more: it makes way, and is not taken for unfinished.
        ("3", vec![], (3, 3)),
        ("2", vec![], (4, 2)),
    ] {
        let output = world
            .query_service(partitions, &[vec!["rebuild"], arguments].concat())
            .await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(shape(&world).await, expected);
        world.assert_equal_to_the_model("after").await;
    }
    assert_eq!(world.generations().await, [3, 4]);
    // What another build has begun is not finished by this one; what this one began is.
    let row = |number: i64, fold: i64| {
        doc! { "_id": number, "partitions": 2, "state": "building", "version": shared::runtime::settings::VERSION, "fold": fold }
    };
    let rows = world.views_database().collection("generations");
    rows.insert_many([row(5, FOLD_REVISION + 1), row(6, FOLD_REVISION)])
        .await
        .unwrap();
    let output = world.query_service("2", &["rebuild"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(shape(&world).await, (6, 2));
    assert_eq!(world.generations().await, [4, 6]);
    // What a drop that was killed has left goes as well.
    let stray = world.views_database().collection("g5_timeline");
    stray.insert_one(doc! { "_id": 1 }).await.unwrap();
    let output = world.query_service("2", &["rebuild", "--drop"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(world.generations().await, [6]);
    world.assert_equal_to_the_model("dropped").await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_some_partitions_understand_is_kept_and_can_be_replayed() {
    let mut world = World::new("letters", 3, 100_000, 12).await;
    // So many that one of them belongs to each partition, whatever their ids.
    const PEOPLE: u64 = 60;
    let people = (0..PEOPLE).map(|_| world.history.register()).collect();
    world.publish(people).await;
    world.fail_point = Some(FailPoint::Older);
    let (fold, views) = (world.fold().await, world.views().await);
    let author = world.history.users()[1..]
        .iter()
        .copied()
        .find(|user| views.partitions().of(*user).0 == 2)
        .unwrap();
    let post = world.history.post(author, None);
    let post_ref = PostRef {
        post: post.id.cast(),
        author,
    };
    let like = world
        .history
        .toggle_like(world.history.users()[0], post_ref);
    world.publish(vec![post, like]).await;
    world.publish_junk().await;
    world.caught_up(&views).await;
    fold.stop().await;
    // A letter as builds before this one have kept it.
    let old = doc! { "_id": 3_i64, "subject": "old", "reason": "old", "at": bson::DateTime::now() };
    let letters = views.generation().collection(View::DeadLetters);
    letters.insert_one(old).await.unwrap();

    let list = async |world: &World| {
        let output = world.query_service("3", &["dead-letters", "list"]).await;
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let line = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            (fields[0].parse::<u64>().unwrap(), fields[4].to_owned())
        };
        printed.lines().map(line).collect::<Vec<_>>()
    };
    // After those people and the post: the like, and what is no event.
    let expected = [(3, "0"), (PEOPLE + 2, "1-2"), (PEOPLE + 3, "0")];
    let expected = expected.map(|(seq, of)| (seq, format!("partitions {of}")));
    assert_eq!(list(&world).await, expected);
    let dropped = world
        .query_service("3", &["dead-letters", "drop", "3"])
        .await;
    assert!(dropped.status.success(), "{dropped:?}");
    // The author's partition does not know of the like.
    world.fail_point = None;
    assert!(!world.verify().await.differences.is_empty());
    let replayed = world.query_service("3", &["dead-letters", "replay"]).await;
    assert!(replayed.status.success(), "{replayed:?}");
    assert_eq!(list(&world).await, expected[2..]);
    world.assert_equal_to_the_model("replayed").await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_are_parked_and_return_see_everything() {
    let mut world = World::new("idle", 2, 100_000, 21).await;
    // Whoever has not read for two seconds is inactive: most are, most of the time. Who they are has
    // no room in memory.
    world.memory = Memory::NONE;
    world.idle_after = Some(Duration::from_secs(2));
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
    common::eventually("everybody who stays away is parked", async || {
        world.inactive(&views).await.len() >= world.history.users().len()
    })
    .await;
    let events = (0..80).map(|_| world.history.act()).collect();
    world.publish(events).await;
    world.assert_equal_to_the_model("after being parked").await;
    let reader = world.history.users()[0];
    world.views().await.note_seen(reader).await.unwrap();
    common::eventually("whoever reads is fanned out to again", async || {
        !world.inactive(&views).await.contains(&reader)
    })
    .await;
    let events = (0..80).map(|_| world.history.act()).collect();
    world.publish(events).await;
    world.assert_equal_to_the_model("after coming back").await;
    fold.stop().await;
    world.clean_up().await;
}

/// A site that is older than `IDLE_DAYS`, where one of many still reads: they, the others, and how
/// they stand before anything is rebuilt. Everything is folded, and nobody folds any more.
async fn an_old_site(name: &str) -> (World, ReadModel, UserId, (u64, i64)) {
    const POSTS: usize = 300;
    let mut world = World::new(name, 2, 100_000, 13).await;
    world.history.earlier(40 * DAY);
    let people = (0..6).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let [reader, author, ..] = world.history.users()[..] else {
        panic!("six were registered")
    };
    let mut events = vec![world.history.toggle_follow(reader, author)];
    for _ in 0..POSTS {
        events.push(world.history.post(author, None));
    }
    world.publish(events).await;
    let (fold, views) = (world.fold().await, world.views().await);
    world.caught_up(&views).await;
    views.note_seen(reader).await.expect("a reader");
    fold.stop().await;
    let before = world.stored(&views, reader).await;
    assert_eq!(before, (POSTS as u64, 0));
    (world, views, reader, before)
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everybody but one is inactive, and theirs is as before.
async fn assert_others_are_inactive(
    world: &World,
    views: &ReadModel,
    reader: UserId,
    before: (u64, i64),
) {
    common::eventually("whoever stays away is parked", async || {
        world.inactive(views).await.len() >= world.history.users().len() - 1
    })
    .await;
    assert!(!world.inactive(views).await.contains(&reader));
    assert_eq!(world.stored(views, reader).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rebuild_whoever_reads_has_what_they_had() {
    let (world, views, reader, before) = an_old_site("aged").await;
    let mut projector = world.projector("2");
    assert_others_are_inactive(&world, &views, reader, before).await;
    for arguments in [&["rebuild"][..], &["rebuild", "--revert"]] {
        let output = world.query_service("2", arguments).await;
        assert!(output.status.success(), "{output:?}");
        let shown = world.views().await;
        assert_others_are_inactive(&world, &shown, reader, before).await;
    }
    projector.kill().await.unwrap();
    world.assert_equal_to_the_model("back again").await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_parked_before_readers_are_shown_it_and_marks_are_taken_over() {
    let (mut world, views, reader, before) = an_old_site("beside").await;
    world.idle_after = Some(30 * DAY);
    let catalog = Catalog::new(&world.views_database());
    let made = catalog.create(world.settings.partitions).await.unwrap();
    let new = ReadModel::of(made.clone()).await.unwrap();
    let fold = world.fold().await;
    let (beside, switch) = world.fold_beside(made).await;
    world.caught_up(&new).await;
    // The shown one has inactive, by the same rules and the same clock.
    assert_others_are_inactive(&world, &views, reader, before).await;
    assert!(world.inactive(&new).await.is_empty());
    // Nobody has copied that they have read: the fold looks it up.
    switch.send_replace(new.clone());
    assert_others_are_inactive(&world, &new, reader, before).await;
    fold.stop().await;
    beside.stop().await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timelines_stay_bounded_however_often_their_fold_restarts() {
    let (readers, bursts) = if is_long() { (300, 4) } else { (30, 3) };
    /// As many as never led to a trim, when sizes were forgotten with every restart.
    const BURST: usize = 590;
    let mut world = World::new("bounded", 2, 100_000, 14).await;
    let people = (0..=readers).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let users = world.history.users().to_vec();
    let follows = users[1..]
        .iter()
        .map(|reader| world.history.toggle_follow(*reader, users[0]))
        .collect();
    world.publish(follows).await;
    let views = world.views().await;
    // Folded once: from here on nobody knows how much they have.
    let fold = world.fold().await;
    world.caught_up(&views).await;
    fold.stop().await;
    for _ in 0..bursts {
        let posts = (0..BURST).map(|_| world.history.post(users[0], None));
        let posts = posts.collect();
        world.publish(posts).await;
        let fold = world.fold().await;
        world.caught_up(&views).await;
        fold.stop().await;
    }
    let mut most = 0;
    for reader in &users[1..] {
        let (stored, _) = world.stored(&views, *reader).await;
        most = most.max(stored);
    }
    println!(
        "{readers} readers, {} entries each: at most {most} stored",
        bursts * BURST
    );
    assert!(most < 1_400, "{most} entries of {}", bursts * BURST);
    world.assert_equal_to_the_model("bounded").await;
    world.clean_up().await;
}
