//! SIGSTOP: a process that wakes up past its lease, or cannot reach the broker, changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use system_tests::api::Api;
use system_tests::load::Load;
use system_tests::world::{PATIENCE, Service, World, free_ports};
use system_tests::{eventually, is_long, seed};

use super::{CLIENTS, PACE};

/// Past the leases of relay and partitions (3 s): not a wait for something, it *is* the fault.
const PAST_THE_LEASE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_wakes_up_past_its_lease_changes_nothing() {
    let seed = seed("paused relay");
    let world = World::start(&[]).await;
    let other = world.another(&world.command);
    other.start().await;
    let rounds = if is_long() { 6 } else { 2 };
    let mut services = [world.command.clone(), other];
    let mut loads = Vec::new();
    for round in 0..rounds {
        if active_relay(&services).await == 1 {
            services.swap(0, 1);
        }
        let [holder, standby] = &services;
        // Clients use the one that is not paused: from the other they would hear nothing.
        let api = Api::new(&standby.api, &world.query.api);
        let sessions = world
            .sessions(&api, &format!("client_{round}"), CLIENTS)
            .await;
        let mut load = Load::start(sessions, &[], PACE, seed + round);
        load.acknowledged(20).await;
        holder.process.pause();
        let paused = Instant::now();
        let what = "the other relay is active";
        standby
            .metric_becomes(what, "relay_active", |active| active == 1.0)
            .await;
        // It has published what came since, while the first still believes in its lease.
        load.acknowledged(40).await;
        tokio::time::sleep(PAST_THE_LEASE.saturating_sub(paused.elapsed())).await;
        holder.process.resume();
        load.acknowledged(40).await;
        load.stop().await;
        loads.push(load);
    }
    let audit = world.audit().await;
    let verified = world.verify().await;
    println!("relay paused past its lease {rounds} times: {audit}\n{verified}");
    assert!(audit.is_clean(), "{audit:?}");
    let api = world.api();
    for load in loads {
        let verdict = load.judge(&api, &world.events().await).await;
        println!("{verdict}");
        assert!(verdict.is_clean(), "{verdict}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_cannot_reach_the_broker_takes_no_lease_and_raises_the_alarm() {
    let world = World::start(&[]).await;
    let [closed] = free_ports();
    let other = world.another_to_broker(&world.command, closed);
    other.process.start();
    let what = "it serves, and says what does not work";
    other
        .readiness_becomes(what, |readiness| {
            readiness.is_ready() && readiness.mentions("degraded") && readiness.mentions("NATS")
        })
        .await;
    let api = Api::new(&other.api, &world.query.api);
    let author = world.sessions(&api, "author", 1).await.remove(0);
    author.post("one", "one").await.accepted();
    world.command.process.pause();
    let paused = Instant::now();
    let post = author.post("two", "two").await.accepted();
    let (what, lag) = ("the alarm is raised", "relay_lag_seconds");
    other
        .metric_becomes(what, lag, |seconds| seconds > 2.0)
        .await;
    tokio::time::sleep((PAST_THE_LEASE + Duration::from_secs(1)).saturating_sub(paused.elapsed()))
        .await;
    assert_eq!(other.metric("relay_active").await, Some(0.0));
    world.command.process.resume();
    let resumed = Instant::now();
    eventually("the post is visible", Duration::from_secs(5), async || {
        let answer = author
            .get("/timeline", Some(&post.consistency))
            .await
            .ok()?;
        answer.body["posts"]
            .as_array()
            .filter(|posts| posts.len() == 2)?;
        Some(())
    })
    .await;
    println!("visible {:?} after the relay was back", resumed.elapsed());
    other
        .metric_becomes("the alarm ends", lag, |seconds| seconds == 0.0)
        .await;
    let audit = world.audit().await;
    assert!(audit.is_clean(), "{audit:?}");
}

/// Which of two services publishes.
async fn active_relay(services: &[Service; 2]) -> usize {
    eventually("one relay is active", PATIENCE, async || {
        let [one, other] = services;
        let active = (
            one.metric("relay_active").await?,
            other.metric("relay_active").await?,
        );
        match active {
            (1.0, 0.0) => Some(0),
            (0.0, 1.0) => Some(1),
            _ => None,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_that_wakes_up_past_its_leases_changes_nothing() {
    let seed = seed("paused fold");
    let world = World::start(&[("CELEBRITY_THRESHOLD", "8")]).await;
    // Alone, it holds all.
    let first = holders(&world)
        .await
        .into_values()
        .next()
        .expect("a holder");
    let other = world.another(&world.query);
    other.start().await;
    let sessions = world.sessions(&world.api(), "client", CLIENTS * 2).await;
    let mut load = Load::start(sessions, &[], PACE, seed);
    let rounds = if is_long() { 6 } else { 2 };
    let mut taken_over = 0;
    for _ in 0..rounds {
        load.acknowledged(20).await;
        let before = holders(&world).await;
        let name = holder_of_most(&before, &first);
        let process = if *name == first {
            &world.query.process
        } else {
            &other.process
        };
        process.pause();
        let paused = Instant::now();
        let held = before.values().filter(|holder| *holder == name).count();
        eventually("its partitions were taken over", PATIENCE, async || {
            holders(&world)
                .await
                .values()
                .all(|holder| holder != name)
                .then_some(())
        })
        .await;
        taken_over += held;
        load.acknowledged(40).await;
        tokio::time::sleep(PAST_THE_LEASE.saturating_sub(paused.elapsed())).await;
        process.resume();
        load.acknowledged(40).await;
    }
    load.stop().await;
    world.query.ready().await;
    other.ready().await;
    let verified = world.verify().await;
    let verdict = load.judge(&world.api(), &world.events().await).await;
    println!(
        "fold paused past its leases {rounds} times, {taken_over} partitions taken over: {verdict}\n{verified}"
    );
    assert!(verdict.is_clean(), "{verdict}");
    let audit = world.audit().await;
    assert!(audit.is_clean(), "{audit:?}");
}

/// The one of two processes that holds most partitions. The other one took those of `first`, or
/// holds what was left to it.
fn holder_of_most<'a>(holders: &'a BTreeMap<String, String>, first: &'a String) -> &'a String {
    let first_holds = holders.values().filter(|holder| *holder == first).count();
    if 2 * first_holds >= holders.len() {
        return first;
    }
    let mut others = holders.values().filter(|holder| *holder != first);
    others.next().unwrap_or(first)
}

/// Who holds each partition, as the leases say, once all were taken.
async fn holders(world: &World) -> BTreeMap<String, String> {
    let leases = world.views().await.collection::<Document>("g1_leases");
    let text = |row: &Document, field| {
        row.get_str(field)
            .expect("a lease names itself and its holder")
            .to_owned()
    };
    eventually("one lease for each partition", PATIENCE, async || {
        let partitions = doc! { "_id": { "$regex": "^partition-" } };
        let found = leases.find(partitions).await.expect("leases");
        let found: Vec<Document> = found.try_collect().await.expect("leases");
        (found.len() == 4).then(|| {
            let held = found
                .iter()
                .map(|row| (text(row, "_id"), text(row, "holder")));
            held.collect()
        })
    })
    .await
}
