//! Access tokens: JWTs signed with Ed25519, nothing else.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::error_chain::Chain;
use crate::ids::UserId;

pub const ISSUER: &str = "microblog";
pub const AUDIENCE: &str = "microblog";
/// How long an access token is good for.
pub const LIFETIME: Duration = Duration::from_secs(900);
/// Clocks of two machines may differ by this much.
const LEEWAY_SECS: u64 = 5;
/// At most one look at the key set in this time, however many unknown keys are named.
const REFETCH: Duration = Duration::from_secs(5);

/// What an access token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub sub: UserId,
    pub iss: String,
    pub aud: String,
    /// Seconds since the epoch.
    pub iat: u64,
    pub exp: u64,
}

/// A published key set (RFC 7517), Ed25519 keys only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeySet {
    pub keys: Vec<PublicKey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublicKey {
    pub kty: String,
    pub crv: String,
    /// The 32 bytes of the key, base64url.
    pub x: String,
    pub kid: String,
    #[serde(default)]
    pub alg: String,
    #[serde(default)]
    pub r#use: String,
}

/// Why a token is not accepted. Says nothing about the token itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    #[error("the access token is not valid or has expired")]
    Invalid,
    #[error("the keys that verify access tokens cannot be fetched")]
    NoKeys,
}

enum Source {
    Fixed,
    Url { url: String, http: reqwest::Client },
}

/// Verifies tokens, and remembers those it has verified until they expire.
pub struct TokenVerifier {
    source: Source,
    keys: RwLock<HashMap<String, Arc<DecodingKey>>>,
    fetched: tokio::sync::Mutex<Option<Instant>>,
    verified: moka::sync::Cache<[u8; 32], (UserId, u64)>,
}

impl TokenVerifier {
    /// Verifies with these keys alone.
    pub fn with_keys(keys: &KeySet) -> Self {
        let verifier = Self::new(Source::Fixed);
        verifier.learn(keys);
        verifier
    }

    /// Verifies with the keys published at `url`, fetched when an unknown one is named.
    pub fn with_url(url: String) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .build()?;
        Ok(Self::new(Source::Url { url, http }))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            keys: RwLock::default(),
            fetched: tokio::sync::Mutex::default(),
            verified: moka::sync::Cache::builder()
                .max_capacity(100_000)
                .time_to_live(LIFETIME)
                .build(),
        }
    }

    fn learn(&self, set: &KeySet) {
        let mut keys = self
            .keys
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.clear();
        for key in set
            .keys
            .iter()
            .filter(|key| key.kty == "OKP" && key.crv == "Ed25519")
        {
            if let Ok(decoding) = DecodingKey::from_ed_components(&key.x) {
                keys.insert(key.kid.clone(), Arc::new(decoding));
            }
        }
    }

    fn key(&self, kid: &str) -> Option<Arc<DecodingKey>> {
        let keys = self
            .keys
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.get(kid).cloned()
    }

    /// Who the token was issued to.
    pub async fn verify(&self, token: &str) -> Result<UserId, TokenError> {
        // A hash is kept rather than the token: a dump of the cache opens no account.
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = jsonwebtoken::get_current_timestamp();
        if let Some((user, expires)) = self.verified.get(&digest) {
            return if now <= expires + LEEWAY_SECS {
                Ok(user)
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
        let claims = decode::<Claims>(token, &key, &validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        self.verified.insert(digest, (claims.sub, claims.exp));
        Ok(claims.sub)
    }

    /// Whether any key is known: without one no token can be verified.
    pub async fn is_ready(&self) -> bool {
        let known = || {
            !self
                .keys
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .is_empty()
        };
        known() || (self.fetch().await.is_ok() && known())
    }

    async fn fetch(&self) -> Result<(), TokenError> {
        let Source::Url { url, http } = &self.source else {
            return Ok(());
        };
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| at.elapsed() < REFETCH) {
            return Ok(());
        }
        let answer = async {
            http.get(url)
                .send()
                .await?
                .error_for_status()?
                .json::<KeySet>()
                .await
        };
        match answer.await {
            Ok(set) => {
                self.learn(&set);
                *fetched = Some(Instant::now());
                Ok(())
            }
            Err(error) => {
                warn!(error = %Chain(&error), "the key set cannot be fetched");
                Err(TokenError::NoKeys)
            }
        }
    }
}
