//! Security: every route against every kind of token, every kind of bad request, and every
//! bad setting. The tables are generated from what the services serve, so that a new route
//! without a row fails.

#[path = "security/bad_requests.rs"]
mod bad_requests;
#[path = "security/clients.rs"]
mod clients;
#[path = "security/edge.rs"]
mod edge;
#[path = "security/forgeries.rs"]
mod forgeries;
#[path = "security/health.rs"]
mod health;
#[path = "security/limits.rs"]
mod limits;
#[path = "security/log.rs"]
mod log;
#[path = "security/matrix.rs"]
mod matrix;
#[path = "security/methods.rs"]
mod methods;
#[path = "security/routes.rs"]
mod routes;
#[path = "security/settings.rs"]
mod settings;

use std::path::Path;
use std::time::Instant;

use clients::{Clients, People};
use system_tests::world::World;

const BASE: &str = "/api/v1";
/// What one address may ask in the worlds of these tests: every request here but the floods comes
/// from an address of its own.
const RATE: &str = "50";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in() {
    let keys = tempfile::tempdir().expect("a folder");
    let key = keys.path().join("jwt.pem").display().to_string();
    let world = World::start(&[
        ("JWT_PRIVATE_KEY_FILE", &key),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        ("IP_RATE_PER_SECOND", RATE),
        ("CORS_ORIGINS", "https://a.example"),
        ("PUBLIC_URL", edge::PUBLIC_URL),
        // The query service fetches the keys from this machine all the same.
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("POST_QUOTA", "300"),
        ("LOG_FORMAT", "json"),
    ])
    .await;
    let clients = Clients::of(&world);
    let people = People::of(&world, &clients).await;
    matrix::every_route_answers_every_token_as_specified(&clients, &people, Path::new(&key)).await;
    bad_requests::every_bad_request_is_a_problem_and_none_is_ours(&world, &clients, &people).await;
    health::health_says_in_one_line_whether_a_service_is_ready(&world).await;
    methods::either_service_names_the_methods_of_every_path(&clients).await;
    methods::gateways_have_problems_to_show(&world, &clients).await;
    log::every_line_is_json_and_a_request_has_one(&world, &clients, &people).await;
    let began = Instant::now();
    let flood = limits::ten_thousand_odd_requests_add_no_series(&world, &clients).await;
    log::a_flood_of_strangers_does_not_fill_the_log(&world, flood, began).await;
    limits::promtool_finds_no_fault_in_what_is_measured(&world).await;
    limits::an_unknown_account_takes_as_long_as_a_wrong_password(&clients).await;
    limits::both_services_limit_addresses_and_know_origins(&clients).await;
    edge::what_others_make_of_requests_is_understood(&world, &clients, &people).await;
    limits::two_replicas_accept_exactly_the_quota(&world, &clients).await;
}
