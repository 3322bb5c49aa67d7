//! What the services of a world find in their environment, and what the tests find in theirs.

use std::path::{Path, PathBuf};

/// The environment of both services. `extra` replaces or adds variables, with the engines'
/// addresses and the world's folder in place of `{mongodb}`, `{nats}` and `{folder}`.
pub(super) fn of_services(
    extra: &[(&str, &str)],
    ports: [u16; 6],
    replica_set: &str,
    folder: &Path,
) -> Vec<(String, String)> {
    let [mongodb, nats, command, command_ops, query, query_ops] =
        ports.map(|port| format!("127.0.0.1:{port}"));
    let mongodb_uri = format!("mongodb://{mongodb}/?replicaSet={replica_set}");
    let nats_url = format!("nats://{nats}");
    let key = folder.join("jwt.pem").display().to_string();
    let jwks_url = format!("http://{command}/.well-known/jwks.json");
    let log_filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let mut environment = owned(&[
        ("MONGODB_URI", &mongodb_uri),
        ("NATS_URL", &nats_url),
        ("COMMAND_ADDR", &command),
        ("COMMAND_OPS_ADDR", &command_ops),
        ("QUERY_ADDR", &query),
        ("QUERY_OPS_ADDR", &query_ops),
        ("JWT_PRIVATE_KEY_FILE", &key),
        ("JWKS_URL", &jwks_url),
        ("PARTITIONS", "4"),
        // Clients here are faster than people.
        ("POST_QUOTA", "1000000"),
        ("IP_RATE_PER_SECOND", "0"),
        ("LOG_FORMAT", "pretty"),
        ("NO_COLOR", "1"),
        ("RUST_LOG", &log_filter),
    ]);
    for (name, value) in extra {
        let value = value.replace("{mongodb}", &mongodb);
        let value = value.replace("{nats}", &nats);
        let value = value.replace("{folder}", &folder.display().to_string());
        environment.retain(|(known, _)| known != name);
        environment.push(((*name).to_owned(), value));
    }
    environment
}

pub(super) fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    variables.iter().map(owned).collect()
}

/// A variable that `make test` sets.
pub(crate) fn needed(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run these tests with `make test` or `make chaos`, which get the engines")
    })
}

/// The folder of the workspace's binaries: `MICROBLOG_BIN_DIR`, or beside this test.
pub fn binaries() -> PathBuf {
    std::env::var_os("MICROBLOG_BIN_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            // target/<profile>/deps/<test>
            let test = std::env::current_exe().expect("the path of this test");
            let profile = test.parent().and_then(Path::parent);
            profile
                .expect("tests lie in target/<profile>/deps")
                .to_owned()
        })
}

/// One of the workspace's binaries.
pub fn binary_named(name: &str) -> PathBuf {
    let path = binaries().join(name);
    let how = "build it with `cargo build --workspace --bins` (`make test` and `make chaos` do)";
    assert!(path.is_file(), "{} is not there: {how}", path.display());
    path
}

/// Where brokers leave their streams, if anybody wants them: `make test` checks every message that is
/// on one (`scripts/check_streams.py`).
pub(super) fn streams_are_kept_in() -> Option<PathBuf> {
    std::env::var_os("MICROBLOG_STREAMS").map(PathBuf::from)
}
