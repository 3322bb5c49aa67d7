//! What every request of either service passes.
//!
//! * [`access_log`]: one line for each request, and none that strangers could fill the log with.
//! * [`request_id`], [`problem`]: the id of a request, and error bodies (RFC 9457).
//! * [`routes`], [`routing`]: the routes of both services, and how one serves its own.
//! * [`openapi`]: what the routes take, answer and refuse, as documents for clients.
//! * [`middleware`]: metrics and headers of every answer.
//! * [`server_span`]: the span of a request; `bound`: how many a second get what costs something.
//! * [`unread`]: the end of a request that is answered before its body has arrived.
//! * [`gateway_errors`]: problems for what a gateway answers by itself.
//! * [`connections`], [`rate_limit`], [`cors`]: how many connections an address may have, how many
//!   requests it may send, and from which pages.
//! * [`server`]: the HTTP server that all that stands behind; [`ops`]: the operator's port.

pub mod access_log;
mod bound;
pub mod connections;
pub mod cors;
pub mod gateway_errors;
pub mod middleware;
pub mod openapi;
pub mod ops;
pub mod problem;
pub mod rate_limit;
pub mod request_id;
pub mod routes;
pub mod routing;
pub mod server;
pub mod server_span;
pub mod unread;
