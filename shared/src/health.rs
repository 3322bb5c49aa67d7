//! The commands `health` and `keys` of both binaries: whether the service beside it is ready, and which
//! keys it works with.
//!
//! For what starts containers and for operators: an image has neither a shell nor a client of HTTP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::redirect::Policy;
use serde_json::Value;

use crate::process::USAGE;
use crate::runtime::error_chain::Chain;
use crate::runtime::settings::OpsPort;

/// A service that takes longer is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// A name for the addresses of this machine, for the client of HTTP alone.
const HERE: &str = "here.invalid";

/// Asks `/readyz` of the operator's port on this machine, and prints one line. The address of that
/// port is the only setting that is read: whatever else is wrong, the service says it itself.
///
/// Exits with 0 if the service is ready (or degraded), 1 if not, [`USAGE`] if the address is bad.
pub async fn main(port: OpsPort) -> ExitCode {
    match port.read() {
        Ok(address) => told(ask(address).await),
        Err(faults) => {
            eprintln!("{faults}");
            ExitCode::from(USAGE)
        }
    }
}

/// Prints what `/keys` of the operator's port on this machine says, in one line of JSON.
///
/// Exits with 0 if it says something, 1 if not, [`USAGE`] if the address is bad.
pub async fn keys(port: OpsPort) -> ExitCode {
    match port.read() {
        Ok(address) => told(ask_for_keys(address).await),
        Err(faults) => {
            eprintln!("{faults}");
            ExitCode::from(USAGE)
        }
    }
}

fn told(said: Result<String, String>) -> ExitCode {
    match said {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Where this machine reaches a port that listens at `address`: one that listens everywhere, by
/// loopback. `[::]` takes IPv4 as well, and may be all there is where IPv6 has no address.
fn local(address: SocketAddr) -> Vec<SocketAddr> {
    let (v4, v6) = (
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    );
    let hosts = match (address.ip().is_unspecified(), address.is_ipv4()) {
        (false, _) => vec![address.ip()],
        (true, true) => vec![v4],
        (true, false) => vec![v6, v4],
    };
    let port = address.port();
    let there = hosts.into_iter().map(|host| SocketAddr::new(host, port));
    there.collect()
}

/// The status and the body of an answer of the port, or why there is none.
async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, Value), String> {
    let told = async {
        // No proxy of the environment, no certificates of the system: it is a port of this machine.
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(Policy::none())
            .timeout(PATIENCE)
            .resolve_to_addrs(HERE, &local(address))
            .build()?;
        let answer = client
            .get(format!("http://{HERE}:{}{path}", address.port()))
            .send();
        let answer = answer.await?;
        Ok((answer.status(), answer.bytes().await?))
    };
    let told: Result<_, reqwest::Error> = told.await;
    let (status, body) = told.map_err(|error| {
        let seconds = PATIENCE.as_secs();
        if error.is_timeout() {
            format!("{address} does not answer within {seconds} s")
        } else {
            format!("{address} does not answer: {}", Chain(&error))
        }
    })?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

async fn ask_for_keys(address: SocketAddr) -> Result<String, String> {
    match get(address, "/keys").await? {
        (status, body) if status.is_success() && body.is_object() => Ok(body.to_string()),
        (status, _) => Err(format!(
            "{address} answers {status}: is it an earlier version?"
        )),
    }
}

/// What the port says, in one line: `Err` if that is not that the service is ready.
async fn ask(address: SocketAddr) -> Result<String, String> {
    let (status, body) = get(address, "/readyz")
        .await
        .map_err(|why| format!("not ready: {why}"))?;
    let said = summary(&body);
    if status.is_success() {
        Ok(said.unwrap_or_else(|| "ready".to_owned()))
    } else {
        Err(said.unwrap_or_else(|| format!("not ready: {address} answers {status}")))
    }
}

/// The body of `/readyz` in one line, if it is one.
fn summary(body: &Value) -> Option<String> {
    let status = body["status"].as_str()?;
    let reasons: Vec<String> = ["missing", "degraded"]
        .iter()
        .filter_map(|list| body[list].as_object())
        .flatten()
        .map(|(what, why)| format!("{what}: {}", why.as_str().unwrap_or_default()))
        .collect();
    let line = if reasons.is_empty() {
        status.to_owned()
    } else {
        format!("{status}: {}", reasons.join("; "))
    };
    Some(line.replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_port_that_listens_everywhere_is_asked_by_loopback() {
        for (set, asked) in [
            ("0.0.0.0:9081", &["127.0.0.1:9081"][..]),
            ("[::]:9081", &["[::1]:9081", "127.0.0.1:9081"]),
            ("10.0.0.7:9081", &["10.0.0.7:9081"]),
        ] {
            let local = local(set.parse().unwrap());
            assert!(
                local
                    .iter()
                    .map(ToString::to_string)
                    .eq(asked.iter().copied()),
                "{local:?}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_told_in_one_line() {
        let body = json!({
            "status": "not ready",
            "missing": { "MongoDB answers": "nothing\nlistens", "the indexes are made": "not yet" },
            "degraded": { "relay": "NATS: nothing listens" },
        });
        assert_eq!(
            summary(&body).unwrap(),
            "not ready: MongoDB answers: nothing listens; the indexes are made: not yet; relay: NATS: nothing listens"
        );
        assert_eq!(summary(&json!({ "status": "ready" })).unwrap(), "ready");
        assert_eq!(summary(&json!("<html>")), None);
    }
}
