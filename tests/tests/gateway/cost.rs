//! What the gateway costs: a hot home timeline, with it and without it, in turns.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use system_tests::api::Session;
use system_tests::world::World;
use system_tests::{alone, quantile};

use super::Front;

const ROUNDS: usize = 20;
const READS: usize = 100;
const CROWD: usize = 16;
const CROWDED: Duration = Duration::from_secs(5);

pub async fn run() {
    let _alone = alone().await;
    let world = World::start(&[("TRUSTED_PROXIES", "127.0.0.1"), ("LOG_FORMAT", "json")]).await;
    let front = Front::of(&world, &["--rate", "0"]).await;
    let sessions = world.sessions(&front.api(), "reader", 1).await;
    let reader = &sessions[0];
    for number in 0..30 {
        reader
            .post(&format!("post {number}"), &format!("post-{number}"))
            .await
            .accepted();
    }
    let (without, with) = (reader.at(&world.query.api), reader.at(&front.url));
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    // The first round of each warms it up.
    for round in 0..=ROUNDS {
        for (session, times) in [(&without, &mut direct), (&with, &mut through)] {
            let took = in_turn(session).await;
            if round > 0 {
                times.extend(took);
            }
        }
    }
    let [p50, p99] = [0.5, 0.99].map(|share| (quantile(&direct, share), quantile(&through, share)));
    println!(
        "one reader, {} reads each: without / with: p50 {:.2?} / {:.2?}, p99 {:.2?} / {:.2?}",
        direct.len(),
        p50.0,
        p50.1,
        p99.0,
        p99.1
    );
    let mut rates = Vec::new();
    for _ in 0..2 {
        rates.push([crowd(&without).await, crowd(&with).await]);
    }
    let best = |side: usize| rates.iter().map(|both| both[side]).fold(0.0, f64::max);
    let memory = resident(front.traefik());
    println!(
        "{CROWD} readers at once: {:.0} reads/s without, {:.0} with; Traefik holds {memory}",
        best(0),
        best(1)
    );
    let cost = p50.1.saturating_sub(p50.0);
    assert!(cost < Duration::from_millis(1), "{cost:?} at p50");
}

/// One read after the other: how long each takes.
async fn in_turn(session: &Session) -> Vec<Duration> {
    let mut times = Vec::with_capacity(READS);
    for _ in 0..READS {
        let asked = Instant::now();
        read(session).await;
        times.push(asked.elapsed());
    }
    times
}

async fn read(session: &Session) {
    let answer = session.get("/timeline", None).await.expect("an answer");
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.body);
    assert_eq!(answer.body["posts"].as_array().map(Vec::len), Some(20));
}

/// Reads per second of many readers at once.
async fn crowd(session: &Session) -> f64 {
    let until = Instant::now() + CROWDED;
    let reader = async || {
        let mut reads = 0_u32;
        while Instant::now() < until {
            read(session).await;
            reads += 1;
        }
        reads
    };
    let reads: u32 = join_all((0..CROWD).map(|_| reader()))
        .await
        .into_iter()
        .sum();
    f64::from(reads) / CROWDED.as_secs_f64()
}

/// The resident memory of a process, as Linux tells it.
fn resident(process: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap_or("an unknown amount").trim().to_owned()
}
