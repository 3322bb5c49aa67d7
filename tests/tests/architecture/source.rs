//! Source files as the compiler's own lexer sees them: words, paths and brackets, without comments,
//! without what is inside strings, and without what is compiled for tests only.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use system_tests::root;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A source file.
pub struct Source {
    /// Relative to the workspace.
    pub path: String,
    trees: Vec<TokenTree>,
}

/// Names joined by `::`, as they stand in a file.
#[derive(Debug)]
pub struct NamePath {
    pub names: Vec<String>,
    pub line: usize,
    /// Where it stands in a `use`: the name that it gets there, `*` for all names.
    pub used_as: Option<String>,
    /// A `pub use`, of whatever visibility.
    pub is_exported: bool,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let stream = TokenStream::from_str(text);
        let stream = stream.unwrap_or_else(|error| panic!("{path}: {error}"));
        Self {
            path: path.to_owned(),
            trees: without_tests(stream),
        }
    }

    /// Is the file below the folder `room`, or is it `room` itself?
    pub fn is_in(&self, room: &str) -> bool {
        self.path
            .strip_prefix(room)
            .is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }

    pub fn trees(&self) -> &[TokenTree] {
        &self.trees
    }

    /// Every word of the code, and its line.
    pub fn identifiers(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        every_level(&self.trees, &mut |level| {
            found.extend(level.iter().filter_map(|tree| match tree {
                TokenTree::Ident(word) => Some((word.to_string(), line_of(tree))),
                TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
            }));
        });
        found.sort_by_key(|(_, line)| *line);
        found
    }

    /// Every path of the code. The names of a group in braces are a path each.
    pub fn paths(&self) -> Vec<NamePath> {
        let mut found = Vec::new();
        every_level(&self.trees, &mut |level| paths_of_level(level, &mut found));
        found
    }

    /// The names of the items at the root of the file, those of modules inside it as well.
    pub fn items(&self) -> Vec<String> {
        let mut found = Vec::new();
        items_of_level(&self.trees, &mut found);
        found
    }

    /// The module that the file is, as names from the root of its crate; nothing for the root.
    pub fn module(&self) -> Vec<String> {
        let inside = self.path.split_once("/src/").map_or("", |(_, file)| file);
        let inside = inside.strip_suffix(".rs").unwrap_or(inside);
        let mut names: Vec<String> = inside.split('/').map(str::to_owned).collect();
        let is_root = names.len() == 1 && matches!(names[0].as_str(), "lib" | "main");
        if is_root || names.last().is_some_and(|name| name == "mod") {
            names.pop();
        }
        names
    }

    /// The modules at the root of the crate that are named, by whatever path leads there.
    pub fn rooms(&self) -> Vec<(String, usize)> {
        let depth = self.module().len();
        let mut found = Vec::new();
        for path in self.paths() {
            let climbs = path.names.iter().take_while(|name| *name == "super");
            let climbs = climbs.count();
            let root = match path.names.first().map(String::as_str) {
                Some("crate" | "command_service" | "query_service") => 1,
                Some("super") if climbs == depth => climbs,
                _ => continue,
            };
            if let Some(room) = path.names.get(root) {
                found.push((room.clone(), path.line));
            }
        }
        // The names of a group have a path each.
        found.dedup();
        found
    }
}

pub fn line_of(tree: &TokenTree) -> usize {
    tree.span().start().line
}

pub fn is_punct(tree: Option<&TokenTree>, wanted: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn word(tree: Option<&TokenTree>) -> Option<String> {
    match tree {
        Some(TokenTree::Ident(word)) => Some(word.to_string()),
        _ => None,
    }
}

fn group(tree: Option<&TokenTree>, wanted: Delimiter) -> Option<Vec<TokenTree>> {
    match tree {
        Some(TokenTree::Group(group)) if group.delimiter() == wanted => {
            Some(group.stream().into_iter().collect())
        }
        _ => None,
    }
}

/// Calls `look` with the trees of the file and with those inside every bracket.
pub fn every_level(trees: &[TokenTree], look: &mut dyn FnMut(&[TokenTree])) {
    look(trees);
    for tree in trees {
        if let TokenTree::Group(group) = tree {
            let inside: Vec<_> = group.stream().into_iter().collect();
            every_level(&inside, look);
        }
    }
}

/// Leaves out every item marked `#[cfg(test)]`, at any depth.
fn without_tests(stream: TokenStream) -> Vec<TokenTree> {
    let trees: Vec<_> = stream.into_iter().collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < trees.len() {
        let attribute = is_punct(trees.get(at), '#')
            .then(|| group(trees.get(at + 1), Delimiter::Bracket))
            .flatten();
        if attribute.is_some_and(|inside| is_cfg_test(&inside)) {
            at = behind_item(&trees, at);
            continue;
        }
        kept.push(match &trees[at] {
            TokenTree::Group(inside) => {
                let stream = without_tests(inside.stream()).into_iter().collect();
                let mut copy = proc_macro2::Group::new(inside.delimiter(), stream);
                copy.set_span(inside.span());
                TokenTree::Group(copy)
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => trees[at].clone(),
        });
        at += 1;
    }
    kept
}

fn is_cfg_test(attribute: &[TokenTree]) -> bool {
    let inside = group(attribute.get(1), Delimiter::Parenthesis);
    word(attribute.first()).is_some_and(|name| name == "cfg")
        && inside
            .is_some_and(|list| list.len() == 1 && word(list.first()).as_deref() == Some("test"))
}

/// Where what follows the item begins whose first attribute is at `at`.
fn behind_item(trees: &[TokenTree], mut at: usize) -> usize {
    while is_punct(trees.get(at), '#') {
        at += 2;
    }
    while at < trees.len() {
        let is_end = is_punct(trees.get(at), ';');
        let is_body = group(trees.get(at), Delimiter::Brace).is_some();
        at += 1;
        if is_end {
            break;
        }
        if is_body {
            // `use a::{b, c};` has braces and goes on.
            return at + usize::from(is_punct(trees.get(at), ';'));
        }
    }
    at
}

/// Where the name after `::` is, if there is a `::` at `at`.
fn behind_colons(trees: &[TokenTree], at: usize) -> Option<usize> {
    (is_punct(trees.get(at), ':') && is_punct(trees.get(at + 1), ':')).then_some(at + 2)
}

fn paths_of_level(level: &[TokenTree], found: &mut Vec<NamePath>) {
    let mut at = 0;
    while at < level.len() {
        let Some(name) = word(level.get(at)) else {
            at += 1;
            continue;
        };
        if name == "use" {
            let is_exported = is_public(level, at);
            at = use_tree(level, at + 1, &[], is_exported, found);
            continue;
        }
        // The rest of a path that began with `<T as Trait>` or `$crate` is none of ours.
        let goes_on = at >= 2 && behind_colons(level, at - 2).is_some();
        let line = line_of(&level[at]);
        let mut names = vec![name];
        at += 1;
        while let Some(next) = behind_colons(level, at) {
            let Some(name) = word(level.get(next)) else {
                break;
            };
            names.push(name);
            at = next + 1;
        }
        if names.len() > 1 && !goes_on {
            found.push(NamePath {
                names,
                line,
                used_as: None,
                is_exported: false,
            });
        }
    }
}

/// Does `pub` or `pub(…)` stand before the word at `at`?
fn is_public(level: &[TokenTree], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).and_then(|at| level.get(at));
    let is_pub = |tree| word(tree).is_some_and(|name| name == "pub");
    is_pub(before(1)) || group(before(1), Delimiter::Parenthesis).is_some() && is_pub(before(2))
}

/// Reads one tree of a `use` from `at`; where it ends.
fn use_tree(
    level: &[TokenTree],
    mut at: usize,
    base: &[String],
    is_exported: bool,
    found: &mut Vec<NamePath>,
) -> usize {
    let mut names = base.to_vec();
    if let Some(next) = behind_colons(level, at) {
        at = next;
    }
    let line = level.get(at).map_or(0, line_of);
    let mut used_as = None;
    loop {
        if let Some(inside) = group(level.get(at), Delimiter::Brace) {
            let mut inner = 0;
            while inner < inside.len() {
                inner = use_tree(&inside, inner, &names, is_exported, found) + 1;
            }
            return at + 1;
        }
        if is_punct(level.get(at), '*') {
            used_as = Some("*".to_owned());
            at += 1;
        } else if let Some(name) = word(level.get(at)) {
            at += 1;
            if name != "self" || names.is_empty() {
                names.push(name);
            }
            if word(level.get(at)).is_some_and(|name| name == "as") {
                used_as = word(level.get(at + 1));
                at += 2;
            }
        }
        match behind_colons(level, at) {
            Some(next) => at = next,
            None => break,
        }
    }
    if let Some(last) = names.last().cloned() {
        found.push(NamePath {
            names,
            line,
            used_as: Some(used_as.unwrap_or(last)),
            is_exported,
        });
    }
    at
}

fn items_of_level(level: &[TokenTree], found: &mut Vec<String>) {
    const ITEMS: [&str; 9] = [
        "fn", "struct", "enum", "union", "trait", "type", "const", "static", "mod",
    ];
    for (at, tree) in level.iter().enumerate() {
        let Some(kind) = word(Some(tree)) else {
            continue;
        };
        let name = word(level.get(at + 1));
        if ITEMS.contains(&kind.as_str()) {
            // `const fn f` is found at `fn`.
            found.extend(name.filter(|name| !ITEMS.contains(&name.as_str())));
        }
        if kind == "macro_rules" {
            found.extend(word(level.get(at + 2)));
        }
        if kind == "mod"
            && let Some(inside) = group(level.get(at + 2), Delimiter::Brace)
        {
            items_of_level(&inside, found);
        }
    }
}

// ---- files ------------------------------------------------------------------------------------

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The services' and the shared crate's sources, without modules that are tests.
pub fn workspace_sources() -> Vec<Source> {
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
