//! Processes that are killed, paused or stopped: what was acknowledged stays, happens once, and
//! becomes visible.
//!
//! Every test has engines and services of its own. The short form runs with all tests; the long
//! one, `make chaos`, has more of everything and a real graph. Sleeps in here are the faults' own
//! random moments; everything else waits for something that can be seen.

#[path = "chaos/import.rs"]
mod import;
#[path = "chaos/kills.rs"]
mod kills;
#[path = "chaos/model.rs"]
mod model;
#[path = "chaos/pauses.rs"]
mod pauses;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use import::Import;
use kills::Faults;
use system_tests::graph::Graph;
use system_tests::load::Load;
use system_tests::process::describe;
use system_tests::world::World;
use system_tests::{is_long, seed};

/// Clients that act while things die.
const CLIENTS: usize = 4;
/// What a client waits after a command: enough for some hundred commands a second in all.
const PACE: Duration = Duration::from_millis(20);

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
    let events = log.collection::<Document>(shared::contract::log::COLLECTION);
    let registered = doc! { "type": "user.registered", "data.username": { "$regex": "^client_" } };
    let mut found = events.find(registered).await.expect("the log");
    while let Some(event) = found.try_next().await.expect("the log") {
        clients.insert(event.get_i64("_id").expect("an id"));
    }
    let mine = doc! { "actor": { "$in": clients.into_iter().collect::<Vec<_>>() } };
    usize::try_from(events.count_documents(mine).await.expect("the log")).expect("a small number")
}

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
