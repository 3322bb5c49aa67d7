//! The key that signs access tokens: an Ed25519 key in a file, made on the first start.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm,
    OctetKeyPairParameters, OctetKeyPairType, PublicKeyUse, ThumbprintHash,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use sha2::{Digest, Sha256};
use shared::auth::token::{AUDIENCE, Claims, ISSUER, LIFETIME};
use shared::contract::ids::UserId;
use tracing::{info, warn};

/// The label of a PKCS #8 key in PEM.
const PRIVATE_KEY: &str = "PRIVATE KEY";
const OWNER_ONLY: u32 = 0o600;
const OTHERS_READ: u32 = 0o004;
const GROUP_READS: u32 = 0o040;

const TAG_KEY: &str = "microblog tags";

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read the signing key {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("make the signing key {}", .0.display())]
    Make(PathBuf, #[source] io::Error),
    #[error("the signing key {} is readable by everybody: chmod 600 it", .0.display())]
    Public(PathBuf),
    #[error("{} holds no Ed25519 key in PKCS #8 PEM", .0.display())]
    NotAKey(PathBuf),
    #[error("the system gives no random key")]
    Random,
}

/// Signs access tokens.
pub struct Signer {
    key: EncodingKey,
    /// Derived from the key: says nothing of it.
    tag_key: [u8; 32],
    header: Header,
    public: Jwk,
}

impl Signer {
    /// The key in this file, which is made if it does not exist. Processes that start at once
    /// agree on one key.
    pub fn load_or_make(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                make(path)?;
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    /// A key that nobody else knows, for commands that sign nothing.
    pub fn unknown() -> Result<Self, KeyError> {
        Self::from_pkcs8(&generate()?).ok_or(KeyError::Random)
    }

    /// The key in this file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| KeyError::Read(path.to_owned(), error))?;
        refuse_public(path)?;
        // What else the file holds, and in whatever state, does not matter.
        let begin = format!("-----BEGIN {PRIVATE_KEY}-----");
        let key = text
            .find(&begin)
            .and_then(|at| pem::parse(&text[at..]).ok());
        key.and_then(|key| Self::from_pkcs8(key.contents()))
            .ok_or_else(|| KeyError::NotAKey(path.to_owned()))
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
        let public = public_jwk(URL_SAFE_NO_PAD.encode(pair.public_key()))?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = public.common.key_id.clone();
        let tag_key = Sha256::new().chain_update(TAG_KEY).chain_update(der);
        Some(Self {
            key: EncodingKey::from_ed_der(der),
            tag_key: tag_key.finalize().into(),
            header,
            public,
        })
    }

    /// An access token for this user, good from now on.
    pub fn sign(&self, user: UserId) -> Result<String, jsonwebtoken::errors::Error> {
        self.sign_at(user, get_current_timestamp())
    }

    /// An access token for this user, good from `now` on, in seconds since the epoch: the same
    /// token whenever it is asked for.
    pub fn sign_at(&self, user: UserId, now: u64) -> Result<String, jsonwebtoken::errors::Error> {
        let claims = Claims {
            sub: user,
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            iat: now,
            exp: now + LIFETIME.as_secs(),
        };
        encode(&self.header, &claims, &self.key)
    }

    /// Stands for `text` where it is to be recognized and not read: without the key nobody can
    /// find out what it was, however few texts there may be.
    pub fn tag(&self, text: &str) -> [u8; 32] {
        let tag = Sha256::new().chain_update(self.tag_key);
        tag.chain_update(text).finalize().into()
    }

    /// What others verify with.
    pub fn key_set(&self) -> JwkSet {
        JwkSet {
            keys: vec![self.public.clone()],
        }
    }
}

/// The public key with these 32 bytes in base64url; its id is its thumbprint (RFC 7638).
fn public_jwk(x: String) -> Option<Jwk> {
    let mut key = Jwk {
        common: CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(KeyAlgorithm::EdDSA),
            ..CommonParameters::default()
        },
        algorithm: AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
            key_type: OctetKeyPairType::OctetKeyPair,
            curve: EllipticCurve::Ed25519,
            x,
        }),
    };
    key.common.key_id = Some(key.thumbprint(ThumbprintHash::SHA256).ok()?);
    Some(key)
}

/// A new key, in PKCS #8.
fn generate() -> Result<Vec<u8>, KeyError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?;
    let der = pair.to_pkcs8v1().map_err(|_| KeyError::Random)?;
    Ok(der.as_ref().to_vec())
}

/// Makes a key and puts it in place unless somebody else was faster.
fn make(path: &Path) -> Result<(), KeyError> {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let key = pem::Pem::new(PRIVATE_KEY, generate()?);
    let made = place(path, &pem::encode_config(&key, lines));
    let made = made.map_err(|error| KeyError::Make(path.to_owned(), error))?;
    if made {
        info!(path = %path.display(), "made a signing key in {}", path.display());
    }
    Ok(())
}

/// Writes beside the file and links it into place: it appears whole, and never replaces another.
fn place(path: &Path, pem: &str) -> io::Result<bool> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let draft = parent.join(format!(".jwt-{:016x}.tmp", rand::random::<u64>()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(&draft)?;
    let written = file
        .write_all(pem.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::hard_link(&draft, path));
    // Whatever became of it, the draft has done its work.
    std::fs::remove_file(&draft)?;
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn refuse_public(path: &Path) -> Result<(), KeyError> {
    let read = |error| KeyError::Read(path.to_owned(), error);
    let mode = std::fs::metadata(path).map_err(read)?.permissions().mode();
    if mode & OTHERS_READ != 0 {
        return Err(KeyError::Public(path.to_owned()));
    }
    if mode & GROUP_READS != 0 {
        // Kubernetes mounts secrets so, for a group of the pod's own.
        warn!(path = %path.display(), "the signing key {} is readable by a group", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::auth::token::TokenVerifier;
    use shared::contract::ids::Id;

    #[tokio::test]
    async fn a_signed_token_verifies_with_the_published_key() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::load_or_make(&folder.path().join("new/jwt.pem")).unwrap();
        let token = signer.sign(Id::new(7).unwrap()).unwrap();
        let verifier = TokenVerifier::with_keys(&signer.key_set());
        assert_eq!(verifier.verify(&token).await, Ok(Id::new(7).unwrap()));
    }

    #[test]
    fn processes_that_start_at_once_agree_on_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        let kids: std::collections::HashSet<Option<String>> = std::thread::scope(|scope| {
            let start = || {
                let signer = Signer::load_or_make(&path).unwrap();
                signer.public.common.key_id
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(kids.len(), 1);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no drafts are left"
        );
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, OWNER_ONLY);
    }

    #[test]
    fn a_key_that_everybody_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        Signer::load_or_make(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Signer::load_or_make(&path),
            Err(KeyError::Public(_))
        ));
    }

    #[test]
    fn a_file_without_a_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        std::fs::write(&path, "not a key").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(OWNER_ONLY)).unwrap();
        assert!(matches!(
            Signer::load_or_make(&path),
            Err(KeyError::NotAKey(_))
        ));
    }

    #[test]
    fn a_key_is_found_whatever_else_its_file_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        let made = Signer::load_or_make(&path).unwrap();
        let key = std::fs::read_to_string(&path).unwrap();
        let before = "made by hand\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END NOTHING-----\n";
        std::fs::write(&path, format!("{before}{key}").replace('\n', "\r\n")).unwrap();
        let loaded = Signer::load(&path).unwrap();
        assert_eq!(loaded.public, made.public);
    }

    #[test]
    fn the_thumbprint_is_that_of_the_standard_s_example() {
        // RFC 8037, appendix A.3.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let key = public_jwk(x.to_owned()).unwrap();
        let thumbprint = key.common.key_id.unwrap();
        assert_eq!(thumbprint, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
