//! Credentials that are refused, mended, and exchanged while the services run.

use std::path::Path;

use futures_util::future::join_all;
use nkeys::KeyPair;
use serde_json::Value;
use system_tests::api::Session;
use system_tests::eventually;
use system_tests::world::{Readiness, Service, World};

use super::SOON;

fn users(keys: &[&KeyPair]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|key| format!("{{ nkey: {} }}", key.public_key()))
        .collect();
    // The tests' own clients show nothing and are let in.
    format!(
        "authorization {{ users: [{}, {{ user: test, password: test }}] }}\nno_auth_user: test",
        keys.join(", ")
    )
}

fn put_key(path: &Path, key: &KeyPair) {
    let next = path.with_extension("next");
    std::fs::write(&next, key.seed().expect("a seed")).expect("a file");
    std::fs::rename(next, path).expect("files of one folder");
}

fn says(body: &Value, sentence: &str) -> bool {
    body.to_string().contains(sentence)
}

const SENTENCE: &str = "it refuses the key of NATS_NKEY_FILE";
const ENDED: &str = "NATS: connected again";

/// The key in the file is not the broker's; it is mended; then it is exchanged under load, on both
/// sides, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_once_and_credentials_are_exchanged_under_load_without_loss() {
    let (wrong, first, second) = (
        KeyPair::new_user(),
        KeyPair::new_user(),
        KeyPair::new_user(),
    );
    let world = World::start_engines(
        &[
            ("NATS_NKEY_FILE", "{folder}/service.nk"),
            ("RUST_LOG", "info"),
        ],
        &users(&[&first]),
    )
    .await;
    let file = world.file("service.nk", "");
    put_key(&file, &wrong);
    world.command.process.start();
    world.query.process.start();
    // Commands are accepted meanwhile, and what is wrong can be read.
    world.command.ready().await;
    both_say_that_the_key_is_refused(&world).await;
    let names: Vec<String> = (0..2).map(|number| format!("writer_{number}")).collect();
    let tokens = world.users(&names).await;

    put_key(&file, &first);
    world.query.ready().await;
    let what = "the command service is whole";
    let is_whole = |readiness: &Readiness| readiness.body["status"] == "ready";
    world.command.readiness_becomes(what, is_whole).await;
    for service in [&world.command, &world.query] {
        was_told_once(service).await;
    }

    let api = world.api();
    let sessions = world.known(&api, &names, &tokens).await;
    let exchange = async {
        let (what, published) = ("the load has begun", "relay_published_total");
        world
            .command
            .metric_becomes(what, published, |events| events > 10.0)
            .await;
        // Nobody knows when the file and the broker change: first one, then the other.
        world.configure_nats(&users(&[&second]));
        world.nats.reload();
        put_key(&file, &second);
    };
    futures_util::join!(join_all(sessions.iter().map(post_many)), exchange);
    let audit = world.audit().await;
    assert!(audit.is_clean(), "{audit:?}");
    println!(
        "NATS: the key exchanged under load: {} events, none lost",
        audit.events
    );
    world.query.ready().await;
    world.verify().await;
}

async fn both_say_that_the_key_is_refused(world: &World) {
    eventually("both services say why", SOON, async || {
        let command = world.command.readiness().await?;
        let query = world.query.readiness().await?;
        let told =
            says(&command.body["degraded"], SENTENCE) && says(&query.body["missing"], SENTENCE);
        (command.status == 200 && query.status == 503 && told).then_some(())
    })
    .await;
    for service in [&world.command, &world.query] {
        let metrics = service.metrics().await;
        let open = r#"circuit_open{dependency="nats"} 1"#;
        assert!(
            metrics.contains(open),
            "{}: {metrics}",
            service.process.name()
        );
    }
}

/// The log of a service has one line about the refusal and one about its end.
async fn was_told_once(service: &Service) {
    // The line may be on its way to us when the service is ready already.
    eventually("the end is told", SOON, async || {
        service.process.logged().contains(ENDED).then_some(())
    })
    .await;
    let log = service.process.logged();
    let (told, ended) = (log.matches(SENTENCE).count(), log.matches(ENDED).count());
    let name = service.process.name();
    assert_eq!(
        (told, ended),
        (1, 1),
        "{name}: said so often\n{}",
        service.process.tail(40)
    );
    // In the field `error`, beside our words.
    let is_its_own = |line: &&str| line.contains("authorization violation");
    let its_own = log.lines().filter(is_its_own).count();
    assert_eq!(its_own, 1, "{name}: the client's own words");
}

async fn post_many(session: &Session) {
    for number in 0..60 {
        let text = format!("{} {number}", session.username);
        let posted = session.post(&text, &format!("key-{number}")).await;
        posted.accepted();
    }
}
