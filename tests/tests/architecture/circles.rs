//! Which file of a crate names what another file defines, and whether that ever leads back.
//!
//! A file depends on the file that defines what it names by a path or a `use`. `mod x;` makes no
//! dependency, nor does `pub use`: a name that is handed on is looked for where it is defined. What
//! is reached by a method alone is not seen.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{NamePath, Source};

/// What depends on what, with the line that says so.
pub type Graph = BTreeMap<String, BTreeMap<String, usize>>;

struct File<'a> {
    source: &'a Source,
    items: BTreeSet<String>,
    paths: Vec<NamePath>,
}

struct Crate<'a> {
    files: BTreeMap<Vec<String>, File<'a>>,
}

/// What the files of one crate depend on. `folder` is its `src`.
pub fn of_files(sources: &[Source], folder: &str) -> Graph {
    let files = sources.iter().filter(|source| source.is_in(folder));
    // `main.rs` is a crate of its own that nothing can import.
    let files = files.filter(|source| !source.path.ends_with("/src/main.rs"));
    let modules = files.map(|source| {
        let file = File {
            source,
            items: source.items().into_iter().collect(),
            paths: source.paths(),
        };
        (source.module(), file)
    });
    let all = Crate {
        files: modules.collect(),
    };
    let mut graph = Graph::new();
    for (module, file) in &all.files {
        let edges = graph.entry(file.source.path.clone()).or_default();
        for path in file.paths.iter().filter(|path| !path.is_exported) {
            let Some(target) = all.defined_in(module, path, 0) else {
                continue;
            };
            let target = &all.files[&target].source.path;
            if *target != file.source.path {
                edges.entry(target.clone()).or_insert(path.line);
            }
        }
    }
    graph
}

/// The same between the rooms of the crate: the modules at its root.
pub fn of_rooms(files: &Graph, folder: &str) -> Graph {
    let room = |path: &str| {
        let inside = path.strip_prefix(folder).unwrap_or(path);
        let inside = inside.trim_start_matches('/');
        let name = inside.split('/').next().unwrap_or(inside);
        name.trim_end_matches(".rs").to_owned()
    };
    let mut graph = Graph::new();
    for (file, edges) in files {
        for (target, line) in edges {
            let (from, to) = (room(file), room(target));
            if from != to {
                graph.entry(from).or_default().entry(to).or_insert(*line);
            }
        }
    }
    graph
}

impl Crate<'_> {
    /// The module whose file defines what `path`, which stands in `module`, names.
    fn defined_in(&self, module: &[String], path: &NamePath, depth: usize) -> Option<Vec<String>> {
        let mut names = path.names.iter();
        let first = names.next()?;
        let start = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module.split_last()?.1.to_vec(),
            name => {
                let names: Vec<_> = path.names.iter().map(String::as_str).collect();
                return match self.child(module, name) {
                    Some(_) => self.walk(module.to_vec(), &names, depth),
                    // A name that a `use` brought in: its `use` says where it is from.
                    None if path.used_as.is_some() => None,
                    None => self.imported(module, &names, depth),
                };
            }
        };
        let names: Vec<_> = names.map(String::as_str).collect();
        self.walk(start, &names, depth)
    }

    fn child(&self, module: &[String], name: &str) -> Option<Vec<String>> {
        let child: Vec<_> = module.iter().cloned().chain([name.to_owned()]).collect();
        self.files.contains_key(&child).then_some(child)
    }

    fn walk(&self, mut module: Vec<String>, names: &[&str], depth: usize) -> Option<Vec<String>> {
        let mut at = 0;
        while let Some(name) = names.get(at) {
            if *name == "super" {
                module.pop()?;
            } else if let Some(child) = self.child(&module, name) {
                module = child;
            } else if self.files.get(&module)?.items.contains(*name) {
                return Some(module);
            } else {
                return self.imported(&module, &names[at..], depth);
            }
            at += 1;
        }
        // A module that is only named: what is named of it makes the dependency.
        None
    }

    /// Follows the `use` of `module` that brings in the first of `names`.
    fn imported(&self, module: &[String], names: &[&str], depth: usize) -> Option<Vec<String>> {
        // Two files may hand each other's names on.
        if depth > 8 {
            return None;
        }
        let (first, rest) = names.split_first()?;
        let file = self.files.get(module)?;
        let uses = |name: &str| {
            let name = name.to_owned();
            let paths = file.paths.iter();
            paths.filter(move |path| path.used_as.as_ref() == Some(&name))
        };
        for path in uses(first) {
            let whole: Vec<_> = path.names.iter().map(String::as_str).collect();
            let whole = whole.into_iter().chain(rest.iter().copied());
            let target = NamePath {
                names: whole.map(str::to_owned).collect(),
                line: path.line,
                used_as: None,
                is_exported: false,
            };
            if let Some(found) = self.defined_in(module, &target, depth + 1) {
                return Some(found);
            }
        }
        for path in uses("*") {
            let whole = path.names.iter().map(String::as_str);
            let target = NamePath {
                names: whole
                    .chain(names.iter().copied())
                    .map(str::to_owned)
                    .collect(),
                line: path.line,
                used_as: None,
                is_exported: false,
            };
            if let Some(found) = self.defined_in(module, &target, depth + 1) {
                return Some(found);
            }
        }
        None
    }
}

/// One circle for every knot of files that depend on each other: the shortest through its first.
pub fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = Vec::new();
    for start in graph.keys() {
        let known = found.iter().any(|circle| circle.contains(start));
        if !known && let Some(circle) = shortest_back_to(graph, start) {
            found.push(circle);
        }
    }
    found
}

fn shortest_back_to(graph: &Graph, start: &String) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.clone()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in graph.get(way.last()?).into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way.iter().cloned().chain([next.clone()]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The circle in words, each step with the line that makes it.
pub fn in_words(graph: &Graph, circle: &[String]) -> String {
    let next = circle.iter().skip(1).chain(circle.first());
    let steps = circle.iter().zip(next).map(|(from, to)| {
        let line = graph[from][to];
        format!("{from}:{line} -> {to}")
    });
    steps.collect::<Vec<_>>().join(", ")
}
