//! Reading one's writes: a read with the token of a write shows the write, through any process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::Value;
use system_tests::api::Session;
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually, is_long, quantile, seed};

use super::writer::{Keepers, Seen, Writer};
use super::{scroll, shows, text};

const WRITERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_is_read_back_with_its_token_through_either_process() {
    let _alone = alone().await;
    let seed = seed("read your writes");
    let writes = if is_long() { 1_000 } else { 200 };
    let world = World::start(&[("CELEBRITY_THRESHOLD", "12")]).await;
    let other = world.another(&world.query);
    other.start().await;
    let sessions = world.sessions(&world.api(), "writer", WRITERS).await;
    let keepers = Keepers::default();
    let begun = Instant::now();
    let writers = sessions.iter().enumerate().map(|(at, me)| {
        Writer::new(at, me, &sessions, [&world.query, &other], &keepers, seed).run(writes / WRITERS)
    });
    let seen: Vec<Seen> = join_all(writers).await;
    report(&seen, writes, begun.elapsed());
    let failures: Vec<&String> = seen.iter().flat_map(|seen| &seen.failures).collect();
    assert_eq!(failures, Vec::<&String>::new());
    let reflected: usize = seen.iter().map(|seen| seen.reflected).sum();
    assert_eq!(reflected, writes);
    println!("{}", world.verify().await);
    // What was read on the way is still in the caches of the two; a third has none.
    let fresh = world.another(&world.query);
    fresh.start().await;
    for me in &sessions {
        let expected = everything(&me.through(&fresh)).await;
        for warm in [&world.query, &other] {
            let shown = everything(&me.through(warm)).await;
            assert_eq!(shown, expected, "{}", me.username);
        }
    }
}

/// Prints what all writers found together.
fn report(seen: &[Seen], writes: usize, took: Duration) {
    let waits: Vec<Duration> = seen.iter().flat_map(|seen| &seen.waits).copied().collect();
    let reflected: usize = seen.iter().map(|seen| seen.reflected).sum();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for kind in seen.iter().flat_map(|seen| &seen.kinds) {
        *kinds.entry(kind).or_default() += 1;
    }
    println!(
        "read your writes: {reflected} of {writes} reflected, two processes in turn, {WRITERS} writers, {took:.1?}: {kinds:?}"
    );
    println!(
        "first read with a token: median {:.1?}, 99 % {:.1?}, slowest {:.1?}",
        quantile(&waits, 0.5),
        quantile(&waits, 0.99),
        quantile(&waits, 1.0)
    );
}

/// All that a user can ask for.
async fn everything(me: &Session) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        format!("/users/{}", me.user_id),
        format!("/users/{}/followers?limit=100", me.user_id),
        format!("/users/{}/following?limit=100", me.user_id),
        format!("/users/{}/mutuals?limit=100", me.user_id),
    ] {
        all.push(me.get(&path, None).await.expect("an answer").body);
    }
    for path in [
        "/timeline".to_owned(),
        format!("/users/{}/posts", me.user_id),
    ] {
        all.extend(scroll(me, &path, 20, None).await.expect("every page"));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_nobody_has_folded_yet_is_told_to_be_asked_for_again() {
    let _alone = alone().await;
    let world = World::start(&[]).await;
    let reader = world.another_with(&world.query, &["--role", "api"]);
    reader.start().await;
    let sessions = world.sessions(&world.api(), "writer", 2).await;
    let [me, other] = &sessions[..] else {
        panic!("two were asked for")
    };
    let me = me.through(&reader);
    world.query.process.terminate();
    let stopped = world.query.process.wait(PATIENCE).await;
    assert!(
        stopped.is_some_and(|status| status.success()),
        "{stopped:?}"
    );
    let post = me.post("nobody folds this", "key").await.accepted();
    let follow = me.follow(&other.user_id).await.accepted();
    for (path, token) in [
        ("/timeline", &post.consistency),
        (&*format!("/posts/{}", post.value), &post.consistency),
        ("/timeline", &follow.consistency),
        (
            &*format!("/users/{}/relationship", other.user_id),
            &follow.consistency,
        ),
    ] {
        let asked = Instant::now();
        let answer = me.get(path, Some(token)).await.expect("an answer");
        let took = asked.elapsed();
        println!(
            "without a fold, GET {path}: {} after {took:.2?}",
            answer.status
        );
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(&answer.body, "code"), "not_yet_visible");
        assert_eq!(answer.retry_after.as_deref(), Some("1"));
        assert!(
            took > Duration::from_millis(900),
            "given up too early: {took:?}"
        );
        assert!(
            took < Duration::from_millis(1_500),
            "given up too late: {took:?}"
        );
        // Who does not insist is served what there is.
        let answer = me.get("/timeline", None).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK);
    }
    world.query.start().await;
    eventually("the write can be read", PATIENCE, async || {
        let answer = me.get("/timeline", Some(&post.consistency)).await.ok()?;
        shows(&post.value)(&answer).then_some(())
    })
    .await;
}
