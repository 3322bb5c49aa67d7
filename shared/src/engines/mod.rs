//! Connections to MongoDB and NATS, and why there is none: the only files that open a client.
//!
//! * [`database`](self): MongoDB: what a URI may decide, where log and views are, what an error
//!   of the driver means to an operator.
//! * [`broker`](self): NATS: signing in, TLS, coming back, and saying once what is wrong.
//! * [`refusals`](self): what NATS and its client say, in sentences for operators.

mod broker;
mod database;
mod refusals;

pub use broker::{Nats, nats};
pub use database::{
    DEFAULT_DATABASE, DatabaseStatus, is_away, log_database, mongo, mongo_pulse, open_log,
    open_views, reason, views_database,
};

/// Labels of MongoDB and NATS in metrics.
pub const MONGODB: &str = "mongodb";
pub const NATS: &str = "nats";

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect to MongoDB")]
    Mongo(#[source] mongodb::error::Error),
    #[error("connect to NATS")]
    Nats(#[source] async_nats::ConnectError),
}
