//! The relay against real engines: whatever happens to it, to the broker or between them, the
//! stream holds each event of the log once, each log stream in version order.
//!
//! Most tests hurt it at random moments; what they assert never depends on which.
//! Needs `MONGODB_URI`, `NATS_URL` and, for brokers that are killed, `MICROBLOG_NATS_BIN`.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer, stream};
use bson::{Document, doc};
use command_service::relay::{self, FailPoint, Relay};
use futures_util::{StreamExt, future};
use mongodb::Collection;
use shared::connections::{self, Nats};
use shared::contract::event_stream::{self, CHAIN, ChainHash, EVENT_ID, RESUME_TOKEN, StreamNames};
use shared::contract::events::{Event, LogStream, Payload, PostCreated, ProfileEdited};
use shared::contract::ids::{EventId, IdGenerator};
use shared::contract::log::LogDocument;
use shared::contract::time::{Clock, SystemClock, Timestamp};
use shared::runtime::settings::{NatsSettings, Secret};
use shared::web::ops::Readiness;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "relay/audit.rs"]
mod audit;
#[path = "relay/delivery.rs"]
mod delivery;
#[path = "relay/engines_away.rs"]
mod engines_away;
#[path = "relay/golden.rs"]
mod golden;
#[path = "relay/identity.rs"]
mod identity;
#[path = "relay/outages.rs"]
mod outages;
#[path = "relay/scans.rs"]
mod scans;
#[path = "relay/trouble.rs"]
mod trouble;
#[path = "relay/world.rs"]
mod world;

use audit::Audit;
use engines_away::*;
use world::*;
