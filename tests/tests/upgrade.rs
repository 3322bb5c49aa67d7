//! The version before this one is no faster.
//!
//! `MICROBLOG_BEFORE` names the folder with its two binaries. Without it there is nothing to compare
//! with, and the test says so.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use system_tests::api::Session;
use system_tests::world::{PATIENCE, World, binaries};
use system_tests::{alone, eventually, is_long, version_before};

/// What one build does in a second: posts that clients are told of; timeline entries, from the first
/// post to the last entry that a follower sees; first pages of home timelines.
const MEASURED: [&str; 3] = ["posts", "entries", "reads"];
type Measured = [f64; 3];

/// So many clients at once, for so long.
const CLIENTS: usize = 16;

async fn measure(folder: &Path) -> Measured {
    let (followers, fanned_out, length) = if is_long() {
        (2_000, 150, Duration::from_secs(10))
    } else {
        (300, 50, Duration::from_secs(3))
    };
    let world = World::start_from(folder, &[]).await;
    let api = world.api();
    let names: Vec<String> = (0..CLIENTS).map(|n| format!("client_{n}")).collect();
    let tokens = world.users(&names).await;
    let sessions = world.known(&api, &names, &tokens).await;
    import_followers(&world, followers).await;
    let seen = fan_out(&sessions[0], &sessions[1], fanned_out).await;
    let entries = (fanned_out * (followers + CLIENTS - 1)) as f64 / seen.as_secs_f64();
    let reads = per_second(&sessions, length, async |session, _| {
        session.timeline(20, None, None).await;
    })
    .await;
    let posts = per_second(&sessions[1..], length, async |session, n| {
        session
            .post("one of many", &format!("many-{n}"))
            .await
            .accepted();
    })
    .await;
    [posts, entries, reads]
}

/// Makes users who follow the first client, as all other clients do from now on.
async fn import_followers(world: &World, followers: usize) {
    let mut lines: Vec<String> = (0..followers)
        .map(|n| format!(r#"{{"type":"user","username":"follower_{n}"}}"#))
        .collect();
    for n in 0..followers {
        lines.push(format!(
            r#"{{"type":"follow","follower":"follower_{n}","followee":"client_0"}}"#
        ));
    }
    for n in 1..CLIENTS {
        lines.push(format!(
            r#"{{"type":"follow","follower":"client_{n}","followee":"client_0"}}"#
        ));
    }
    world.import("followers", &lines).await;
    world.verify().await;
}

/// Posts as an author. Says how long it took, from the first post until a reader has seen the newest.
async fn fan_out(author: &Session, reader: &Session, fanned_out: usize) -> Duration {
    let began = Instant::now();
    let posts = (0..fanned_out).map(|n| async move {
        let key = format!("fan-out-{n}");
        author.post("to all followers", &key).await.accepted().value
    });
    let all: Vec<String> = stream::iter(posts).buffered(4).collect().await;
    // Several were on their way at once: the newest is not always the one that was sent last.
    let newest = all
        .iter()
        .max_by_key(|id| id.parse::<u64>().expect("an id"));
    let newest = newest.expect("some were made");
    eventually("the newest entry is seen", PATIENCE, async || {
        let page = reader.timeline(1, None, None).await;
        page.posts
            .iter()
            .any(|post| &post.post_id == newest)
            .then_some(())
    })
    .await;
    began.elapsed()
}

/// How often all sessions together can do something, each again as soon as it has been done.
async fn per_second(
    sessions: &[Session],
    length: Duration,
    act: impl AsyncFn(&Session, usize),
) -> f64 {
    let (began, count) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let (act, counted) = (&act, &count);
    let clients = sessions.iter().map(|session| async move {
        while began.elapsed() < length {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            act(session, n).await;
        }
    });
    join_all(clients).await;
    count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_before_is_not_faster() {
    let _alone = alone().await;
    let Some(before) = version_before() else {
        return;
    };
    let now = binaries();
    let (rounds, most, least) = if is_long() {
        (5, 15, 0.95)
    } else {
        (1, 1, 0.7)
    };
    let mut all: Vec<[Measured; 2]> = Vec::new();
    while all.len() < rounds || (all.len() < most && is_unclear(&all, least)) {
        // Who is first changes, so that a machine that gets slower favours nobody.
        let order = if all.len().is_multiple_of(2) {
            [0, 1]
        } else {
            [1, 0]
        };
        let mut round = [Measured::default(); 2];
        for which in order {
            let measured = measure([&before, &now][which]).await;
            println!("{}: {MEASURED:?} {measured:.0?}", ["before", "now"][which]);
            round[which] = measured;
        }
        all.push(round);
    }
    for (name, of) in MEASURED.into_iter().zip(0..) {
        let (ratio, off) = ratio(&all, of);
        let rounds = all.len();
        println!(
            "{name}: {ratio:.3} of before, in {rounds} rounds; off by a factor of {off:.3} at most"
        );
        assert!(ratio > least, "{name} became slower");
    }
}

/// Whether something may have become slower, and may not: then a few more rounds tell.
fn is_unclear(all: &[[Measured; 2]], least: f64) -> bool {
    (0..MEASURED.len()).any(|of| {
        let (ratio, off) = ratio(all, of);
        ratio <= least && ratio * off > least
    })
}

/// How fast it is now, against before: the geometric mean over all rounds, whose two sides ran one right
/// after the other, so that what slows the machine down for minutes slows both. And the factor by
/// which it is off at most: two standard errors.
fn ratio(all: &[[Measured; 2]], of: usize) -> (f64, f64) {
    let logs: Vec<f64> = all
        .iter()
        .map(|[before, now]| (now[of] / before[of]).ln())
        .collect();
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
    let error = (squares / (count - 1.0).max(1.0) / count).sqrt();
    (mean.exp(), (2.0 * error).exp())
}
