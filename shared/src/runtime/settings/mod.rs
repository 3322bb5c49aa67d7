//! The settings of `docs/settings.md`, read once from the environment.
//!
//! All faults are told together. A fault names its variable and what it wants, never the value:
//! a value may be a secret in the wrong place.
//!
//! * `variables`: the table of all variables; `values`: what they are read as.
//! * `environment`, `faults`: reading them, and saying what is wrong.
//! * `nats`, `mongodb_uri`, `otlp`: what takes more than a line.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

mod environment;
mod faults;
mod mongodb_uri;
mod nats;
mod otlp;
mod secret;
mod values;
mod variables;

pub use faults::SettingsError;
pub use mongodb_uri::database_name;
pub use nats::{NatsSettings, SignIn};
pub use otlp::{OtlpSettings, RootSampler, Sampler};
pub use secret::Secret;
pub use values::{CorsOrigins, LogFormat};
pub use variables::{DEFAULTS, VARIABLES};

use crate::contract::event_stream::StreamNames;
use crate::contract::partition::Partitions;
use crate::runtime::public_url::PublicUrl;
use environment::Environment;
use faults::Faults;

/// Of the workspace: all its programs are released together.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything either service can be told from outside.
#[derive(Clone, Debug)]
pub struct Settings {
    pub mongodb_uri: Secret,
    /// False if it is the default. With `VIEWS_MONGODB_URI` alone a process may know no log.
    pub mongodb_uri_is_set: bool,
    /// Where the views are, if not beside the log.
    pub views_mongodb_uri: Option<Secret>,
    pub nats: NatsSettings,
    /// Names the stream and the subjects on a broker that several deployments share.
    pub names: StreamNames,
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
    /// Readers who have not read for so long are skipped by fan-out; 0 for never.
    pub idle_days: u32,
    pub log_format: LogFormat,
    pub log_filter: String,
    /// Where traces and logs are sent.
    pub otlp: OtlpSettings,
    /// Between two comments on a live stream on which nothing else happens.
    pub stream_heartbeat: Duration,
    /// How long a connection on which nothing is asked is kept.
    pub keep_alive: Duration,
    /// How long a service that is asked to stop still takes requests.
    pub drain: Duration,
}

/// The operator's port of one of the services.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpsPort {
    Command,
    Query,
}

impl OpsPort {
    /// Reads where it listens from this process's environment, and nothing else.
    ///
    /// # Errors
    /// The one fault.
    #[expect(
        clippy::disallowed_methods,
        reason = "for a process that does without the other settings"
    )]
    pub fn read(self) -> Result<SocketAddr, SettingsError> {
        self.read_vars(std::env::vars_os())
    }

    fn read_vars(
        self,
        vars: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<SocketAddr, SettingsError> {
        let variable = match self {
            Self::Command => &variables::COMMAND_OPS_ADDR,
            Self::Query => &variables::QUERY_OPS_ADDR,
        };
        let vars = vars.into_iter();
        let mut env = Environment::gather(vars.filter(|(name, _)| name == variable.name));
        let address = env.read(variable);
        env.faults.or(address)
    }
}

impl Settings {
    /// Reads the settings from this process's environment, looks into the files that they name,
    /// and asks DNS where a `mongodb+srv://` name leads. A DNS that does not answer is no fault of
    /// the settings.
    ///
    /// # Errors
    /// All faults at once.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    pub async fn from_env() -> Result<Self, SettingsError> {
        let (settings, mut faults) = Self::read(std::env::vars_os());
        let uris = [
            (&variables::MONGODB_URI, Some(&settings.mongodb_uri)),
            (
                &variables::VIEWS_MONGODB_URI,
                settings.views_mongodb_uri.as_ref(),
            ),
        ];
        for (variable, uri) in uris {
            let Some(uri) = uri else { continue };
            if let Err(wants) = mongodb_uri::resolve(uri).await {
                faults.say(variable.name, wants);
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
        let (settings, faults) = Self::read(vars);
        faults.or(settings)
    }

    /// What can be read, and what is wrong with the rest.
    fn read(vars: impl IntoIterator<Item = (OsString, OsString)>) -> (Self, Faults) {
        let mut env = Environment::gather(vars);
        let command_addr = env.read(&variables::COMMAND_ADDR);
        let mongodb_uri = env.text(&variables::MONGODB_URI);
        let settings = Self {
            mongodb_uri_is_set: mongodb_uri.is_some(),
            mongodb_uri: mongodb_uri::read(&variables::MONGODB_URI, mongodb_uri, &mut env.faults)
                .unwrap_or_else(|| Secret::new(variables::MONGODB_URI.default)),
            views_mongodb_uri: mongodb_uri::read(
                &variables::VIEWS_MONGODB_URI,
                env.text(&variables::VIEWS_MONGODB_URI),
                &mut env.faults,
            ),
            nats: nats::read(nats::Given::of(&env), &mut env.faults),
            names: env.read(&variables::NATS_PREFIX),
            stream_replicas: env.read(&variables::STREAM_REPLICAS),
            command_addr,
            query_addr: env.read(&variables::QUERY_ADDR),
            command_ops_addr: env.read(&variables::COMMAND_OPS_ADDR),
            query_ops_addr: env.read(&variables::QUERY_OPS_ADDR),
            partitions: env.read(&variables::PARTITIONS),
            celebrity_threshold: env.read(&variables::CELEBRITY_THRESHOLD),
            post_quota: env.read(&variables::POST_QUOTA),
            post_quota_window_secs: env.read(&variables::POST_QUOTA_WINDOW_SECS),
            ip_rate_per_second: env.read(&variables::IP_RATE_PER_SECOND),
            jwt_private_key_file: env.read(&variables::JWT_PRIVATE_KEY_FILE),
            jwks_url: env
                .read_if_set(&variables::JWKS_URL)
                .unwrap_or_else(|| own_jwks_url(command_addr)),
            trusted_proxies: env.read(&variables::TRUSTED_PROXIES),
            cors_origins: env.read(&variables::CORS_ORIGINS),
            public_url: env.read(&variables::PUBLIC_URL),
            idle_days: env.read(&variables::IDLE_DAYS),
            log_format: env.read(&variables::LOG_FORMAT),
            log_filter: env.read(&variables::RUST_LOG),
            otlp: otlp::read(&mut env),
            stream_heartbeat: env.read(&variables::STREAM_HEARTBEAT_SECS),
            keep_alive: env.read(&variables::KEEP_ALIVE_SECS),
            drain: env.read(&variables::DRAIN_SECS),
        };
        (settings, env.faults)
    }
}

/// Where the command service on this machine publishes its keys.
fn own_jwks_url(command_addr: SocketAddr) -> String {
    let mut host = command_addr;
    if host.ip().is_unspecified() {
        host.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{host}/.well-known/jwks.json")
}

#[cfg(test)]
mod tests;
