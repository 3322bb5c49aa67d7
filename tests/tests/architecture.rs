//! The rooms and what they must not mention, read from the sources.
//!
//! Each rule carries the sentence of the design that it enforces; a violation prints that sentence
//! with the file and the line. Comments, the contents of strings, and what is compiled for tests
//! only are not looked at: they make no dependency.

#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/contract.rs"]
mod contract;
#[path = "architecture/source.rs"]
mod source;

use contract::documented_routes;
use proc_macro2::{Delimiter, TokenTree};
use source::{Source, every_level, is_punct, line_of, read, root, workspace_sources};
use system_tests::routes::{self, routes_table};

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
const DRIVERS_AND_WEB: &[&str] = &["actix*", "mongodb", "async_nats", "engines"];

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
            "engines",
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
        words: &["mongodb", "async_nats", "engines"],
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
        words: &["mongodb", "async_nats", "engines", "generation"],
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
/// The circles that were there when the check was made. The numbers only ever fall.
const CIRCLES_LEFT: [(&str, usize); 3] = [
    ("command-service/src", 0),
    ("query-service/src", 0),
    ("shared/src", 0),
];
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
    for (folder, left) in CIRCLES_LEFT {
        let found = circles_of(&sources, folder);
        if found.len() > left {
            report(&found);
        }
        assert_eq!(
            found.len(),
            left,
            "{folder}: lower the number in CIRCLES_LEFT"
        );
    }
}

// ---- negative controls: a check that has never failed proves nothing -----------------------------

#[test]
fn the_checker_reports_a_violation_with_its_sentence_and_line() {
    let rule = |room| RULES.iter().find(|rule| rule.room == room).expect("a rule");
    let guilty = Source::new(
        "command-service/src/domain/post.rs",
        "//! Nothing of tokio here.\nuse serde::Serialize;\nuse tokio::time::sleep;\n",
    );
    let found = violations(rule("command-service/src/domain"), &[guilty]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("command-service/src/domain/post.rs:3: `tokio`"),
        "{}",
        found[0]
    );
    assert!(found[0].contains("never mentions tokio"), "{}", found[0]);

    let guilty = Source::new(
        "query-service/src/http/mod.rs",
        "use crate::{\n    reads::ReadModel,\n    projection::{Projector, monitor},\n};\nfn f() { super::projection::go() }\n",
    );
    let found = violations(rule("query-service/src/http"), &[guilty]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("mod.rs:3: the room `projection`"),
        "{}",
        found[0]
    );
    assert!(
        found[1].contains("mod.rs:5: the room `projection`"),
        "{}",
        found[1]
    );
}

#[test]
fn the_checker_passes_over_comments_strings_and_tests() {
    let innocent = Source::new(
        "command-service/src/domain/post.rs",
        r##"// use tokio::time;
/* mongodb /* nested */ async_nats */
const TEXT: &str = "tokio \" actix_web";
const RAW: &str = r#"mongodb "quoted" "#;
const LIFE: fn(&'static str) -> char = |_| '"';
fn mongodb_uri() {}
#[cfg(test)]
mod tests {
    use tokio::time::sleep;
    fn helper() { if true { actix_web::web() } }
}
#[cfg(test)]
use mongodb::Client;
"##,
    );
    for rule in RULES.iter().filter(|rule| innocent.is_in(rule.room)) {
        assert_eq!(
            violations(rule, std::slice::from_ref(&innocent)),
            Vec::<String>::new()
        );
    }
    // What follows a test module is looked at again.
    let guilty = "#[cfg(test)]\nmod tests {}\nuse tokio::spawn;\n";
    let guilty = Source::new("command-service/src/domain/post.rs", guilty);
    assert_eq!(words_in(&[guilty], &["tokio"], "").len(), 1);
}

#[test]
fn the_checker_finds_a_second_startup() {
    let file = |path, text| Source::new(path, text);
    let text = "use crate::http;\nuse crate::relay::Relay;\n";
    assert_eq!(
        together(&[file("command-service/src/startup.rs", text)]),
        Vec::<String>::new()
    );
    assert_eq!(
        together(&[file("command-service/src/cli.rs", text)]).len(),
        1
    );
    assert_eq!(
        together(&[file("command-service/src/cli.rs", "use crate::relay;")]),
        Vec::<String>::new()
    );
    // A library's own list of its rooms uses none of them.
    assert_eq!(
        together(&[file(
            "command-service/src/lib.rs",
            "pub mod http;\npub mod relay;"
        )]),
        Vec::<String>::new()
    );
}

#[test]
fn the_checker_finds_a_read_of_the_environment() {
    let text = "fn f() { std::env::var(\"HOME\"); }";
    assert_eq!(
        reads_of_the_environment(&[Source::new("shared/src/lease.rs", text)]).len(),
        1
    );
    assert_eq!(
        reads_of_the_environment(&[Source::new("shared/src/lease.rs", "use std::{env, fs};")])
            .len(),
        1
    );
    assert!(reads_of_the_environment(&[Source::new("query-service/src/main.rs", text)]).is_empty());
}

#[test]
fn the_checker_finds_a_publish_that_nobody_waits_for() {
    let source = |text| [Source::new("command-service/src/relay/mod.rs", text)];
    let once = "async fn f() { self\n.jetstream\n.publish(subject(a, b), body).await?; }";
    assert_eq!(unanswered_publishes(&source(once)).len(), 1);
    let twice = "async fn f() { jetstream.publish(s, b).await.map_err(|e| E(e))?.await?; }";
    assert_eq!(unanswered_publishes(&source(twice)), Vec::<String>::new());
    let core = "async fn f() { client.publish(s, b).await?; }";
    assert_eq!(unanswered_publishes(&source(core)), Vec::<String>::new());
}

#[test]
fn the_checker_finds_a_circle_through_names_that_are_handed_on() {
    let file = |name: &str, text| Source::new(&format!("query-service/src/{name}.rs"), text);
    let legend = "mod page;\nmod rows;\npub use page::Page;\npub use rows::*;\n";
    let page = "use super::Row;\npub struct Page(Vec<Row>);\n";
    // A legend that only hands names on makes no circle, nor does what is for tests only.
    let row = "pub struct Row;\n#[cfg(test)]\nuse super::Page;\n";
    let of = |row| {
        let files = [
            file("lib", "pub mod reads;"),
            file("reads/mod", legend),
            file("reads/page", page),
            file("reads/rows", row),
        ];
        circles_of(&files, "query-service/src")
    };
    assert_eq!(of(row), Vec::<String>::new());
    let steps = "query-service/src/reads/page.rs:1 -> query-service/src/reads/rows.rs, \
        query-service/src/reads/rows.rs:2 -> query-service/src/reads/page.rs; ";
    for back in [
        "pub struct Row;\nuse super::page::Page;\n",
        "pub struct Row;\nfn f() { crate::reads::Page(vec![]); }\n",
        "pub struct Row;\nuse crate::{reads::{self as pages, Page}};\n",
    ] {
        let found = of(back);
        assert_eq!(found.len(), 1, "{back}: {found:?}");
        assert!(found[0].starts_with(steps), "{}", found[0]);
    }
}

#[test]
fn the_checker_finds_a_circle_of_rooms_that_no_file_is_in() {
    let file = |name: &str, text| Source::new(&format!("query-service/src/{name}.rs"), text);
    let found = circles_of(
        &[
            file("cache/mod", "pub mod slot;"),
            file("cache/slot", "pub struct Slot;"),
            file(
                "cache/fill",
                "use crate::reads::page::Page;\nfn f(_: Page) {}",
            ),
            file("reads/mod", "pub mod page;"),
            file("reads/page", "pub struct Page;"),
            file(
                "reads/home",
                "use crate::cache::slot::Slot;\nfn f(_: Slot) {}",
            ),
        ],
        "query-service/src",
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("cache:1 -> reads, reads:1 -> cache; "),
        "{}",
        found[0]
    );
}

#[test]
fn the_contract_is_read_as_people_read_it() {
    let text = "| call | body |\n|---|---|\n\
        | `POST` / `DELETE /posts/{id}/like` | `GET /not/a/call` |\n\
        | `GET /timeline?limit&cursor` | yes |\n\
        | `GET /users/{id}` · `GET /users/by-username/{name}` | no |\n\
        | `GET /users/{id}/followers` · `/following` · `/mutuals` | no |\n";
    let routes: Vec<String> = documented_routes(text)
        .into_iter()
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    assert_eq!(
        routes,
        [
            "DELETE /posts/{id}/like",
            "GET /timeline",
            "GET /users/by-username/{name}",
            "GET /users/{id}",
            "GET /users/{id}/followers",
            "GET /users/{id}/following",
            "GET /users/{id}/mutuals",
            "POST /posts/{id}/like",
        ]
    );
    let table = "pub const ROUTES: [(&str, &str); 2] = [\n    (\"GET\", \"/timeline\"),\n    (\"POST\", \"/x\"),\n];\nconst Y: &str = \"/y\";";
    assert_eq!(
        routes_table(table),
        [
            ("GET".into(), "/timeline".into()),
            ("POST".into(), "/x".into())
        ]
    );
}

// ---- checks -----------------------------------------------------------------------------------

fn violations(rule: &Rule, sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_in(rule.room)) {
        for (word, line) in source.identifiers() {
            if rule.words.iter().any(|banned| matches_word(banned, &word)) {
                found.push(format!(
                    "{}:{line}: `{word}`, but {}",
                    source.path, rule.sentence
                ));
            }
        }
        for (room, line) in source.rooms() {
            if rule.rooms.contains(&room.as_str()) {
                found.push(format!(
                    "{}:{line}: the room `{room}`, but {}",
                    source.path, rule.sentence
                ));
            }
        }
    }
    found
}

fn matches_word(banned: &str, word: &str) -> bool {
    banned
        .strip_suffix('*')
        .map_or(banned == word, |start| word.starts_with(start))
}

fn words_in<'a>(
    sources: impl IntoIterator<Item = &'a Source>,
    words: &[&str],
    sentence: &str,
) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let all = source.identifiers().into_iter();
        for (word, line) in all.filter(|(word, _)| words.contains(&word.as_str())) {
            found.push(format!("{}:{line}: `{word}`, but {sentence}", source.path));
        }
    }
    found
}

/// Circles of imports between the files of a crate, and between its rooms.
fn circles_of(sources: &[Source], folder: &str) -> Vec<String> {
    let files = circles::of_files(sources, folder);
    let rooms = circles::of_rooms(&files, folder);
    [files, rooms]
        .iter()
        .flat_map(|graph| {
            let circles = circles::circles(graph).into_iter();
            circles.map(|circle| {
                let steps = circles::in_words(graph, &circle);
                format!("{steps}; but {CIRCLE_SENTENCE}")
            })
        })
        .collect()
}

fn together(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for (service, apart) in APART {
        let allowed = [
            format!("{service}/startup.rs"),
            format!("{service}/main.rs"),
        ];
        for source in sources.iter().filter(|source| source.is_in(service)) {
            let rooms = source.rooms();
            let all = apart
                .iter()
                .all(|room| rooms.iter().any(|(seen, _)| seen == room));
            if all && !allowed.contains(&source.path) {
                found.push(format!(
                    "{}: sees {}, but {STARTUP_SENTENCE}",
                    source.path,
                    apart.join(" and ")
                ));
            }
        }
    }
    found
}

fn reads_of_the_environment(sources: &[Source]) -> Vec<String> {
    let allowed =
        |path: &str| path.ends_with("/main.rs") || path.starts_with("shared/src/settings");
    let services = sources.iter().filter(|source| !allowed(&source.path));
    words_in(
        services,
        &["env", "vars_os", "var_os"],
        ENVIRONMENT_SENTENCE,
    )
}

fn unanswered_publishes(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        every_level(source.trees(), &mut |level| {
            for at in 0..level.len() {
                let is_publish = is_word(level.get(at), |word| word == "jetstream")
                    && is_punct(level.get(at + 1), '.')
                    && is_word(level.get(at + 2), |word| word.starts_with("publish"));
                if is_publish && awaits_after(&level[at + 3..]) < 2 {
                    let line = line_of(&level[at]);
                    found.push(format!("{}:{line}: {PUBLISH_SENTENCE}", source.path));
                }
            }
        });
    }
    found
}

fn is_word(tree: Option<&TokenTree>, wanted: impl Fn(&str) -> bool) -> bool {
    matches!(tree, Some(TokenTree::Ident(word)) if wanted(&word.to_string()))
}

/// How often `.await` occurs in the chain of calls at the start of `level`.
fn awaits_after(level: &[TokenTree]) -> usize {
    let is_chained = |tree: &&TokenTree| match tree {
        TokenTree::Punct(punct) => matches!(punct.as_char(), '.' | '?'),
        TokenTree::Group(group) => group.delimiter() == Delimiter::Parenthesis,
        TokenTree::Ident(_) => true,
        TokenTree::Literal(_) => false,
    };
    let chain = level.iter().take_while(is_chained);
    chain
        .filter(|tree| is_word(Some(*tree), |word| word == "await"))
        .count()
}

fn report(found: &[String]) {
    assert!(
        found.is_empty(),
        "the sources contradict the design:\n  {}",
        found.join("\n  ")
    );
}

fn members(manifest: &str) -> Vec<String> {
    let list = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.expect("the workspace lists its members");
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}
