//! Connections to MongoDB and NATS, and why there is none: the only files that open a client.
//!
//! * [`database`](self): MongoDB: what a URI may decide, where log and views are, what an error
//!   of the driver means to an operator.
//! * [`broker`](self): NATS: signing in, TLS, coming back, and saying once what is wrong.
//! * [`refusals`](self): what NATS and its client say, in sentences for operators.

mod broker;
mod database;
mod error;
mod refusals;

pub use broker::{NATS, Nats, nats};
pub use database::{
    DEFAULT_DATABASE, DatabaseStatus, MONGODB, is_away, log_database, mongo, mongo_pulse, open_log,
    open_views, reason, views_database,
};
pub use error::ConnectError;
