//! Where a request comes from, and how many requests an address may send.
//!
//! Of what proxies say, only `X-Forwarded-For` is read, and only as far as it comes from
//! `TRUSTED_PROXIES`. `Forwarded` (RFC 7239) is not: a proxy that writes one of the two hands the
//! other on as the caller wrote it, so that reading both would believe callers.
//!
//! One token bucket per address and replica: `IP_RATE_PER_SECOND` fill it, two seconds' worth is
//! the most it holds. An IPv6 customer has a /64 at least, so that is what is counted. Every answer
//! says how the bucket stands. By hand and not by governor, whose keyed store has no bound: a caller
//! with many addresses would fill it.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpRequest, ResponseError};
use ipnet::IpNet;

use crate::auth::token::KEY_SET;
use crate::runtime::settings::Settings;
use crate::web::gateway_errors;
use crate::web::problem::{Code, Problem, whole_seconds};

const BURST_SECS: u32 = 2;
/// Buckets kept. An address without one starts with a full bucket.
const REMEMBERED: u64 = 100_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// What limits there are, and how they stand: every limit of a service adds its own item.
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Which forwarded addresses are believed, and how much one address may ask.
pub struct IpRateLimiter {
    trusted: Vec<IpNet>,
    per_second: u32,
    buckets: moka::sync::Cache<IpAddr, Arc<Mutex<Bucket>>>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl IpRateLimiter {
    pub fn new(settings: &Settings) -> Self {
        Self::with(
            settings.trusted_proxies.clone(),
            settings.ip_rate_per_second,
        )
    }

    fn with(trusted: Vec<IpNet>, per_second: u32) -> Self {
        Self {
            trusted,
            per_second,
            buckets: moka::sync::Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_idle(FORGOTTEN_AFTER)
                .build(),
        }
    }

    /// The client's address: the peer's, or the one that a trusted proxy says it forwards for.
    pub fn of(&self, request: &HttpRequest) -> Option<IpAddr> {
        let peer = request.peer_addr()?.ip();
        Some(self.client(peer, request.headers()))
    }

    /// Reads `X-Forwarded-For` from the right: the first address that is not a trusted proxy's, or
    /// the last one before an entry that cannot be read. A caller may have written whatever stands
    /// to the left of it.
    ///
    /// The lines of the header are one list (RFC 9110, 5.3), and are taken apart as bytes: one
    /// that holds something else than ASCII must not vanish, or what stands left of it would be
    /// believed.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines: Vec<&[u8]> = headers
            .get_all("x-forwarded-for")
            .map(HeaderValue::as_bytes)
            .collect();
        let hops = lines
            .iter()
            .rev()
            .flat_map(|line| line.rsplit(|byte| *byte == b','));
        for hop in hops {
            if !self.trusts(client) {
                break;
            }
            let Some(hop) = address_of_hop(hop) else {
                break;
            };
            client = hop;
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        is_trusted(&self.trusted, address)
    }

    /// Takes one request from the address's bucket if there is one in it.
    fn take(&self, address: IpAddr, now: Instant) -> Level {
        let (rate, most) = (f64::from(self.per_second), f64::from(self.most()));
        let full = || Bucket {
            tokens: most,
            filled: now,
        };
        let bucket = self
            .buckets
            .get_with(customer(address), || Arc::new(Mutex::new(full())));
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * rate).min(most);
        bucket.filled = now;
        let wait = Duration::from_secs_f64((1.0 - bucket.tokens).max(0.0) / rate);
        let granted = wait.is_zero();
        if granted {
            bucket.tokens -= 1.0;
        }
        Level {
            wait: (!granted).then_some(wait),
            left: bucket.tokens,
            full_in: Duration::from_secs_f64((most - bucket.tokens) / rate),
        }
    }

    /// What a full bucket holds.
    fn most(&self) -> u32 {
        self.per_second.saturating_mul(BURST_SECS)
    }

    /// Adds the bucket to `RateLimit-Policy` and `RateLimit`, which may have items of other limits
    /// already (structured fields).
    fn tell(&self, headers: &mut HeaderMap, level: &Level) {
        let (most, full_in) = (self.most(), whole_seconds(level.full_in));
        let left = level.left.floor();
        add_item(
            headers,
            POLICY,
            &format!(r#""address";q={most};w={BURST_SECS}"#),
        );
        add_item(
            headers,
            STATE,
            &format!(r#""address";r={left};t={full_in}"#),
        );
    }
}

/// The address that a proxy wrote, as any of them writes it: bare, with a port (`192.0.2.1:80`, as
/// Azure's gateways and IIS have it), or in brackets (`[2001:db8::1]`, `[2001:db8::1]:80`), perhaps
/// with a zone. An IPv4 address that is mapped into IPv6 is the IPv4 address.
fn address_of_hop(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop.trim_ascii()).ok()?;
    let (address, port) = match hop.strip_prefix('[') {
        Some(inside) => {
            let (address, behind) = inside.split_once(']')?;
            // Brackets are for IPv6.
            address.contains(':').then_some(())?;
            (
                address,
                behind
                    .strip_prefix(':')
                    .or_else(|| behind.is_empty().then_some("0"))?,
            )
        }
        None => match hop.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, port),
            Some(_) | None => (hop, "0"),
        },
    };
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && port.parse::<u16>().is_ok()).then_some(())?;
    let (address, _zone) = address
        .split_once('%')
        .filter(|(address, zone)| address.contains(':') && !zone.is_empty())
        .unwrap_or((address, ""));
    let address: IpAddr = address.parse().ok()?;
    Some(address.to_canonical())
}

/// How a bucket stands after a request.
#[derive(Clone, Copy, Debug)]
struct Level {
    /// The request was not granted: how long until one would be.
    wait: Option<Duration>,
    left: f64,
    full_in: Duration,
}

/// Adds to a list in one header line: some clients read only the first line of a header.
fn add_item(headers: &mut HeaderMap, name: HeaderName, item: &str) {
    let before = headers.get(&name).and_then(|value| value.to_str().ok());
    let list = before.map_or_else(|| item.to_owned(), |list| format!("{list}, {item}"));
    if let Ok(value) = HeaderValue::from_str(&list) {
        headers.insert(name, value);
    }
}

/// Whether what comes from this address is from a trusted proxy.
pub(super) fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// The addresses that are counted together: an IPv4 address, or an IPv6 /64.
pub fn customer(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
    }
}

/// Middleware: `.wrap(from_fn(rate_limit_by_ip))` with `Data<IpRateLimiter>` as application data.
pub async fn rate_limit_by_ip(
    addresses: Data<IpRateLimiter>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody>>, Error> {
    // A query service cannot serve without the key set: other clients on its address must not use
    // up its requests for it.
    let limited = addresses.per_second > 0 && request.path() != KEY_SET;
    let address = limited.then(|| addresses.of(request.request())).flatten();
    // A gateway's own request names no client that it forwards for.
    let of_client = |address: &IpAddr| {
        !addresses.trusts(*address) || !gateway_errors::is_page(request.method(), request.path())
    };
    let Some(address) = address.filter(of_client) else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let level = addresses.take(address, Instant::now());
    let mut response = match level.wait {
        None => next.call(request).await?.map_into_left_body(),
        Some(wait) => {
            let rate = addresses.per_second;
            let detail = format!("one address sends at most {rate} requests per second");
            let mut problem = Problem::new(Code::TooManyRequests, detail);
            problem.retry_after = Some(whole_seconds(wait));
            request
                .into_response(problem.error_response())
                .map_into_right_body()
        }
    };
    addresses.tell(response.headers_mut(), &level);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trusting(trusted: &str) -> IpRateLimiter {
        let vars = [("TRUSTED_PROXIES".into(), trusted.into())];
        IpRateLimiter::new(&Settings::from_vars(vars).unwrap())
    }

    fn forwarded(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            let name = HeaderName::from_static("x-forwarded-for");
            headers.append(name, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    fn client(trusted: &str, peer: &str, lines: &[&str]) -> String {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        trusting(trusted)
            .client(peer.parse().unwrap(), &forwarded(&lines))
            .to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(client("", "10.0.0.1", &["1.2.3.4"]), "10.0.0.1");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client("10.0.0.0/8", "11.0.0.1", &["1.2.3.4"]), "11.0.0.1");
        assert_eq!(client("::1", "::1", &["1.2.3.4"]), "1.2.3.4");
    }

    #[test]
    fn what_callers_write_in_front_is_not_believed() {
        let forwarded = ["6.6.6.6, 1.2.3.4", "10.0.0.9"];
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &forwarded), "1.2.3.4");
        assert_eq!(client("0.0.0.0/0", "10.0.0.1", &["junk"]), "10.0.0.1");
    }

    #[test]
    fn an_address_is_read_as_any_proxy_writes_it() {
        for (hop, address) in [
            ("1.2.3.4", "1.2.3.4"),
            (" 1.2.3.4\t", "1.2.3.4"),
            ("1.2.3.4:5678", "1.2.3.4"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[::1]:80", "::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:443", "fe80::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("[::ffff:1.2.3.4]:80", "1.2.3.4"),
        ] {
            assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[hop]), address, "{hop}");
        }
    }

    #[test]
    fn what_cannot_be_read_ends_the_walk_where_it_is() {
        for hop in [
            "",
            "unknown",
            "_hidden",
            "localhost",
            "1.2.3",
            "1.2.3.4.5",
            "01.2.3.4",
            "1.2.3.4:",
            "1.2.3.4:x",
            "1.2.3.4:65536",
            "1.2.3.4:+80",
            "1.2.3.4 5.6.7.8",
            "[1.2.3.4]",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]:",
            "1.2.3.4%eth0",
            "::1%",
            "for=1.2.3.4",
            "\"1.2.3.4\"",
            "\u{e9}",
            "1.2.3.4\u{e9}",
        ] {
            assert_eq!(address_of_hop(hop.as_bytes()), None, "{hop}");
            let line = format!("6.6.6.6, {hop}, 10.0.0.9");
            let lines: [&str; 2] = ["7.7.7.7", &line];
            assert_eq!(
                client("10.0.0.0/8", "10.0.0.1", &lines),
                "10.0.0.9",
                "{hop}"
            );
        }
        let headers = forwarded(&[b"6.6.6.6", b"\xff\xfe"]);
        let peer = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(trusting("10.0.0.0/8").client(peer, &headers), peer);
    }

    #[test]
    fn lines_are_one_list_and_mapped_addresses_are_ipv4() {
        let lines = ["6.6.6.6", "1.2.3.4:80, 10.0.0.8:443", "[::ffff:10.0.0.9]:1"];
        for (trusted, peer) in [
            ("10.0.0.0/8", "10.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.0.0.1"),
        ] {
            assert_eq!(client(trusted, peer, &lines), "1.2.3.4");
        }
    }

    /// Anything a header may hold.
    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            Just(b','),
            Just(b' '),
            Just(b':'),
            Just(b'.'),
            Just(b'['),
            Just(b']'),
            b'0'..=b'9',
            0x20..=0x7e_u8,
            0x80..=0xff_u8,
        ];
        let address = prop_oneof![
            Just("10.0.0.7".to_owned()),
            Just("1.2.3.4:80".to_owned()),
            Just("[::1]:80".to_owned()),
            Just(String::new()),
        ];
        prop_oneof![
            proptest::collection::vec(byte, 0..60),
            proptest::collection::vec(address, 0..6).prop_map(|hops| hops.join(", ").into_bytes()),
        ]
    }

    proptest! {
        #[test]
        fn whatever_callers_write_to_the_left_changes_nothing(
            before in proptest::collection::vec(any_line(), 0..4),
            client in prop_oneof![
                any::<[u8; 4]>().prop_map(IpAddr::from),
                any::<[u16; 8]>().prop_map(IpAddr::from),
            ],
            port in proptest::option::of(any::<u16>()),
            proxies in 0..3_u8,
            same_line in any::<bool>(),
        ) {
            let addresses = trusting("10.0.0.0/8");
            let is_proxy = |address: IpAddr| addresses.trusted[0].contains(&address.to_canonical());
            prop_assume!(!is_proxy(client));
            let mut own = match (client, port) {
                (client, None) => client.to_string(),
                (IpAddr::V4(client), Some(port)) => format!("{client}:{port}"),
                (IpAddr::V6(client), Some(port)) => format!("[{client}]:{port}"),
            };
            for proxy in 0..proxies {
                own.push_str(&format!(", 10.1.0.{proxy}"));
            }
            let mut lines = before;
            match lines.last_mut() {
                // As proxies append.
                Some(line) if same_line => line.extend_from_slice(format!(", {own}").as_bytes()),
                Some(_) | None => lines.push(own.into_bytes()),
            }
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            let found = addresses.client(IpAddr::from([10, 0, 0, 1]), &forwarded(&lines));
            prop_assert_eq!(found, client.to_canonical());
        }

        #[test]
        fn whatever_is_forwarded_is_an_address_or_nothing(line in any_line()) {
            let addresses = trusting("0.0.0.0/0, ::/0");
            let peer = IpAddr::from([10, 0, 0, 1]);
            let found = addresses.client(peer, &forwarded(&[&line]));
            let mut hops = line.split(|byte| *byte == b',');
            prop_assert!(found == peer || hops.any(|hop| address_of_hop(hop) == Some(found)));
        }
    }

    #[test]
    fn a_bucket_empties_and_fills_with_time() {
        let (addresses, start) = (IpRateLimiter::with(Vec::new(), 10), Instant::now());
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let granted = |address, now| addresses.take(address, now).wait.is_none();
        for _ in 0..20 {
            assert!(granted(address, start));
        }
        assert!(!granted(neighbour, start), "one /64 is one customer");
        let later = start + Duration::from_millis(150);
        assert!(granted(address, later));
        assert!(!granted(address, later));
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        assert!(granted(other, start));
    }

    #[test]
    fn the_bucket_is_told_after_the_limits_that_are_told_already() {
        let addresses = IpRateLimiter::with(Vec::new(), 10);
        let level = addresses.take(IpAddr::from([10, 0, 0, 1]), Instant::now());
        let mut headers = HeaderMap::new();
        headers.insert(POLICY, HeaderValue::from_static(r#""posts";q=300;w=10800"#));
        addresses.tell(&mut headers, &level);
        let policy = headers.get(POLICY).unwrap();
        assert_eq!(policy, r#""posts";q=300;w=10800, "address";q=20;w=2"#);
        assert_eq!(headers.get(STATE).unwrap(), r#""address";r=19;t=1"#);
    }
}
