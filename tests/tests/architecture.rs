//! The rooms and what they must not mention, read from the sources.
//!
//! Each rule carries the sentence of the design that it enforces; a violation prints that sentence
//! with the file and the line. Comments, the contents of strings, and what is compiled for tests
//! only are not looked at: they make no dependency.

#[path = "architecture/checks.rs"]
mod checks;
#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/contract.rs"]
mod contract;
#[path = "architecture/controls.rs"]
mod controls;
#[path = "architecture/source.rs"]
mod source;

use checks::{
    circles_of, members, reads_of_the_environment, report, together, unanswered_publishes,
    violations, words_in,
};
use contract::documented_routes;
use source::{read, root, workspace_sources};
use system_tests::routes;

// ---- the rules --------------------------------------------------------------------------------

/// A room, and the names that must not occur in it.
struct Rule {
    /// A folder below the workspace, or a file without its `.rs`.
    room: &'static str,
    sentence: &'static str,
    /// Crates, modules, types: identifiers as a whole; `x*` is every identifier that begins so.
    words: &'static [&'static str],
    /// Other rooms of the same crate.
    rooms: &'static [&'static str],
}

const ACTIX: &str = "actix*";
const DRIVERS_AND_WEB: &[&str] = &["actix*", "mongodb", "async_nats", "connections"];
const CLIENTS: &[&str] = &[
    "ClientOptions",
    "ConnectOptions",
    "with_uri_str",
    "with_options",
];
const CLIENTS_SENTENCE: &str =
    "shared/connections is the only place that opens a client and names the databases";

const RULES: &[Rule] = &[
    Rule {
        room: "command-service/src/domain",
        sentence: "domain/: pure decisions, state in, events out; never mentions tokio, actix, mongodb, async_nats",
        words: &[
            "tokio",
            "tokio_util",
            "actix*",
            "mongodb",
            "async_nats",
            "connections",
            "async",
            "await",
        ],
        rooms: &[
            "app", "http", "store", "relay", "import", "cli", "startup", "keys",
        ],
    },
    Rule {
        room: "command-service/src/domain",
        sentence: "domain/: time and ids are arguments; it does no I/O",
        words: &[
            "SystemTime",
            "Instant",
            "Utc",
            "Clock",
            "SystemClock",
            "IdGenerator",
            "rand",
            "fs",
            "net",
            "env",
            "thread",
            "println",
            "tracing",
        ],
        rooms: &[],
    },
    Rule {
        room: "command-service/src/app",
        sentence: "app/: one file per use case: load, decide, append; never mentions actix, mongodb, async_nats",
        words: DRIVERS_AND_WEB,
        rooms: &["http", "store", "relay", "import", "cli", "startup"],
    },
    Rule {
        room: "command-service/src/http",
        sentence: "http/: extract, convert, one call into app, map; never mentions mongodb, async_nats",
        words: &["mongodb", "async_nats", "connections"],
        rooms: &["store", "relay", "import", "cli", "startup"],
    },
    Rule {
        room: "command-service/src/store",
        sentence: "store/: the log and what stands beside it; never mentions actix, async_nats",
        words: &[ACTIX, "async_nats"],
        rooms: &["http", "relay", "import", "cli", "startup"],
    },
    Rule {
        room: "command-service/src/relay",
        sentence: "relay/: change stream to JetStream; never mentions actix, decisions",
        words: &[ACTIX],
        rooms: &[
            "domain", "app", "http", "store", "import", "cli", "startup", "keys",
        ],
    },
    Rule {
        room: "command-service/src/backup",
        sentence: "backup/: documents as they are, into a file and back; never mentions actix, async_nats, decisions",
        words: &[ACTIX, "async_nats"],
        rooms: &[
            "domain", "http", "store", "relay", "import", "cli", "startup", "keys",
        ],
    },
    Rule {
        room: "query-service/src/views",
        sentence: "views/: schema and storage of the views; never mentions actix, async_nats, or who uses it",
        words: &[ACTIX, "async_nats"],
        rooms: &[
            "cache",
            "reads",
            "projection",
            "invalidation",
            "live",
            "http",
            "operator",
            "startup",
        ],
    },
    Rule {
        room: "query-service/src/cache",
        sentence: "cache/: what a replica remembers; never mentions a database, a broker, or the web",
        words: DRIVERS_AND_WEB,
        rooms: &[
            "reads",
            "projection",
            "invalidation",
            "live",
            "http",
            "operator",
            "startup",
        ],
    },
    Rule {
        room: "query-service/src/reads",
        sentence: "reads/: what is read and how; never mentions actix, async_nats, and has no handle that writes",
        words: &[ACTIX, "async_nats", "ViewWriter", "Changes"],
        rooms: &[
            "projection",
            "invalidation",
            "live",
            "http",
            "operator",
            "startup",
        ],
    },
    Rule {
        room: "query-service/src/projection",
        sentence: "projection/: leases, the ordered reader, the fold, jobs; never mentions actix",
        words: &[ACTIX],
        rooms: &[
            "cache",
            "invalidation",
            "live",
            "http",
            "operator",
            "startup",
        ],
    },
    Rule {
        room: "query-service/src/projection/fold",
        sentence: "the fold says what happened; views/ knows how it is stored: it mentions no BSON",
        words: &["bson", "Document", "mongodb", "Key"],
        rooms: &[],
    },
    Rule {
        room: "query-service/src/projection/jobs",
        sentence: "the fold says what happened; views/ knows how it is stored: it mentions no BSON",
        words: &["bson", "Document", "mongodb", "Key"],
        rooms: &[],
    },
    Rule {
        room: "query-service/src/live",
        sentence: "live/: who is connected and when to wake them; never mentions a database, a broker, or the web",
        words: DRIVERS_AND_WEB,
        rooms: &[
            "cache",
            "projection",
            "invalidation",
            "http",
            "operator",
            "startup",
        ],
    },
    Rule {
        room: "query-service/src/invalidation",
        sentence: "invalidation/: follows what the fold says, feeds the cache, wakes live streams; never mentions a database",
        words: &[ACTIX, "mongodb"],
        rooms: &["cache", "projection", "http", "operator", "startup"],
    },
    Rule {
        room: "query-service/src/http",
        sentence: "http/: extract, one call into reads, map; never mentions mongodb, async_nats, and cannot reach a write",
        words: &["mongodb", "async_nats", "connections", "generation"],
        rooms: &[
            "views",
            "cache",
            "projection",
            "invalidation",
            "operator",
            "startup",
        ],
    },
    Rule {
        room: "query-service/src/operator",
        sentence: "operator/: commands; never mentions actix, and imports no startup",
        words: &[ACTIX],
        rooms: &["cache", "invalidation", "live", "http", "startup"],
    },
    Rule {
        room: "query-service/src/operator/verify",
        sentence: "verify: a plain recomputation from the log that shares nothing with the projector",
        words: &[ACTIX],
        rooms: &["projection", "http"],
    },
    Rule {
        room: "command-service/src",
        sentence: CLIENTS_SENTENCE,
        words: CLIENTS,
        rooms: &[],
    },
    Rule {
        room: "query-service/src",
        sentence: CLIENTS_SENTENCE,
        words: CLIENTS,
        rooms: &[],
    },
    Rule {
        room: "shared/src",
        sentence: "shared: never mentions any service crate",
        words: &["command_service", "query_service", "system_tests"],
        rooms: &[],
    },
    Rule {
        room: "command-service/src",
        sentence: "the command service knows nothing of the query service but the events",
        words: &["query_service", "system_tests"],
        rooms: &[],
    },
    Rule {
        room: "query-service/src",
        sentence: "the query service knows nothing of the command service but the events",
        words: &["command_service", "system_tests"],
        rooms: &[],
    },
];

/// Rooms that only `startup.rs` may bring together: what asks over HTTP, and what works behind.
const APART: &[(&str, &[&str])] = &[
    ("command-service/src", &["http", "relay"]),
    ("query-service/src", &["http", "projection"]),
];
const STARTUP_SENTENCE: &str = "startup.rs in each service is the only file that sees every room";
const ENVIRONMENT_SENTENCE: &str = "the environment is read once, in main, and passed down";
const PUBLISH_SENTENCE: &str =
    "publishing to JetStream is two awaits: the second one is the stream's answer";
const CIRCLE_SENTENCE: &str = "what a file imports stands below it: imports never lead in a circle";
/// The crates whose imports are followed.
const CRATES: [&str; 3] = ["command-service/src", "query-service/src", "shared/src"];
const UNSAFE_SENTENCE: &str = "no unsafe code";

// ---- the tests --------------------------------------------------------------------------------

#[test]
fn no_room_mentions_what_the_design_keeps_out_of_it() {
    let sources = workspace_sources();
    for rule in RULES {
        let seen = sources.iter().any(|source| source.is_in(rule.room));
        assert!(seen, "{}: no source there: did the room move?", rule.room);
    }
    report(
        &RULES
            .iter()
            .flat_map(|rule| violations(rule, &sources))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn only_startup_sees_every_room() {
    report(&together(&workspace_sources()));
}

#[test]
fn the_environment_is_read_in_main_and_nowhere_else() {
    report(&reads_of_the_environment(&workspace_sources()));
}

#[test]
fn every_publish_to_jetstream_waits_for_the_answer() {
    report(&unanswered_publishes(&workspace_sources()));
}

#[test]
fn nothing_is_unsafe() {
    let mut found = words_in(&workspace_sources(), &["unsafe"], UNSAFE_SENTENCE);
    // The lint says the same to the compiler, as long as every crate subscribes to it.
    let manifest = read(&root().join("Cargo.toml"));
    for member in members(&manifest) {
        let path = root().join(&member).join("Cargo.toml");
        if !read(&path).contains("[lints]\nworkspace = true") {
            found.push(format!(
                "{member}/Cargo.toml: must have `[lints] workspace = true`"
            ));
        }
    }
    assert!(
        manifest.contains("unsafe_code = \"forbid\""),
        "{UNSAFE_SENTENCE}"
    );
    report(&found);
}

#[test]
fn every_route_is_in_the_http_contract() {
    let documented = documented_routes(&read(&root().join("docs/api.md")));
    let mut missing = Vec::new();
    for service in ["command-service", "query-service"] {
        for (method, path) in routes::of(service) {
            if !documented.contains(&(method.clone(), path.clone())) {
                missing.push(format!(
                    "{service}: {method} {path} is served, but docs/api.md does not list it"
                ));
            }
        }
    }
    report(&missing);
}

#[test]
fn no_import_leads_in_a_circle() {
    let sources = workspace_sources();
    for folder in CRATES {
        report(&circles_of(&sources, folder));
    }
}
