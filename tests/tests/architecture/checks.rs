//! What the sources do against a rule, as sentences with file and line.

use proc_macro2::{Delimiter, TokenTree};

use super::source::{Source, every_level, is_punct, line_of};
use super::{
    APART, CIRCLE_SENTENCE, ENVIRONMENT_SENTENCE, PUBLISH_SENTENCE, Rule, STARTUP_SENTENCE, circles,
};

pub fn violations(rule: &Rule, sources: &[Source]) -> Vec<String> {
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

pub fn words_in<'a>(
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
pub fn circles_of(sources: &[Source], folder: &str) -> Vec<String> {
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

pub fn together(sources: &[Source]) -> Vec<String> {
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

pub fn reads_of_the_environment(sources: &[Source]) -> Vec<String> {
    let allowed =
        |path: &str| path.ends_with("/main.rs") || path.starts_with("shared/src/runtime/settings");
    let services = sources.iter().filter(|source| !allowed(&source.path));
    words_in(
        services,
        &["env", "vars_os", "var_os"],
        ENVIRONMENT_SENTENCE,
    )
}

pub fn unanswered_publishes(sources: &[Source]) -> Vec<String> {
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

pub fn report(found: &[String]) {
    assert!(
        found.is_empty(),
        "the sources contradict the design:\n  {}",
        found.join("\n  ")
    );
}

pub fn members(manifest: &str) -> Vec<String> {
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
