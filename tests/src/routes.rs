//! The routes that a service has, as its sources list them: what tests are generated from.

use std::path::Path;

/// Method and pattern, below the base path.
pub type Route = (String, String);

/// Everything in `ROUTES` of one service.
pub fn of(service: &str) -> Vec<Route> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here
        .parent()
        .expect("this crate is a folder of the workspace");
    let file = root.join(service).join("src/http/mod.rs");
    let text = std::fs::read_to_string(&file);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let routes = routes_table(&text);
    assert!(!routes.is_empty(), "{service}: no `const ROUTES` found");
    routes
}

/// The pairs of texts in `const ROUTES`, if the file has one.
pub fn routes_table(text: &str) -> Vec<Route> {
    let Some((_, table)) = text
        .split_once("const ROUTES")
        .and_then(|(_, rest)| rest.split_once('='))
    else {
        return Vec::new();
    };
    let table = table.split_once("];").map_or(table, |(table, _)| table);
    let texts: Vec<&str> = table.split('"').skip(1).step_by(2).collect();
    texts
        .chunks_exact(2)
        .map(|pair| (pair[0].to_owned(), pair[1].to_owned()))
        .collect()
}
