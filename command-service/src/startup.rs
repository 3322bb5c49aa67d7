//! Builds the service and runs it: the only file that sees every room.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::web::{Data, PayloadConfig, ServiceConfig};
use clap::ValueEnum;
use mongodb::Database;
use shared::auth::keys_in_use::KeysInUse;
use shared::auth::token::{TokenError, TokenVerifier};
use shared::connections::{self, DatabaseStatus, Databases, PoolSizes};
use shared::contract::partition::Partitions;
use shared::process::{BindError, Ports, Process, TaskFailed};
use shared::resilience::{AdmissionControl, Breaker, Limits};
use shared::runtime::database_clock::{self, DatabaseClock};
use shared::runtime::error_chain::Chain;
use shared::runtime::settings::Settings;
use shared::runtime::tasks::{EverySecond, Tasks};
use shared::runtime::telemetry::Measured;
use shared::web::ops::Readiness;
use shared::web::routes::{self, Service};
use shared::web::routing::MAX_BODY;
use shared::web::server::{self, Serving};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::app::ports::Quota;
use crate::app::{App, DEADLINE, Parts};
use crate::http;
use crate::keys::{KeyError, Keys, Signer};
use crate::metric_rows;
use crate::relay::{self, Relay};
use crate::store::MongoStore;

/// Which half of the service a process runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Role {
    /// The HTTP API and the relay.
    All,
    /// The HTTP API alone.
    Api,
    /// The relay alone.
    Relay,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Relay => "relay",
        }
    }

    pub fn serves(self) -> bool {
        match self {
            Self::All | Self::Api => true,
            Self::Relay => false,
        }
    }

    pub fn relays(self) -> bool {
        match self {
            Self::All | Self::Relay => true,
            Self::Api => false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Connect(#[from] connections::ConnectError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("sign an access token with the key")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("verify an access token signed with the key")]
    Verify(#[source] TokenError),
    #[error("start the server")]
    Serve(#[source] std::io::Error),
    #[error(transparent)]
    TaskFailed(#[from] TaskFailed),
}

const DATABASE: &str = "MongoDB answers";
const INDEXES: &str = "the indexes are made";
const CLOCK: &str = database_clock::AGREES;
/// Shown only where it does not hold.
const SAME_LOG: &str = "the log is the same";
const OTHER_LOG: &str = "the log in MONGODB_URI is another than this process began with: the database was dropped, replaced or restored below it. Nothing is written any more: look at the database, then start this process anew";
const LEASES: &str = "leases";
/// The driver's default of 10 is for a process that does not live off its database.
const POOL: u32 = 32;
const POOLS: PoolSizes = PoolSizes {
    log: POOL,
    views: POOL,
};
/// A command asks one question after the other, so that twice the pool keeps it busy; as many
/// again may be at work on passwords ([`crate::app::passwords`]).
const LIMITS: Limits = Limits {
    max_in_flight: 4 * POOL as usize,
    max_queued: 512,
    queue_timeout: Duration::from_millis(500),
    request_timeout: DEADLINE,
};
/// How long a look at the database may take before it counts as away.
const PATIENCE: Duration = Duration::from_secs(1);

/// The use cases on their store, connected to nothing yet: the driver connects when it is asked.
pub struct Core {
    pub app: Arc<App>,
    pub store: Arc<MongoStore>,
    pub signer: Arc<Signer>,
    breaker: Arc<Breaker>,
    pub log: Database,
}

impl Core {
    pub async fn open(
        settings: &Settings,
        signer: Signer,
        tasks: &Tasks,
    ) -> Result<Self, StartupError> {
        let signer = Arc::new(signer);
        let Databases { log, views } =
            connections::open_both(settings, "command-service", POOLS).await?;
        let breaker = Arc::new(Breaker::new(connections::MONGODB));
        let clock = Arc::new(DatabaseClock::default());
        let (time, answers) = (clock.clone(), breaker.clone());
        let store = MongoStore::new(log.clone(), views, time, tasks.clone(), answers);
        let store = Arc::new(store);
        let window = u64::from(settings.post_quota_window_secs);
        let app = App::new(Parts {
            store: store.ports().clone(),
            clock,
            signer: signer.clone(),
            tasks: tasks.clone(),
            gate: AdmissionControl::new(breaker.clone(), LIMITS),
            quota: Quota {
                posts: settings.post_quota,
                window: Duration::from_secs(window),
            },
            limit_logins: settings.ip_rate_per_second > 0,
        });
        Ok(Self {
            app: Arc::new(app),
            store,
            signer,
            breaker,
            log,
        })
    }
}

/// What this service measures.
pub fn measured(partitions: Partitions, role: Role) -> Measured {
    Measured {
        service: "command-service",
        role: role.name(),
        rows: metric_rows::ROWS,
        routes: routes::of(Service::Command).collect(),
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
        let ports = Ports::bind(settings.command_addr, settings.command_ops_addr)?;
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

    /// Serves until `stop`, then drains. A database that is away is waited for; commands answer
    /// 503 meanwhile.
    pub async fn run_until(self, stop: CancellationToken) -> Result<(), StartupError> {
        let Ports { api, ops } = self.ports;
        let measured = measured(self.settings.partitions, self.role);
        let conditions = [DATABASE, INDEXES, CLOCK];
        let process = Process::begin(ops, self.settings.drain, &conditions, &measured)
            .map_err(StartupError::Serve)?;
        let started = start(&self.settings, self.role, api, &process).await;
        process.run_until(&stop, started).await
    }
}

/// Starts what the role says; the handle of the API's server if it is a part of it.
async fn start(
    settings: &Settings,
    role: Role,
    api: TcpListener,
    process: &Process,
) -> Result<Option<ServerHandle>, StartupError> {
    let (readiness, tasks) = (&process.readiness, &process.tasks);
    let signer = Signer::load_or_make(&settings.jwt_private_key_file)?;
    check_key(&signer).await?;
    let core = Core::open(settings, signer, tasks).await?;
    let status = DatabaseStatus::default();
    let probe = connections::probe_log(
        settings,
        "command-service",
        core.breaker.clone(),
        status.clone(),
        tasks,
    );
    tasks.spawn("database probe", probe.await?);
    spawn_background(&core, &status, readiness, tasks);
    if role.relays() {
        let relay = relay(&core, readiness, settings).await?;
        tasks.spawn("relay", relay.run(tasks.stop_signal()));
    }
    let mut handle = None;
    if role.serves() {
        let keys = Keys::new(core.signer.clone(), process.keys.clone());
        let verifier = keys.verifier.clone();
        let follow = keys.follow(settings.jwt_private_key_file.clone(), tasks.clone());
        tasks.spawn("signing keys", follow);
        let server = http_server(api, &core, verifier, settings, &process.draining);
        let server = server.map_err(StartupError::Serve)?;
        handle = Some(server.handle());
        tasks.run(server);
    }
    info!(role = ?role, "command-service runs");
    Ok(handle)
}

fn spawn_background(core: &Core, status: &DatabaseStatus, readiness: &Readiness, tasks: &Tasks) {
    let watch = watch_database(
        core.store.clone(),
        status.clone(),
        readiness.clone(),
        tasks.clone(),
    );
    tasks.spawn("database watch", watch);
    let (app, stop) = (core.app.clone(), tasks.stop_signal());
    tasks.spawn("deactivation cleanup", async move {
        app.run_cleanups(stop).await
    });
    let app = core.app.clone();
    tasks.run(async move {
        if let Err(error) = app.warm_up().await {
            warn!(error = %Chain(&error), "the first unknown sign-in will take longer");
        }
    });
}

async fn relay(
    core: &Core,
    readiness: &Readiness,
    settings: &Settings,
) -> Result<Relay, StartupError> {
    let nats = connections::nats(&settings.nats, "command-service").await?;
    let leases = core.log.collection(LEASES);
    let settings = relay::Settings::new(settings.names.clone(), settings.stream_replicas);
    let relay = Relay::new(&core.log, leases, nats, readiness.clone(), settings);
    Ok(relay)
}

/// A backend of jsonwebtoken that is not there panics at the first token: better now.
async fn check_key(signer: &Signer) -> Result<(), StartupError> {
    let anybody =
        shared::contract::ids::UserId::new(1).unwrap_or_else(|| unreachable!("1 is positive"));
    let token = signer.sign(anybody).map_err(StartupError::Sign)?;
    let verifier = TokenVerifier::with_keys(&signer.key_set(), KeysInUse::default());
    let verified = verifier.verify(&token).await;
    verified.map(|_| ()).map_err(StartupError::Verify)
}

fn http_server(
    api: TcpListener,
    core: &Core,
    verifier: Arc<TokenVerifier>,
    settings: &Settings,
    draining: &CancellationToken,
) -> std::io::Result<Server> {
    let app = Data::from(core.app.clone());
    let signer = Data::from(core.signer.clone());
    let verifier = Data::from(verifier);
    let configure = move |config: &mut ServiceConfig| {
        config
            .app_data(app.clone())
            .app_data(signer.clone())
            .app_data(verifier.clone())
            .app_data(PayloadConfig::new(MAX_BODY))
            .configure(http::configure);
    };
    server::serve(api, settings, Serving::default(), draining, configure)
}

/// Prepares the database as soon as it answers, and looks each second whether it still does, and whether
/// it is still the same.
async fn watch_database(
    store: Arc<MongoStore>,
    status: DatabaseStatus,
    readiness: Readiness,
    tasks: Tasks,
) {
    let mut seconds = EverySecond::until(tasks.stop_signal());
    let (mut prepared, mut told) = (false, String::new());
    let mut replaced = false;
    while seconds.next().await {
        if !prepared {
            match store.prepare().await {
                Ok(()) => {
                    prepared = true;
                    readiness.set(INDEXES, Ok(()));
                    info!("the database is prepared");
                }
                Err(error) => {
                    let passes = error.is_transient();
                    let error = Chain(&error).to_string();
                    if !passes {
                        readiness.set(INDEXES, Err(error.clone()));
                    }
                    // The same each second would be noise.
                    if told != error {
                        warn!(error, "the database is not prepared yet");
                        told = error;
                    }
                }
            }
        }
        let (asking, comparing) = (store.clone(), store.clone());
        let compares = prepared && !replaced;
        let (asked, _) = tokio::join!(
            tasks.ask_within(PATIENCE, async move { asking.read_clock().await }),
            tasks.ask_within(PATIENCE, async move {
                // A database that is away is told by the other.
                if compares && let Err(error) = comparing.look_at_log().await {
                    debug!(error = %Chain(&error), "the log's identity cannot be read");
                }
            }),
        );
        // A look that took longer may have seen it.
        if compares && !store.is_prepared() {
            replaced = true;
            readiness.set(SAME_LOG, Err(OTHER_LOG.to_owned()));
            error!("{OTHER_LOG}");
        }
        match asked {
            Some(Ok(look)) => {
                readiness.set(DATABASE, Ok(()));
                readiness.set(CLOCK, look.agreement());
            }
            Some(Err(_)) | None => readiness.set(DATABASE, Err(status.reason())),
        }
    }
}

/// Looks at the database's clock each second, for commands that run on and are no service.
pub async fn keep_time(store: Arc<MongoStore>, stop: CancellationToken) {
    let mut seconds = EverySecond::until(stop);
    while seconds.next().await {
        if let Err(error) = store.read_clock().await {
            debug!(error = %Chain(&error), "the database's clock could not be read");
        }
    }
}
