//! Access tokens: JWTs signed with Ed25519, nothing else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::keys_in_use::KeysInUse;
use crate::contract::ids::UserId;
use crate::contract::sessions::SessionId;
use crate::contract::time::{Clock, SystemClock};
use crate::runtime::error_chain::Chain;
use crate::runtime::failing::Failing;

pub const ISSUER: &str = "microblog";
pub const AUDIENCE: &str = "microblog";
/// How long an access token is good for.
pub const LIFETIME: Duration = Duration::from_secs(900);
/// Clocks of two machines may differ by this much.
const LEEWAY_SECS: u64 = 5;
/// Where a service publishes its key set.
pub const KEY_SET: &str = "/.well-known/jwks.json";
/// At most one look at the key set in this time, however many unknown keys are named.
const REFETCH: Duration = Duration::from_secs(5);
/// The same while the key set cannot be had.
const RETRY: Duration = Duration::from_secs(1);
/// A key set is looked at again after so long though no unknown key is named: a key that was withdrawn
/// is good for no longer, and one that was published is known before anything is signed with it.
const FRESH: Duration = Duration::from_secs(15);

/// What an access token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub sub: UserId,
    pub iss: String,
    pub aud: String,
    /// Seconds since the epoch.
    pub iat: u64,
    pub exp: u64,
    /// The session that it was issued for. Not in those of operators and of earlier builds; what is
    /// no id of ours counts as absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

/// Why a token is not accepted. Says nothing about the token itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    #[error("the access token is not valid or has expired")]
    Invalid,
    #[error("the keys that verify access tokens cannot be fetched")]
    NoKeys,
}

/// Why a key set cannot be had.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("ask for the key set")]
    Ask(#[source] reqwest::Error),
    #[error("the key set has no Ed25519 key with an id")]
    Empty,
}

/// What a good token says of its bearer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verified {
    pub user: UserId,
    /// The session that the token was issued for. It may have ended: the token is good all the same.
    pub session: Option<SessionId>,
    /// Seconds since the epoch; it is accepted a little longer, for clocks that differ.
    pub expires: u64,
}

impl Verified {
    /// How long the token is accepted from now on.
    pub fn remaining(&self) -> Duration {
        let refused_at = Duration::from_secs(self.expires.saturating_add(LEEWAY_SECS + 1));
        let now = u64::try_from(SystemClock.now().millis()).unwrap_or_default();
        refused_at.saturating_sub(Duration::from_millis(now))
    }
}

enum Source {
    Fixed,
    Url { url: String, http: reqwest::Client },
}

/// The last fetch of the key set.
#[derive(Clone, Copy)]
struct KeyFetch {
    at: Instant,
    /// Not before it has come to its end.
    worked: bool,
}

impl KeyFetch {
    /// The answer for callers that ask too soon for another fetch; `None` if it is time for one.
    fn answer(self) -> Option<Result<(), TokenError>> {
        let (holds, answer) = if self.worked {
            (REFETCH, Ok(()))
        } else {
            (RETRY, Err(TokenError::NoKeys))
        };
        (self.at.elapsed() < holds).then_some(answer)
    }
}

/// A key of the set.
struct Key {
    /// The public key itself, as it was published.
    x: String,
    decoding: DecodingKey,
    /// It is in the set no more: what it has verified does not count any longer.
    withdrawn: AtomicBool,
}

/// A token that was good.
#[derive(Clone)]
struct Remembered {
    verified: Verified,
    by: Arc<Key>,
}

/// Verifies tokens, and remembers those it has verified until they expire or their key is withdrawn.
pub struct TokenVerifier {
    source: Source,
    keys: RwLock<HashMap<String, Arc<Key>>>,
    shown: KeysInUse,
    /// Held while the key set is fetched: those that wait for it share the outcome of that fetch.
    fetched: tokio::sync::Mutex<Option<KeyFetch>>,
    fetching: Failing,
    verified: moka::sync::Cache<[u8; 32], Remembered>,
}

/// Whether a URL leads to this machine by its loopback.
fn is_this_machine(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str);
    host.is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
    })
}

impl TokenVerifier {
    /// Verifies with these keys alone, and shows which these are.
    pub fn with_keys(keys: &JwkSet, shown: KeysInUse) -> Self {
        let verifier = Self::new(Source::Fixed, shown);
        verifier.learn(keys);
        verifier
    }

    /// Verifies with the keys published at `url`, fetched when an unknown one is named and by
    /// [`Self::is_ready`], and shows which these are.
    pub fn with_url(url: String, shown: KeysInUse) -> Result<Self, reqwest::Error> {
        let mut http = reqwest::Client::builder().timeout(Duration::from_secs(2));
        if is_this_machine(&url) {
            // One that the environment names does not reach us.
            http = http.no_proxy();
        }
        let http = http.build()?;
        Ok(Self::new(Source::Url { url, http }, shown))
    }

    fn new(source: Source, shown: KeysInUse) -> Self {
        Self {
            source,
            keys: RwLock::default(),
            shown,
            fetched: tokio::sync::Mutex::default(),
            fetching: Failing::default(),
            verified: moka::sync::Cache::builder()
                .max_capacity(100_000)
                .time_to_live(LIFETIME)
                .build(),
        }
    }

    /// Verifies with these keys from now on, and with no other. Whether there is any among them: if
    /// not, those from before stay.
    pub fn learn(&self, set: &JwkSet) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut now = HashMap::new();
        for key in &set.keys {
            if let Some(kid) = &key.common.key_id
                && let AlgorithmParameters::OctetKeyPair(pair) = &key.algorithm
                && pair.curve == EllipticCurve::Ed25519
                && let Ok(decoding) = DecodingKey::from_jwk(key)
            {
                let known = keys.get(kid).filter(|known| known.x == pair.x);
                let key = known.cloned().unwrap_or_else(|| {
                    Arc::new(Key {
                        x: pair.x.clone(),
                        decoding,
                        withdrawn: AtomicBool::new(false),
                    })
                });
                now.insert(kid.clone(), key);
            }
        }
        if now.is_empty() {
            return false;
        }
        let before = std::mem::replace(&mut *keys, now);
        for (kid, key) in before {
            if keys.get(&kid).is_none_or(|now| !Arc::ptr_eq(now, &key)) {
                key.withdrawn.store(true, Ordering::Release);
            }
        }
        self.shown.verify(keys.keys().cloned().collect());
        true
    }

    fn keys(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<Key>>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, kid: &str) -> Option<Arc<Key>> {
        self.keys().get(kid).cloned()
    }

    /// The user to whom the token was issued.
    pub async fn verify(&self, token: &str) -> Result<UserId, TokenError> {
        Ok(self.verified(token).await?.user)
    }

    /// The user to whom the token was issued, and until when it is accepted.
    pub async fn verified(&self, token: &str) -> Result<Verified, TokenError> {
        // A hash is kept rather than the token: a dump of the cache opens no account.
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = jsonwebtoken::get_current_timestamp();
        let known = self.verified.get(&digest);
        if let Some(Remembered { verified, .. }) =
            known.filter(|known| !known.by.withdrawn.load(Ordering::Acquire))
        {
            return if now <= verified.expires.saturating_add(LEEWAY_SECS) {
                Ok(verified)
            } else {
                Err(TokenError::Invalid)
            };
        }
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        let kid = header
            .kid
            .filter(|kid| kid.len() <= 128)
            .ok_or(TokenError::Invalid)?;
        let key = match self.key(&kid) {
            Some(key) => key,
            None => {
                self.fetch().await?;
                self.key(&kid).ok_or(TokenError::Invalid)?
            }
        };
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY_SECS;
        validation.validate_nbf = true;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        // Without this a claim that is absent is a claim that is not checked.
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<Claims>(token, &key.decoding, &validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        let verified = Verified {
            user: claims.sub,
            session: claims.sid.and_then(|sid| sid.parse().ok()),
            expires: claims.exp,
        };
        let by = key;
        self.verified.insert(digest, Remembered { verified, by });
        Ok(verified)
    }

    /// Whether any key is known: without one no token can be verified. Looks at the key set if that was
    /// long ago; if it cannot be had then, the keys that are known stay good.
    pub async fn is_ready(&self) -> bool {
        if self.keys().is_empty() {
            return self.fetch().await.is_ok();
        }
        let last = *self.fetched.lock().await;
        // A look that failed, or whose caller went away, has seen nothing: it does not count.
        if last.is_none_or(|look| !look.worked || look.at.elapsed() >= FRESH) {
            // Its failure is told, and it is tried again only after `RETRY`.
            let _ = self.fetch().await;
        }
        true
    }

    async fn fetch(&self) -> Result<(), TokenError> {
        let Source::Url { url, http } = &self.source else {
            return Ok(());
        };
        let mut fetched = self.fetched.lock().await;
        if let Some(answer) = fetched.and_then(KeyFetch::answer) {
            return answer;
        }
        let mut note = |worked| {
            let at = Instant::now();
            *fetched = Some(KeyFetch { at, worked });
        };
        // Before the fetch: if the caller is dropped meanwhile, the fetch counts as failed.
        note(false);
        let learned = ask(http, url).await.and_then(|set| {
            let learned = self.learn(&set);
            learned.then_some(()).ok_or(FetchError::Empty)
        });
        match learned {
            Ok(()) => {
                note(true);
                if self.fetching.ends() {
                    info!("the key set can be fetched again");
                }
                Ok(())
            }
            Err(error) => {
                note(false);
                if self.fetching.begins(&error) {
                    warn!(error = %Chain(&error), "the key set cannot be fetched");
                }
                Err(TokenError::NoKeys)
            }
        }
    }
}

async fn ask(http: &reqwest::Client, url: &str) -> Result<JwkSet, FetchError> {
    let answer = async { http.get(url).send().await?.error_for_status()?.json().await };
    answer.await.map_err(FetchError::Ask)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers every request with this, after a while; the URL, and how often it was asked.
    async fn server(status: &'static str, body: &'static str) -> (String, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{KEY_SET}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let mut head = [0; 1_024];
                let _ = stream.read(&mut head).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (url, asked)
    }

    #[test]
    fn a_loopback_is_this_machine_however_it_is_written() {
        for url in [
            "http://127.0.0.1:8081/x",
            "http://127.9.9.9/x",
            "https://localhost/x",
            "http://[::1]:8081/x",
            "http://[::ffff:127.0.0.1]/x",
        ] {
            assert!(is_this_machine(url), "{url}");
        }
        for url in [
            "http://10.0.0.1/x",
            "http://command-api:8081/x",
            "http://localhost.example.org",
        ] {
            assert!(!is_this_machine(url), "{url}");
        }
    }

    /// A key set with the key of RFC 8037, appendix A.
    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"known","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[tokio::test]
    async fn whoever_names_unknown_keys_makes_us_ask_once_in_a_while() {
        let (url, asked) = server("200 OK", KEYS).await;
        let verifier = TokenVerifier::with_url(url, KeysInUse::default()).unwrap();
        let tokens = (0..500).map(|number| {
            let head = format!(r#"{{"alg":"EdDSA","kid":"{number}"}}"#);
            format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(head))
        });
        let tokens: Vec<String> = tokens.collect();
        let looks = tokens.iter().map(|token| verifier.verified(token));
        for outcome in futures_util::future::join_all(looks).await {
            assert_eq!(outcome, Err(TokenError::Invalid));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(
            verifier.verified.iter().count(),
            0,
            "nothing is remembered of them"
        );
    }

    #[tokio::test]
    async fn a_key_set_without_a_key_takes_none_away() {
        let (url, _) = server("200 OK", r#"{"keys":[]}"#).await;
        let shown = KeysInUse::default();
        let verifier = TokenVerifier::with_url(url, shown.clone()).unwrap();
        assert!(verifier.learn(&serde_json::from_str(KEYS).unwrap()));
        assert_eq!(verifier.fetch().await, Err(TokenError::NoKeys));
        assert!(verifier.key("known").is_some());
        let shown = serde_json::to_value(shown.ids()).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({ "signs": null, "verifies": ["known"] })
        );
    }

    #[tokio::test]
    async fn a_key_set_that_cannot_be_had_is_asked_for_once_in_a_while() {
        let (url, asked) = server("503 Service Unavailable", "").await;
        let verifier = TokenVerifier::with_url(url, KeysInUse::default()).unwrap();
        let began = Instant::now();
        let waiters = (0..20).map(|_| verifier.fetch());
        for outcome in futures_util::future::join_all(waiters).await {
            assert_eq!(outcome, Err(TokenError::NoKeys));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(began.elapsed() < RETRY, "nobody waits for more than one");
        tokio::time::sleep(RETRY).await;
        assert!(!verifier.is_ready().await);
        assert_eq!(asked.load(Ordering::Relaxed), 2, "later it is asked again");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_make_the_next_ask_at_once() {
        let (url, asked) = server("200 OK", KEYS).await;
        let verifier = TokenVerifier::with_url(url, KeysInUse::default()).unwrap();
        let short = Duration::from_millis(20);
        let dropped = tokio::time::timeout(short, verifier.fetch()).await;
        assert!(dropped.is_err());
        assert_eq!(verifier.fetch().await, Err(TokenError::NoKeys));
        tokio::time::sleep(RETRY).await;
        assert_eq!(verifier.fetch().await, Ok(()));
        assert_eq!(verifier.fetch().await, Ok(()));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_look_that_was_broken_off_is_made_again_before_it_would_be_time_for_the_next() {
        let (url, asked) = server("200 OK", KEYS).await;
        let shown = KeysInUse::default();
        let verifier = TokenVerifier::with_url(url, shown.clone()).unwrap();
        let before = KEYS.replace("known", "before");
        assert!(verifier.learn(&serde_json::from_str(&before).unwrap()));
        let begun = async {
            while asked.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            () = begun => {}
            _ = verifier.is_ready() => panic!("it was not broken off"),
        }
        assert!(verifier.key("known").is_none());
        tokio::time::sleep(RETRY).await;
        assert!(verifier.is_ready().await);
        assert!(verifier.key("known").is_some() && verifier.key("before").is_none());
        assert!(verifier.is_ready().await);
        assert_eq!(asked.load(Ordering::Relaxed), 2, "one that worked holds");
    }
}
