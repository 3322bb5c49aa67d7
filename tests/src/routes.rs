//! The routes of a service below the base path: what tests are generated from.

use shared::web::routes::{self, BASE, Service};

/// Method and pattern, below the base path.
pub type Route = (String, String);

/// All of one service.
pub fn of(service: &str) -> Vec<Route> {
    let service = match service {
        "command-service" => Service::Command,
        "query-service" => Service::Query,
        other => panic!("there is no {other}"),
    };
    let below = |(method, path): (&str, &'static str)| {
        let path = path.strip_prefix(BASE)?;
        Some((method.to_owned(), path.to_owned()))
    };
    routes::of(service).filter_map(below).collect()
}
