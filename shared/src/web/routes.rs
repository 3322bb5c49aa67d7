//! Every route of both services. Each service knows the other's: a gateway asks either one for a
//! method that neither has, and each answers 405 with all methods of the path.

use crate::auth::token::KEY_SET;
use Service::{Command, Query};

/// What the paths of all routes but the key set begin with.
pub const BASE: &str = "/api/v1";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Service {
    Command,
    Query,
}

/// Which service answers a method of a path. GET stands for HEAD as well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route {
    pub service: Service,
    pub method: &'static str,
    pub path: &'static str,
}

const fn route(service: Service, method: &'static str, path: &'static str) -> Route {
    Route {
        service,
        method,
        path,
    }
}

/// All of them; tests, the Postman collection and docs/api.md are checked against them. A request
/// belongs to the first path that it matches.
pub const ROUTES: [Route; 38] = [
    route(Command, "GET", KEY_SET),
    route(Command, "POST", "/api/v1/auth/login"),
    route(Command, "POST", "/api/v1/auth/refresh"),
    route(Command, "POST", "/api/v1/auth/logout"),
    route(Query, "GET", "/api/v1/auth/sessions"),
    route(Command, "DELETE", "/api/v1/auth/sessions"),
    route(Command, "DELETE", "/api/v1/auth/sessions/{session_id}"),
    route(Query, "GET", "/api/v1/users"),
    route(Command, "POST", "/api/v1/users"),
    route(Query, "GET", "/api/v1/users/me"),
    route(Command, "PATCH", "/api/v1/users/me"),
    route(Command, "DELETE", "/api/v1/users/me"),
    route(Command, "PUT", "/api/v1/users/me/password"),
    route(Command, "PUT", "/api/v1/users/me/email"),
    route(Query, "GET", "/api/v1/users/by-username/{name}"),
    route(Query, "GET", "/api/v1/users/{id}"),
    route(Command, "POST", "/api/v1/users/{id}/follow"),
    route(Command, "DELETE", "/api/v1/users/{id}/follow"),
    route(Query, "GET", "/api/v1/users/{id}/posts"),
    route(Query, "GET", "/api/v1/users/{id}/followers"),
    route(Query, "GET", "/api/v1/users/{id}/following"),
    route(Query, "GET", "/api/v1/users/{id}/mutuals"),
    route(Query, "GET", "/api/v1/users/{id}/relationship"),
    route(Query, "GET", "/api/v1/relationships"),
    route(Query, "GET", "/api/v1/timeline"),
    route(Query, "GET", "/api/v1/timeline/stream"),
    route(Query, "GET", "/api/v1/posts"),
    route(Command, "POST", "/api/v1/posts"),
    route(Query, "GET", "/api/v1/posts/{id}"),
    route(Command, "DELETE", "/api/v1/posts/{id}"),
    route(Query, "GET", "/api/v1/posts/{id}/replies"),
    route(Query, "GET", "/api/v1/posts/{id}/thread"),
    route(Query, "GET", "/api/v1/posts/{id}/likes"),
    route(Query, "GET", "/api/v1/posts/{id}/reposts"),
    route(Command, "POST", "/api/v1/posts/{id}/like"),
    route(Command, "DELETE", "/api/v1/posts/{id}/like"),
    route(Command, "POST", "/api/v1/posts/{id}/repost"),
    route(Command, "DELETE", "/api/v1/posts/{id}/repost"),
];

/// What people open in a browser. It is no part of the API, so the contract and the Postman collection
/// do not have it; other methods of its paths are refused as everywhere.
pub const PAGES: [Route; 4] = [
    route(Query, "GET", "/"),
    route(Query, "GET", "/web/{file}"),
    route(Query, "GET", "/docs"),
    route(Query, "GET", "/openapi.json"),
];

/// Everything that is served: the API first, then the pages.
pub fn all() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().chain(PAGES.iter())
}

/// The routes and pages of one service, as method and path.
pub fn of(service: Service) -> impl Iterator<Item = (&'static str, &'static str)> {
    let own = all().filter(move |route| route.service == service);
    own.map(|route| (route.method, route.path))
}

/// Every path once, in the order in which requests are matched.
pub fn paths() -> impl Iterator<Item = &'static str> {
    let mut seen = Vec::new();
    all().map(|route| route.path).filter(move |path| {
        let is_new = !seen.contains(path);
        if is_new {
            seen.push(*path);
        }
        is_new
    })
}

/// The methods that a path has at either service, as `Allow` lists them.
pub fn allow(path: &str) -> String {
    let has = all().filter(|route| route.path == path);
    let methods = has.map(|route| match route.method {
        "GET" => "GET, HEAD",
        method => method,
    });
    methods.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_services_answer_on_a_path_is_allowed_there() {
        assert_eq!(allow("/api/v1/posts/{id}"), "GET, HEAD, DELETE");
        assert_eq!(allow("/api/v1/users/me"), "GET, HEAD, PATCH, DELETE");
        assert_eq!(allow("/"), "GET, HEAD");
        assert_eq!(allow("/docs"), "GET, HEAD");
        assert_eq!(allow("/nowhere"), "");
    }

    #[test]
    fn each_route_is_one_service_s_and_each_path_is_once_in_the_order_of_the_table() {
        let mut seen = std::collections::BTreeSet::new();
        for route in all() {
            assert!(seen.insert((route.method, route.path)), "{route:?}");
        }
        for route in ROUTES {
            assert!(route.path == KEY_SET || route.path.starts_with(BASE));
        }
        for page in PAGES {
            assert_eq!(page.method, "GET", "{page:?}");
            assert!(!page.path.starts_with(BASE), "{page:?}");
        }
        let paths: Vec<_> = paths().collect();
        assert_eq!(paths.len(), 33);
        let at = |path| paths.iter().position(|known| *known == path);
        assert!(at("/api/v1/users/me") < at("/api/v1/users/{id}"));
        let by_name = at("/api/v1/users/by-username/{name}");
        assert!(by_name < at("/api/v1/users/{id}/posts"));
    }
}
