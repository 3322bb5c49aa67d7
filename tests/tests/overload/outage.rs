//! Without an engine: answers come within a second, and all recovers.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder};
use system_tests::api::Session;
use system_tests::world::{PATIENCE, Service, World};
use system_tests::{eventually, is_long};

use super::{CLIENTS, Seen, Writers, alone, ask, http, names};

/// What a refusal may take. A second is promised; the machine may be busy.
const REFUSED_WITHIN: Duration = Duration::from_millis(1_200);

async fn circuit(service: &Service, dependency: &str) -> Option<f64> {
    let line = format!("circuit_open{{dependency=\"{dependency}\"}} ");
    let metrics = service.metrics().await;
    let value = metrics.lines().find_map(|text| text.strip_prefix(&line));
    value?.parse().ok()
}

async fn circuit_becomes(service: &Service, dependency: &str, value: f64) {
    let what = format!("the circuit to {dependency} is {value}");
    eventually(&what, PATIENCE, async || {
        (circuit(service, dependency).await == Some(value)).then_some(())
    })
    .await;
}

fn slowest(seen: &[Seen]) -> Duration {
    seen.iter().map(|seen| seen.took).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_answers_come_within_a_second_and_all_recovers() {
    let _alone = alone().await;
    let outage = Duration::from_secs(if is_long() { 60 } else { 2 });
    let world = World::start(&[]).await;
    let tokens = world.users(&names(CLIENTS)).await;
    let writers = Writers::start(&world, &tokens);
    writers.until(201).await;
    let reads = HotReads::of(&world).await;
    for fault in [Fault::Killed, Fault::Stopped] {
        reads.are_fresh().await;
        writers.since().await;
        without_the_database(&world, &writers, &reads, fault, outage).await;
        for service in [&world.command, &world.query] {
            circuit_becomes(service, "mongodb", 0.0).await;
        }
    }
    without_the_broker(&world, &writers, outage).await;
    writers.stop().await;
    let audit = world.audit().await;
    println!("log and stream: {audit}");
    assert!(audit.is_clean(), "{audit:?}");
    world.verify().await;
}

/// Gone, or silent: a killed server refuses connections, a stopped one takes them.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Stopped,
}

/// Pages that one reader reads all the time, while the reader's followee writes all the time.
struct HotReads {
    http: Client,
    base: String,
    reader: Session,
    paths: [String; 4],
}

impl HotReads {
    async fn of(world: &World) -> Self {
        let reader = world.sessions(&world.api(), "reader", 1).await.remove(0);
        let followee = world.api().user("client_0").await.user_id;
        reader.follow(&followee).await.accepted();
        // Not somebody who has just begun: what is remembered of them is whole.
        eventually("the timeline is long", PATIENCE, async || {
            (reader.scroll(100, None).await.len() > 300).then_some(())
        })
        .await;
        Self {
            http: http(),
            base: format!("{}/api/v1", world.query.api),
            paths: [
                "/timeline".to_owned(),
                "/timeline?limit=5".to_owned(),
                format!("/users/{}", reader.user_id),
                "/users/by-username/client_0".to_owned(),
            ],
            reader,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        let request = self.http.get(format!("{}{path}", self.base));
        request.bearer_auth(self.reader.token())
    }

    async fn are_fresh(&self) {
        for path in self.paths.iter().cycle().take(20) {
            let seen = ask(self.get(path)).await;
            assert_eq!((seen.status, seen.stale), (200, false), "{path}");
        }
    }

    /// Each of them again and again, until so long after `began`.
    async fn until(&self, began: Instant, length: Duration) -> Vec<Seen> {
        let mut reads = Vec::new();
        while began.elapsed() < length {
            let all = self.paths.iter().map(|path| ask(self.get(path)));
            reads.extend(join_all(all).await);
            // A load, not a wait.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        reads
    }
}

/// Takes the database away for so long, and judges what reads and writes are answered meanwhile.
async fn without_the_database(
    world: &World,
    writers: &Writers,
    hot: &HotReads,
    fault: Fault,
    outage: Duration,
) {
    let before = world.command.process.resident();
    let began = Instant::now();
    match fault {
        Fault::Killed => drop(world.mongodb.kill()),
        Fault::Stopped => world.mongodb.pause(),
    }
    // What nobody has read is not made up.
    let read = ask(hot.get("/users/by-username/client_7")).await;
    let reads = hot.until(began, outage).await;
    let seen = writers.since().await;
    let refused: Vec<Seen> = seen.into_iter().filter(|seen| seen.status != 201).collect();
    let grown = world.command.process.resident().saturating_sub(before) / 1024;
    for service in [&world.command, &world.query] {
        assert_eq!(circuit(service, "mongodb").await, Some(1.0));
    }
    match fault {
        Fault::Killed => world.mongodb.start(),
        Fault::Stopped => world.mongodb.resume(),
    }
    let back = Instant::now();
    writers.until(201).await;
    let recovered = back.elapsed();
    println!(
        "MongoDB {fault:?} for {outage:?}: {} writes refused, the slowest after {:?}; a read \
         answered {} after {:?}; {grown} KiB more; writes again after {recovered:?}",
        refused.len(),
        slowest(&refused),
        read.status,
        read.took,
    );
    assert_hot_reads_were_served(&reads);
    assert_writes_were_refused_in_time(&refused);
    assert!(read.took < REFUSED_WITHIN);
    assert!(grown < 32 * 1024, "memory stays flat");
}

fn assert_hot_reads_were_served(reads: &[Seen]) {
    let served = reads.iter().filter(|seen| seen.status == 200).count();
    let stale = reads.iter().filter(|seen| seen.stale).count();
    println!(
        "hot reads meanwhile: {served} of {} answered, {stale} marked stale, the slowest after {:?}",
        reads.len(),
        slowest(reads)
    );
    assert_eq!(served, reads.len(), "what is read all the time is served");
    assert!(stale * 2 > reads.len() && slowest(reads) < REFUSED_WITHIN);
}

fn assert_writes_were_refused_in_time(refused: &[Seen]) {
    assert!(!refused.is_empty());
    let proper = |seen: &Seen| seen.status == 503 && seen.said_when;
    let others: Vec<&Seen> = refused.iter().filter(|seen| !proper(seen)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(slowest(refused) < REFUSED_WITHIN);
}

/// Writes do not need the broker.
async fn without_the_broker(world: &World, writers: &Writers, outage: Duration) {
    writers.since().await;
    world.nats.kill();
    for service in [&world.command, &world.query] {
        circuit_becomes(service, "nats", 1.0).await;
    }
    // Not a wait for something: the fault lasts so long.
    tokio::time::sleep(outage).await;
    let seen = writers.since().await;
    println!(
        "NATS killed for {outage:?}: {} writes, the slowest after {:?}",
        seen.len(),
        slowest(&seen)
    );
    assert!(seen.iter().all(|seen| seen.status == 201), "{seen:?}");
    world.nats.start();
    for service in [&world.command, &world.query] {
        circuit_becomes(service, "nats", 0.0).await;
    }
}
