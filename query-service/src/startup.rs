//! Builds the service and runs it: the only file that sees every room.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, HttpServer};
use shared::address::{Addresses, limit_address};
use shared::cors::cors;
use shared::connections::{self, DatabaseStatus, Databases, PoolSizes};
use shared::database_clock::{self, Look};
use shared::error_chain::Chain;
use shared::http::{bound_headers, observe};
use shared::ops::{self, Readiness};
use shared::resilience::{self, Breaker};
use shared::settings::Settings;
use shared::tasks::Tasks;
use shared::token::TokenVerifier;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accounts::OwnAddresses;
use crate::http;
use crate::invalidation::Subscriber;
use crate::live::Live;
use crate::projection::generations::Generations;
use crate::projection::monitor;
use crate::projection::settings::FoldSettings;
use crate::projection::stream_check::{self, StreamCheck};
use crate::reads::admission::Admission;
use crate::reads::model::{CurrentViews, ReadModel};
use crate::views::addresses;
use crate::views::error::ViewError;
use crate::views::generation::Catalog;

/// Which half of the service a process runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    All,
    Api,
    Projector,
}

impl Role {
    fn serves(self) -> bool {
        self != Self::Projector
    }

    fn folds(self) -> bool {
        self != Self::Api
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error("listen on {0}: is the port taken?")]
    Bind(SocketAddr, #[source] std::io::Error),
    #[error(transparent)]
    Connect(#[from] connections::ConnectError),
    #[error("prepare a client for the key set")]
    Keys(#[source] reqwest::Error),
    #[error("open the views")]
    Views(#[source] ViewError),
    #[error("start the server")]
    Serve(#[source] std::io::Error),
    #[error("a background task failed")]
    TaskFailed,
}

/// A service that has its ports and its connections, and serves nothing yet.
pub struct Application {
    settings: Settings,
    role: Role,
    api: TcpListener,
    ops: TcpListener,
}

const API_READY: &str = "the views are open";
const DATABASE: &str = "MongoDB answers";
const BROKER: &str = "NATS is connected";
const KEYS: &str = "the key set is known";
const CLOCK: &str = database_clock::AGREES;
/// The driver's default of 10 is for a process that does not live off its database. Of the log's
/// database only users' own addresses are read.
const POOLS: PoolSizes = PoolSizes { log: 8, views: 32 };
/// The fold's own: whatever reads do, it has its connections.
const FOLD_POOL: u32 = 16;
/// How long a look at the database's clock may take before it is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Requests in flight, streams and the fold have this long to end.
const GRACE: Duration = Duration::from_secs(10);

impl Application {
    /// Binds both ports.
    pub fn build(settings: Settings, role: Role) -> Result<Self, StartupError> {
        let bind = |addr| ops::bind(addr).map_err(|error| StartupError::Bind(addr, error));
        let (api, ops) = (bind(settings.query_addr)?, bind(settings.query_ops_addr)?);
        Ok(Self {
            settings,
            role,
            api,
            ops,
        })
    }

    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.api.local_addr()?, self.ops.local_addr()?))
    }

    /// Serves until `stop`, then drains. Probes answer from the start; everything else begins
    /// once the engines can be reached, however long that takes.
    pub async fn run_until(self, stop: CancellationToken) -> Result<(), StartupError> {
        let readiness = Readiness::default();
        for condition in [API_READY, DATABASE, BROKER, KEYS, CLOCK] {
            readiness.expect(condition);
        }
        if self.role.folds() {
            readiness.expect(monitor::CAUGHT_UP);
            readiness.expect(stream_check::SAME_LOG);
        }
        let ops = ops::serve(self.ops, readiness.clone()).map_err(StartupError::Serve)?;
        let ops_handle = ops.handle();
        tokio::spawn(ops);
        let tasks = Tasks::default();
        let started = serve(
            &self.settings,
            self.role,
            self.api,
            &readiness,
            &tasks,
            &stop,
        )
        .await;
        let outcome = match started {
            Ok(server) => {
                let failure = tasks.failure();
                tokio::select! {
                    () = stop.cancelled() => Ok(server),
                    () = failure.cancelled() => Err((Some(server), StartupError::TaskFailed)),
                }
            }
            Err(error) => Err((None, error)),
        };
        readiness.withdraw();
        let (server, outcome) = match outcome {
            Ok(server) => (server, Ok(())),
            Err((server, error)) => (server.flatten(), Err(error)),
        };
        info!("shutting down");
        if let Some(server) = server {
            server.stop(true).await;
        }
        tasks.stop_and_join(GRACE).await;
        ops_handle.stop(false).await;
        outcome
    }
}

/// Opens the views and starts serving and folding; `None` if it is told to stop before.
async fn serve(
    settings: &Settings,
    role: Role,
    api: TcpListener,
    readiness: &Readiness,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> Result<Option<ServerHandle>, StartupError> {
    let verifier =
        Data::new(TokenVerifier::with_url(settings.jwks_url.clone()).map_err(StartupError::Keys)?);
    let until_started = stop.child_token();
    if role.serves() {
        let api = api.try_clone().map_err(StartupError::Serve)?;
        start_server(api, settings, verifier.clone(), until_started.clone())
            .map_err(StartupError::Serve)?;
    }
    let Databases {
        log: accounts,
        views: database,
    } = connections::open_both(settings, "query-service", POOLS).await?;
    let check = StreamCheck::of(settings).await?;
    let breaker = Arc::new(Breaker::new(connections::MONGODB));
    let status = DatabaseStatus::default();
    let pulse = connections::probe_views(
        settings,
        "query-service",
        breaker.clone(),
        status.clone(),
        tasks.stop_signal(),
    );
    tasks.spawn("database pulse", pulse.await?);
    let nats = connections::nats(&settings.nats, "query-service").await?;
    // Before the views are open: what they wait for can be read.
    tasks.spawn(
        "probe",
        probe(
            (breaker.clone(), status),
            nats.clone(),
            verifier.clone(),
            readiness.clone(),
            tasks.stop_signal(),
        ),
    );
    let Some(views) = open_views(&database, settings, readiness, stop).await? else {
        return Ok(None);
    };
    readiness.set(API_READY, Ok(()));
    let (switch, current) = tokio::sync::watch::channel(views);
    let folding = connections::open_views(settings, "query-service fold", FOLD_POOL).await?;
    let generations = Generations {
        catalog: Catalog::new(&folding),
        readers: database.clone(),
        switch,
        folds: role
            .folds()
            .then(|| FoldSettings::of(settings, check.clone())),
        tasks: tasks.clone(),
    };
    tasks.spawn("generations", generations.run());
    if role.folds() {
        let forget = addresses::forget(Catalog::new(&database), tasks.stop_signal());
        // Ends by itself, once there is nothing to do.
        drop(tasks.run(forget));
    }
    let watch = monitor::run(
        current.clone(),
        nats.clone(),
        settings.names.clone(),
        role.folds().then_some(check),
        readiness.clone(),
        tasks.stop_signal(),
    );
    tasks.spawn("monitor", watch);
    let clock = watch_clock(
        database.clone(),
        breaker.clone(),
        readiness.clone(),
        tasks.stop_signal(),
    );
    tasks.spawn("clock", clock);
    let handle = if role.serves() {
        let live =
            Live::new(current.clone(), stop.clone()).with_heartbeat(settings.stream_heartbeat);
        let subscriber = Subscriber::new(current.clone(), live.clone());
        let follow = subscriber.run(nats, settings.names.clone(), tasks.stop_signal());
        tasks.spawn("live", follow);
        let admission = Admission::new(&breaker, settings.ip_rate_per_second > 0);
        let addresses = OwnAddresses::new(&accounts);
        let server = http_server(api, settings, current, verifier, live, admission, addresses)
            .map_err(StartupError::Serve)?;
        let handle = server.handle();
        tokio::spawn(server);
        until_started.cancel();
        Some(handle)
    } else {
        None
    };
    info!(role = ?role, "query-service runs");
    Ok(handle)
}

async fn open_views(
    database: &mongodb::Database,
    settings: &Settings,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<Option<ReadModel>, StartupError> {
    let (mut backoff, mut told) = (resilience::background(), None);
    loop {
        match ReadModel::open(database, settings.partitions).await {
            Ok(views) => return Ok(Some(views)),
            Err(ViewError::Database(error)) => {
                let why = connections::reason(&error);
                // The same at each attempt would be noise.
                if told.as_ref() != Some(&why) {
                    warn!(error = %Chain(&error), "the views cannot be opened yet: {why}");
                    told = Some(why.clone());
                }
                readiness.set(API_READY, Err(format!("MongoDB: {why}")));
            }
            Err(error) => return Err(StartupError::Views(error)),
        }
        tokio::select! {
            () = backoff.wait() => (),
            () = stop.cancelled() => return Ok(None),
        }
    }
}

fn http_server(
    listener: TcpListener,
    settings: &Settings,
    views: CurrentViews,
    verifier: Data<TokenVerifier>,
    live: Live,
    admission: Admission,
    addresses: OwnAddresses,
) -> std::io::Result<Server> {
    let own = Data::new(addresses);
    let live = Data::new(live);
    let gate = Data::new(admission.gate().clone());
    let admission = Data::new(admission);
    let addresses = Data::new(Addresses::new(settings));
    let origins = Data::new(settings.cors_origins.clone());
    let public_url = Data::new(settings.public_url.clone());
    let views = Data::new(views);
    let server = HttpServer::new(move || {
        App::new()
            .wrap(from_fn(limit_address))
            .wrap(from_fn(bound_headers))
            .wrap(from_fn(cors))
            .wrap(from_fn(observe))
            .app_data(views.clone())
            .app_data(verifier.clone())
            .app_data(live.clone())
            .app_data(gate.clone())
            .app_data(admission.clone())
            .app_data(own.clone())
            .app_data(addresses.clone())
            .app_data(origins.clone())
            .app_data(public_url.clone())
            .configure(http::configure)
    });
    let server = server
        .disable_signals()
        .shutdown_timeout(GRACE.as_secs())
        // Whoever closes their side waits for nothing: their read is abandoned at once, and
        // their live stream gives its place back.
        .h1_allow_half_closed(false)
        .max_connections(10_000)
        .client_request_timeout(Duration::from_secs(5))
        .keep_alive(Duration::from_secs(30));
    Ok(server.listen(listener)?.run())
}

/// Looks each second whether this machine's clock is that of MongoDB, by which ids are made.
async fn watch_clock(
    database: mongodb::Database,
    breaker: Arc<Breaker>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => (),
            () = stop.cancelled() => return,
        }
        if breaker.is_open() {
            continue;
        }
        let asking = database.clone();
        // The question is never dropped; a database that stands still is not waited for.
        let look = tokio::spawn(async move { Look::at(&asking).await });
        if let Ok(Ok(Ok(look))) = tokio::time::timeout(PATIENCE, look).await {
            readiness.set(CLOCK, look.agreement());
        }
    }
}

/// Answers before there is anything to read: live streams wait, all else is told to come back.
/// Ends when `until` fires.
fn start_server(
    listener: TcpListener,
    settings: &Settings,
    verifier: Data<TokenVerifier>,
    until: CancellationToken,
) -> std::io::Result<()> {
    let room = http::WaitingRoom::new(settings.stream_heartbeat, until.clone());
    let room = Data::new(room);
    let addresses = Data::new(Addresses::new(settings));
    let origins = Data::new(settings.cors_origins.clone());
    let server = HttpServer::new(move || {
        App::new()
            .wrap(from_fn(limit_address))
            .wrap(from_fn(bound_headers))
            .wrap(from_fn(cors))
            .wrap(from_fn(observe))
            .app_data(room.clone())
            .app_data(verifier.clone())
            .app_data(addresses.clone())
            .app_data(origins.clone())
            .configure(http::configure_start)
    });
    let server = server
        .workers(1)
        .disable_signals()
        .shutdown_timeout(1)
        .h1_allow_half_closed(false)
        .client_request_timeout(Duration::from_secs(5));
    let server = server.listen(listener)?.run();
    let handle = server.handle();
    tokio::spawn(server);
    tokio::spawn(async move {
        until.cancelled().await;
        handle.stop(true).await;
    });
    Ok(())
}

/// Looks each second whether the dependencies answer.
async fn probe(
    (database, status): (Arc<Breaker>, DatabaseStatus),
    nats: connections::Nats,
    verifier: Data<TokenVerifier>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => (),
            () = stop.cancelled() => return,
        }
        let database = if database.is_open() {
            Err(status.reason())
        } else {
            Ok(())
        };
        readiness.set(DATABASE, database);
        readiness.set(BROKER, nats.status());
        let keys = if verifier.is_ready().await {
            Ok(())
        } else {
            Err("it cannot be fetched".to_owned())
        };
        readiness.set(KEYS, keys);
    }
}
