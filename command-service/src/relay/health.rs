//! What keeps the relay from publishing: said once when it begins and once when it ends, shown in
//! readiness and in `circuit_open` as long as it lasts.
//!
//! A broker that is away, that refuses us or has no room degrades: the log takes commands all the
//! same. A stream that must not be used takes an operator, and the process is not ready.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::jetstream::context::{
    CreateStreamErrorKind, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::{self, ErrorCode};
use shared::connections::{self, Nats};
use shared::contract::event_stream::StreamError;
use shared::resilience::{self, NotUsed};
use shared::runtime::error_chain::Chain;
use shared::web::ops::Readiness;
use tokio::time::{Duration, Instant};
use tracing::{debug, error, info, warn};

use super::error::RelayError;

/// The condition of readiness that the relay sets: broken only by a stream that must not be used.
/// A broker that is away breaks nothing: the log takes commands all the same.
pub const READY: &str = "event stream";

/// What is degraded, in the body of `/readyz`.
pub const DEGRADED: &str = "relay";

/// What only may pass by itself is reported when it has lasted so long: a broker that restarts is back
/// sooner.
const PASSING: Duration = Duration::from_secs(2);

/// A kind of trouble. Within one, the words may change and nothing is reported again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The broker is not connected; the connection itself says so in the log.
    NotConnected,
    /// The broker has no JetStream, or none for this account.
    JetStreamOff,
    /// The broker has no room for the stream.
    NoRoom,
    /// Whatever else it answers, or that it does not.
    Failing,
    /// The stream must not be used.
    Refused,
}

#[derive(Debug)]
struct Trouble {
    kind: Kind,
    says: String,
    since: Instant,
    /// Only a message that is published ends it.
    in_publishing: bool,
    /// The stream's end when it began: another relay may move it on.
    stream_end: u64,
    /// It was reported in these words.
    reported: bool,
    /// Readiness shows it, or what it was before.
    shown: bool,
}

/// The relay's state of health, for operators.
pub struct Health {
    readiness: Readiness,
    trouble: Mutex<Option<Trouble>>,
}

impl Health {
    pub fn new(readiness: Readiness) -> Self {
        readiness.set(READY, Ok(()));
        Self {
            readiness,
            trouble: Mutex::default(),
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps the relay from publishing, if anything is known.
    pub fn kind(&self) -> Option<Kind> {
        self.trouble().as_ref().map(|trouble| trouble.kind)
    }

    /// Notes a failure that has to do with the broker; others say nothing about health.
    /// `stream_end` is the last sequence known of the stream.
    pub fn failed(&self, error: &RelayError, nats: &Nats, stream_end: u64) {
        if let Some((kind, says)) = diagnose(error, nats) {
            self.begins(kind, says, error.is_in_publishing(), stream_end);
        }
    }

    fn begins(&self, kind: Kind, says: String, in_publishing: bool, stream_end: u64) {
        let mut trouble = self.trouble();
        let same = trouble.as_mut().filter(|known| known.kind == kind);
        let Some(known) = same else {
            // Whatever it was before, this is what stands in the way now.
            if trouble
                .as_ref()
                .is_some_and(|before| before.kind == Kind::Refused)
            {
                self.readiness.set(READY, Ok(()));
            }
            let since = trouble
                .as_ref()
                .map_or_else(Instant::now, |before| before.since);
            let mut begun = Trouble {
                kind,
                says,
                since,
                in_publishing,
                stream_end,
                reported: false,
                shown: trouble.as_ref().is_some_and(|before| before.shown),
            };
            self.report(&mut begun);
            *trouble = Some(begun);
            return;
        };
        known.in_publishing |= in_publishing;
        if known.reported && known.says != says {
            debug!("relay: {says}");
        }
        let reported = known.reported && known.says == says;
        known.says = says;
        if reported {
            // A connection that came back has taken the reason away.
            Self::show(kind);
        } else {
            self.report(known);
        }
    }

    /// Shows the kind in metrics. That there is no connection, the connection says.
    fn show(kind: Kind) {
        let why = match kind {
            Kind::NotConnected => return,
            Kind::JetStreamOff => NotUsed::JetStreamOff,
            Kind::NoRoom => NotUsed::NoRoom,
            Kind::Failing => NotUsed::Failing,
            Kind::Refused => NotUsed::WrongStream,
        };
        resilience::report_why(connections::NATS, Some(why));
    }

    fn report(&self, trouble: &mut Trouble) {
        let says = &trouble.says;
        match trouble.kind {
            Kind::Refused => {
                if !trouble.reported {
                    error!("relay: {says}");
                }
                self.readiness.degrade(DEGRADED, None);
                self.readiness.set(READY, Err(says.clone()));
                Self::show(trouble.kind);
                (trouble.reported, trouble.shown) = (true, true);
                return;
            }
            Kind::NotConnected | Kind::Failing if trouble.since.elapsed() < PASSING => {
                debug!("relay: {says}");
                return;
            }
            // The connection has reported it, also in `circuit_open`.
            Kind::NotConnected => (),
            Kind::JetStreamOff | Kind::NoRoom | Kind::Failing => {
                if !trouble.reported {
                    warn!("relay: {says}");
                }
                resilience::report_circuit(connections::NATS, true);
            }
        }
        Self::show(trouble.kind);
        self.readiness.degrade(DEGRADED, Some(says.clone()));
        (trouble.reported, trouble.shown) = (true, true);
    }

    /// The broker has answered, and the stream may be used. If others have moved it on to
    /// `stream_end`, publishing works too.
    pub fn reached(&self, stream_end: u64) {
        let mut trouble = self.trouble();
        let lasts = trouble
            .as_ref()
            .is_some_and(|known| known.in_publishing && stream_end <= known.stream_end);
        if !lasts {
            self.ends(trouble.take());
        }
    }

    /// A message was published: all is well.
    pub fn published(&self) {
        let ended = self.trouble().take();
        self.ends(ended);
    }

    fn ends(&self, ended: Option<Trouble>) {
        let Some(ended) = ended.filter(|ended| ended.shown) else {
            return;
        };
        match ended.kind {
            Kind::JetStreamOff | Kind::NoRoom | Kind::Failing => {
                resilience::report_circuit(connections::NATS, false);
            }
            Kind::NotConnected | Kind::Refused => (),
        }
        resilience::report_why(connections::NATS, None);
        self.readiness.degrade(DEGRADED, None);
        self.readiness.set(READY, Ok(()));
        info!(
            "relay: the stream can be used again, after {:.0?}",
            ended.since.elapsed()
        );
    }
}

/// What a failure says about the broker, in words for operators; `None` if nothing.
fn diagnose(error: &RelayError, nats: &Nats) -> Option<(Kind, String)> {
    if let RelayError::Stream(refused) = error
        && refused.is_refusal()
    {
        return Some((Kind::Refused, Chain(refused).to_string()));
    }
    if !error.is_to_be_left_to_others() {
        return None;
    }
    if !nats.is_connected() {
        return Some((Kind::NotConnected, not_connected(nats)));
    }
    Some(match jetstream_code(error) {
        Some(ErrorCode::JETSTREAM_NOT_ENABLED) => (Kind::JetStreamOff, OFF.to_owned()),
        Some(ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT) => {
            (Kind::JetStreamOff, OFF_FOR_ACCOUNT.to_owned())
        }
        Some(
            code @ (ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED),
        ) => (Kind::NoRoom, no_room(code)),
        Some(_) => (Kind::Failing, failing(error)),
        None if no_responders(error) => (Kind::JetStreamOff, OFF.to_owned()),
        None => (Kind::Failing, failing(error)),
    })
}

const OFF: &str = "JetStream does not answer on the NATS server: switch it on (`nats-server -js`, or `jetstream {}` in its configuration); events wait in the log until then";
const OFF_FOR_ACCOUNT: &str = "JetStream is not enabled for this account of the NATS server: enable it in the server's configuration, or sign in to another account; events wait in the log until then";

fn no_room(code: ErrorCode) -> String {
    format!(
        "the NATS server has no room for the stream (error {}): raise the storage limit of the server (`max_file_store`) or of the account, or make room on its disk; events wait in the log until then",
        code.0
    )
}

fn failing(error: &RelayError) -> String {
    format!(
        "the NATS server does not take events, which wait in the log: {}",
        Chain(error)
    )
}

/// Why there is no connection, as it says itself.
fn not_connected(nats: &Nats) -> String {
    let why = nats.status().err().unwrap_or_default();
    format!("NATS: {why}; events wait in the log until it is connected")
}

/// The broker is there, and nobody on it answers for JetStream.
fn no_responders(error: &RelayError) -> bool {
    if let RelayError::Stream(StreamError::Create(_, error)) = error {
        return error.kind() == CreateStreamErrorKind::JetStreamUnavailable;
    }
    let RelayError::Stream(StreamError::Lookup(_, error)) = error else {
        return false;
    };
    let asked = std::error::Error::source(error).and_then(|it| it.downcast_ref::<RequestError>());
    asked.is_some_and(|asked| asked.kind() == RequestErrorKind::NoResponders)
}

/// JetStream's own code, where it has answered with one.
fn jetstream_code(error: &RelayError) -> Option<ErrorCode> {
    if let RelayError::Publish(error) = error {
        let said = std::error::Error::source(error)?.downcast_ref::<jetstream::Error>()?;
        return Some(said.error_code());
    }
    if let RelayError::Stream(StreamError::Create(_, error) | StreamError::Label(_, error)) = error
        && let CreateStreamErrorKind::JetStream(said) = error.kind()
    {
        return Some(said.error_code());
    }
    if let RelayError::Stream(StreamError::Lookup(_, error)) = error
        && let GetStreamErrorKind::JetStream(said) = error.kind()
    {
        return Some(said.error_code());
    }
    None
}
