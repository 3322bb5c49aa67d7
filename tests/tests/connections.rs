//! Engines that require credentials or certificates, and the URIs of hosted ones: what works, and
//! the sentence that operators get where it does not.

#[path = "connections/exchange.rs"]
mod exchange;
#[path = "connections/mongodb.rs"]
mod mongodb;
#[path = "connections/ways.rs"]
mod ways;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shared::connections::{self, Nats};
use shared::runtime::settings::Settings;
use system_tests::eventually;
use system_tests::secured::Broker;
use system_tests::world::PATIENCE;
use ways::Way;

const SOON: Duration = Duration::from_secs(20);

async fn connect(name: &str, vars: &[(&'static str, String)]) -> Nats {
    let vars = vars.iter().map(|(name, value)| (name.into(), value.into()));
    let settings = Settings::from_vars(vars).unwrap_or_else(|faults| panic!("{name}: {faults}"));
    let nats = connections::nats(&settings.nats, name).await;
    nats.unwrap_or_else(|error| panic!("{name}: {error}"))
}

impl Way {
    async fn try_all(self) -> usize {
        let name = self.name;
        self.broker.start(&self.config);
        let nats = connect(name, &self.right).await;
        eventually(&format!("{name}: connected"), SOON, async || {
            nats.status().ok()
        })
        .await;
        // It is somebody who may use JetStream.
        let stream = async_nats::jetstream::stream::Config {
            name: "TEST".to_owned(),
            subjects: vec!["test".to_owned()],
            ..Default::default()
        };
        let jetstream = nats.jetstream();
        let made = jetstream.create_stream(stream).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
        let sent = jetstream.publish("test", "x".into()).await;
        let taken = sent.expect("handed over").await;
        taken.unwrap_or_else(|error| panic!("{name}: {error}"));
        for (vars, sentence) in &self.wrong {
            let nats = connect(name, vars).await;
            let mut last = String::new();
            let told = async || {
                last = nats.status().expect_err("nobody lets it in");
                (last == *sentence).then_some(())
            };
            let what = format!("{name}: {sentence}");
            let waited = tokio::time::timeout(SOON, eventually(&what, PATIENCE, told)).await;
            assert!(waited.is_ok(), "{name}: it said: {last}, not: {sentence}");
        }
        self.wrong.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_takes_us_in_every_way_and_a_refusal_is_one_plain_sentence() {
    shared::runtime::crypto::install_provider();
    let ways = ways::all();
    let count = ways.len();
    let refusals: usize = join_all(ways.map(Way::try_all)).await.into_iter().sum();
    println!("NATS: {count} ways in, {refusals} refusals told");
}

/// A refusal is not repeated a dozen times a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses_is_asked_ever_less_often_and_takes_us_once_it_is_mended() {
    let broker = Broker::new();
    broker.start("authorization { user: u, password: old }");
    let url = format!("nats://u:new@127.0.0.1:{}", broker.port);
    let nats = connect("patient", &[("NATS_URL", url)]).await;
    let refused = || {
        broker
            .process
            .logged()
            .matches("authentication error")
            .count()
    };
    let first = eventually("refused", SOON, async || {
        (refused() >= 1).then(Instant::now)
    })
    .await;
    eventually("refused again", SOON, async || {
        (refused() >= 5).then_some(())
    })
    .await;
    let elapsed = first.elapsed();
    println!("NATS: 5 refusals in {elapsed:?}");
    assert!(
        elapsed > Duration::from_millis(800),
        "5 refusals in {elapsed:?}"
    );
    broker.reload("authorization { user: u, password: new }");
    eventually("let in", SOON, async || nats.status().ok()).await;
}
