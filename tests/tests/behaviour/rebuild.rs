//! A rebuild of the views while clients write and read.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use system_tests::api::Session;
use system_tests::graph::Graph;
use system_tests::load::Load;
use system_tests::process::{Process, describe};
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually, is_long, seed};

use super::scroll;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_under_load_fails_no_read_and_can_be_killed_and_run_again() {
    let _alone = alone().await;
    let seed = seed("rebuild");
    let world = World::start(&[("CELEBRITY_THRESHOLD", "100")]).await;
    let (sessions, everybody) = people(&world, seed).await;
    let pace = Duration::from_millis(if is_long() { 40 } else { 100 });
    let mut load = Load::start(sessions.clone(), &everybody[..20], pace, seed);
    let reads = Arc::new(Reads::default());
    let readers = sessions
        .iter()
        .map(|me| tokio::spawn(reads.clone().go_on(me.clone(), everybody.clone(), seed)));
    let readers: Vec<_> = readers.collect();
    load.acknowledged(20).await;

    let rebuild = world.operator_with(
        "rebuild",
        "query-service",
        &["rebuild"],
        &[("PARTITIONS", "3")],
    );
    end_half_way(&world, &rebuild).await;
    assert_eq!(current(&world).await, 1, "readers are not shown half of it");
    load.acknowledged(20).await;

    let again = Instant::now();
    let (status, printed) = world.run_to_end(&rebuild).await;
    assert!(status.success(), "{}:\n{printed}", describe(status));
    println!("{}, in {:.1?}", printed.trim(), again.elapsed());
    assert_eq!(current(&world).await, 2);
    // Readers are switched within a second; some more reads of the new generation.
    let before = reads.served.load(Ordering::Relaxed);
    load.acknowledged(50).await;
    eventually("reads go on", PATIENCE, async || {
        (reads.served.load(Ordering::Relaxed) > before + 50).then_some(())
    })
    .await;
    reads.stop.store(true, Ordering::Relaxed);
    join_all(readers).await;
    load.stop().await;
    reads.print(load.history.acknowledged());
    assert_eq!(*reads.failed(), Vec::<String>::new());
    println!("{}", world.verify().await);
    let verdict = load.judge(&world.api(), &world.events().await).await;
    assert!(verdict.is_clean(), "{verdict}");
}

/// Imports a graph with posts, and makes clients who follow some of it, so that there is something
/// to read. The ids are those of the graph.
async fn people(world: &World, seed: u64) -> (Vec<Session>, Vec<String>) {
    let (graph, each, clients) = if is_long() {
        (Graph::reed98(seed), 10, 4)
    } else {
        (Graph::random(150, 750, seed), 5, 2)
    };
    let file = world.file("graph.edges", &graph.text).display().to_string();
    let arguments = [
        "import",
        "--undirected",
        "--edges",
        &file,
        "--posts-per-user",
        &each.to_string(),
    ];
    let (status, printed) = world.run("import", "command-service", &arguments).await;
    assert!(status.success(), "{printed}");
    let sessions = world.sessions(&world.api(), "client", clients).await;
    let everybody = user_ids(world).await;
    for (at, session) in sessions.iter().enumerate() {
        for followee in everybody.iter().skip(at).step_by(everybody.len() / 20) {
            if *followee != session.user_id {
                session.follow(followee).await.accepted();
            }
        }
    }
    (sessions, everybody)
}

/// Starts a rebuild, and ends it when it has folded half of what there is.
async fn end_half_way(world: &World, rebuild: &Process) {
    let begun = Instant::now();
    rebuild.start();
    let end = world.stream().await.cached_info().state.last_sequence;
    let what = "half of the stream is folded again";
    let half = eventually(what, PATIENCE * 5, async || {
        let at = position(world, 2, 3).await?;
        (at > end / 2).then_some(at)
    })
    .await;
    // Not killed in the short form: an open transaction keeps its rows for a minute.
    if is_long() {
        rebuild.kill();
    } else {
        rebuild.terminate();
        let ended = rebuild.wait(PATIENCE).await;
        assert!(ended.is_some_and(|status| !status.success()), "{ended:?}");
    }
    println!(
        "ended at {half} of {end}, {:.1?} after its start",
        begun.elapsed()
    );
}

/// The ids of all imported users of the graph.
async fn user_ids(world: &World) -> Vec<String> {
    let events = world.events().await;
    let users = doc! { "type": "user.registered", "data.username": { "$regex": "^user_" } };
    let users = events.find(users).await.expect("the log");
    let users: Vec<Document> = users.try_collect().await.expect("the log");
    let ids = users
        .iter()
        .map(|user| user.get_i64("_id").expect("an id").to_string());
    ids.collect()
}

/// The lowest sequence that the partitions of a generation have applied, once all have begun.
async fn position(world: &World, generation: i64, partitions: usize) -> Option<u64> {
    let name = format!("g{generation}_checkpoints");
    let rows = world.views().await.collection::<Document>(&name);
    let rows: Vec<Document> = rows.find(doc! {}).await.ok()?.try_collect().await.ok()?;
    let lowest = rows
        .iter()
        .filter_map(|row| row.get_i64("seq").ok())
        .min()?;
    (rows.len() == partitions).then(|| u64::try_from(lowest).ok())?
}

/// Which generation readers are shown.
async fn current(world: &World) -> i64 {
    let catalog = world.views().await.collection::<Document>("generations");
    let pointer = catalog
        .find_one(doc! { "_id": "current" })
        .await
        .expect("views");
    pointer
        .expect("a pointer")
        .get_i64("generation")
        .expect("a number")
}

/// Readers, and every read that was not answered with 200.
#[derive(Default)]
struct Reads {
    stop: AtomicBool,
    served: AtomicUsize,
    failed: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
}

impl Reads {
    fn failed(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.failed.lock().expect("nobody panics holding it")
    }

    fn took(&self, time: Duration) {
        let mut slowest = self.slowest.lock().expect("nobody panics holding it");
        *slowest = time.max(*slowest);
    }

    fn print(&self, writes: usize) {
        println!(
            "{} reads and {writes} writes meanwhile, {} reads failed; slowest read or scroll {:.1?}",
            self.served.load(Ordering::Relaxed),
            self.failed().len(),
            *self.slowest.lock().expect("nobody panics holding it")
        );
    }

    async fn go_on(self: Arc<Self>, me: Session, everybody: Vec<String>, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed ^ me.user_id.len() as u64);
        while !self.stop.load(Ordering::Relaxed) {
            let other = everybody.choose(&mut rng).expect("there are users");
            let path = match rng.random_range(0..4) {
                0 => format!("/users/{other}"),
                1 => format!("/users/{other}/followers"),
                2 => format!("/users/{other}/posts?limit=50"),
                _ => "/timeline".to_owned(),
            };
            let begun = Instant::now();
            let outcome = if path == "/timeline" {
                // A whole scroll: its cursors outlive the switch.
                scroll(&me, &path, 50, None).await.map(|_| ())
            } else {
                match me.get(&path, None).await {
                    Ok(answer) if answer.status == StatusCode::OK => Ok(()),
                    Ok(answer) => Err(format!("{path}: {answer:?}")),
                    Err(error) => Err(format!("{path}: {error}")),
                }
            };
            self.took(begun.elapsed());
            // A load, not a flood: what is left of the machine folds.
            tokio::time::sleep(Duration::from_millis(20)).await;
            match outcome {
                Ok(()) => drop(self.served.fetch_add(1, Ordering::Relaxed)),
                Err(error) => self.failed().push(error),
            }
        }
    }
}
