//! `Authorization` headers that open nothing.

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use shared::auth::token::{AUDIENCE, ISSUER};

/// A name for what is wrong, and the token.
type Forged = Vec<(&'static str, String)>;

/// Makes tokens that are wrong in one way each.
struct Forger<'a> {
    /// A token that is accepted, and its three parts.
    valid: &'a str,
    parts: Vec<&'a str>,
    /// What a token of this user must say.
    claims: Value,
    now: u64,
    /// The service's own key: its id, the public one in base64url, and the one that signs.
    kid: &'a str,
    x: &'a str,
    ours: EncodingKey,
    /// A key that the service does not know.
    theirs: EncodingKey,
}

/// Every forgery of a user's token, with a name each, as an `Authorization` header.
pub fn forgeries(user: &str, valid: &str, pem: &[u8], keys: &JwkSet) -> Forged {
    let forger = Forger::new(user, valid, pem, keys);
    let tokens = [
        forger.broken(),
        forger.with_wrong_claims(),
        forger.with_wrong_algorithms(),
        forger.with_wrong_keys(),
    ];
    let bearer = tokens.into_iter().flatten();
    let bearer = bearer.map(|(name, token)| (name, format!("Bearer {token}")));
    let others = [
        ("another scheme", format!("Basic {valid}")),
        ("no scheme", valid.to_owned()),
    ];
    bearer.chain(others).collect()
}

/// A part of a token.
fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn header(kid: Option<&str>, algorithm: Algorithm) -> Header {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    header
}

impl<'a> Forger<'a> {
    fn new(user: &str, valid: &'a str, pem: &[u8], keys: &'a JwkSet) -> Self {
        let [key] = &keys.keys[..] else {
            panic!("one key")
        };
        let kid = key.common.key_id.as_deref().expect("its id");
        let AlgorithmParameters::OctetKeyPair(public) = &key.algorithm else {
            panic!("an Ed25519 key")
        };
        let pair = Ed25519KeyPair::generate().expect("a key");
        let now = get_current_timestamp();
        Self {
            valid,
            parts: valid.split('.').collect(),
            claims: json!({
                "sub": user, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600,
            }),
            now,
            kid,
            x: &public.x,
            ours: EncodingKey::from_ed_pem(pem).expect("the service's key"),
            theirs: EncodingKey::from_ed_der(pair.to_pkcs8v1().expect("a key").as_ref()),
        }
    }

    fn broken(&self) -> Forged {
        let (valid, parts) = (self.valid, &self.parts);
        let mut anothers = self.claims.clone();
        anothers["sub"] = json!("1");
        vec![
            ("empty", String::new()),
            ("not a token", "x".into()),
            ("three dots", "...".into()),
            ("three words", "a.b.c".into()),
            ("no signature", format!("{}.{}.", parts[0], parts[1])),
            ("half a signature", valid[..valid.len() - 20].to_owned()),
            ("two tokens", format!("{valid}{valid}")),
            (
                "another's claims",
                format!("{}.{}.{}", parts[0], part(&anothers), parts[2]),
            ),
        ]
    }

    fn with_wrong_claims(&self) -> Forged {
        let now = self.now;
        let header = header(Some(self.kid), Algorithm::EdDSA);
        let signed = |claims: &Value| encode(&header, claims, &self.ours).expect("a token");
        let with = |name: &str, value: Value| {
            let mut claims = self.claims.clone();
            claims[name] = value;
            signed(&claims)
        };
        let without = |name: &str| {
            let mut claims = self.claims.clone();
            claims.as_object_mut().expect("an object").remove(name);
            signed(&claims)
        };
        vec![
            ("expired", with("exp", json!(now - 61))),
            ("not yet valid", with("nbf", json!(now + 600))),
            ("exp as a text", with("exp", json!((now + 600).to_string()))),
            ("no exp", without("exp")),
            ("no iss", without("iss")),
            ("no aud", without("aud")),
            ("no sub", without("sub")),
            ("wrong iss", with("iss", json!("somebody"))),
            ("wrong aud", with("aud", json!("something"))),
            ("sub that is no id", with("sub", json!("ada"))),
            ("sub that is a query", with("sub", json!({ "$gt": "" }))),
        ]
    }

    fn with_wrong_algorithms(&self) -> Forged {
        let kid = self.kid;
        let none = |alg: &str, signature: &str| {
            let header = json!({ "alg": alg, "typ": "JWT", "kid": kid });
            format!("{}.{}.{signature}", part(&header), part(&self.claims))
        };
        let hmac = |secret: &[u8]| {
            let header = header(Some(kid), Algorithm::HS256);
            encode(&header, &self.claims, &EncodingKey::from_secret(secret)).expect("a token")
        };
        let public = URL_SAFE_NO_PAD.decode(self.x).expect("a key");
        vec![
            ("alg none", none("none", "")),
            ("alg None", none("None", "")),
            ("alg none, signed", none("none", self.parts[2])),
            ("HS256 with the public key", hmac(&public)),
            ("HS256 with the public key's text", hmac(self.x.as_bytes())),
            ("HS256 with nothing", hmac(b"")),
        ]
    }

    fn with_wrong_keys(&self) -> Forged {
        let signed = |kid: Option<&str>, key: &EncodingKey| {
            encode(&header(kid, Algorithm::EdDSA), &self.claims, key).expect("a token")
        };
        vec![
            (
                "another key under our name",
                signed(Some(self.kid), &self.theirs),
            ),
            (
                "a key that nobody has",
                signed(Some("nobody's"), &self.theirs),
            ),
            ("no key named", signed(None, &self.ours)),
        ]
    }
}
