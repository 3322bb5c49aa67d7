//! What either service answers for the other.

use shared::web::routes::{self, ROUTES, Service};

use super::clients::Clients;

const SERVICES: [(&str, Service); 2] = [
    ("command-service", Service::Command),
    ("query-service", Service::Query),
];

/// Whichever service a gateway asks, for whatever method of whatever path, the answer is the one
/// that the service with that path would give.
pub async fn either_service_names_the_methods_of_every_path(clients: &Clients) {
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE",
    ];
    let (mut refused, mut served) = (0, 0);
    for pattern in routes::paths() {
        let path = pattern.replace("{id}", "4711").replace("{name}", "nobody");
        let allow = routes::allow(pattern);
        let allowed: Vec<&str> = allow.split(", ").collect();
        for (name, service) in SERVICES {
            for method in METHODS {
                let answer = clients.send(clients.request(name, method, &path)).await;
                let what = format!("{method} {path} at the {name}: {}", answer.status);
                let wanted = if method == "HEAD" { "GET" } else { method };
                let is_its_own = ROUTES.iter().any(|route| {
                    (route.service, route.method, route.path) == (service, wanted, pattern)
                });
                if is_its_own {
                    // Without a token or a body; some are of nobody.
                    assert_ne!(answer.status, 405, "{what}");
                    assert_eq!(answer.header("allow"), "", "{what}");
                    served += 1;
                    continue;
                }
                assert_eq!(answer.status, 405, "{what}");
                assert_eq!(answer.header("allow"), allow, "{what}");
                // The method that the other service has is among them.
                let elsewhere = ROUTES
                    .iter()
                    .any(|route| (route.method, route.path) == (wanted, pattern));
                assert_eq!(allowed.contains(&method), elsewhere, "{what}");
                if method != "HEAD" {
                    assert_eq!(answer.fault(), None, "{what}");
                    assert_eq!(answer.code(), "method_not_allowed", "{what}");
                }
                refused += 1;
            }
            let nowhere = format!("{path}/nowhere/at/all");
            let answer = clients.send(clients.request(name, "GET", &nowhere)).await;
            assert_eq!(
                (answer.status, answer.code()),
                (404, "not_found"),
                "{nowhere}"
            );
        }
    }
    println!(
        "methods: {served} answered by the service that has them, {refused} refused with Allow"
    );
}
