//! Connections to MongoDB and NATS, made one way for both services.

use std::sync::Arc;
use std::time::Duration;

use mongodb::options::ClientOptions;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::resilience::{self, Breaker};
use crate::settings::Secret;

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect to MongoDB")]
    Mongo(#[source] mongodb::error::Error),
    #[error("connect to NATS")]
    Nats(#[source] async_nats::ConnectError),
}

/// The database that the URI names, `microblog` if it names none.
pub const DEFAULT_DATABASE: &str = "microblog";

/// A database handle: majority reads and writes, waits of seconds rather than half a minute.
pub async fn mongo(
    uri: &Secret,
    app_name: &str,
    pool_size: u32,
) -> Result<mongodb::Database, ConnectError> {
    let mut options = ClientOptions::parse(uri.expose())
        .await
        .map_err(ConnectError::Mongo)?;
    options.app_name.get_or_insert_with(|| app_name.to_owned());
    options.max_pool_size.get_or_insert(pool_size);
    // The driver opens two connections at a time by default: slow after a cold start.
    options.max_connecting.get_or_insert(8);
    options
        .server_selection_timeout
        .get_or_insert(Duration::from_secs(3));
    options
        .connect_timeout
        .get_or_insert(Duration::from_secs(3));
    let majority = mongodb::options::WriteConcern::builder()
        .w(mongodb::options::Acknowledgment::Majority)
        .build();
    options.write_concern = Some(majority);
    options.read_concern = Some(mongodb::options::ReadConcern::majority());
    let name = options.default_database.clone();
    let client = mongodb::Client::with_options(options).map_err(ConnectError::Mongo)?;
    Ok(client.database(name.as_deref().unwrap_or(DEFAULT_DATABASE)))
}

/// Labels of MongoDB and NATS in metrics.
pub const MONGODB: &str = "mongodb";
const NATS: &str = "nats";

/// Keeps a breaker informed whether MongoDB answers, over a connection of its own.
pub async fn mongo_pulse(
    uri: &Secret,
    app_name: &str,
    breaker: Arc<Breaker>,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, ConnectError> {
    const CONNECTIONS: u32 = 2;
    let database = mongo(uri, app_name, CONNECTIONS).await?;
    let ping = move || {
        let database = database.clone();
        async move { database.run_command(bson::doc! { "ping": 1 }).await.is_ok() }
    };
    Ok(breaker.pulse(ping, stop))
}

/// Whether MongoDB could not be reached, rather than said something we do not like.
pub fn is_away(error: &mongodb::error::Error) -> bool {
    use mongodb::error::ErrorKind;
    matches!(
        error.kind.as_ref(),
        ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::DnsResolve { .. }
    )
}

/// A NATS connection that comes back within a quarter of a second of the broker, and wakes
/// whoever waits on [`Nats::changed`].
#[derive(Clone, Debug)]
pub struct Nats {
    pub client: async_nats::Client,
    changed: Arc<Notify>,
}

impl Nats {
    /// Wakes every waiter when the connection is lost or made again.
    pub fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

/// Connects, or goes on trying in the background when the broker is away.
pub async fn nats(url: &Secret, name: &str) -> Result<Nats, ConnectError> {
    let changed = Arc::new(Notify::new());
    let on_event = changed.clone();
    // Nothing is sent to a broker that is away; what must reach it waits in the log.
    resilience::tell_circuit(NATS, true);
    let client = async_nats::ConnectOptions::new()
        .name(name)
        .retry_on_initial_connect()
        .connection_timeout(Duration::from_secs(3))
        .request_timeout(Some(Duration::from_secs(5)))
        .ping_interval(Duration::from_secs(5))
        .reconnect_delay_callback(|attempt| {
            Duration::from_millis(u64::try_from(attempt * 20).unwrap_or(u64::MAX).min(250))
        })
        .event_callback(move |event| {
            let changed = on_event.clone();
            async move {
                #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is only told")]
                match event {
                    async_nats::Event::Connected => {
                        resilience::tell_circuit(NATS, false);
                        debug!("connected to NATS");
                    }
                    async_nats::Event::Disconnected => {
                        resilience::tell_circuit(NATS, true);
                        warn!("lost the connection to NATS");
                    }
                    // Ours: nobody else closes it.
                    async_nats::Event::Closed => debug!("closed the connection to NATS"),
                    other => warn!(nats.event = %other, "NATS reports {other}"),
                }
                changed.notify_waiters();
            }
        })
        .connect(url.expose())
        .await
        .map_err(ConnectError::Nats)?;
    Ok(Nats { client, changed })
}
