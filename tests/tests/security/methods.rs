//! What either service answers for the other, and for a gateway in front of both.

use std::time::Duration;

use futures_util::future::join_all;
use shared::web::routes::{self, Service};
use system_tests::world::World;

use super::clients::{Answer, Clients};

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
        let path = path.replace("{file}", "nothing.css");
        let allow = routes::allow(pattern);
        let allowed: Vec<&str> = allow.split(", ").collect();
        for (name, service) in SERVICES {
            for method in METHODS {
                let answer = clients.send(clients.request(name, method, &path)).await;
                let what = format!("{method} {path} at the {name}: {}", answer.status);
                let wanted = if method == "HEAD" { "GET" } else { method };
                let is_its_own = routes::all().any(|route| {
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
                let elsewhere =
                    routes::all().any(|route| (route.method, route.path) == (wanted, pattern));
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

/// The pages that a gateway shows when it has no answer of a service, from either one.
pub async fn gateways_have_problems_to_show(world: &World, clients: &Clients) {
    let pages = [
        ("404", "not_found"),
        ("429", "too_many_requests"),
        ("431", "headers_too_large"),
        ("502", "bad_gateway"),
        ("503", "unavailable"),
        ("504", "gateway_timeout"),
    ];
    for (service, _) in SERVICES {
        let get = async |status: &str, id: &str| -> Answer {
            let path = format!("/gateway/errors/{status}");
            // Of a page's own request: what the gateway's client sent, whatever that was.
            let request = clients
                .request(service, "GET", &path)
                .header("x-request-id", id)
                .header("authorization", "Bearer expired")
                .header("origin", "https://a.example")
                .header("if-none-match", "*")
                .header("idempotency-key", "x");
            clients.send(request).await
        };
        for (status, code) in pages {
            let answer = get(status, "from-the-client.1").await;
            // The gateway answers with the status, the page says it.
            assert_eq!(answer.status, 200);
            assert_eq!(answer.code(), code);
            assert_eq!(answer.body["status"].to_string(), status);
            assert_eq!(answer.body["type"], format!("urn:microblog:problem:{code}"));
            assert_eq!(answer.body["request_id"], "from-the-client.1");
            assert_eq!(answer.header("x-request-id"), "from-the-client.1");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!(answer.header("cache-control"), "no-store");
            let origin = answer.header("access-control-allow-origin");
            assert_eq!(origin, "https://a.example");
            let again = ["429", "503"].contains(&status);
            assert_eq!(answer.header("retry-after"), if again { "1" } else { "" });
        }
        let other = get("502", "not a valid id").await;
        let id = other.header("x-request-id");
        assert_eq!(id.len(), 32, "{id}");
        assert_eq!(other.body["request_id"], id);
        for status in ["200", "302", "418", "0502", "five", "%35%30%32x", "-1", ""] {
            let answer = get(status, "x").await;
            assert_eq!(answer.status, 404, "{status}");
            assert_eq!(answer.code(), "not_found", "{status}");
        }
        let post = clients.request(service, "POST", "/gateway/errors/502");
        let post = clients.send(post).await;
        assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
        of_one_address(clients, service).await;
    }
    // Whoever asks for them is no alarm.
    for service in [&world.command, &world.query] {
        let metrics = service.metrics().await;
        let alarm = |line: &&str| line.contains("/gateway/") && line.contains("status=\"5");
        assert_eq!(metrics.lines().find(alarm), None);
        assert!(metrics.contains("http_requests_total{"), "{metrics}");
    }
}

/// As many as a gateway wants, which names no client then; who asks through it pays.
async fn of_one_address(clients: &Clients, service: &str) {
    let get = |path: &str| {
        let url = format!("{}{path}", clients.base(service));
        clients.http.get(url).timeout(Duration::from_secs(20))
    };
    let pages = join_all((0..300).map(|_| clients.send(get("/gateway/errors/503")))).await;
    for page in pages {
        assert_eq!((page.status, page.header("ratelimit")), (200, ""));
    }
    let through = get("/gateway/errors/503").header("x-forwarded-for", "203.0.113.40");
    let through = clients.send(through).await;
    assert_eq!(through.header("ratelimit"), "\"address\";r=99;t=1");
}
