//! Schemas of what has no type of ours, for the OpenAPI document.

use shared::contract::ids::UserId;
use shared::contract::time::Timestamp;
use utoipa::ToSchema;

/// Who put a post into a timeline by reposting it.
// Nobody, in what this service answers. The query service has the same schema.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it is null here")]
pub struct Reposter {
    pub user_id: UserId,
    pub username: String,
    pub reposted_at: Timestamp,
}

/// The public keys that verify access tokens (RFC 7517).
#[derive(ToSchema)]
#[schema(as = KeySet)]
#[allow(dead_code, reason = "jsonwebtoken writes what it describes")]
pub struct KeySetView {
    keys: Vec<KeyView>,
}

/// An Ed25519 key (RFC 8037).
#[derive(ToSchema)]
#[schema(as = Key)]
#[allow(dead_code, reason = "jsonwebtoken writes what it describes")]
pub struct KeyView {
    /// `OKP`.
    kty: String,
    /// `Ed25519`.
    crv: String,
    /// The public key, in base64url.
    x: String,
    /// Its thumbprint; tokens name it.
    kid: String,
    /// `sig`.
    r#use: String,
    /// `EdDSA`.
    alg: String,
}
