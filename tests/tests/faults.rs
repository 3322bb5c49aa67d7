//! The fault matrix: whatever fails, what was acknowledged stays, happens once, and becomes
//! visible; each kind of fault prints a row of what was found. Also: posts through a network that
//! cuts connections.
//!
//! One world for all kinds, its engines behind proxies. For each: clients at work, the fault some
//! times over, recovery, then the log against the stream, the views against the log, and the
//! clients' memory against both. `make test` runs the kinds that no other test has; `make chaos`
//! runs all of them, more often. Sleeps are the faults' own moments.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/clocks.rs"]
mod clocks;
#[path = "faults/scene.rs"]
mod scene;
#[path = "faults/stores.rs"]
mod stores;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use scene::Scene;
use system_tests::api::{Api, Outcome, Session};
use system_tests::audit::Audit;
use system_tests::load::Load;
use system_tests::proxy::{Proxy, Weather};
use system_tests::world::World;
use system_tests::{is_long, seed};

const CLIENTS: usize = 4;
const PACE: Duration = Duration::from_millis(20);
/// How long bad weather lasts.
const SPELL_MS: std::ops::Range<u64> = 500..2_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    Command,
    Query,
    Broker,
    Database,
}

use Target::{Broker, Command, Database, Query};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill(Target),
    KillBothServices,
    KillBothEngines,
    KillEverything,
    Pause(Target),
    Weather(Target, Weather),
    /// SIGTERM.
    Terminate(Target),
    /// SIGINT, and again before it has drained.
    InterruptTwice(Target),
    /// Clients reset their connection in the middle of a command.
    Resets,
    /// Clients that send a byte now and then, and never a whole request.
    SlowBodies,
    /// The rebuild of the views is killed half way, then completed.
    KillRebuild,
    /// The broker comes back with an older copy of its store.
    RestoreBroker,
    /// Something that is no event is published to the stream.
    Poison,
    /// The broker can write nothing more, until it is restarted with room again.
    FullDisk,
}

/// All kinds, those first that leave nothing behind.
const FAULTS: [(Fault, &str); 33] = [
    (Fault::Kill(Command), "command service killed"),
    (Fault::Kill(Query), "query service killed"),
    (Fault::Kill(Broker), "broker killed"),
    (Fault::Kill(Database), "database killed"),
    (Fault::KillBothServices, "both services killed"),
    (Fault::KillBothEngines, "both engines killed"),
    (Fault::KillEverything, "everything killed"),
    (Fault::Pause(Command), "command service stands still"),
    (Fault::Pause(Query), "query service stands still"),
    (Fault::Pause(Broker), "broker stands still"),
    (Fault::Pause(Database), "database stands still"),
    (
        Fault::Weather(Database, Weather::Refuse),
        "database refuses connections",
    ),
    (
        Fault::Weather(Database, Weather::Stall),
        "network to the database stalls",
    ),
    (
        Fault::Weather(Database, SLOW),
        "network to the database is slow",
    ),
    (
        Fault::Weather(Database, Weather::Flaky(0.02)),
        "connections to the database are cut",
    ),
    (
        Fault::Weather(Database, Weather::LoseAnswers),
        "the database's answers are lost",
    ),
    (
        Fault::Weather(Broker, Weather::Refuse),
        "broker refuses connections",
    ),
    (
        Fault::Weather(Broker, Weather::Stall),
        "network to the broker stalls",
    ),
    (
        Fault::Weather(Broker, SLOW),
        "network to the broker is slow",
    ),
    (
        Fault::Weather(Broker, Weather::Flaky(0.02)),
        "connections to the broker are cut",
    ),
    (
        Fault::Weather(Broker, Weather::LoseAnswers),
        "the broker's answers are lost",
    ),
    (Fault::Terminate(Command), "command service asked to stop"),
    (Fault::Terminate(Query), "query service asked to stop"),
    (Fault::Terminate(Broker), "broker asked to stop"),
    (Fault::Terminate(Database), "database asked to stop"),
    (
        Fault::InterruptTwice(Command),
        "command service interrupted twice",
    ),
    (
        Fault::InterruptTwice(Query),
        "query service interrupted twice",
    ),
    (Fault::Resets, "clients reset connections mid-command"),
    (Fault::SlowBodies, "clients that never finish a request"),
    (Fault::KillRebuild, "rebuild of the views killed"),
    (Fault::RestoreBroker, "broker restored to an older copy"),
    (Fault::Poison, "poison on the stream"),
    (Fault::FullDisk, "broker's disk full"),
];

const SLOW: Weather = Weather::Slow(Duration::from_millis(40));

impl Fault {
    /// Whether no other test of the short form has it.
    fn is_in_short_form(self) -> bool {
        matches!(
            self,
            Self::KillEverything
                | Self::Pause(Database)
                | Self::Weather(Database, Weather::Stall)
                | Self::Weather(_, Weather::LoseAnswers)
                | Self::Resets
                | Self::RestoreBroker
                | Self::Poison
                | Self::FullDisk
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_what_was_acknowledged_stays_and_happens_once() {
    let seed = seed("faults");
    let rounds = if is_long() { 4 } else { 1 };
    let mut scene = Scene {
        world: World::start_behind_proxies(&[("CELEBRITY_THRESHOLD", "12")]).await,
        rng: StdRng::seed_from_u64(seed),
        poisoned: 0,
    };
    let only = std::env::var("MICROBLOG_FAULT").ok();
    let mut rows = Vec::new();
    for (number, (fault, name)) in FAULTS.into_iter().enumerate() {
        let chosen = match &only {
            Some(part) => name.contains(part.as_str()),
            None => is_long() || fault.is_in_short_form(),
        };
        if chosen {
            let row = scene.try_out(fault, name, number, rounds, seed).await;
            println!("{}", row.line());
            rows.push(row);
        }
    }
    println!("\n{HEADER}");
    for row in &rows {
        println!("{}", row.line());
    }
    let bad: Vec<String> = rows.iter().flat_map(|row| row.faults.clone()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

const HEADER: &str = "fault                                    rounds  acknowledged  lost  duplicated  unknown (resolved)  differences  seconds";

struct Row {
    name: &'static str,
    rounds: usize,
    acknowledged: usize,
    lost: usize,
    duplicated: usize,
    /// Commands without an answer at first that were resolved in the end.
    unknown: usize,
    differences: String,
    seconds: f64,
    faults: Vec<String>,
}

impl Row {
    fn line(&self) -> String {
        let Self {
            name,
            rounds,
            acknowledged,
            lost,
            duplicated,
            unknown,
            differences,
            seconds,
            ..
        } = self;
        format!(
            "{name:<40} {rounds:>6} {acknowledged:>13} {lost:>5} {duplicated:>11} {:>19} {differences:>12} {seconds:>8.1}",
            format!("{unknown} ({unknown})"),
        )
    }
}

impl Scene {
    async fn try_out(
        &mut self,
        fault: Fault,
        name: &'static str,
        number: usize,
        rounds: usize,
        seed: u64,
    ) -> Row {
        let begun = Instant::now();
        let sessions = self.sessions(&format!("f{number}")).await;
        let mut load = Load::start(sessions.clone(), &[], PACE, seed + number as u64);
        for round in 0..rounds {
            load.acknowledged(2 * CLIENTS).await;
            self.inject(fault, &load, &sessions[0], round).await;
            self.recover().await;
        }
        load.acknowledged(2 * CLIENTS).await;
        load.stop().await;
        let audit = self.world.audit().await;
        let verified = self.world.verify().await;
        let verdict = load
            .judge(&self.world.api(), &self.world.events().await)
            .await;
        let mut faults = Vec::new();
        if !verdict.is_clean() {
            faults.push(format!("{name}: {verdict}"));
        }
        if !self.stream_is_exact(&audit) {
            faults.push(format!("{name}: {audit}"));
        }
        // As verify printed it; anything but 0 has failed there.
        let counted = verified
            .rsplit(": ")
            .next()
            .and_then(|end| end.strip_suffix(" differences"));
        let differences = counted.expect("verify counts differences").to_owned();
        assert_eq!(differences, "0");
        Row {
            name,
            rounds,
            acknowledged: verdict.acknowledged,
            lost: verdict.lost.len() + audit.missing.len(),
            duplicated: verdict.doubled.len() + audit.doubled.len(),
            unknown: verdict.unknown_done + verdict.unknown_not_done + load.history.resolved(),
            differences,
            seconds: begun.elapsed().as_secs_f64(),
            faults,
        }
    }

    /// The stream holds each event once and in order, and nothing else but the poison.
    fn stream_is_exact(&self, audit: &Audit) -> bool {
        let foreign: BTreeSet<i64> = (self.poisoned > 0).then_some(0).into_iter().collect();
        audit.missing.is_empty()
            && audit.doubled.is_empty()
            && audit.out_of_order.is_empty()
            && audit.broken_chain.is_empty()
            && audit.foreign == foreign
    }
}

/// Retries under one key are one post, however often the connection is cut before or after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_through_a_network_that_cuts_are_written_once_each() {
    let posts = if is_long() { 5_000 } else { 400 };
    let world = World::start(&[]).await;
    let port = world.command.api.rsplit(':').next().expect("a port");
    let proxy = Proxy::start(port.parse().expect("a number")).await;
    let api = Api::new(
        &format!("http://127.0.0.1:{}", proxy.port()),
        &world.query.api,
    );
    let names: Vec<String> = (0..CLIENTS)
        .map(|number| format!("writer_{number}"))
        .collect();
    let tokens = world.users(&names).await;
    proxy.set(Weather::Flaky(0.15));
    let mut writers = Vec::new();
    for (name, token) in names.iter().zip(&tokens) {
        let session = api.session(name, token).await;
        writers.push(tokio::spawn(write_once_each(session, posts / CLIENTS)));
    }
    let mut again = 0;
    for writer in writers {
        again += writer.await.expect("no panic");
    }
    let audit = world.audit().await;
    let verified = world.verify().await;
    println!(
        "{posts} posts, {} connections cut, sent again {again} times: {verified}",
        proxy.cuts()
    );
    assert!(audit.is_clean(), "{audit}");
    assert_eq!(audit.events, posts + CLIENTS);
    assert!(again > posts / 20, "hardly anything was cut");
}

/// Sends each post until it is accepted. Returns how often one was sent again.
async fn write_once_each(session: Session, posts: usize) -> usize {
    let mut again = 0;
    for number in 0..posts {
        let content = format!("{} writes {number}", session.username);
        let key = format!("once-{number}");
        loop {
            match session.post(&content, &key).await {
                Outcome::Accepted(_) => break,
                Outcome::Refused(why) => panic!("refused: {why}"),
                Outcome::NotSent(_) | Outcome::Unknown(_) => again += 1,
            }
        }
    }
    again
}
