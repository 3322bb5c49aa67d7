//! The gateway, Traefik, as `scripts/gateway.py` starts it for everybody: it changes no answer,
//! loses and repeats nothing while a service restarts, holds no stream back, and refuses to start
//! with a configuration that it would only half obey.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

#[path = "gateway/cost.rs"]
mod cost;
#[path = "gateway/edge.rs"]
mod edge;
#[path = "gateway/front.rs"]
mod front;
#[path = "gateway/restarts.rs"]
mod restarts;
#[path = "gateway/routes.rs"]
mod routes;
#[path = "gateway/start.rs"]
mod start;
#[path = "gateway/streams.rs"]
mod streams;

use front::Front;
use system_tests::world::World;

/// What the configuration gives a request to arrive.
const READ_TIMEOUT_SECS: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_changes_no_answer_and_believes_no_caller() {
    let world = World::start(&[
        ("TRUSTED_PROXIES", "127.0.0.1"),
        // Sign-ins are limited; what one address may ask is more than is asked here.
        ("IP_RATE_PER_SECOND", "10000"),
        ("CORS_ORIGINS", "https://a.example"),
        ("STREAM_HEARTBEAT_SECS", "1"),
    ])
    .await;
    let front = Front::of(&world, &["--rate", "0"]).await;
    let mut sessions = world.sessions(&front.api(), "reader", 4).await.into_iter();
    let mut session = || sessions.next().expect("a session");
    // Some take as long as the gateway gives a request to arrive: they run beside the others.
    let (long, upload, pages, secured) = (
        streams::a_stream_outlives_what_the_gateway_gives_a_request(session()),
        streams::a_slow_upload_is_told_what_the_service_says(&front),
        edge::what_the_gateway_itself_answers_is_a_problem(&world),
        streams::browsers_get_many_streams_on_one_connection(&world, session()),
    );
    let quick = async {
        let calls =
            routes::every_call_is_answered_as_without_the_gateway(&world, &front, &session()).await;
        routes::each_call_is_in_the_access_log_with_its_id(&front, &calls).await;
        edge::an_answer_that_the_client_has_is_not_sent_again(&front, &session()).await;
        edge::headers_are_bounded_by_the_service_first(&front).await;
        edge::forged_addresses_are_not_believed(&front).await;
        edge::an_address_that_floods_is_refused(&world).await;
    };
    tokio::join!(long, upload, pages, secured, quick);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_behind_the_gateway_is_waited_for_and_no_post_happens_twice() {
    restarts::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_would_half_obey_does_not_start() {
    start::run().await;
}

/// `make latency`: in an optimised build, on a machine that does nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: run it with `make latency`"]
async fn the_gateway_costs_less_than_a_millisecond() {
    cost::run().await;
}
