//! Faults: what is acknowledged stays, happens once, and everybody sees it, whatever dies when.
//!
//! Every test has engines and services of its own. The short form runs with all tests; the long
//! one, `make chaos`, has more of everything and a real graph. Sleeps in here are the faults' own
//! random moments; everything else waits for something that can be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use system_tests::api::{Api, Post, Session};
use system_tests::graph::Graph;
use system_tests::load::Load;
use system_tests::process::{Process, describe};
use system_tests::world::{PATIENCE, Service, World, free_ports};
use system_tests::{eventually, is_long, seed};

/// Clients that act while things die.
const CLIENTS: usize = 4;
/// What a client waits after a command: enough for some hundred commands a second in all.
const PACE: Duration = Duration::from_millis(20);

// ---- SIGKILL ----------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_of_anything_during_an_import_loses_no_acknowledged_command() {
    let seed = seed("kill");
    let (rounds, posts_per_user, graph) = if is_long() {
        (15, 10, Graph::reed98(seed))
    } else {
        (3, 5, Graph::random(150, 750, seed))
    };
    let begun = Instant::now();
    let world = World::start(&[]).await;
    let sessions = world.sessions(&world.api(), "client", CLIENTS).await;
    let mut load = Load::start(sessions, &[], PACE, seed);
    let mut faults = Faults::new(&world, rounds, seed);
    let mut import = Import::new(&world, &graph, faults.schedule.len(), posts_per_user);
    while faults.one(&mut import).await {}
    let kills = begun.elapsed();

    // From here on nothing dies any more.
    faults.all_recover().await;
    let runs = import.finish().await;
    load.acknowledged(CLIENTS).await;
    load.stop().await;
    let audit = world.audit().await;
    let verified = world.verify().await;
    let verdict = load.judge(&world.api(), &world.events().await).await;

    faults.print();
    let resolved = load.history.resolved();
    println!(
        "import: {} users, {} follows, {} posts; started {runs} times until all ended with exit code 0",
        graph.people,
        2 * graph.edges,
        graph.people * posts_per_user
    );
    println!("commands: {verdict}; unknown at first and resolved by asking again {resolved}");
    println!("log and stream: {audit}");
    println!("{verified}");
    println!("{:.0?} of faults, {:.0?} in all", kills, begun.elapsed());
    assert_eq!(
        faults.ended_by_themselves,
        Vec::<String>::new(),
        "a service outlives what it depends on"
    );
    assert!(verdict.is_clean(), "{verdict}");
    assert!(audit.is_clean(), "{audit:?}");
    let imported = audit.events - events_of_clients(&world).await;
    assert_eq!(
        imported,
        graph.events(posts_per_user),
        "the import is there whole, and once"
    );
}

/// Events of the log that are not the import's: those of the clients.
async fn events_of_clients(world: &World) -> usize {
    let log = world.log().await;
    let mut clients = BTreeSet::new();
    let events = log.collection::<Document>(shared::log::COLLECTION);
    let registered = doc! { "type": "user.registered", "data.username": { "$regex": "^client_" } };
    let mut found = events.find(registered).await.expect("the log");
    while let Some(event) = found.try_next().await.expect("the log") {
        clients.insert(event.get_i64("_id").expect("an id"));
    }
    let mine = doc! { "actor": { "$in": clients.into_iter().collect::<Vec<_>>() } };
    usize::try_from(events.count_documents(mine).await.expect("the log")).expect("a small number")
}

/// An import in parts, so that there is always one under way; each is started again until it has
/// ended well, and at last so is that of the whole graph, which by then has nothing left to do.
struct Import<'a> {
    world: &'a World,
    process: Arc<Process>,
    /// Edges still to be imported, the current part last.
    parts: Vec<String>,
    whole: String,
    runs: usize,
}

impl<'a> Import<'a> {
    fn new(world: &'a World, graph: &Graph, parts: usize, posts_per_user: usize) -> Self {
        let lines: Vec<&str> = graph.text.lines().collect();
        let parts = lines.chunks(lines.len().div_ceil(parts));
        let parts = parts.rev().map(|lines| lines.join("\n")).collect();
        let (file, posts) = (world.file(Self::FILE, ""), posts_per_user.to_string());
        let file = file.to_str().expect("a path in UTF-8");
        let arguments = [
            "import",
            "--undirected",
            "--edges",
            file,
            "--posts-per-user",
            &posts,
        ];
        let process = world.operator("import", "command-service", &arguments);
        Self {
            world,
            process,
            parts,
            whole: graph.text.clone(),
            runs: 0,
        }
    }

    const FILE: &'static str = "graph.edges";

    /// Goes on with the current part, or begins the next.
    fn keep_running(&mut self) {
        match self.process.ended() {
            Some(status) if status.success() => drop(self.parts.pop()),
            Some(_) => (),
            None if self.process.is_running() => return,
            None => (),
        }
        if let Some(part) = self.parts.last() {
            self.world.file(Self::FILE, part);
            self.runs += 1;
            self.process.start();
        }
    }

    /// Imports what is left, then everything once more. Says how often it was started in all.
    async fn finish(&mut self) -> usize {
        const FAILURES: usize = 5;
        // What runs may still end well; what has ended may have.
        if self.ends_well().await {
            self.parts.pop();
        }
        self.parts.insert(0, self.whole.clone());
        let mut failures = 0;
        while let Some(part) = self.parts.last() {
            self.world.file(Self::FILE, part);
            self.runs += 1;
            self.process.start();
            if self.ends_well().await {
                self.parts.pop();
            } else {
                failures += 1;
                assert!(
                    failures < FAILURES,
                    "the import does not end well:\n{}",
                    self.process.tail(20)
                );
            }
        }
        self.runs
    }

    async fn ends_well(&self) -> bool {
        let ended = self.process.wait(PATIENCE * 5).await;
        ended.is_some_and(|status| status.success())
    }
}

/// A random schedule of deaths.
struct Faults<'a> {
    world: &'a World,
    schedule: Vec<&'static str>,
    rng: StdRng,
    /// Kills, and how many of them while the import was under way.
    killed: BTreeMap<&'static str, (usize, usize)>,
    ended_by_themselves: Vec<String>,
    slowest_recovery: Duration,
}

const TARGETS: [&str; 5] = [
    "command-service",
    "query-service",
    "broker",
    "database",
    "import",
];

impl<'a> Faults<'a> {
    /// Each target dies `rounds` times, in random order.
    fn new(world: &'a World, rounds: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut schedule: Vec<&str> = TARGETS.repeat(rounds);
        schedule.shuffle(&mut rng);
        Self {
            world,
            schedule,
            rng,
            killed: BTreeMap::new(),
            ended_by_themselves: Vec::new(),
            slowest_recovery: Duration::ZERO,
        }
    }

    /// Kills the next one at a random moment of an import, and starts it again at another.
    async fn one(&mut self, import: &mut Import<'_>) -> bool {
        let Some(target) = self.schedule.pop() else {
            return false;
        };
        // Half of the time the others have recovered from the last fault, half of the time not.
        if self.rng.random_bool(0.5) {
            self.all_recover().await;
        }
        import.keep_running();
        self.moment(600).await;
        let during_import = import.process.is_running();
        let process = match target {
            "command-service" => &self.world.command.process,
            "query-service" => &self.world.query.process,
            "broker" => &self.world.nats,
            "database" => &self.world.mongodb,
            _ => &import.process,
        };
        process.note("SIGKILL");
        let ended = process.kill();
        // The next round goes on with the import.
        if target != "import" {
            if let Some(status) = ended {
                self.ended_by_themselves
                    .push(format!("{target}: {}", describe(status)));
            }
            self.moment(600).await;
            process.start();
        }
        let (kills, during) = self.killed.entry(target).or_default();
        *kills += 1;
        *during += usize::from(during_import);
        true
    }

    async fn all_recover(&mut self) {
        let begun = Instant::now();
        self.world.command.ready().await;
        self.world.query.ready().await;
        self.slowest_recovery = self.slowest_recovery.max(begun.elapsed());
    }

    /// A random moment: one of the few sleeps that are what is tested.
    async fn moment(&mut self, at_most_ms: u64) {
        let millis = self.rng.random_range(0..at_most_ms);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    fn print(&self) {
        println!("{:<16} {:>8} {:>14}", "SIGKILL", "rounds", "during import");
        for (target, (kills, during)) in &self.killed {
            println!("{target:<16} {kills:>8} {during:>14}");
        }
        println!(
            "slowest recovery of both services: {:.1?}",
            self.slowest_recovery
        );
    }
}

// ---- SIGSTOP ----------------------------------------------------------------------------------

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
        // The one that holds most. It came first, or took the partitions of the one that did.
        let before = holders(&world).await;
        let first_holds = before.values().filter(|holder| **holder == first).count();
        let (process, name) = if 2 * first_holds >= before.len() {
            (&world.query.process, &first)
        } else {
            (
                &other.process,
                before
                    .values()
                    .find(|holder| **holder != first)
                    .unwrap_or(&first),
            )
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

// ---- SIGTERM ----------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_asked_to_stop_under_load_ends_in_order_and_keeps_its_word() {
    const AT_MOST: Duration = Duration::from_secs(15);
    let seed = seed("stop");
    let world = World::start(&[]).await;
    let sessions = world.sessions(&world.api(), "client", CLIENTS).await;
    let mut load = Load::start(sessions, &[], Duration::from_millis(5), seed);
    let rounds = if is_long() { 5 } else { 2 };
    let mut slowest: BTreeMap<String, Duration> = BTreeMap::new();
    for _ in 0..rounds {
        for service in [&world.command, &world.query] {
            let name = service.process.name().to_owned();
            load.acknowledged(20).await;
            let asked = Instant::now();
            service.process.terminate();
            let status: Option<ExitStatus> = service.process.wait(AT_MOST).await;
            let status =
                status.unwrap_or_else(|| panic!("{name} still runs {AT_MOST:?} after SIGTERM"));
            assert!(
                status.success(),
                "{name} after SIGTERM: {}",
                describe(status)
            );
            let took = slowest.entry(name).or_default();
            *took = (*took).max(asked.elapsed());
            service.start().await;
        }
    }
    load.acknowledged(20).await;
    load.stop().await;
    let audit = world.audit().await;
    let verified = world.verify().await;
    let verdict = load.judge(&world.api(), &world.events().await).await;
    println!("stopped {rounds} times each, slowest {slowest:.1?}: {verdict}\n{audit}\n{verified}");
    assert!(verdict.is_clean(), "{verdict}");
    assert!(audit.is_clean(), "{audit:?}");
}

// ---- the model --------------------------------------------------------------------------------

/// What was acknowledged: everybody's posts in the order of their ids, and who follows whom.
#[derive(Debug, Default)]
struct Model {
    posts: BTreeMap<u64, (String, String)>,
    edges: BTreeSet<(String, String)>,
}

impl Model {
    /// A home timeline, newest first: id and content of each post.
    fn timeline(&self, reader: &str) -> Vec<(u64, String)> {
        let shown = |author: &String| {
            author == reader || self.edges.contains(&(reader.to_owned(), author.clone()))
        };
        let posts = self
            .posts
            .iter()
            .rev()
            .filter(|(_, (author, _))| shown(author));
        posts
            .map(|(id, (_, content))| (*id, content.clone()))
            .collect()
    }

    fn posts_of(&self, author: &str) -> BTreeSet<u64> {
        let posts = self.posts.iter().filter(|(_, (by, _))| by == author);
        posts.map(|(id, _)| *id).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_unfollows_and_posts_in_any_interleaving_equal_the_model() {
    let seed = seed("interleavings");
    let (users, commands) = if is_long() { (24, 150) } else { (12, 25) };
    let mut rng = StdRng::seed_from_u64(seed);
    // With 4 a second follower in a partition makes an author hot there; with 100,000 nobody is.
    let threshold = if rng.random_bool(0.5) { "4" } else { "100000" };
    let world = World::start(&[("CELEBRITY_THRESHOLD", threshold)]).await;
    let sessions = Arc::new(world.sessions(&world.api(), "client", users).await);
    let model = Arc::<Mutex<Model>>::default();
    let begun = Instant::now();
    let people = (0..users).map(|at| {
        let (sessions, model) = (sessions.clone(), model.clone());
        person(at, sessions, model, commands, seed)
    });
    join_all(people).await;
    let acted = begun.elapsed();
    let model = Arc::into_inner(model)
        .expect("all people are done")
        .into_inner()
        .expect("no panic");
    for session in sessions.iter() {
        let expected = model.timeline(&session.user_id);
        for limit in [7, 100] {
            let what = format!(
                "the timeline of {} by {limit} equals the model",
                session.username
            );
            let mut last = Vec::new();
            let found = tokio::time::timeout(
                PATIENCE,
                eventually(&what, PATIENCE * 2, async || {
                    last = lines(&session.scroll(limit, None).await);
                    (last == expected).then_some(())
                }),
            );
            if found.await.is_err() {
                panic!("{what}: expected {expected:#?}, shown {last:#?}");
            }
        }
    }
    println!(
        "{} commands of {users} people in {acted:.1?}, threshold {threshold}: {} posts, {} edges",
        users * commands,
        model.posts.len(),
        model.edges.len()
    );
    println!("{}", world.verify().await);
}

/// One person: one command after the other, among others who do the same.
async fn person(
    at: usize,
    sessions: Arc<Vec<Session>>,
    model: Arc<Mutex<Model>>,
    commands: usize,
    seed: u64,
) {
    let me = &sessions[at];
    let mut rng = StdRng::seed_from_u64(seed ^ ((at as u64 + 1) << 32));
    let mut following: BTreeSet<&str> = BTreeSet::new();
    // The token of the last command that changed something, and what it promises to show.
    let mut last: Option<(String, BTreeSet<u64>)> = None;
    for number in 0..commands {
        let other = &sessions[(at + rng.random_range(1..sessions.len())) % sessions.len()].user_id;
        let other = other.as_str();
        let edge = (me.user_id.clone(), other.to_owned());
        match rng.random_range(0..100) {
            0..40 => {
                let content = format!("{} says {number}", me.username);
                let post = me.post(&content, &format!("key-{number}")).await.accepted();
                let id = post.value.parse().expect("an id is a number");
                locked(&model)
                    .posts
                    .insert(id, (me.user_id.clone(), content));
                last = Some((post.consistency, BTreeSet::new()));
            }
            40..75 => {
                // Its event comes after all that the followee has written by now.
                let written = locked(&model).posts_of(other);
                let done = me.follow(other).await.accepted();
                locked(&model).edges.insert(edge);
                // Who follows again changes nothing, and the token is that of long ago.
                if following.insert(other) {
                    last = Some((done.consistency, written));
                }
            }
            _ => {
                // Mostly somebody who is followed.
                let followed = following
                    .iter()
                    .nth(rng.random_range(0..=following.len()))
                    .copied();
                let other = followed.unwrap_or(other);
                let done = me.unfollow(other).await.accepted();
                locked(&model)
                    .edges
                    .remove(&(me.user_id.clone(), other.to_owned()));
                if following.remove(other) {
                    last = Some((done.consistency, BTreeSet::new()));
                }
            }
        }
        if let Some((token, written)) = last.as_ref().filter(|_| rng.random_bool(0.15)) {
            let shown = me.scroll(rng.random_range(4..20), Some(token)).await;
            let mut promised = locked(&model).posts_of(&me.user_id);
            promised.extend(written);
            check_own_view(me, &following, &promised, &shown);
        }
    }
}

/// A timeline read with the token of one's last command, while others go on: it shows what one
/// wrote and what the followee had written, nobody whom one does not follow, newest first, once.
fn check_own_view(
    me: &Session,
    following: &BTreeSet<&str>,
    promised: &BTreeSet<u64>,
    shown: &[Post],
) {
    for post in shown {
        let author = post.user_id.as_str();
        assert!(
            author == me.user_id || following.contains(author),
            "{} is shown {post:?}",
            me.username
        );
    }
    let shown: Vec<u64> = lines(shown).into_iter().map(|(id, _)| id).collect();
    assert!(
        shown.windows(2).all(|pair| pair[0] > pair[1]),
        "{}: not newest first: {shown:?}",
        me.username
    );
    let missing: Vec<&u64> = promised.iter().filter(|id| !shown.contains(id)).collect();
    assert!(
        missing.is_empty(),
        "{} does not see {missing:?}",
        me.username
    );
}

fn lines(posts: &[Post]) -> Vec<(u64, String)> {
    let line = |post: &Post| {
        (
            post.entry_id.parse().expect("an id is a number"),
            post.content.clone(),
        )
    };
    posts.iter().map(line).collect()
}

fn locked(model: &Mutex<Model>) -> std::sync::MutexGuard<'_, Model> {
    model.lock().expect("nobody panics while holding it")
}
