//! The version before is replaced by this build under load, and taken back.
//!
//! `MICROBLOG_BEFORE` names the folder with its two binaries. Without it there is nothing to replace,
//! and the test says so.

use std::path::Path;

use system_tests::world::{Role, binaries};
use system_tests::{alone, version_before};

use super::restarts::restart;
use super::scene::Scene;

/// The query service first: a version may not read every token of a later one. Back, the other way.
const ORDER: [Role; 4] = [
    Role::Projector,
    Role::QueryApi,
    Role::Relay,
    Role::CommandApi,
];

/// Requests that the clients send between two restarts, so that versions work side by side.
const BETWEEN: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_before_is_replaced_and_taken_back_without_a_failed_request() {
    let _alone = alone().await;
    let Some(before) = version_before() else {
        return;
    };
    let now = binaries();
    let mut scene = Scene::start_from(Some(&before), "upgrade and back").await;
    scene.works().await;
    for (what, folder, roles) in [
        ("upgrade", &now, ORDER.to_vec()),
        ("back", &before, ORDER.into_iter().rev().collect()),
    ] {
        replace(&scene, what, folder, roles).await;
        scene.works().await;
    }
    scene.nothing_is_lost().await;
}

async fn replace(scene: &Scene, what: &str, folder: &Path, roles: Vec<Role>) {
    let before = scene.load.requests.so_far();
    for role in roles {
        for (number, service) in scene.roles.of(role).iter().enumerate() {
            service.process.becomes(&folder.join(role.service()));
            restart(scene, role, number).await;
            scene.requests(BETWEEN).await;
        }
    }
    let counted = scene.load.requests.so_far().since(&before);
    println!("{what}: {counted}");
    let failures = counted.failures().join("\n");
    assert_eq!(counted.failed(), 0, "{what}: {counted}\n{failures}");
}
