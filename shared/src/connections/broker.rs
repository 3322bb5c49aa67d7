//! NATS: a connection that comes back by itself, and says once why it cannot.
//!
//! The client (async-nats 0.51) reports a failed attempt by its kind alone. It keeps what each
//! server said in its pool, which it shows to a callback before it tries them all again: there we
//! read it.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_nats::client::Statistics;
use async_nats::connection::State;
use async_nats::{Auth, AuthError, ConnectOptions, Event, Server, ServerAddr, jetstream};
use nkeys::KeyPair;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::error::ConnectError;
use super::refusals::{Meaning, Verdict, judge_round};
use crate::resilience::{NotUsed, report_circuit, report_why};
use crate::runtime::metric_rows::NATS_DISCONNECTIONS;
use crate::runtime::settings::{NatsSettings, SignIn};

/// The label of NATS in metrics.
pub const NATS: &str = "nats";

/// How often the broker is asked whether it is there. The client takes the connection for lost once
/// two are not answered, so within three of these.
const PING: Duration = Duration::from_secs(2);
/// The longest wait before a server that is away is tried again.
const AWAY: Duration = Duration::from_millis(250);
/// The first and the longest wait before a server that refuses us is tried again: somebody has to
/// mend it first.
const REFUSED_FIRST: Duration = Duration::from_millis(250);
const REFUSED: Duration = Duration::from_secs(5);
/// Different complaints of a server on one connection that are logged.
const COMPLAINTS: usize = 32;

const NOT_YET: &str = "it is not connected yet";
const LOST: &str = "the connection is lost";

/// A NATS connection that is made again within a quarter of a second after the broker is back,
/// and wakes the tasks that wait on [`Nats::changed`].
#[derive(Clone, Debug)]
pub struct Nats {
    pub client: async_nats::Client,
    connection: Arc<Connection>,
    js_domain: Option<String>,
}

impl Nats {
    /// Wakes every waiter when the connection is lost or made again, and when the reason why
    /// there is none changes.
    pub fn changed(&self) -> Arc<Notify> {
        self.connection.changed.clone()
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Whether it is connected.
    ///
    /// # Errors
    /// Why not: in plain words for operators, a sentence without secrets that "NATS:" may precede,
    /// as in "it refuses the user and password in NATS_URL".
    pub fn status(&self) -> Result<(), String> {
        if self.is_connected() {
            return Ok(());
        }
        let outage = lock(&self.connection.outage);
        let why = outage.as_ref().map_or(LOST, |outage| outage.why);
        Err(why.to_owned())
    }

    /// JetStream, in the domain of `NATS_JS_DOMAIN` where it is set. Each call gives a context of
    /// its own: publishes that were given up keep permits of theirs for a while.
    pub fn jetstream(&self) -> jetstream::Context {
        match &self.js_domain {
            Some(domain) => jetstream::with_domain(self.client.clone(), domain),
            None => jetstream::new(self.client.clone()),
        }
    }
}

/// Connects, or goes on trying in the background when the broker is away or refuses us.
///
/// # Errors
/// The client does not take a server's address.
pub async fn nats(settings: &NatsSettings, name: &str) -> Result<Nats, ConnectError> {
    let connection = Connection::begin(settings.sign_in());
    let client = options(settings, &connection)
        .name(name)
        .connect(settings.servers())
        .await
        .map_err(ConnectError::Nats)?;
    // It is set here only.
    let _ = connection.statistics.set(client.statistics());
    Ok(Nats {
        client,
        connection,
        js_domain: settings.js_domain().map(str::to_owned),
    })
}

fn options(settings: &NatsSettings, connection: &Arc<Connection>) -> ConnectOptions {
    let of_delay = Arc::downgrade(connection);
    let (of_round, of_event) = (of_delay.clone(), of_delay.clone());
    let mut options = signing_in(settings.sign_in())
        .retry_on_initial_connect()
        .connection_timeout(Duration::from_secs(3))
        .request_timeout(Some(Duration::from_secs(5)))
        .ping_interval(PING)
        .require_tls(settings.requires_tls())
        .reconnect_delay_callback(move |attempt| match of_delay.upgrade() {
            Some(connection) => connection.delay(attempt),
            None => REFUSED,
        })
        // It is shown the pool before each round of attempts. The choice of a server is left to
        // the client.
        .reconnect_to_server_callback(move |servers, _| {
            if let Some(connection) = of_round.upgrade() {
                connection.round_begins(&servers);
            }
            std::future::ready(None)
        })
        .event_callback(move |event| {
            take_event(&of_event, event);
            std::future::ready(())
        });
    if let Some(path) = settings.ca_file() {
        options = options.add_root_certificates(path.to_owned());
    }
    if let Some((certificate, key)) = settings.certificate_and_key() {
        options = options.add_client_certificate(certificate.to_owned(), key.to_owned());
    }
    options
}

fn signing_in(sign_in: &SignIn) -> ConnectOptions {
    match sign_in {
        SignIn::Nobody => ConnectOptions::new(),
        SignIn::Password { user, password } => {
            ConnectOptions::with_user_and_password(user.clone(), password.expose().to_owned())
        }
        SignIn::Token(token) => ConnectOptions::with_token(token.expose().to_owned()),
        SignIn::Creds(_) | SignIn::Nkey(_) => {
            let (sign_in, last) = (sign_in.clone(), Arc::new(Mutex::new(None)));
            ConnectOptions::with_auth_callback(move |nonce| {
                std::future::ready(signed(&sign_in, &last, &nonce))
            })
        }
    }
}

type Key = Arc<(Option<String>, KeyPair)>;

/// Signs with the key that is in the file now: it may have been renewed. While the file cannot be
/// read, or is only half written, the last good key is used.
fn signed(sign_in: &SignIn, last: &Mutex<Option<Key>>, nonce: &[u8]) -> Result<Auth, AuthError> {
    let mut last = lock(last);
    if let Ok(Some(key)) = sign_in.read_key() {
        *last = Some(Arc::new(key));
    }
    let key = last.clone().ok_or_else(|| AuthError::new("no key"))?;
    let (jwt, pair) = key.as_ref();
    let mut auth = Auth::new();
    auth.signature = Some(pair.sign(nonce).map_err(AuthError::new)?);
    match jwt {
        Some(jwt) => auth.jwt = Some(jwt.clone()),
        None => auth.nkey = Some(pair.public_key()),
    }
    Ok(auth)
}

fn take_event(connection: &Weak<Connection>, event: Event) {
    let Some(connection) = connection.upgrade() else {
        return;
    };
    match event {
        Event::Connected => connection.comes(),
        Event::Disconnected => connection.goes(),
        // We close it ourselves. The next round shows what became of an attempt.
        Event::Closed | Event::Draining | Event::ClientError(_) => debug!("NATS: {event}"),
        Event::LameDuckMode | Event::SlowConsumer(_) => warn!("NATS: {event}"),
        Event::ServerError(_) => connection.complains(&event.to_string()),
    }
}

/// What we know of one connection.
#[derive(Debug)]
struct Connection {
    id: u64,
    /// What the server is shown, as a refusal names it.
    identity: &'static str,
    changed: Arc<Notify>,
    /// `None` while connected.
    outage: Mutex<Option<Outage>>,
    round: Mutex<Round>,
    complaints: Mutex<BTreeSet<String>>,
    statistics: OnceLock<Arc<Statistics>>,
}

#[derive(Debug)]
struct Outage {
    why: &'static str,
    /// Rounds in a row in which a server was there and refused us.
    refusals: u32,
}

/// The pool as it was when the last round of attempts began.
#[derive(Debug, Default)]
struct Round {
    connects: Option<u64>,
    failures: HashMap<ServerAddr, usize>,
}

impl Connection {
    fn begin(sign_in: &SignIn) -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let connection = Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            identity: match sign_in {
                SignIn::Nobody => {
                    "it wants credentials, and none are set: see NATS_URL and NATS_CREDS_FILE"
                }
                SignIn::Password { .. } => "it refuses the user and password in NATS_URL",
                SignIn::Token(_) => "it refuses the token in NATS_URL",
                SignIn::Creds(_) => "it refuses the credentials of NATS_CREDS_FILE",
                SignIn::Nkey(_) => "it refuses the key of NATS_NKEY_FILE",
            },
            changed: Arc::default(),
            outage: Mutex::new(Some(Outage {
                why: NOT_YET,
                refusals: 0,
            })),
            round: Mutex::default(),
            complaints: Mutex::default(),
            statistics: OnceLock::new(),
        };
        // Nothing is sent to a broker that cannot be reached; events wait in the log.
        lock(&OUTAGES).begins(connection.id);
        Arc::new(connection)
    }

    fn comes(&self) {
        *lock(&self.outage) = None;
        lock(&self.complaints).clear();
        lock(&OUTAGES).ends(self.id);
        self.changed.notify_waiters();
    }

    fn goes(&self) {
        NATS_DISCONNECTIONS.only().increment(1);
        lock(&self.outage).get_or_insert(Outage {
            why: LOST,
            refusals: 0,
        });
        let mut outages = lock(&OUTAGES);
        outages.begins(self.id);
        report_why(NATS, Some(NotUsed::Away));
        outages.tell(LOST, "");
        drop(outages);
        self.changed.notify_waiters();
    }

    /// A new round begins. If nothing was connected since the one before, that one has failed.
    fn round_begins(&self, servers: &[Server]) {
        let connects = self.statistics.get();
        let connects = connects.map_or(0, |all| all.connects.load(Ordering::Relaxed));
        let now = Round {
            connects: Some(connects),
            failures: servers
                .iter()
                .map(|server| (server.addr.clone(), server.failed_attempts))
                .collect(),
        };
        let before = std::mem::replace(&mut *lock(&self.round), now);
        if before.connects == Some(connects) {
            self.fails(&judge_round(&before.failures, servers));
        }
    }

    fn fails(&self, verdict: &Verdict) {
        let why = match verdict.meaning {
            Meaning::SignIn => self.identity,
            Meaning::Refused(why) | Meaning::Away(why) => why,
        };
        report_why(
            NATS,
            Some(match verdict.meaning {
                Meaning::SignIn => NotUsed::SignIn,
                Meaning::Refused(_) => NotUsed::Refused,
                Meaning::Away(_) => NotUsed::Away,
            }),
        );
        let mut outage = lock(&self.outage);
        let before = outage.take();
        let refusals = match verdict.meaning {
            Meaning::SignIn | Meaning::Refused(_) => {
                before.as_ref().map_or(0, |before| before.refusals) + 1
            }
            Meaning::Away(_) => 0,
        };
        let changed = before.is_none_or(|before| before.why != why);
        *outage = Some(Outage { why, refusals });
        drop(outage);
        if changed {
            lock(&OUTAGES).tell(why, &verdict.said);
            self.changed.notify_waiters();
        }
    }

    /// How long to wait before a server is tried, for the so-many-th time since one took us.
    fn delay(&self, attempt: usize) -> Duration {
        let refusals = lock(&self.outage)
            .as_ref()
            .map_or(0, |outage| outage.refusals);
        match refusals.checked_sub(1) {
            None => {
                let millis = u64::try_from(attempt.saturating_mul(20)).unwrap_or(u64::MAX);
                Duration::from_millis(millis).min(AWAY)
            }
            Some(before) => {
                let wait = REFUSED_FIRST
                    .saturating_mul(1 << before.min(8))
                    .min(REFUSED);
                wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)
            }
        }
    }

    fn complains(&self, what: &str) {
        let mut complaints = lock(&self.complaints);
        if complaints.len() < COMPLAINTS && complaints.insert(what.to_owned()) {
            warn!("NATS: {what}");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&OUTAGES).forget(self.id);
    }
}

/// The connections of this process that are down: what is wrong with one is wrong with all, and is
/// said once.
#[derive(Debug, Default)]
struct Outages {
    down: BTreeSet<u64>,
    told: BTreeSet<&'static str>,
}

static OUTAGES: LazyLock<Mutex<Outages>> = LazyLock::new(Mutex::default);

impl Outages {
    fn begins(&mut self, id: u64) {
        self.down.insert(id);
        report_circuit(NATS, true);
    }

    /// Logs a reason once until all connections are there again.
    fn tell(&mut self, why: &'static str, said: &str) {
        if self.told.insert(why) {
            let error = (!said.is_empty()).then_some(said);
            warn!(error, "NATS: {why}");
        }
    }

    fn ends(&mut self, id: u64) {
        self.down.remove(&id);
        if self.down.is_empty() {
            report_circuit(NATS, false);
            report_why(NATS, None);
            if !self.told.is_empty() {
                self.told.clear();
                info!("NATS: connected again");
            }
        }
    }

    /// The connection is given up.
    fn forget(&mut self, id: u64) {
        if self.down.remove(&id) && self.down.is_empty() {
            self.told.clear();
            report_circuit(NATS, false);
            report_why(NATS, None);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
