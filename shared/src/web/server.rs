//! The HTTP server of a service: one for both, so that limits and middleware are the same.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::{Data, ServiceConfig};
use actix_web::{App, HttpServer};
use tokio_util::sync::CancellationToken;

use crate::runtime::settings::Settings;
use crate::runtime::tasks::GRACE;
use crate::web::connections::Connections;
use crate::web::cors::cors;
use crate::web::gateway_errors;
use crate::web::middleware::{
    Draining, last_answers, limit_header_size, request_telemetry, security_headers,
};
use crate::web::rate_limit::{IpRateLimiter, rate_limit_by_ip};
use crate::web::unread::close_after_unread_body;

/// Connections of one worker, where there are several.
const MAX_CONNECTIONS: usize = 10_000;
/// Of all workers at least: live streams, of which a process has up to 11,000 with those that wait,
/// must leave room for other requests where there is one processor.
const MIN_CONNECTIONS: usize = 20_000;
/// How long the head of a request may take to arrive.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// In what servers differ.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// `None`: as many as there are processors.
    pub workers: Option<usize>,
    /// Whether a client that has closed its side of the connection is still answered. If not, its
    /// request is abandoned at once.
    pub answers_half_closed: bool,
    /// Requests in flight have this long at the end.
    pub grace: Duration,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            workers: None,
            answers_half_closed: true,
            grace: GRACE,
        }
    }
}

/// Serves the routes of `configure`, behind the middleware that both services share. It speaks
/// HTTP/1.1 only: a client that begins with HTTP/2 without TLS is refused. From `draining` on, each
/// answer is the last of its connection.
///
/// The caller must await the server; it ends when its handle is told to stop.
pub fn serve(
    listener: TcpListener,
    settings: &Settings,
    serving: Serving,
    draining: &CancellationToken,
    configure: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> std::io::Result<Server> {
    let workers = serving
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let addresses = Data::new(IpRateLimiter::new(settings));
    let connections = Connections::new(settings);
    let_go_of_who_vanished(&listener)?;
    let origins = Data::new(settings.cors_origins.clone());
    let public_url = Data::new(settings.public_url.clone());
    let draining = Data::new(Draining(draining.clone()));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(addresses.clone())
            .app_data(origins.clone())
            .app_data(public_url.clone())
            .app_data(draining.clone())
            .wrap(from_fn(rate_limit_by_ip))
            .wrap(from_fn(limit_header_size))
            .wrap(from_fn(cors))
            .wrap(from_fn(request_telemetry))
            .wrap(from_fn(last_answers))
            .wrap(security_headers())
            .wrap(from_fn(close_after_unread_body))
            .service(gateway_errors::page())
            .configure(&configure)
    })
    .on_connect(move |connection, data| connections.admit(connection, data))
    .disable_signals()
    .shutdown_timeout(serving.grace.as_secs())
    .h1_allow_half_closed(serving.answers_half_closed)
    .workers(workers)
    .max_connections(MAX_CONNECTIONS.max(MIN_CONNECTIONS / workers))
    .client_request_timeout(HEAD_DEADLINE)
    .keep_alive(settings.keep_alive);
    Ok(server.listen(listener)?.run())
}

/// A peer that vanished without a word (its machine is off, its network gone) would hold its
/// connection, and a live stream its place, for a quarter of an hour (`tcp_retries2`).
///
/// Connections take the option from the socket that accepts them.
#[cfg(target_os = "linux")]
fn let_go_of_who_vanished(listener: &TcpListener) -> std::io::Result<()> {
    /// How long what was sent may stay unacknowledged.
    const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
    socket2::SockRef::from(listener).set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[cfg(not(target_os = "linux"))]
fn let_go_of_who_vanished(_: &TcpListener) -> std::io::Result<()> {
    Ok(())
}
