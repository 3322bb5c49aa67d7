//! The command `health`, as the health check of an image runs it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use system_tests::process::describe;
use system_tests::world::{Service, World, free_ports};

const SETTINGS: [&str; 2] = ["COMMAND_OPS_ADDR", "QUERY_OPS_ADDR"];

/// In a world whose services are ready.
pub async fn health_says_in_one_line_whether_a_service_is_ready(world: &World) {
    // What it need not know may be wrong.
    let bad = [
        ("MONGODB_URI", "nonsense"),
        ("NATS_CREDS_FILE", "/nowhere"),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
    ];
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("a port").to_string();
    let [nobody] = free_ports();
    let nobody = format!("127.0.0.1:{nobody}");
    for (service, setting) in services(world) {
        let everywhere = format!("0.0.0.0:{}", service.ops_port());
        let mut extra = bad.to_vec();
        extra.push((setting, &everywhere));
        let ready = health(world, service, &extra).await;
        assert_eq!(ready, (0, "ready".to_owned()));

        let (code, said) = health(world, service, &[(setting, &nobody)]).await;
        assert_eq!(code, 1, "{said}");
        let begins = format!("not ready: {nobody} does not answer: ");
        assert!(said.starts_with(&begins), "{said}");

        let (code, said) = health(world, service, &[(setting, "nonsense")]).await;
        assert_eq!(code, 64);
        assert!(said.starts_with(&format!("{setting} must be ")), "{said}");
    }
    let asked = Instant::now();
    let (code, said) = health(world, &world.query, &[(SETTINGS[1], &silent)]).await;
    let expected = format!("not ready: {silent} does not answer within 2 s");
    assert_eq!((code, said), (1, expected));
    assert!(asked.elapsed() < Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_what_an_unready_service_waits_for() {
    // Without any engine.
    let world = World::idle(&[]);
    for (service, _) in services(&world) {
        service.process.start();
        let reason = "the database is missed";
        let missed = "MongoDB answers";
        service
            // At first nobody has looked: "not yet".
            .readiness_becomes(reason, |readiness| {
                let why = readiness.body["missing"][missed].as_str();
                why.is_some_and(|why| why != "not yet")
            })
            .await;
        let (code, said) = health(&world, service, &[]).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.starts_with("not ready: "), "{said}");
        assert!(said.contains(&format!("{missed}: ")), "{said}");
    }
}

fn services(world: &World) -> [(&Service, &'static str); 2] {
    [(&world.command, SETTINGS[0]), (&world.query, SETTINGS[1])]
}

/// Runs the command: its exit code, and the line that it prints.
async fn health(world: &World, service: &Service, extra: &[(&str, &str)]) -> (i32, String) {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let name = format!("health-{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let process = world.operator_with(&name, service.process.name(), &["health"], extra);
    let (status, printed) = world.run_to_end(&process).await;
    let code = status.code();
    let code = code.unwrap_or_else(|| panic!("it ended by {}", describe(status)));
    let said = format!("{printed}{}", process.logged());
    assert_eq!(said.lines().count(), 1, "{said}");
    (code, said.trim_end().to_owned())
}
