//! Negative controls: a check that has never failed proves nothing.

use super::RULES;
use super::checks::{
    circles_of, reads_of_the_environment, together, unanswered_publishes, violations, words_in,
};
use super::contract::documented_routes;
use super::source::Source;

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
        reads_of_the_environment(&[Source::new("shared/src/resilience/lease.rs", text)]).len(),
        1
    );
    assert_eq!(
        reads_of_the_environment(&[Source::new(
            "shared/src/resilience/lease.rs",
            "use std::{env, fs};"
        )])
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
}
