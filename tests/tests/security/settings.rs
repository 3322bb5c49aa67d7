//! Settings: a bad value stops the start, is named, and is never printed.

use std::time::Duration;

use shared::runtime::settings::VARIABLES;
use system_tests::process::Process;
use system_tests::world::binary_named;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_setting_stops_the_start_and_is_named_and_never_printed() {
    const USAGE: i32 = 64;
    const CANARY: &str = "canary-5ecret";
    let folder = tempfile::tempdir().expect("a folder");
    let (mut starts, mut wrong) = (0, Vec::new());
    for binary in ["command-service", "query-service"] {
        for name in VARIABLES {
            for value in bad_values(name, CANARY) {
                let label = format!("{binary}-{starts}");
                let process = Process::new(&label, &binary_named(binary), folder.path());
                let process = process.environment(
                    [
                        (name.to_owned(), value.clone()),
                        ("COMMAND_OPS_ADDR".to_owned(), "127.0.0.1:0".to_owned()),
                    ]
                    .into_iter()
                    .rev()
                    .collect::<std::collections::BTreeMap<_, _>>(),
                );
                process.start();
                let ended = process.wait(Duration::from_secs(20)).await;
                let said = process.tail(100);
                starts += 1;
                let right = ended.and_then(|ended| ended.code()) == Some(USAGE)
                    && said.contains(&format!("{name} must be "))
                    && !said.contains(CANARY);
                if !right {
                    wrong.push(format!(
                        "{binary} with a bad {name} ({value:?}): {ended:?}\n{said}"
                    ));
                }
            }
        }
    }
    println!(
        "settings: {} of {starts} bad values stop the start, named, not printed",
        starts - wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Values that a variable does not take; each with the canary where a text can be anything.
fn bad_values(name: &str, canary: &str) -> Vec<String> {
    let texts: Vec<String> = match name {
        // Any text is a path, any word is a filter.
        "JWT_PRIVATE_KEY_FILE" => vec![String::new()],
        "RUST_LOG" => vec![format!("=={canary}==["), format!("é[{canary}")],
        "MONGODB_URI" | "VIEWS_MONGODB_URI" => {
            vec![
                canary.to_owned(),
                format!("postgres://user:{canary}@host"),
                format!("mongodb://user:{canary}?@host"),
                format!("mongodb://host/{canary}.dot"),
                format!("mongodb://host/?{canary}=1"),
                format!("mongodb://host:65536/?appName={canary}"),
                format!("mongodb://host/?compressors=zlib&appName={canary}"),
                format!("mongodb://host/?tls=true&tlsCAFile=/{canary}"),
                // No DNS knows of it (RFC 6761).
                format!("mongodb+srv://user:{canary}@microblog.invalid/"),
            ]
        }
        "NATS_URL" => vec![
            format!("http://{canary}"),
            format!("nats://a,{canary}"),
            format!("nats://u:{canary}@a,nats://u:other@b"),
            format!("nats://u:{canary}%@a"),
            format!("nats://u:{canary}@a:65536"),
        ],
        "JWKS_URL" => vec![format!("ftp://{canary}"), "http://".into()],
        "OTEL_EXPORTER_OTLP_ENDPOINT"
        | "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
        | "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT" => vec![
            format!("ftp://{canary}"),
            "http://".into(),
            format!("http://user:{canary}@host"),
        ],
        "OTEL_SERVICE_NAME" => vec![format!("{canary}!")],
        "TRUSTED_PROXIES" => vec![canary.to_owned(), "10.0.0.0/33".into()],
        "CORS_ORIGINS" => vec![canary.to_owned(), format!("https://{canary}/")],
        "STREAM_REPLICAS" => vec![canary.to_owned(), "2".into()],
        "STREAM_HEARTBEAT_SECS" | "KEEP_ALIVE_SECS" => {
            vec![canary.to_owned(), "0".into(), "3601".into()]
        }
        "PUBLIC_URL" => vec![
            format!("/{canary}"),
            format!("ftp://{canary}"),
            format!("https://user:{canary}@host"),
        ],
        "NATS_JS_DOMAIN" => vec![format!("{canary}.*")],
        "PARTITIONS" => vec![canary.to_owned(), "0".into(), "257".into()],
        "CELEBRITY_THRESHOLD" | "POST_QUOTA" | "POST_QUOTA_WINDOW_SECS" => {
            vec![canary.to_owned(), "0".into(), "-1".into()]
        }
        _ => vec![canary.to_owned()],
    };
    texts
}
