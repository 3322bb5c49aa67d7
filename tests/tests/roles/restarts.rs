//! Any of the eight is killed, or all are restarted one after the other, under load.

use std::time::{Duration, Instant};

use system_tests::process::describe;
use system_tests::world::Role;
use system_tests::{alone, is_long};

use super::scene::Scene;

/// A process that is asked to stop: its drain, then at most its grace for requests and for tasks.
const STOPS_WITHIN: Duration = Duration::from_secs(2 + 10 + 10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_eight_are_restarted_without_a_failed_request_and_killed_with_hardly_one() {
    let _alone = alone().await;
    let mut scene = Scene::start("restarts and kills").await;
    scene.works().await;
    rolling_restarts(&scene).await;
    kills(&mut scene).await;
    scene.nothing_is_lost().await;
}

async fn rolling_restarts(scene: &Scene) {
    let began = Instant::now();
    let before = scene.load.requests.so_far();
    let rounds = if is_long() { 5 } else { 1 };
    for _ in 0..rounds {
        for role in Role::ALL {
            for number in 0..2 {
                restart(scene, role, number).await;
            }
        }
    }
    let counted = scene.load.requests.so_far().since(&before);
    let per_second = counted.all() as f64 / began.elapsed().as_secs_f64();
    println!("rolling restart, {per_second:.0}/s: {counted}");
    let failures = counted.failures().join("\n");
    assert_eq!(counted.failed(), 0, "{counted}\n{failures}");
}

/// Each of the eight, again and again; in the short form one of each role.
async fn kills(scene: &mut Scene) {
    let before = scene.load.requests.so_far();
    let rounds = if is_long() { 5 } else { 1 };
    for round in 0..rounds {
        for role in Role::ALL {
            // Of the relays the one that works comes first, so that it is the other's turn then.
            let first = match role {
                Role::Relay => scene.active_relay().await,
                Role::CommandApi | Role::QueryApi | Role::Projector => round % 2,
            };
            kill(scene, role, first).await;
            if is_long() {
                kill(scene, role, 1 - first).await;
            }
        }
    }
    let counted = scene.load.requests.so_far().since(&before);
    println!("killed one by one: {counted}");
    assert!(counted.failed_percent() < 1.0, "{counted}");
}

async fn kill(scene: &mut Scene, role: Role, number: usize) {
    let service = scene.roles.of(role)[number].clone();
    let name = service.process.name().to_owned();
    let (before, began) = (scene.load.requests.so_far(), Instant::now());
    service.process.note("SIGKILL");
    assert!(service.process.kill().is_none(), "{name} had ended before");
    let works = scene.works().await;
    service.start().await;
    let back = began.elapsed();
    let so_far = scene.load.requests.so_far().since(&before).all();
    let measured: usize = if is_long() { 1_000 } else { 150 };
    scene.requests(measured.saturating_sub(so_far)).await;
    let counted = scene.load.requests.so_far().since(&before);
    let per_second = counted.all() as f64 / began.elapsed().as_secs_f64();
    println!(
        "{name} killed: a write is read back after {works:.1?}, ready again after {back:.1?}; \
         {per_second:.0}/s: {counted}"
    );
    for failure in counted.failures().iter().take(5) {
        println!("  {failure}");
    }
    // A few hundred requests more or less are chance; the long form has enough of them.
    let most = if is_long() { 1.0 } else { 3.0 };
    assert!(counted.failed_percent() < most, "{name}: {counted}");
}

pub async fn restart(scene: &Scene, role: Role, number: usize) {
    let service = &scene.roles.of(role)[number];
    let name = service.process.name();
    let (before, began) = (scene.load.requests.so_far(), Instant::now());
    service.process.note("SIGTERM");
    service.process.terminate();
    let status = service.process.wait(STOPS_WITHIN).await;
    let status = status.unwrap_or_else(|| panic!("{name} still runs after {STOPS_WITHIN:?}"));
    assert!(status.success(), "{name} ended with {}", describe(status));
    let stopped = began.elapsed();
    service.start().await;
    let counted = scene.load.requests.so_far().since(&before);
    println!(
        "{name}: stopped in {stopped:.1?}, ready after {:.1?}: {counted}",
        began.elapsed()
    );
}
