//! The processes as the manifests have them, two of each role, behind the gateway: a restart of
//! all of them one after the other fails no request, a kill of any hardly one, nothing that was
//! acknowledged is lost, and live streams come back by themselves. Secrets are rotated in the same way.
//!
//! Every test has engines, processes and a gateway of its own. The short form runs with all tests;
//! the long one, `make chaos`, has more rounds and clients.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

#[path = "roles/collection.rs"]
mod collection;
#[path = "roles/comings.rs"]
mod comings;
#[path = "roles/gateway.rs"]
mod gateway;
#[path = "roles/libraries.rs"]
mod libraries;
#[path = "roles/people.rs"]
mod people;
#[path = "roles/restarts.rs"]
mod restarts;
#[path = "roles/rotation.rs"]
mod rotation;
#[path = "roles/scene.rs"]
mod scene;
#[path = "roles/seams.rs"]
mod seams;
#[path = "roles/upgrades.rs"]
mod upgrades;
