//! What variables are read as, and how a text becomes one.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use tracing_subscriber::EnvFilter;

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

/// Digits alone: no sign, no blank.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

pub(super) fn one_or_more<T: FromStr + PartialOrd + From<u8>>(text: &str) -> Option<T> {
    number(text).filter(|number| *number >= T::from(1))
}

pub(super) fn up_to_an_hour(text: &str) -> Option<Duration> {
    let seconds = number(text).filter(|seconds| (1..=3600).contains(seconds));
    seconds.map(Duration::from_secs)
}

pub(super) fn url(text: &str) -> Option<String> {
    let known = text.starts_with("http://") || text.starts_with("https://");
    (known && text.len() > 8).then(|| text.to_owned())
}

pub(super) fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "json" => Some(LogFormat::Json),
        "pretty" => Some(LogFormat::Pretty),
        _ => None,
    }
}

/// The parser (tracing-subscriber 0.3.23) takes the number of a character for its place in the
/// text, and panics where those differ.
pub(super) fn log_filter(text: &str) -> Option<String> {
    let fits = text.is_ascii() && EnvFilter::try_new(text).is_ok();
    fits.then(|| without_client_noise(text))
}

/// The client of NATS logs every attempt to connect as an error, so it is silenced unless the
/// filter names it. [`crate::connections`] logs once why there is no connection.
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

pub(super) fn networks(text: &str) -> Option<Vec<IpNet>> {
    // ipnet's own parser takes leading zeros, which some read as octal.
    let network = |item: &str| match item.split_once('/') {
        Some((base, prefix)) => IpNet::new(base.parse().ok()?, prefix.parse().ok()?).ok(),
        None => item.parse::<IpAddr>().ok().map(IpNet::from),
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

pub(super) fn origins(text: &str) -> Option<CorsOrigins> {
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
