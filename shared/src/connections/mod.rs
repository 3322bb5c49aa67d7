//! Connections to MongoDB and NATS, and why there is none: the only files that open a client, and
//! that say which database holds what.
//!
//! * [`database`](self): MongoDB: what a URI may decide, where log and views are.
//! * [`log_identity`]: which log a database holds, and whether a stream holds the same.
//! * [`broker`](self): NATS: signing in, TLS, coming back, and saying once what is wrong.
//! * [`refusals`](self): what NATS and its client say, in sentences for operators.

mod broker;
mod database;
mod error;
pub mod log_identity;
mod refusals;

pub use broker::{NATS, Nats, nats};
pub use database::{
    DEFAULT_DATABASE, DatabaseStatus, Databases, MONGODB, PoolSizes, log_database, mongo,
    open_both, open_log, open_views, open_views_to_fold, probe_log, probe_views, views_database,
};
pub use error::ConnectError;
