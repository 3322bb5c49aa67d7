//! The rooms and what they must not mention, read from the sources.
//!
//! Each rule carries the sentence of the design that it enforces; a violation prints that sentence
//! with the file and the line. Comments, the contents of strings, and what is compiled for tests
//! only are not looked at: they make no dependency.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use system_tests::routes::{self, Route, routes_table};

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
const MONGODB: &[&str] = &["mongodb", "MongoDb", "engines"];
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
        room: "query-service/src/projection",
        sentence: "projection/: leases, the ordered reader, the fold, jobs; never mentions actix",
        words: &[ACTIX],
        rooms: &["http", "verify", "startup"],
    },
    Rule {
        room: "query-service/src/read_model",
        sentence: "read_model/: the only reader and writer of the views; never mentions actix, async_nats",
        words: &[ACTIX, "async_nats"],
        rooms: &["http", "projection", "verify", "startup"],
    },
    Rule {
        room: "query-service/src/http",
        sentence: "http/: extract, one call into read_model, map; never mentions mongodb, async_nats",
        words: MONGODB,
        rooms: &["projection", "verify", "startup"],
    },
    Rule {
        room: "query-service/src/http",
        sentence: "http/: extract, one call into read_model, map; never mentions mongodb, async_nats",
        words: &["async_nats"],
        rooms: &[],
    },
    Rule {
        room: "query-service/src/verify",
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
        "use crate::{\n    read_model::Views,\n    projection::{Projector, monitor},\n};\nfn f() { super::projection::go() }\n",
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
    let guilty = format!("{}\nuse tokio::spawn;\n", innocent.text);
    let guilty = Source::new("command-service/src/domain/post.rs", &guilty);
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
            if rule.words.iter().any(|banned| matches_word(banned, word)) {
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

fn words_in(sources: &[Source], words: &[&str], sentence: &str) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (word, line) in source
            .identifiers()
            .filter(|(word, _)| words.contains(word))
        {
            found.push(format!("{}:{line}: `{word}`, but {sentence}", source.path));
        }
    }
    found
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
    let services: Vec<Source> = sources
        .iter()
        .filter(|source| !allowed(&source.path))
        .cloned()
        .collect();
    words_in(
        &services,
        &["env", "vars_os", "var_os"],
        ENVIRONMENT_SENTENCE,
    )
}

fn unanswered_publishes(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (at, _) in source.code.match_indices("jetstream") {
            let rest = source.code[at + "jetstream".len()..].trim_start();
            let Some(call) = rest.strip_prefix('.').map(str::trim_start) else {
                continue;
            };
            if !call.starts_with("publish") {
                continue;
            }
            let Some(open) = call.find('(') else { continue };
            if awaits_after(&call[matching(call, open)..]) < 2 {
                let line = source.line(at);
                found.push(format!("{}:{line}: {PUBLISH_SENTENCE}", source.path));
            }
        }
    }
    found
}

/// How often `.await` occurs in the chain of calls at the start of `text`.
fn awaits_after(mut text: &str) -> usize {
    let mut awaits = 0;
    loop {
        text = text.trim_start_matches('?').trim_start();
        let Some(rest) = text.strip_prefix('.').map(str::trim_start) else {
            return awaits;
        };
        let name = rest.len() - rest.trim_start_matches(is_word).len();
        awaits += usize::from(&rest[..name] == "await");
        text = &rest[name..];
        if text.starts_with('(') {
            text = &text[matching(text, 0)..];
        }
    }
}

fn report(found: &[String]) {
    assert!(
        found.is_empty(),
        "the sources contradict the design:\n  {}",
        found.join("\n  ")
    );
}

// ---- the contract -----------------------------------------------------------------------------

/// The routes in the first column of the tables of docs/api.md.
fn documented_routes(text: &str) -> BTreeSet<Route> {
    let mut routes = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with('|')) {
        let first = row.split('|').nth(1).unwrap_or_default();
        let (mut methods, mut last): (Vec<&str>, Option<(Vec<&str>, String)>) = (Vec::new(), None);
        // Every second piece is between two backticks.
        for span in first.split('`').skip(1).step_by(2) {
            let (method, path) = match span.split_once(' ') {
                Some((method, path)) => (Some(method), path),
                None if span.starts_with('/') => (None, span),
                None => (Some(span), ""),
            };
            if let Some(method) = method {
                methods.push(method);
            }
            if path.is_empty() {
                continue;
            }
            let path = path.split('?').next().unwrap_or_default().to_owned();
            let (methods, path) = match (&last, methods.is_empty()) {
                // `/following` after `/users/{id}/followers`: the last part is another.
                (Some((methods, before)), true) => {
                    let base = before.rsplit_once('/').map_or("", |(base, _)| base);
                    (methods.clone(), format!("{base}{path}"))
                }
                _ => (std::mem::take(&mut methods), path),
            };
            routes.extend(
                methods
                    .iter()
                    .map(|method| ((*method).to_owned(), path.clone())),
            );
            last = Some((methods, path));
        }
    }
    routes
}

// ---- sources ----------------------------------------------------------------------------------

/// A source file, and its code with comments, strings and tests blanked out.
#[derive(Clone)]
struct Source {
    /// Relative to the workspace.
    path: String,
    text: String,
    /// As long as `text`, with the same lines.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code: without_tests(&without_comments(text)),
        }
    }

    fn is_in(&self, room: &str) -> bool {
        self.path
            .strip_prefix(room)
            .is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }

    fn line(&self, at: usize) -> usize {
        1 + self.code[..at].matches('\n').count()
    }

    fn identifiers(&self) -> impl Iterator<Item = (&str, usize)> {
        let lines = self.code.lines().zip(1..);
        lines.flat_map(|(text, line)| {
            let words = text.split(|c| !is_word(c)).filter(|word| !word.is_empty());
            words.map(move |word| (word, line))
        })
    }

    /// The modules at the root of the crate that are named, through `crate::` or `super::`.
    fn rooms(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for prefix in ["crate::", "command_service::", "query_service::"] {
            for (at, _) in self.code.match_indices(prefix) {
                let whole = !self.code[..at].ends_with(is_word);
                // The root modules of another crate than one's own are no rooms.
                if whole && !self.code[..at].ends_with("::") {
                    self.names_at(at + prefix.len(), &mut found);
                }
            }
        }
        // `super::` climbs: from a file at depth n, n times reaches the root.
        for (at, _) in self.code.match_indices("super::") {
            if self.code[..at].ends_with("super::") {
                continue;
            }
            let rest = &self.code[at..];
            let climbs = rest.len() - rest.trim_start_matches("super::").len();
            if climbs / "super::".len() == self.depth() {
                self.names_at(at + climbs, &mut found);
            }
        }
        found.sort_by_key(|(_, line)| *line);
        found
    }

    /// How many modules lie between this file and the root of its crate.
    fn depth(&self) -> usize {
        let inside = self
            .path
            .split_once("/src/")
            .map_or("", |(_, inside)| inside);
        let parts = inside.split('/').count();
        match inside.rsplit('/').next() {
            Some("mod.rs") => parts - 1,
            Some("lib.rs" | "main.rs") if parts == 1 => 0,
            _ => parts,
        }
    }

    /// The name, or the names of the group in braces, that a path goes on with at `at`.
    fn names_at(&self, at: usize, found: &mut Vec<(String, usize)>) {
        let name_at = |at: usize| {
            let rest = &self.code[at..];
            let from = at + rest.len() - rest.trim_start().len();
            let rest = &self.code[from..];
            let name = &rest[..rest.len() - rest.trim_start_matches(is_word).len()];
            (!name.is_empty()).then(|| (name.to_owned(), self.line(from)))
        };
        if !self.code[at..].starts_with('{') {
            found.extend(name_at(at));
            return;
        }
        let end = matching(&self.code, at);
        let mut depth = 0;
        for (offset, byte) in self.code[at..end].bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => (),
            }
            if depth == 1 && matches!(byte, b'{' | b',') {
                found.extend(name_at(at + offset + 1));
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn matches_word(banned: &str, word: &str) -> bool {
    banned
        .strip_suffix('*')
        .map_or(banned == word, |start| word.starts_with(start))
}

/// Behind the bracket that closes the one at `open`; the end where there is none.
fn matching(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'{' | b'[' => depth += 1,
            b')' | b'}' | b']' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// Blanks out comments and what is between quotes. Every byte but line ends becomes a space.
fn without_comments(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let raw = raw_string(rest).filter(|_| at == 0 || !is_word(char::from(bytes[at - 1])));
        let end = if rest.starts_with(b"//") {
            at + rest
                .iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if let Some(length) = raw {
            at + length
        } else if rest[0] == b'"' {
            at + quoted(rest, b'"')
        } else if rest[0] == b'\'' && is_char_literal(rest) {
            at + quoted(rest, b'\'')
        } else {
            at += 1;
            continue;
        };
        blank(&mut code[at..end.min(bytes.len())]);
        at = end;
    }
    // Only whole comments and strings were blanked, so that what is left is text.
    String::from_utf8(code).expect("blanking whole literals keeps UTF-8")
}

fn blank(code: &mut [u8]) {
    for byte in code.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The length of the raw string that begins here.
fn raw_string(text: &[u8]) -> Option<usize> {
    let start = text.strip_prefix(b"b").unwrap_or(text).strip_prefix(b"r")?;
    let hashes = start.iter().take_while(|byte| **byte == b'#').count();
    if start.get(hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let begin = text.len() - start.len() + hashes + 1;
    let inside = text[begin..]
        .windows(close.len())
        .position(|part| part == close)?;
    Some(begin + inside + close.len())
}

fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Tells `'a'` from the lifetime `'a`.
fn is_char_literal(text: &[u8]) -> bool {
    let rest = String::from_utf8_lossy(&text[1..text.len().min(8)]).into_owned();
    let mut chars = rest.chars();
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// Blanks out every item marked `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.as_bytes().to_vec();
    for (at, _) in code.match_indices(MARK) {
        let mut item = at + MARK.len();
        // Further attributes belong to the item.
        while code[item..].trim_start().starts_with("#[") {
            item += code[item..].find('[').unwrap_or(0);
            item = matching(code, item);
        }
        let brace = code[item..].find('{');
        let semicolon = code[item..].find(';');
        let end = match (brace, semicolon) {
            (Some(brace), semicolon) if semicolon.is_none_or(|at| brace < at) => {
                let end = matching(code, item + brace);
                // `use a::{b, c};` has braces and goes on.
                if code[end..].starts_with(';') {
                    end + 1
                } else {
                    end
                }
            }
            (_, Some(semicolon)) => item + semicolon + 1,
            (_, None) => code.len(),
        };
        blank(&mut out[at..end]);
    }
    String::from_utf8(out).expect("blanking whole items keeps UTF-8")
}

// ---- files ------------------------------------------------------------------------------------

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("this crate is a folder of the workspace")
        .to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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

/// The services' and the shared crate's sources, without modules that are tests.
fn workspace_sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for service in ["command-service", "query-service", "shared"] {
        for file in rust_files(&root().join(service).join("src")) {
            let path = file.strip_prefix(root()).expect("below the workspace");
            let path = path.to_string_lossy().replace('\\', "/");
            if !path.ends_with("/tests.rs") && !path.contains("/tests/") {
                sources.push(Source::new(&path, &read(&file)));
            }
        }
    }
    sources
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
