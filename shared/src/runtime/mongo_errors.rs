//! What an error of MongoDB's driver means: one answer for both services.

use mongodb::error::{
    Error, ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR, WriteFailure,
};

/// Of a unique index.
pub const DUPLICATE_KEY: i32 = 11_000;
/// A sign-in was refused.
const AUTHENTICATION_FAILED: i32 = 18;
/// The user is known and may not do what was asked.
const UNAUTHORIZED: i32 = 13;

/// Codes of a server that is going, coming, or electing: the next attempt may find another.
const TRANSIENT_CODES: [i32; 15] = [
    6,      // HostUnreachable
    7,      // HostNotFound
    50,     // MaxTimeMSExpired
    89,     // NetworkTimeout
    91,     // ShutdownInProgress
    112,    // WriteConflict
    134,    // ReadConcernMajorityNotAvailableYet
    189,    // PrimarySteppedDown
    262,    // ExceededTimeLimit
    9_001,  // SocketException
    10_107, // NotWritablePrimary
    11_600, // InterruptedAtShutdown
    11_602, // InterruptedDueToReplStateChange
    13_435, // NotPrimaryNoSecondaryOk
    13_436, // NotPrimaryOrSecondary
];

/// Whether MongoDB could not be reached, rather than gave an answer that we do not like.
pub fn is_unavailable(error: &Error) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::DnsResolve { .. }
    )
}

/// Whether the same attempt may succeed a moment later: MongoDB cannot be reached, is electing, or
/// another transaction was in the way.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
pub fn is_transient(error: &Error) -> bool {
    if error.contains_label(RETRYABLE_WRITE_ERROR)
        || error.contains_label(TRANSIENT_TRANSACTION_ERROR)
    {
        return true;
    }
    let passes = |code: i32| TRANSIENT_CODES.contains(&code);
    match error.kind.as_ref() {
        ErrorKind::Command(command) => passes(command.code),
        // The write is there, its durability is not known: the same write again finds out.
        ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
        ErrorKind::Write(WriteFailure::WriteError(write)) => passes(write.code),
        ErrorKind::InsertMany(many) => {
            let mut errors = many.write_errors.iter().flatten();
            many.write_concern_error.is_some() || errors.any(|error| passes(error.code))
        }
        _ => is_unavailable(error),
    }
}

/// Whether a unique index refused a write, and nothing else went wrong.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
pub fn is_duplicate(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(write)) => write.code == DUPLICATE_KEY,
        ErrorKind::Command(command) => command.code == DUPLICATE_KEY,
        ErrorKind::InsertMany(many) => {
            let mut errors = many.write_errors.iter().flatten().peekable();
            many.write_concern_error.is_none()
                && errors.peek().is_some()
                && errors.all(|error| error.code == DUPLICATE_KEY)
        }
        _ => false,
    }
}

/// Whether the server refused a change stream's token, rather than being away: its history is gone,
/// or it is no token at all. In doubt the answer is no: who asked tries again.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
pub fn history_is_lost(error: &Error) -> bool {
    const FAILED_TO_PARSE: i32 = 9;
    const TYPE_MISMATCH: i32 = 14;
    const CAPPED_POSITION_LOST: i32 = 136;
    const INVALID_RESUME_TOKEN: i32 = 260;
    const CHANGE_STREAM_FATAL_ERROR: i32 = 280;
    const CHANGE_STREAM_HISTORY_LOST: i32 = 286;
    // Assertions without a name, such as those on what a token holds (40615, 40647, 40649, 50811);
    // below lie the states of a replica set, which pass.
    const UNNAMED: std::ops::RangeInclusive<i32> = 15_000..=i32::MAX;
    match error.kind.as_ref() {
        ErrorKind::Command(command) => match command.code {
            FAILED_TO_PARSE
            | TYPE_MISMATCH
            | CAPPED_POSITION_LOST
            | INVALID_RESUME_TOKEN
            | CHANGE_STREAM_FATAL_ERROR
            | CHANGE_STREAM_HISTORY_LOST => true,
            code => UNNAMED.contains(&code),
        },
        ErrorKind::MissingResumeToken | ErrorKind::InvalidArgument { .. } => true,
        _ => false,
    }
}

/// Whether MongoDB refused because its user may not do this.
pub fn is_unauthorized(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == UNAUTHORIZED)
}

/// What the driver (3.9) writes, in lower case, and what it means to an operator. The first that
/// fits holds.
const MEANINGS: [(&str, &str); 21] = [
    (
        "unknownissuer",
        "its certificate comes from an authority that we do not know: see tlsCAFile",
    ),
    (
        "not valid for name",
        "its certificate is for another name than the URI's host",
    ),
    (
        "notvalidforname",
        "its certificate is for another name than the URI's host",
    ),
    ("certificate expired", "its certificate has expired"),
    ("expired", "its certificate has expired"),
    ("invalid peer certificate", "its certificate is not valid"),
    (
        "received fatal alert",
        "it refuses our TLS: does it want a certificate (tlsCertificateKeyFile)?",
    ),
    (
        "corrupt message",
        "it does not speak TLS: does the URI say tls=true in error?",
    ),
    (
        "does not match actual name",
        "its replica set has another name than replicaSet says",
    ),
    (
        "authentication",
        "it refuses the user and password of the URI",
    ),
    ("scram", "it refuses the user and password of the URI"),
    ("connection refused", "nothing listens at the URI's hosts"),
    ("failed to lookup", "the URI's hosts are not known to DNS"),
    ("name or service", "the URI's hosts are not known to DNS"),
    ("dns", "the URI's hosts are not known to DNS"),
    (
        "compatib",
        "the server and this driver have no protocol version in common",
    ),
    ("type: rsother", "no member of the replica set is primary"),
    (
        "type: rssecondary",
        "no member of the replica set is primary",
    ),
    ("type: rsarbiter", "no member of the replica set is primary"),
    (
        "unexpected eof",
        "it closes the connections: does it want TLS (tls=true)?",
    ),
    ("timed out", "it does not answer"),
];

/// Why MongoDB does not do what it was asked, in plain words and without secrets.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
pub fn reason(error: &Error) -> String {
    let said = error.to_string().to_lowercase();
    let by_text = || {
        let meaning = MEANINGS.iter().find(|(part, _)| said.contains(part));
        meaning.map_or("it does not answer", |(_, meaning)| meaning)
    };
    let plain = match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => "it refuses the user and password of the URI",
        ErrorKind::Command(command) => match command.code {
            AUTHENTICATION_FAILED => "it refuses the user and password of the URI",
            UNAUTHORIZED => "the user of the URI may not do this",
            code => return format!("it answers with error {code} ({})", command.code_name),
        },
        // The driver forgets hosts that belong to another set than the one it looks for.
        ErrorKind::ServerSelection { .. }
            if said.contains("set name:") && !said.contains("servers:") =>
        {
            "none of the URI's hosts belongs to the replica set that replicaSet names"
        }
        ErrorKind::InvalidTlsConfig { .. } => "the URI's TLS files cannot be used",
        _ => by_text(),
    };
    plain.to_owned()
}
