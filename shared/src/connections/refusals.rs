//! What NATS and its client say of an attempt to connect, in sentences for operators.

use std::collections::HashMap;

use async_nats::{Server, ServerAddr};

/// What came of a round, and what was said.
pub(super) struct Verdict {
    pub(super) meaning: Meaning,
    pub(super) said: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Meaning {
    /// A server is there and does not take our credentials.
    SignIn,
    /// A server is there, and it or we refuse.
    Refused(&'static str),
    Away(&'static str),
}

/// The outcome of a round of attempts: a refusal, if there was one, because an operator has to
/// mend it.
pub(super) fn judge_round(before: &HashMap<ServerAddr, usize>, servers: &[Server]) -> Verdict {
    let failed = |server: &&Server| {
        let before = before.get(&server.addr).copied().unwrap_or(0);
        server.failed_attempts > before
    };
    let verdicts = servers.iter().filter(failed).map(|server| {
        let said = server.last_error.clone().unwrap_or_default();
        let meaning = judge(&said);
        Verdict { meaning, said }
    });
    let worst = verdicts.min_by_key(|verdict| match verdict.meaning {
        Meaning::SignIn => 0,
        Meaning::Refused(_) => 1,
        Meaning::Away(_) => 2,
    });
    // No server was as much as tried.
    worst.unwrap_or_else(|| Verdict {
        meaning: Meaning::Away("the hosts of NATS_URL are not known to DNS"),
        said: String::new(),
    })
}

/// What the client writes of an attempt, in lower case, and what it means. The first that fits
/// holds.
const MEANINGS: [(&str, Meaning); 26] = [
    ("authorization violation", Meaning::SignIn),
    (
        "authentication expired",
        Meaning::Refused("our credentials have expired"),
    ),
    (
        "authentication revoked",
        Meaning::Refused("our credentials have been revoked"),
    ),
    (
        "authentication timeout",
        Meaning::Refused("it did not wait for our credentials"),
    ),
    (
        "failed signing nonce",
        Meaning::Refused("the file with our credentials cannot be read any more"),
    ),
    (
        "maximum connections exceeded",
        Meaning::Refused("it has as many connections as it takes"),
    ),
    (
        "active connections exceeded",
        Meaning::Refused("our account has as many connections as it may"),
    ),
    (
        "unknownissuer",
        Meaning::Refused(
            "its certificate comes from an authority that we do not know: see NATS_TLS_CA_FILE",
        ),
    ),
    (
        "not valid for name",
        Meaning::Refused("its certificate is for another name than NATS_URL's host"),
    ),
    (
        "notvalidforname",
        Meaning::Refused("its certificate is for another name than NATS_URL's host"),
    ),
    (
        "certificate expired",
        Meaning::Refused("its certificate has expired"),
    ),
    (
        "certificate: expired",
        Meaning::Refused("its certificate has expired"),
    ),
    (
        "invalid peer certificate",
        Meaning::Refused("its certificate is not valid"),
    ),
    (
        "received fatal alert",
        Meaning::Refused("it refuses our TLS: does it want a certificate (NATS_TLS_CERT_FILE)?"),
    ),
    (
        "platform certs",
        Meaning::Refused(
            "the system's certificate authorities cannot be read: see NATS_TLS_CA_FILE",
        ),
    ),
    (
        "corrupt message",
        Meaning::Refused("it does not speak TLS, which NATS_URL or a NATS_TLS_ file asks for"),
    ),
    (
        "tls error",
        Meaning::Refused("TLS cannot be agreed on: see the NATS_TLS_ files"),
    ),
    (
        "could not load",
        Meaning::Refused("a NATS_TLS_ file cannot be read any more"),
    ),
    (
        "expected info",
        Meaning::Away("what answers there is no NATS server, or one that stops"),
    ),
    (
        "invalid http",
        Meaning::Refused("what answers there speaks no WebSocket"),
    ),
    (
        "expected http",
        Meaning::Refused("what answers there speaks no WebSocket"),
    ),
    (
        "upgrad",
        Meaning::Refused("what answers there speaks no WebSocket"),
    ),
    (
        "dns error",
        Meaning::Away("the hosts of NATS_URL are not known to DNS"),
    ),
    (
        "connection refused",
        Meaning::Away("nothing listens at the hosts of NATS_URL"),
    ),
    ("timed out", Meaning::Away("it does not answer in time")),
    ("", Meaning::Away("the connection cannot be made")),
];

fn judge(said: &str) -> Meaning {
    let said = said.to_lowercase();
    let found = MEANINGS.iter().find(|(part, _)| said.contains(part));
    found.map_or(
        Meaning::Away("the connection cannot be made"),
        |(_, meaning)| *meaning,
    )
}
