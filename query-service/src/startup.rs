//! Builds the service and runs it: the only file that sees every room.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::web::{Data, ServiceConfig};
use clap::ValueEnum;
use shared::auth::token::TokenVerifier;
use shared::connections::{self, DatabaseStatus, Databases, PoolSizes};
use shared::contract::partition::Partitions;
use shared::process::{BindError, Ports, Process, TaskFailed};
use shared::resilience::{self, Breaker};
use shared::runtime::database_clock::{self, ClockReading};
use shared::runtime::error_chain::Chain;
use shared::runtime::mongo_errors;
use shared::runtime::settings::Settings;
use shared::runtime::tasks::GRACE;
use shared::runtime::tasks::{EverySecond, Tasks};
use shared::runtime::telemetry::Measured;
use shared::web::ops::Readiness;
use shared::web::routes::{self, Service};
use shared::web::server::{self, Serving};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accounts::OwnAccounts;
use crate::http;
use crate::invalidation::Subscriber;
use crate::live::Live;
use crate::metric_rows;
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
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Role {
    /// The API and the projector.
    All,
    /// The HTTP API alone.
    Api,
    /// The fold alone.
    Projector,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Projector => "projector",
        }
    }

    fn serves(self) -> bool {
        self != Self::Projector
    }

    fn folds(self) -> bool {
        self != Self::Api
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Connect(#[from] connections::ConnectError),
    #[error("prepare a client for the key set")]
    Keys(#[source] reqwest::Error),
    #[error("open the views")]
    Views(#[source] ViewError),
    #[error("start the server")]
    Serve(#[source] std::io::Error),
    #[error(transparent)]
    TaskFailed(#[from] TaskFailed),
}

const API_READY: &str = "the views are open";
const DATABASE: &str = "MongoDB answers";
const BROKER: &str = "NATS is connected";
const KEYS: &str = "the key set is known";
const CLOCK: &str = database_clock::AGREES;
/// The driver's default of 10 is for a process that does not live off its database. Of the log's
/// database only users' own addresses and sessions are read.
const POOLS: PoolSizes = PoolSizes { log: 8, views: 32 };
/// The fold's own: whatever reads do, it has its connections.
const FOLD_POOL: u32 = 16;
/// How long a look at the database's clock may take before it is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// A client that has closed its side of the connection waits for nothing: its read is abandoned at
/// once, and its live stream gives its permit back.
const SERVING: Serving = Serving {
    workers: None,
    answers_half_closed: false,
    grace: GRACE,
};
/// A start seldom takes so long. Until then whoever connects waits: a gateway that has not noticed
/// the restart yet would hand on that there is nothing to read.
const QUIET: Duration = Duration::from_secs(2);
/// While there is nothing to read one worker tells everybody to come back.
const SERVING_AT_START: Serving = Serving {
    workers: Some(1),
    grace: Duration::from_secs(1),
    ..SERVING
};

/// What this service measures.
pub fn measured(partitions: Partitions, role: Role) -> Measured {
    Measured {
        service: "query-service",
        role: role.name(),
        rows: metric_rows::ROWS,
        routes: routes::of(Service::Query).collect(),
        partitions: partitions.count(),
    }
}

/// A service that has its ports, and serves nothing yet.
pub struct Application {
    settings: Settings,
    role: Role,
    ports: Ports,
}

impl Application {
    /// Binds both ports; port 0 takes a free one.
    pub fn build(settings: Settings, role: Role) -> Result<Self, StartupError> {
        let ports = Ports::bind(settings.query_addr, settings.query_ops_addr)?;
        Ok(Self {
            settings,
            role,
            ports,
        })
    }

    /// Where the API and the operator's port are.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        self.ports.addresses()
    }

    /// Serves until `stop`, then drains. Probes answer from the start; everything else begins
    /// once MongoDB and NATS can be reached, however long that takes.
    pub async fn run_until(self, stop: CancellationToken) -> Result<(), StartupError> {
        let Ports { api, ops } = self.ports;
        let mut conditions = vec![API_READY, DATABASE, BROKER, KEYS, CLOCK];
        if self.role.folds() {
            conditions.extend([monitor::CAUGHT_UP, stream_check::SAME_LOG]);
        }
        let measured = measured(self.settings.partitions, self.role);
        let process = Process::begin(ops, self.settings.drain, &conditions, &measured)
            .map_err(StartupError::Serve)?;
        let started = start(&self.settings, self.role, api, &process, &stop).await;
        process.run_until(&stop, started).await
    }
}

/// Opens the views and starts serving and folding; the handle of the API's server if the role has
/// one, and if it was not told to stop before.
///
/// Longer than a screen, for the order of its steps is what there is to read: cut in pieces, they
/// would hand the same ten values on to each other.
async fn start(
    settings: &Settings,
    role: Role,
    api: TcpListener,
    process: &Process,
    stop: &CancellationToken,
) -> Result<Option<ServerHandle>, StartupError> {
    let (readiness, tasks) = (&process.readiness, &process.tasks);
    let verifier = TokenVerifier::with_url(settings.jwks_url.clone(), process.keys.clone());
    let verifier = Data::new(verifier.map_err(StartupError::Keys)?);
    // However this ends: who waits for the start waits for nothing then.
    let until_started = stop.child_token();
    let started = until_started.clone().drop_guard();
    let mut waiting_room = None;
    if role.serves() {
        let api = api.try_clone().map_err(StartupError::Serve)?;
        let room = serve_at_start(
            api,
            settings.clone(),
            verifier.clone(),
            until_started,
            process,
        );
        waiting_room = Some(room);
    }
    let Databases {
        log: accounts,
        views: database,
    } = connections::open_both(settings, "query-service", POOLS).await?;
    let check = StreamCheck::of(settings).await?;
    let breaker = Arc::new(Breaker::new(connections::MONGODB));
    let status = DatabaseStatus::default();
    let probe = connections::probe_views(
        settings,
        "query-service",
        breaker.clone(),
        status.clone(),
        tasks,
    );
    tasks.spawn("database probe", probe.await?);
    let nats = connections::nats(&settings.nats, "query-service").await?;
    // Before the views are open: what they wait for can be read.
    let watch = Watch {
        breaker: breaker.clone(),
        status,
        database: database.clone(),
        nats: nats.clone(),
        verifier: verifier.clone(),
        readiness: readiness.clone(),
        tasks: tasks.clone(),
    };
    tasks.spawn("watch", watch.run());
    let Some(views) = open_views(&database, settings, readiness, stop).await? else {
        return Ok(None);
    };
    let (switch, current) = tokio::sync::watch::channel(views);
    let folding =
        connections::open_views_to_fold(settings, "query-service fold", FOLD_POOL).await?;
    let generations = Generations {
        catalog: Catalog::new(&folding),
        readers: database.clone(),
        switch,
        folds: role
            .folds()
            .then(|| FoldSettings::of(settings, check.clone(), tasks)),
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
    let mut handle = None;
    if role.serves() {
        let live = Live::new(current.clone(), process.drained.clone())
            .with_heartbeat(settings.stream_heartbeat)
            .with_tasks(tasks);
        let subscriber = Subscriber::new(current.clone(), live.clone());
        let follow = subscriber.run(nats, settings.names.clone(), tasks.stop_signal());
        tasks.spawn("live", follow);
        let admission = Admission::new(&breaker, settings.ip_rate_per_second > 0).with_tasks(tasks);
        let own = OwnAccounts::new(&accounts, tasks);
        let shared = Shared {
            views: current,
            verifier,
            live,
            admission,
            own,
        };
        let server =
            http_server(api, settings, shared, &process.draining).map_err(StartupError::Serve)?;
        handle = Some(server.handle());
        tasks.run(server);
    }
    drop(started);
    if let Some(waiting_room) = waiting_room {
        // Until it has ended, some are still told to come back: a gateway must not send any yet.
        // That it panicked is told elsewhere.
        let _ = waiting_room.await;
    }
    readiness.set(API_READY, Ok(()));
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
                let why = mongo_errors::reason(&error);
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

/// What all requests share.
struct Shared {
    views: CurrentViews,
    verifier: Data<TokenVerifier>,
    live: Live,
    admission: Admission,
    own: OwnAccounts,
}

fn http_server(
    listener: TcpListener,
    settings: &Settings,
    shared: Shared,
    draining: &CancellationToken,
) -> std::io::Result<Server> {
    let own = Data::new(shared.own);
    let live = Data::new(shared.live);
    let gate = Data::new(shared.admission.gate().clone());
    let admission = Data::new(shared.admission);
    let views = Data::new(shared.views);
    let verifier = shared.verifier;
    let configure = move |config: &mut ServiceConfig| {
        config
            .app_data(views.clone())
            .app_data(verifier.clone())
            .app_data(live.clone())
            .app_data(gate.clone())
            .app_data(admission.clone())
            .app_data(own.clone())
            .configure(http::configure);
    };
    server::serve(listener, settings, SERVING, draining, configure)
}

/// Answers before there is anything to read, if that takes long: live streams wait, all else is told
/// to come back. Ends when `until` fires, and says when it has.
fn serve_at_start(
    listener: TcpListener,
    settings: Settings,
    verifier: Data<TokenVerifier>,
    until: CancellationToken,
    process: &Process,
) -> JoinHandle<()> {
    let (tasks, draining) = (process.tasks.clone(), process.draining.clone());
    process.tasks.run(async move {
        tokio::select! {
            () = tokio::time::sleep(QUIET) => (),
            () = until.cancelled() => return,
        }
        let room = http::WaitingRoom::new(settings.stream_heartbeat, until.clone(), &tasks);
        let room = Data::new(room);
        let configure = move |config: &mut ServiceConfig| {
            config
                .app_data(room.clone())
                .app_data(verifier.clone())
                .configure(http::configure_start);
        };
        match server::serve(listener, &settings, SERVING_AT_START, &draining, configure) {
            Ok(server) => {
                let handle = server.handle();
                tasks.run(server);
                until.cancelled().await;
                handle.stop(true).await;
            }
            Err(error) => warn!(error = %error, "nobody is answered before the start is over"),
        }
    })
}

/// Looks each second whether what the service needs answers, and what time MongoDB has.
struct Watch {
    breaker: Arc<Breaker>,
    status: DatabaseStatus,
    database: mongodb::Database,
    nats: connections::Nats,
    verifier: Data<TokenVerifier>,
    readiness: Readiness,
    tasks: Tasks,
}

impl Watch {
    async fn run(self) {
        let mut seconds = EverySecond::until(self.tasks.stop_signal());
        while seconds.next().await {
            let database = if self.breaker.is_open() {
                Err(self.status.reason())
            } else {
                Ok(())
            };
            self.readiness.set(DATABASE, database);
            self.readiness.set(BROKER, self.nats.status());
            tokio::join!(self.look_at_keys(), self.look_at_clock());
        }
    }

    async fn look_at_keys(&self) {
        let keys = if self.verifier.is_ready().await {
            Ok(())
        } else {
            Err("it cannot be fetched".to_owned())
        };
        self.readiness.set(KEYS, keys);
    }

    /// Whether this machine's clock is that of MongoDB, by which ids are made.
    async fn look_at_clock(&self) {
        if self.breaker.is_open() {
            return;
        }
        let database = self.database.clone();
        let asked = async move { ClockReading::at(&database).await };
        if let Some(Ok(look)) = self.tasks.ask_within(PATIENCE, asked).await {
            self.readiness.set(CLOCK, look.agreement());
        }
    }
}
