//! The fault matrix: what was acknowledged stays and happens once, everybody sees it, and each
//! kind of fault says what it did and what held. Beside it, posts through a network that cuts.
//!
//! One world for all kinds, its engines behind proxies. For each: clients at work, the fault some
//! times over, recovery, then the log against the stream, the views against the log, and the
//! clients' memory against both. `make test` runs the kinds that no other test has; `make chaos`
//! runs all of them, more often. Sleeps are the faults' own moments.

#[path = "faults/clocks.rs"]
mod clocks;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use system_tests::api::{Api, Outcome, Session};
use system_tests::history::{Action, Told};
use system_tests::load::Load;
use system_tests::process::describe;
use system_tests::proxy::{Proxy, Weather};
use system_tests::world::{PATIENCE, Service, World};
use system_tests::{eventually, is_long, seed};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

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
    /// Told neither way at first; all are resolved in the end, or they would be in `faults`.
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

struct Scene {
    world: World,
    rng: StdRng,
    /// Messages of the stream that are no events.
    poisoned: usize,
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
        let foreign: BTreeSet<i64> = (self.poisoned > 0).then_some(0).into_iter().collect();
        let stream_is_exact = audit.missing.is_empty()
            && audit.doubled.is_empty()
            && audit.out_of_order.is_empty()
            && audit.broken_chain.is_empty()
            && audit.foreign == foreign;
        if !stream_is_exact {
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

    async fn sessions(&self, prefix: &str) -> Vec<Session> {
        let api = self.world.api();
        self.world.sessions(&api, prefix, CLIENTS).await
    }

    /// Starts what does not run, and waits until it is ready.
    async fn recover(&self) {
        for process in [&self.world.mongodb, &self.world.nats] {
            if !process.is_running() {
                process.start();
            }
        }
        for service in [&self.world.command, &self.world.query] {
            if !service.process.is_running() {
                service.process.start();
            }
            service.ready().await;
        }
    }

    /// A random moment: the fault's own.
    async fn moment(&mut self, millis: std::ops::Range<u64>) {
        let millis = self.rng.random_range(millis);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn inject(&mut self, fault: Fault, load: &Load, client: &Session, round: usize) {
        match fault {
            Fault::Kill(target) => self.kill(&[target]).await,
            Fault::KillBothServices => self.kill(&[Command, Query]).await,
            Fault::KillBothEngines => self.kill(&[Database, Broker]).await,
            Fault::KillEverything => self.kill(&[Command, Broker, Query, Database]).await,
            Fault::Pause(target) => {
                // Sometimes past the leases, sometimes not.
                self.process(target).pause();
                self.moment(500..5_000).await;
                self.process(target).resume();
            }
            Fault::Weather(target, weather) => {
                let proxies = self.world.proxies();
                let proxy = if target == Database {
                    &proxies.mongodb
                } else {
                    &proxies.nats
                };
                proxy.set(weather);
                self.moment(SPELL_MS).await;
                let proxies = self.world.proxies();
                proxies.mongodb.set(Weather::Fair);
                proxies.nats.set(Weather::Fair);
            }
            Fault::Terminate(target) => {
                let process = self.process(target);
                process.terminate();
                let ended = process.wait(Duration::from_secs(15)).await;
                let ended = ended.unwrap_or_else(|| panic!("{target:?} does not stop"));
                assert!(
                    ended.success(),
                    "{target:?} after SIGTERM: {}",
                    describe(ended)
                );
            }
            Fault::InterruptTwice(target) => {
                let process = self.process(target);
                process.interrupt();
                process.interrupt();
                let ended = process.wait(Duration::from_secs(15)).await;
                assert!(ended.is_some(), "{target:?} does not stop at once");
            }
            Fault::Resets => self.reset_some(load, client, round).await,
            Fault::SlowBodies => self.slow_bodies(load, client).await,
            Fault::KillRebuild => self.kill_rebuild(load).await,
            Fault::RestoreBroker => self.restore_broker(load).await,
            Fault::Poison => self.poison().await,
            Fault::FullDisk => self.fill_disk(load).await,
        }
    }

    fn process(&self, target: Target) -> &system_tests::process::Process {
        match target {
            Command => &self.world.command.process,
            Query => &self.world.query.process,
            Broker => &self.world.nats,
            Database => &self.world.mongodb,
        }
    }

    /// One after the other, at random moments.
    async fn kill(&mut self, targets: &[Target]) {
        for target in targets {
            self.moment(0..300).await;
            let ended = self.process(*target).kill();
            let ended = ended.map(describe);
            assert_eq!(ended, None, "{target:?} ended by itself");
        }
        self.moment(0..800).await;
    }

    /// Commands whose clients are gone before the answer: whole or absent, and told when asked
    /// again under the same key.
    async fn reset_some(&mut self, load: &Load, client: &Session, round: usize) {
        for number in 0..20 {
            let content = format!("{} is cut off {round} {number}", client.username);
            let key = format!("reset-{round}-{number}");
            let action = Action::Post {
                content: content.clone(),
            };
            let command = load.history.invoke(&client.user_id, action);
            let after = Duration::from_micros(self.rng.random_range(0..6_000));
            client.post_and_reset(&content, &key, after).await;
            if self.rng.random_bool(0.5) {
                let again = client.post(&content, &key).await;
                if let Outcome::Accepted(post) = again {
                    load.history.told(command, Told::Accepted(Some(post.value)));
                    load.history.resolved_by_asking_again();
                }
            }
        }
    }

    /// Clients who hold on to connections and never finish hold nobody up.
    async fn slow_bodies(&mut self, load: &Load, session: &Session) {
        const CONNECTIONS: usize = 200;
        let head = format!(
            "POST /api/v1/posts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
            session.token()
        );
        let address = self.world.command.api.trim_start_matches("http://");
        let mut open = Vec::new();
        for number in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let len = if number % 2 == 0 { head.len() } else { 20 };
            let some = &head.as_bytes()[..len];
            stream.write_all(some).await.expect("some bytes");
            open.push(stream);
        }
        load.acknowledged(5 * CLIENTS).await;
        // They are told to go while they do nothing.
        for mut stream in open {
            let mut answer = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            assert!(read.is_ok(), "a request that never ends is kept open");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        }
    }

    async fn kill_rebuild(&mut self, load: &Load) {
        let rebuild = self
            .world
            .operator("rebuild", "query-service", &["rebuild"]);
        rebuild.start();
        self.moment(0..1_500).await;
        rebuild.kill();
        load.acknowledged(CLIENTS).await;
        for arguments in [&["rebuild"][..], &["rebuild", "--drop"]] {
            let (status, printed) = self
                .world
                .run("rebuild-2", "query-service", arguments)
                .await;
            assert!(status.success(), "{arguments:?}: {printed}");
        }
    }

    async fn restore_broker(&mut self, load: &Load) {
        let store = self.world.nats_store();
        let copy = store.with_file_name("nats-copy");
        self.world.nats.kill();
        copy_folder(&store, &copy);
        self.world.start_nats().await;
        self.world.command.ready().await;
        load.acknowledged(5 * CLIENTS).await;
        // What was published since is lost, though it was acknowledged to the relay.
        self.world.nats.kill();
        std::fs::remove_dir_all(&store).expect("the store");
        copy_folder(&copy, &store);
        std::fs::remove_dir_all(&copy).expect("the copy");
        self.world.start_nats().await;
    }

    /// What it cannot write it must not acknowledge; commands do not depend on it.
    async fn fill_disk(&mut self, load: &Load) {
        let published = async |world: &World| {
            let metric = world.command.metric("relay_published_total").await;
            metric.expect("what was published is counted")
        };
        self.world.nats.no_file_past(0);
        load.acknowledged(2 * CLIENTS).await;
        // What was on its way is out, or refused.
        let before = published(&self.world).await;
        load.acknowledged(2 * CLIENTS).await;
        let more = published(&self.world).await - before;
        assert_eq!(more, 0.0, "published to a broker that cannot write");
        let ended = self.world.nats.kill();
        assert!(ended.is_none(), "it ended by itself: {ended:?}");
        self.world.start_nats().await;
    }

    async fn poison(&mut self) {
        for body in ["", "{", "\u{0}\u{1}", "{\"schema\":99}"] {
            self.world.publish_foreign(body).await;
            self.poisoned += 1;
        }
        let (wanted, query) = (self.poisoned, &self.world.query);
        eventually("poison is kept as dead letters", PATIENCE, async || {
            let letters = self.world.dead_letters().await;
            (letters == wanted && is_ready(query).await).then_some(())
        })
        .await;
    }
}

async fn is_ready(service: &Service) -> bool {
    service
        .metric("query_service_checkpoint_sequence")
        .await
        .is_some()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
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
        writers.push(tokio::spawn(async move {
            let mut again = 0;
            for number in 0..posts / CLIENTS {
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
        }));
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
