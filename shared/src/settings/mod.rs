//! The settings of `docs/api.md`, read once from the environment.
//!
//! All faults are told together. A fault names its variable and what it wants, never the value:
//! a value may be a secret in the wrong place.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

mod faults;
mod mongodb_uri;
mod nats;
mod secret;

pub use faults::SettingsError;
pub use mongodb_uri::database_name;
pub use nats::{NatsSettings, SignIn};
pub use secret::Secret;

use faults::Faults;

use crate::event_stream::Names;
use crate::partition::Partitions;
use crate::public_url::PublicUrl;

/// Of the workspace: all its programs are released together.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    Json,
    Pretty,
}

/// Which origins may call from a browser.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CorsOrigins {
    None,
    Any,
    List(Vec<String>),
}

/// Everything either service can be told from outside.
#[derive(Clone, Debug)]
pub struct Settings {
    pub mongodb_uri: Secret,
    /// Or it is the default: with `VIEWS_MONGODB_URI` alone a process may know no log.
    pub mongodb_uri_is_set: bool,
    /// Where the views are, if not beside the log.
    pub views_mongodb_uri: Option<Secret>,
    pub nats: NatsSettings,
    /// Names the stream and the subjects on a broker that several deployments share.
    pub names: Names,
    pub stream_replicas: usize,
    pub command_addr: SocketAddr,
    pub query_addr: SocketAddr,
    pub command_ops_addr: SocketAddr,
    pub query_ops_addr: SocketAddr,
    pub partitions: Partitions,
    pub celebrity_threshold: u64,
    pub post_quota: u32,
    pub post_quota_window_secs: u32,
    pub ip_rate_per_second: u32,
    pub jwt_private_key_file: PathBuf,
    pub jwks_url: String,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    pub cors_origins: CorsOrigins,
    /// What `Link` and `Location` begin with.
    pub public_url: PublicUrl,
    /// 0: nobody is ever idle.
    pub idle_days: u32,
    pub log_format: LogFormat,
    pub log_filter: String,
    pub otlp_endpoint: Option<String>,
    /// Between two comments on a live stream on which nothing else happens.
    pub stream_heartbeat: Duration,
}

/// What the environment says, unchecked. All texts: envy prints values in its own errors, so it
/// is given nothing it could refuse.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Given {
    mongodb_uri: Option<String>,
    views_mongodb_uri: Option<String>,
    nats_url: Option<String>,
    nats_creds_file: Option<String>,
    nats_nkey_file: Option<String>,
    nats_tls_ca_file: Option<String>,
    nats_tls_cert_file: Option<String>,
    nats_tls_key_file: Option<String>,
    nats_js_domain: Option<String>,
    nats_prefix: Option<String>,
    stream_replicas: Option<String>,
    command_addr: Option<String>,
    query_addr: Option<String>,
    command_ops_addr: Option<String>,
    query_ops_addr: Option<String>,
    partitions: Option<String>,
    celebrity_threshold: Option<String>,
    post_quota: Option<String>,
    post_quota_window_secs: Option<String>,
    ip_rate_per_second: Option<String>,
    jwt_private_key_file: Option<String>,
    jwks_url: Option<String>,
    trusted_proxies: Option<String>,
    cors_origins: Option<String>,
    public_url: Option<String>,
    idle_days: Option<String>,
    log_format: Option<String>,
    rust_log: Option<String>,
    otel_exporter_otlp_endpoint: Option<String>,
    stream_heartbeat_secs: Option<String>,
}

/// Every variable that [`Settings::from_vars`] reads.
pub const VARIABLES: [&str; 30] = [
    "MONGODB_URI",
    "VIEWS_MONGODB_URI",
    "NATS_URL",
    "NATS_CREDS_FILE",
    "NATS_NKEY_FILE",
    "NATS_TLS_CA_FILE",
    "NATS_TLS_CERT_FILE",
    "NATS_TLS_KEY_FILE",
    "NATS_JS_DOMAIN",
    "NATS_PREFIX",
    "STREAM_REPLICAS",
    "COMMAND_ADDR",
    "QUERY_ADDR",
    "COMMAND_OPS_ADDR",
    "QUERY_OPS_ADDR",
    "PARTITIONS",
    "CELEBRITY_THRESHOLD",
    "POST_QUOTA",
    "POST_QUOTA_WINDOW_SECS",
    "IP_RATE_PER_SECOND",
    "JWT_PRIVATE_KEY_FILE",
    "JWKS_URL",
    "TRUSTED_PROXIES",
    "CORS_ORIGINS",
    "PUBLIC_URL",
    "IDLE_DAYS",
    "LOG_FORMAT",
    "RUST_LOG",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "STREAM_HEARTBEAT_SECS",
];

impl Settings {
    /// Reads the settings from this process's environment, looks into the files that they name,
    /// and asks DNS where a `mongodb+srv://` name leads. A DNS that does not answer is no fault of
    /// the settings.
    ///
    /// # Errors
    /// All faults at once.
    pub async fn from_env() -> Result<Self, SettingsError> {
        let (settings, mut faults) = Self::gather(std::env::vars_os());
        let uris = [
            ("MONGODB_URI", Some(&settings.mongodb_uri)),
            ("VIEWS_MONGODB_URI", settings.views_mongodb_uri.as_ref()),
        ];
        for (name, uri) in uris {
            let Some(uri) = uri else { continue };
            if let Err(wants) = mongodb_uri::resolve(uri).await {
                faults.say(name, wants);
            }
        }
        faults.or(settings)
    }

    /// Reads the settings from an environment, without asking anybody.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let (settings, faults) = Self::gather(vars);
        faults.or(settings)
    }

    /// What can be read, and what is wrong with the rest.
    fn gather(vars: impl IntoIterator<Item = (OsString, OsString)>) -> (Self, Faults) {
        let mut faults = Faults::default();
        let mut texts = Vec::new();
        for (name, value) in vars {
            let Some(name) = name.to_str().filter(|name| VARIABLES.contains(name)) else {
                continue;
            };
            match value.into_string() {
                Ok(value) => texts.push((name.to_owned(), value)),
                Err(_) => faults.say(name, "text in UTF-8"),
            }
        }
        let given: Given = envy::from_iter(texts).unwrap_or_default();
        let settings = Self::check(given, &mut faults);
        (settings, faults)
    }

    fn check(given: Given, faults: &mut Faults) -> Self {
        const ADDRESS: &str = "an address and a port, as in 127.0.0.1:8081";
        let url = |text: &str| {
            let known = text.starts_with("http://") || text.starts_with("https://");
            (known && text.len() > 8).then(|| text.to_owned())
        };
        fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
            text.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| text.parse().ok())
                .flatten()
        }
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        let command_addr = faults.read(
            "COMMAND_ADDR",
            given.command_addr,
            "127.0.0.1:8081",
            ADDRESS,
            address,
        );
        let jwks_host = if command_addr.ip().is_unspecified() {
            format!("127.0.0.1:{}", command_addr.port())
        } else {
            command_addr.to_string()
        };
        let own_jwks = format!("http://{jwks_host}/.well-known/jwks.json");
        Self {
            mongodb_uri_is_set: given.mongodb_uri.is_some(),
            mongodb_uri: mongodb_uri::read("MONGODB_URI", given.mongodb_uri, faults)
                .unwrap_or_else(|| Secret::new("mongodb://127.0.0.1:27017")),
            views_mongodb_uri: given
                .views_mongodb_uri
                .and_then(|text| mongodb_uri::read("VIEWS_MONGODB_URI", Some(text), faults)),
            nats: nats::read(
                nats::Given {
                    url: given.nats_url,
                    creds_file: given.nats_creds_file,
                    nkey_file: given.nats_nkey_file,
                    ca_file: given.nats_tls_ca_file,
                    cert_file: given.nats_tls_cert_file,
                    key_file: given.nats_tls_key_file,
                    js_domain: given.nats_js_domain,
                },
                faults,
            ),
            names: faults.read(
                "NATS_PREFIX",
                given.nats_prefix,
                "microblog",
                "1 to 32 of a-z, 0-9 and _",
                |text| text.parse().ok(),
            ),
            stream_replicas: faults.read(
                "STREAM_REPLICAS",
                given.stream_replicas,
                "1",
                "1, 3 or 5",
                |text| number(text).filter(|n| [1, 3, 5].contains(n)),
            ),
            command_addr,
            query_addr: faults.read(
                "QUERY_ADDR",
                given.query_addr,
                "127.0.0.1:8082",
                ADDRESS,
                address,
            ),
            command_ops_addr: faults.read(
                "COMMAND_OPS_ADDR",
                given.command_ops_addr,
                "127.0.0.1:9081",
                ADDRESS,
                address,
            ),
            query_ops_addr: faults.read(
                "QUERY_OPS_ADDR",
                given.query_ops_addr,
                "127.0.0.1:9082",
                ADDRESS,
                address,
            ),
            partitions: faults.read(
                "PARTITIONS",
                given.partitions,
                "4",
                "a number from 1 to 256",
                |text| number(text).and_then(Partitions::new),
            ),
            celebrity_threshold: faults.read(
                "CELEBRITY_THRESHOLD",
                given.celebrity_threshold,
                "100000",
                "a number of followers, 1 or more",
                |text| number(text).filter(|n| *n >= 1),
            ),
            post_quota: faults.read(
                "POST_QUOTA",
                given.post_quota,
                "300",
                "a number of posts, 1 or more",
                |text| number(text).filter(|n| *n >= 1),
            ),
            post_quota_window_secs: faults.read(
                "POST_QUOTA_WINDOW_SECS",
                given.post_quota_window_secs,
                "10800",
                "a number of seconds, 1 or more",
                |text| number(text).filter(|n| *n >= 1),
            ),
            ip_rate_per_second: faults.read(
                "IP_RATE_PER_SECOND",
                given.ip_rate_per_second,
                "200",
                "a number of requests, 0 for no limit",
                number,
            ),
            jwt_private_key_file: faults.read(
                "JWT_PRIVATE_KEY_FILE",
                given.jwt_private_key_file,
                ".data/jwt.pem",
                "the path of a file",
                |text| (!text.is_empty()).then(|| PathBuf::from(text)),
            ),
            jwks_url: faults.read(
                "JWKS_URL",
                given.jwks_url,
                &own_jwks,
                "a URL that begins with http:// or https://",
                url,
            ),
            trusted_proxies: faults.read(
                "TRUSTED_PROXIES",
                given.trusted_proxies,
                "",
                "addresses or networks, as in 10.0.0.0/8, with commas between them",
                networks,
            ),
            cors_origins: faults.read(
                "CORS_ORIGINS",
                given.cors_origins,
                "",
                "*, or origins as in https://example.org with commas between them",
                origins,
            ),
            public_url: faults.read(
                "PUBLIC_URL",
                given.public_url,
                "",
                "an absolute URL as in https://example.org/social, without user, query and fragment",
                PublicUrl::parse,
            ),
            idle_days: faults.read(
                "IDLE_DAYS",
                given.idle_days,
                "30",
                "a number of days, 0 for never",
                number,
            ),
            log_format: faults.read(
                "LOG_FORMAT",
                given.log_format,
                "json",
                "json or pretty",
                |text| match text {
                    "json" => Some(LogFormat::Json),
                    "pretty" => Some(LogFormat::Pretty),
                    _ => None,
                },
            ),
            log_filter: faults.read(
                "RUST_LOG",
                given.rust_log,
                "info",
                "a filter as in info,command_service=debug",
                // The parser (tracing-subscriber 0.3.23) takes the number of a character for its
                // place in the text, and panics where those differ.
                |text| {
                    let fits = text.is_ascii() && EnvFilter::try_new(text).is_ok();
                    fits.then(|| without_client_noise(text))
                },
            ),
            otlp_endpoint: given.otel_exporter_otlp_endpoint.map(|text| {
                faults.read(
                    "OTEL_EXPORTER_OTLP_ENDPOINT",
                    Some(text),
                    "http://localhost:4317",
                    "a URL that begins with http:// or https://",
                    url,
                )
            }),
            stream_heartbeat: faults.read(
                "STREAM_HEARTBEAT_SECS",
                given.stream_heartbeat_secs,
                "15",
                "a number of seconds from 1 to 3600",
                |text| {
                    number(text)
                        .filter(|seconds| (1..=3600).contains(seconds))
                        .map(Duration::from_secs)
                },
            ),
        }
    }
}

/// The client of NATS logs every attempt to connect as an error. We say what matters, once: see
/// [`crate::connections`]. Who wants to hear it all the same names it in the filter.
fn without_client_noise(filter: &str) -> String {
    match filter {
        "" => "async_nats=off".to_owned(),
        named if named.contains("async_nats") => named.to_owned(),
        other => format!("{},async_nats=off", other.trim_end_matches([',', ' '])),
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn networks(text: &str) -> Option<Vec<IpNet>> {
    let network = |item: &str| {
        let network = item.parse().ok();
        network.or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from))
    };
    list(text)
        .map(|item| network(item).map(canonical))
        .collect()
}

/// A block of IPv4 addresses that are mapped into IPv6 (`::ffff:10.0.0.0/104`) is one of IPv4.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let mapped = || {
        let IpNet::V6(network) = network else {
            return None;
        };
        let address = network.addr().to_ipv4_mapped()?;
        let prefix = network.prefix_len().checked_sub(MAPPED)?;
        Ipv4Net::new(address, prefix).ok()
    };
    mapped().map_or(network, IpNet::V4)
}

fn origins(text: &str) -> Option<CorsOrigins> {
    match text.trim() {
        "" => Some(CorsOrigins::None),
        "*" => Some(CorsOrigins::Any),
        _ => {
            let origin = |item: &str| {
                let known = item.starts_with("http://") || item.starts_with("https://");
                (known && !item.ends_with('/')).then(|| item.to_owned())
            };
            list(text)
                .map(origin)
                .collect::<Option<_>>()
                .map(CorsOrigins::List)
        }
    }
}

#[cfg(test)]
mod tests;
