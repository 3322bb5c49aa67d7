//! MongoDB.
//!
//! What our design needs it asks for itself, whatever a connection string says: reads from the
//! primary, majority reads and writes. The rest of the string holds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::Database;
use mongodb::error::{Error, ErrorKind};
use mongodb::event::EventHandler;
use mongodb::event::cmap::CmapEvent;
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use tracing::{info, warn};

use super::error::ConnectError;
use crate::resilience::{Backoff, Breaker, NotUsed, report_why};
use crate::runtime::metric_rows::{POOL_FAILURES, POOL_OPEN, POOL_USED, POOL_WAIT};
use crate::runtime::mongo_errors::{is_unavailable, reason};
use crate::runtime::settings::{Secret, Settings, database_name};
use crate::runtime::tasks::Tasks;

/// The label of MongoDB in metrics.
pub const MONGODB: &str = "mongodb";

/// The database where the URI names none.
pub const DEFAULT_DATABASE: &str = "microblog";

/// Behind the name of the log's database; or of the one that `VIEWS_MONGODB_URI` names.
const VIEWS_SUFFIX: &str = "_views";

/// Connections to each database, at most.
#[derive(Clone, Copy, Debug)]
pub struct PoolSizes {
    pub log: u32,
    pub views: u32,
}

/// Where events are appended, and where they are shown from.
#[derive(Clone, Debug)]
pub struct Databases {
    pub log: Database,
    pub views: Database,
}

/// The pool of the log in metrics; also of the views where they have no URI of their own.
const LOG: &str = "log";
/// How long a DNS that does not answer is asked for the hosts of a `mongodb+srv://` name.
const DNS_PATIENCE: Duration = Duration::from_secs(30);

/// The database that holds the log.
pub fn log_database(settings: &Settings) -> String {
    named(&settings.mongodb_uri)
}

/// The database that holds the views: services and operator commands alike find it here.
pub fn views_database(settings: &Settings) -> String {
    format!("{}{VIEWS_SUFFIX}", named(views_uri(settings)))
}

fn named(uri: &Secret) -> String {
    database_name(uri).unwrap_or_else(|| DEFAULT_DATABASE.to_owned())
}

fn views_uri(settings: &Settings) -> &Secret {
    let own = settings.views_mongodb_uri.as_ref();
    own.unwrap_or(&settings.mongodb_uri)
}

/// The log's database.
///
/// # Errors
/// The driver refuses the URI, or DNS does not know its hosts. A database that cannot be reached
/// is no error: the driver connects at the first call.
pub async fn open_log(
    settings: &Settings,
    app_name: &str,
    pool_size: u32,
) -> Result<Database, ConnectError> {
    let database = open(&settings.mongodb_uri, app_name, LOG, pool_size).await?;
    Ok(database.client().database(&log_database(settings)))
}

/// The views' database.
///
/// # Errors
/// As for [`open_log`].
pub async fn open_views(
    settings: &Settings,
    app_name: &str,
    pool_size: u32,
) -> Result<Database, ConnectError> {
    open_pool_of_views(settings, app_name, "views", pool_size).await
}

/// As [`open_views`], with a pool of the fold's own: whatever reads do, it has its connections.
///
/// # Errors
/// As for [`open_log`].
pub async fn open_views_to_fold(
    settings: &Settings,
    app_name: &str,
    pool_size: u32,
) -> Result<Database, ConnectError> {
    open_pool_of_views(settings, app_name, "fold", pool_size).await
}

async fn open_pool_of_views(
    settings: &Settings,
    app_name: &str,
    pool: &'static str,
    pool_size: u32,
) -> Result<Database, ConnectError> {
    let database = open(views_uri(settings), app_name, pool, pool_size).await?;
    Ok(database.client().database(&views_database(settings)))
}

/// The databases of log and views, with a pool for each; one client and one pool where both have
/// the same URI.
///
/// # Errors
/// As for [`open_log`].
pub async fn open_both(
    settings: &Settings,
    app_name: &str,
    pools: PoolSizes,
) -> Result<Databases, ConnectError> {
    if settings.views_mongodb_uri.is_some() {
        return Ok(Databases {
            log: open_log(settings, app_name, pools.log).await?,
            views: open_views(settings, app_name, pools.views).await?,
        });
    }
    let log = open_log(settings, app_name, pools.log.max(pools.views)).await?;
    let views = log.client().database(&views_database(settings));
    Ok(Databases { log, views })
}

/// A handle on the database that `uri` names: see [`open_log`] and [`open_views`] for ours.
pub async fn mongo(uri: &Secret, app_name: &str, pool_size: u32) -> Result<Database, ConnectError> {
    open(uri, app_name, LOG, pool_size).await
}

async fn open(
    uri: &Secret,
    app_name: &str,
    pool: &'static str,
    pool_size: u32,
) -> Result<Database, ConnectError> {
    let mut options = resolved(uri).await.map_err(ConnectError::Mongo)?;
    decide(&mut options, app_name, pool_size);
    options.cmap_event_handler = Some(EventHandler::callback(move |event| measure(pool, &event)));
    let client = mongodb::Client::with_options(options).map_err(ConnectError::Mongo)?;
    Ok(client.database(&named(uri)))
}

/// Counts what happens in a pool. A client has one for each server.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
fn measure(pool: &'static str, event: &CmapEvent) {
    let waited = |waited: Duration| POOL_WAIT.of([pool]).record(waited.as_secs_f64());
    match event {
        CmapEvent::ConnectionCreated(_) => POOL_OPEN.of([pool]).increment(1.0),
        CmapEvent::ConnectionClosed(_) => POOL_OPEN.of([pool]).decrement(1.0),
        CmapEvent::ConnectionCheckedOut(taken) => {
            POOL_USED.of([pool]).increment(1.0);
            waited(taken.duration);
        }
        CmapEvent::ConnectionCheckedIn(_) => POOL_USED.of([pool]).decrement(1.0),
        CmapEvent::ConnectionCheckoutFailed(failed) => {
            POOL_FAILURES.of([pool]).increment(1);
            waited(failed.duration);
        }
        _ => (),
    }
}

/// The options of the URI. Only a `mongodb+srv://` URI needs DNS.
async fn resolved(uri: &Secret) -> Result<ClientOptions, Error> {
    let (give_up, mut backoff) = (
        Instant::now() + DNS_PATIENCE,
        Backoff::between_millis(250, 4_000),
    );
    let mut told = false;
    loop {
        let error = match ClientOptions::parse(uri.expose()).await {
            Ok(options) => return Ok(options),
            Err(error) => error,
        };
        let is_dns = matches!(error.kind.as_ref(), ErrorKind::DnsResolve { .. });
        if !is_dns || Instant::now() > give_up {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            warn!(error = %error, "MongoDB: DNS does not say yet which hosts the URI's name has");
        }
        backoff.wait().await;
    }
}

/// Sets timeouts of seconds rather than half a minute where the URI has none, and whatever the
/// design decides in place of the URI.
fn decide(options: &mut ClientOptions, app_name: &str, pool_size: u32) {
    options.app_name.get_or_insert_with(|| app_name.to_owned());
    let least = options.min_pool_size.unwrap_or(0);
    options.max_pool_size.get_or_insert(pool_size.max(least));
    // The driver opens two connections at a time by default: slow after a cold start.
    options.max_connecting.get_or_insert(8);
    let seconds = Duration::from_secs(3);
    options.server_selection_timeout.get_or_insert(seconds);
    options.connect_timeout.get_or_insert(seconds);
    // A transaction reads from the primary or not at all, and a decision from anywhere else would
    // be one on the past.
    let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
    options.selection_criteria = Some(primary);
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
    options.write_concern = Some(majority);
    options.read_concern = Some(ReadConcern::majority());
}

/// Why the database does not answer, in words for operators: its probe writes it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct DatabaseStatus(Arc<Mutex<Option<String>>>);

impl DatabaseStatus {
    /// In plain words, without secrets.
    pub fn reason(&self) -> String {
        let reason = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = reason.clone();
        reason.unwrap_or_else(|| "it does not answer".to_owned())
    }

    /// Records the outcome of the last probe, and logs it when it has changed.
    fn take(&self, outcome: Result<(), &Error>) {
        report_why(MONGODB, outcome.err().map(not_used));
        let why = outcome.err().map(reason);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == why {
            return;
        }
        match (&why, outcome) {
            (Some(why), Err(error)) => warn!(error = %error, "MongoDB: {why}"),
            (None, _) | (_, Ok(())) => info!("MongoDB answers again"),
        }
        *known = why;
    }
}

/// What an error of the probe is in metrics.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
fn not_used(error: &Error) -> NotUsed {
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => NotUsed::SignIn,
        _ if is_unavailable(error) => NotUsed::Away,
        _ => NotUsed::Refused,
    }
}

/// Keeps a breaker and `status` informed whether the log's MongoDB answers, over a connection of
/// its own.
///
/// # Errors
/// As for [`open_log`].
pub async fn probe_log(
    settings: &Settings,
    app_name: &str,
    breaker: Arc<Breaker>,
    status: DatabaseStatus,
    tasks: &Tasks,
) -> Result<impl Future<Output = ()> + use<>, ConnectError> {
    probe(&settings.mongodb_uri, app_name, breaker, status, tasks).await
}

/// As [`probe_log`], of the views' MongoDB.
///
/// # Errors
/// As for [`open_log`].
pub async fn probe_views(
    settings: &Settings,
    app_name: &str,
    breaker: Arc<Breaker>,
    status: DatabaseStatus,
    tasks: &Tasks,
) -> Result<impl Future<Output = ()> + use<>, ConnectError> {
    probe(views_uri(settings), app_name, breaker, status, tasks).await
}

async fn probe(
    uri: &Secret,
    app_name: &str,
    breaker: Arc<Breaker>,
    status: DatabaseStatus,
    tasks: &Tasks,
) -> Result<impl Future<Output = ()> + use<>, ConnectError> {
    const CONNECTIONS: u32 = 2;
    let database = open(uri, app_name, "probe", CONNECTIONS).await?;
    let ping = move || {
        let (database, status) = (database.clone(), status.clone());
        async move {
            let outcome = database.run_command(bson::doc! { "ping": 1 }).await;
            status.take(outcome.as_ref().map(|_| ()));
            outcome.is_ok()
        }
    };
    Ok(breaker.probe_loop(ping, tasks.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn options(uri: &str) -> ClientOptions {
        let mut options = resolved(&Secret::new(uri)).await.unwrap();
        decide(&mut options, "test", 2);
        options
    }

    #[tokio::test]
    async fn what_the_design_needs_is_asked_for_whatever_the_uri_says() {
        let given = "mongodb://h/?readPreference=secondaryPreferred&w=1&journal=true\
            &readConcernLevel=local&retryWrites=false&directConnection=true\
            &serverSelectionTimeoutMS=9000&minPoolSize=5&appName=mine&compressors=zstd,snappy";
        let options = options(given).await;
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        assert_eq!(options.selection_criteria, Some(primary));
        assert_eq!(options.read_concern, Some(ReadConcern::majority()));
        let write_concern = options.write_concern.unwrap();
        assert_eq!(write_concern.w, Some(Acknowledgment::Majority));
        assert_eq!(options.retry_writes, Some(false));
        assert_eq!(options.direct_connection, Some(true));
        let timeout = options.server_selection_timeout;
        assert_eq!(timeout, Some(Duration::from_secs(9)));
        assert_eq!(options.max_pool_size, Some(5));
        assert_eq!(options.app_name.as_deref(), Some("mine"));
        assert_eq!(options.compressors.map(|all| all.len()), Some(2));
    }

    #[test]
    fn two_uris_with_two_databases_put_the_views_where_their_own_says() {
        let vars = [
            ("MONGODB_URI", "mongodb://h/facts"),
            ("VIEWS_MONGODB_URI", "mongodb://h/shown"),
        ];
        let read = |vars: &[(&str, &str)]| {
            let vars = vars.iter().map(|(name, value)| (name.into(), value.into()));
            Settings::from_vars(vars).unwrap()
        };
        let both = read(&vars);
        assert_eq!(log_database(&both), "facts");
        assert_eq!(views_database(&both), "shown_views");
        assert_eq!(views_database(&read(&vars[..1])), "facts_views");
        assert_eq!(views_database(&read(&[])), "microblog_views");
    }
}
