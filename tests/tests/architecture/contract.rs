//! The HTTP contract as docs/api.md states it.

use std::collections::BTreeSet;

use system_tests::routes::Route;

/// The routes in the first column of the tables of docs/api.md.
pub fn documented_routes(text: &str) -> BTreeSet<Route> {
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
