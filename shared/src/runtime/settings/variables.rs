//! Every variable, with its default: a line each, from which all else follows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{
    CorsOrigins, LogFormat, log_filter, log_format, networks, number, one_or_more, origins,
    up_to_an_hour, url,
};
use crate::contract::event_stream::StreamNames;
use crate::contract::partition::Partitions;
use crate::runtime::public_url::PublicUrl;
use ipnet::IpNet;

/// A variable, and how it is read.
pub(super) struct Variable<T> {
    pub name: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
    /// Stands behind "must be".
    pub wants: &'static str,
    pub parse: fn(&str) -> Option<T>,
}

/// A variable that is read together with others, in a file of its own.
pub(super) struct Text {
    pub name: &'static str,
    pub default: &'static str,
}

macro_rules! variables {
    (
        texts { $($text:ident = $text_default:literal;)* }
        values { $($name:ident: $type:ty = $default:literal, $wants:expr, $parse:expr;)* }
    ) => {
        $(pub(super) const $text: Text = Text {
            name: stringify!($text),
            default: $text_default,
        };)*
        $(pub(super) const $name: Variable<$type> = Variable {
            name: stringify!($name),
            default: $default,
            wants: $wants,
            parse: $parse,
        };)*

        const ALL: &[&str] = &[$(stringify!($text),)* $(stringify!($name),)*];

        /// Every variable that [`super::Settings`] are read from.
        pub const VARIABLES: [&str; ALL.len()] = [$(stringify!($text),)* $(stringify!($name),)*];

        /// What holds where they are not set, in the same order; empty where that is nothing, or
        /// depends on others.
        pub const DEFAULTS: [&str; ALL.len()] = [$($text_default,)* $($default,)*];
    };
}

const ADDRESS: &str = "an address and a port, as in 127.0.0.1:8081";
const UP_TO_AN_HOUR: &str = "a number of seconds from 1 to 3600";
const URL: &str = "a URL that begins with http:// or https://";

variables! {
    texts {
        MONGODB_URI = "mongodb://127.0.0.1:27017";
        VIEWS_MONGODB_URI = "";
        NATS_URL = "nats://127.0.0.1:4222";
        NATS_CREDS_FILE = "";
        NATS_NKEY_FILE = "";
        NATS_TLS_CA_FILE = "";
        NATS_TLS_CERT_FILE = "";
        NATS_TLS_KEY_FILE = "";
        NATS_JS_DOMAIN = "";
        OTEL_EXPORTER_OTLP_ENDPOINT = "";
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT = "";
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT = "";
        OTEL_EXPORTER_OTLP_HEADERS = "";
        OTEL_EXPORTER_OTLP_TRACES_HEADERS = "";
        OTEL_EXPORTER_OTLP_LOGS_HEADERS = "";
        OTEL_EXPORTER_OTLP_PROTOCOL = "http/protobuf";
        OTEL_TRACES_EXPORTER = "otlp";
        OTEL_LOGS_EXPORTER = "none";
        OTEL_TRACES_SAMPLER = "parentbased_traceidratio";
        // The specification's default is every trace. Hot timelines are read thousands of times a
        // second: a receiver that is set up in a minute would be full within the hour.
        OTEL_TRACES_SAMPLER_ARG = "0.1";
        OTEL_SERVICE_NAME = "";
        OTEL_RESOURCE_ATTRIBUTES = "";
        OTEL_SDK_DISABLED = "false";
    }
    values {
        NATS_PREFIX: StreamNames = "microblog", "1 to 32 of a-z, 0-9 and _", |text| text.parse().ok();
        STREAM_REPLICAS: usize = "1", "1, 3 or 5", |text| {
            number(text).filter(|count| [1, 3, 5].contains(count))
        };
        COMMAND_ADDR: SocketAddr = "127.0.0.1:8081", ADDRESS, |text| text.parse().ok();
        QUERY_ADDR: SocketAddr = "127.0.0.1:8082", ADDRESS, |text| text.parse().ok();
        COMMAND_OPS_ADDR: SocketAddr = "127.0.0.1:9081", ADDRESS, |text| text.parse().ok();
        QUERY_OPS_ADDR: SocketAddr = "127.0.0.1:9082", ADDRESS, |text| text.parse().ok();
        PARTITIONS: Partitions = "4", "a number from 1 to 256", |text| {
            number(text).and_then(Partitions::new)
        };
        CELEBRITY_THRESHOLD: u64 = "100000", "a number of followers, 1 or more", one_or_more;
        POST_QUOTA: u32 = "300", "a number of posts, 1 or more", one_or_more;
        POST_QUOTA_WINDOW_SECS: u32 = "10800", "a number of seconds, 1 or more", one_or_more;
        IP_RATE_PER_SECOND: u32 = "200", "a number of requests, 0 for no limit", number;
        JWT_PRIVATE_KEY_FILE: PathBuf = ".data/jwt.pem", "the path of a file", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        };
        JWKS_URL: String = "", URL, url;
        TRUSTED_PROXIES: Vec<IpNet> = "",
            "addresses or networks, as in 10.0.0.0/8, with commas between them", networks;
        CORS_ORIGINS: CorsOrigins = "",
            "*, or origins as in https://example.org with commas between them", origins;
        PUBLIC_URL: PublicUrl = "",
            "an absolute URL as in https://example.org/social, without user, query and fragment",
            PublicUrl::parse;
        IDLE_DAYS: u32 = "30", "a number of days, 0 for never", number;
        LOG_FORMAT: LogFormat = "json", "json or pretty", log_format;
        RUST_LOG: String = "info", "a filter as in info,command_service=debug", log_filter;
        STREAM_HEARTBEAT_SECS: Duration = "15", UP_TO_AN_HOUR, up_to_an_hour;
        // Longer than the clients of gateways keep theirs (nginx, Apache and ALB 60 s, Traefik 90 s,
        // Caddy 120 s), or a request meets one that is about to close, and gets 502.
        KEEP_ALIVE_SECS: Duration = "180", UP_TO_AN_HOUR, up_to_an_hour;
        DRAIN_SECS: Duration = "0", "a number of seconds from 0 to 600", |text| {
            let seconds = number(text).filter(|seconds| *seconds <= 600);
            seconds.map(Duration::from_secs)
        };
    }
}
