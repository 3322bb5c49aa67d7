//! What it costs to see inside: hot home timelines and posts with a log of all requests and one trace
//! in ten recorded, and with neither, in turns, so that whatever else the machine does meets both.
//!
//! Where `MICROBLOG_BEFORE` names a folder, the other side is the two binaries there: a build that
//! measures nothing, for instance.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use system_tests::api::Session;
use system_tests::otlp::Receiver;
use system_tests::world::World;
use system_tests::{alone, other_binaries};

const ROUNDS: usize = 8;
const CROWD: usize = 16;
const TURN: Duration = Duration::from_secs(4);
/// What is left of the speed.
const AT_LEAST: f64 = 0.9;

pub async fn run() {
    let _alone = alone().await;
    let receiver = Receiver::start().await;
    let url = receiver.url();
    let nothing = [("RUST_LOG", "off")];
    let all = [
        ("RUST_LOG", "info"),
        ("LOG_FORMAT", "json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
    ];
    let off = match other_binaries() {
        Some(folder) => World::start_from(&folder, &nothing).await,
        None => World::start(&nothing).await,
    };
    let on = World::start(&all).await;
    let mut sides = Vec::new();
    for world in [&off, &on] {
        let session = world.sessions(&world.api(), "reader", 1).await.remove(0);
        for number in 0..30 {
            let key = format!("first-{number}");
            session
                .post(&format!("post {number}"), &key)
                .await
                .accepted();
        }
        sides.push(session);
    }
    let mut reads = [Vec::new(), Vec::new()];
    let mut posts = [Vec::new(), Vec::new()];
    // The first round of each warms it up.
    for round in 0..=ROUNDS {
        for (side, session) in sides.iter().enumerate() {
            let read = crowd(session, async |session, _| read(session).await).await;
            let wrote = crowd(session, async |session, number| {
                let key = format!("{round}-{number}");
                session.post("hello", &key).await.accepted();
            })
            .await;
            if round > 0 {
                reads[side].push(read);
                posts[side].push(wrote);
            }
        }
    }
    let left = [("timelines", reads), ("posts", posts)].map(|(what, [off, on])| {
        let (off, on) = (median(off), median(on));
        println!("{what}: {off:.0}/s unseen, {on:.0}/s seen, {:.3}", on / off);
        on / off
    });
    assert!(left.iter().all(|left| *left > AT_LEAST), "{left:?}");
    assert!(receiver.connections() > 0, "nothing was traced");
}

async fn read(session: &Session) {
    let answer = session.get("/timeline", None).await.expect("an answer");
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.body);
}

/// How often per second a crowd does it.
async fn crowd(session: &Session, act: impl AsyncFn(&Session, String)) -> f64 {
    let until = Instant::now() + TURN;
    let one = async |who: usize| {
        let mut done = 0_u32;
        while Instant::now() < until {
            act(session, format!("{who}-{done}")).await;
            done += 1;
        }
        done
    };
    let done: u32 = join_all((0..CROWD).map(one)).await.into_iter().sum();
    f64::from(done) / TURN.as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
