//! The keys of access tokens: Ed25519 keys in a file, the first of which is made on the first start.
//!
//! The first key of the file signs; all of them are published and verify. The file is read again each
//! second, so that keys rotate without a restart: a new key is put behind the one that signs, then in
//! front of it, and in the end the old one is taken away (`docs/rotation.md`).

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm,
    OctetKeyPairParameters, OctetKeyPairType, PublicKeyUse, ThumbprintHash,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use sha2::{Digest, Sha256};
use shared::auth::keys_in_use::KeysInUse;
use shared::auth::token::{AUDIENCE, Claims, ISSUER, LIFETIME, TokenVerifier};
use shared::contract::ids::UserId;
use shared::contract::sessions::SessionId;
use shared::runtime::error_chain::Chain;
use shared::runtime::failing::Failing;
use shared::runtime::tasks::{EverySecond, Tasks};
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// The label of a PKCS #8 key in PEM.
const PRIVATE_KEY: &str = "PRIVATE KEY";
/// A rotation needs two keys, and one that was not ended before the next began a third.
const MOST_KEYS: usize = 4;
/// How long reading the file may take before that is told.
const PATIENCE: Duration = Duration::from_secs(5);
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
    #[error("{} holds no Ed25519 key in PKCS #8 PEM, or one that is damaged", .0.display())]
    NotAKey(PathBuf),
    #[error("{} holds more than {MOST_KEYS} keys", .0.display())]
    TooMany(PathBuf),
    #[error("reading {} takes very long: does its disk answer?", .0.display())]
    Slow(PathBuf),
    #[error("the system gives no random key")]
    Random,
}

/// Signs access tokens, with the keys that its file held when it was read last.
pub struct Signer(RwLock<Arc<KeyRing>>);

/// The first key signs. There is one at least, and none twice.
struct KeyRing(Vec<Key>);

struct Key {
    encoding: EncodingKey,
    /// Derived from the key: says nothing of it.
    tag_key: [u8; 32],
    header: Header,
    public: Jwk,
}

impl Signer {
    /// The keys in this file, which is made with one if it does not exist. Processes that start at
    /// once agree on one key.
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
        let key = Key::from_pkcs8(&generate()?).ok_or(KeyError::Random)?;
        Ok(Self(RwLock::new(Arc::new(KeyRing(vec![key])))))
    }

    /// The keys in this file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let read = |error| KeyError::Read(path.to_owned(), error);
        let text = std::fs::read_to_string(path).map_err(read)?;
        let mode = std::fs::metadata(path).map_err(read)?.permissions().mode();
        let ring = KeyRing::parse(path, &text, mode)?;
        if mode & GROUP_READS != 0 {
            // Kubernetes mounts secrets so, for a group of the pod's own.
            warn!(path = %path.display(), "the signing key {} is readable by a group", path.display());
        }
        Ok(Self(RwLock::new(Arc::new(ring))))
    }

    /// What the file holds now, if that is something else.
    async fn newer(&self, path: &Path) -> Result<Option<KeyRing>, KeyError> {
        let read = |error| KeyError::Read(path.to_owned(), error);
        let text = tokio::fs::read_to_string(path).await.map_err(read)?;
        let mode = tokio::fs::metadata(path).await.map_err(read)?.permissions();
        let now = KeyRing::parse(path, &text, mode.mode())?;
        let changed = now.ids().ne(self.ring().ids());
        Ok(changed.then_some(now))
    }

    fn work_with(&self, ring: KeyRing) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    fn ring(&self) -> Arc<KeyRing> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// An access token for this user, good from now on.
    pub fn sign(&self, user: UserId) -> Result<String, jsonwebtoken::errors::Error> {
        self.sign_at(user, None, get_current_timestamp())
    }

    /// An access token for this user in a session, good from `now` on, in seconds since the epoch:
    /// the same token whenever it is asked for, as long as the same key signs.
    pub fn sign_at(
        &self,
        user: UserId,
        session: Option<SessionId>,
        now: u64,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let claims = Claims {
            sub: user,
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            iat: now,
            exp: now + LIFETIME.as_secs(),
            sid: session.map(|session| session.to_string()),
        };
        let ring = self.ring();
        let key = ring.signing();
        encode(&key.header, &claims, &key.encoding)
    }

    /// Stands for `text` where it is to be recognized and not read: without the key nobody can
    /// find out what it was, however few texts there may be.
    pub fn tag(&self, text: &str) -> [u8; 32] {
        self.ring().signing().tag(text)
    }

    /// Everything that [`Signer::tag`] has made of `text` with one of the keys that are here.
    pub fn tags(&self, text: &str) -> Vec<[u8; 32]> {
        self.ring().0.iter().map(|key| key.tag(text)).collect()
    }

    /// The id of the key that signs.
    pub fn id(&self) -> Option<String> {
        self.ring().signing().id().map(str::to_owned)
    }

    /// What others verify with; the key that signs comes first.
    pub fn key_set(&self) -> JwkSet {
        self.ring().public()
    }
}

impl KeyRing {
    /// The keys in a file with this text and this mode.
    fn parse(path: &Path, text: &str, mode: u32) -> Result<Self, KeyError> {
        if mode & OTHERS_READ != 0 {
            return Err(KeyError::Public(path.to_owned()));
        }
        // What else the file holds, and in whatever state, does not matter.
        let begin = format!("-----BEGIN {PRIVATE_KEY}-----");
        let mut keys: Vec<Key> = Vec::new();
        for (at, _) in text.match_indices(&begin) {
            if keys.len() == MOST_KEYS {
                return Err(KeyError::TooMany(path.to_owned()));
            }
            let key = pem::parse(&text[at..]).ok();
            let key = key.and_then(|key| Key::from_pkcs8(key.contents()));
            let key = key.ok_or_else(|| KeyError::NotAKey(path.to_owned()))?;
            if keys.iter().all(|known| known.id() != key.id()) {
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return Err(KeyError::NotAKey(path.to_owned()));
        }
        Ok(Self(keys))
    }

    fn signing(&self) -> &Key {
        self.0
            .first()
            .unwrap_or_else(|| unreachable!("there is one at least"))
    }

    fn public(&self) -> JwkSet {
        JwkSet {
            keys: self.0.iter().map(|key| key.public.clone()).collect(),
        }
    }

    fn ids(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(Key::id)
    }
}

impl Key {
    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
        let public = public_jwk(URL_SAFE_NO_PAD.encode(pair.public_key()))?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = public.common.key_id.clone();
        let tag_key = Sha256::new().chain_update(TAG_KEY).chain_update(der);
        Some(Self {
            encoding: EncodingKey::from_ed_der(der),
            tag_key: tag_key.finalize().into(),
            header,
            public,
        })
    }

    fn id(&self) -> Option<&str> {
        self.public.common.key_id.as_deref()
    }

    fn tag(&self, text: &str) -> [u8; 32] {
        let tag = Sha256::new().chain_update(self.tag_key);
        tag.chain_update(text).finalize().into()
    }
}

/// The keys of a process that serves: what it signs with, what it verifies with, and what it shows.
pub struct Keys {
    signer: Arc<Signer>,
    pub verifier: Arc<TokenVerifier>,
    shown: KeysInUse,
    failing: Failing,
}

impl Keys {
    pub fn new(signer: Arc<Signer>, shown: KeysInUse) -> Self {
        let set = signer.key_set();
        shown.sign(signer.id());
        Self {
            verifier: Arc::new(TokenVerifier::with_keys(&set, shown.clone())),
            signer,
            shown,
            failing: Failing::default(),
        }
    }

    /// Looks each second what the file holds, and goes over to that. It is looked at, rather than
    /// watched: what mounts secrets replaces whole folders, and not every file system tells.
    pub async fn follow(self, path: PathBuf, tasks: Tasks) {
        let mut seconds = EverySecond::until(tasks.stop_signal());
        let mut reading = None;
        while seconds.next().await {
            self.look(&path, &tasks, &mut reading, PATIENCE).await;
        }
    }

    /// Goes over to what the file holds. It may be on a disk that stands still: then the thread that
    /// reads it does too, so that no other one begins before that one has ended.
    async fn look(
        &self,
        path: &Path,
        tasks: &Tasks,
        reading: &mut Option<JoinHandle<Result<Option<KeyRing>, KeyError>>>,
        patience: Duration,
    ) {
        let mut current = reading.take().unwrap_or_else(|| {
            let (signer, path) = (self.signer.clone(), path.to_owned());
            tasks.ask(async move { signer.newer(&path).await })
        });
        let read = match tokio::time::timeout(patience, &mut current).await {
            Ok(Ok(read)) => read,
            // It panicked, and has told so; the next second is another try.
            Ok(Err(_)) => return,
            Err(_) => {
                *reading = Some(current);
                Err(KeyError::Slow(path.to_owned()))
            }
        };
        match read {
            Ok(newer) => {
                if self.failing.ends() {
                    info!("the file of the signing keys can be used again");
                }
                if let Some(ring) = newer {
                    self.work_with(ring);
                }
            }
            Err(error) => {
                if self.failing.begins(&error) {
                    warn!(error = %Chain(&error), "the signing keys stay as they were: their file cannot be used");
                }
            }
        }
    }

    /// Nothing is signed that would not be accepted here.
    fn work_with(&self, ring: KeyRing) {
        let set = ring.public();
        self.verifier.learn(&set);
        self.signer.work_with(ring);
        let signs = self.signer.id();
        info!(
            key.id = signs,
            keys = set.keys.len(),
            "the signing keys have changed"
        );
        self.shown.sign(signs);
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

#[cfg(test)]
mod tests {
    use super::*;
    use shared::auth::token::TokenError;
    use shared::contract::ids::Id;

    #[tokio::test]
    async fn a_signed_token_verifies_with_the_published_key() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::load_or_make(&folder.path().join("new/jwt.pem")).unwrap();
        let token = signer.sign(Id::new(7).unwrap()).unwrap();
        let verifier = TokenVerifier::with_keys(&signer.key_set(), KeysInUse::default());
        assert_eq!(verifier.verify(&token).await, Ok(Id::new(7).unwrap()));
        let session = SessionId::of("family");
        for session in [None, Some(session)] {
            let token = signer.sign_at(Id::new(7).unwrap(), session, get_current_timestamp());
            for _ in 0..2 {
                let verified = verifier.verified(token.as_ref().unwrap()).await.unwrap();
                assert_eq!(verified.session, session, "also as it is remembered");
            }
        }
    }

    #[test]
    fn processes_that_start_at_once_agree_on_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        let kids: std::collections::HashSet<Option<String>> = std::thread::scope(|scope| {
            let start = || {
                let signer = Signer::load_or_make(&path).unwrap();
                signer.id()
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
        assert_eq!(loaded.key_set(), made.key_set());
    }

    /// Writes a file of keys, in this order.
    fn write(path: &Path, keys: &[&str]) {
        std::fs::write(path, keys.concat()).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(OWNER_ONLY)).unwrap();
    }

    /// A key in PEM, and its id.
    fn key() -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        let id = Signer::load_or_make(&path).unwrap().id().unwrap();
        (std::fs::read_to_string(&path).unwrap(), id)
    }

    #[test]
    fn the_first_key_of_a_file_signs_and_all_are_published_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        let ((a, a_id), (b, b_id)) = (key(), key());
        write(&path, &["next:\n", &b, &a, &b]);
        let signer = Signer::load(&path).unwrap();
        assert_eq!(signer.id(), Some(b_id.clone()));
        let set = signer.key_set();
        let ids: Vec<_> = set
            .keys
            .iter()
            .map(|key| key.common.key_id.clone())
            .collect();
        assert_eq!(ids, [Some(b_id), Some(a_id)]);
    }

    #[test]
    fn one_damaged_key_among_others_and_too_many_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        let good = key().0;
        write(&path, &[&good, &good.replace("MC4C", "AAAA")]);
        assert!(matches!(Signer::load(&path), Err(KeyError::NotAKey(_))));
        let many: Vec<String> = (0..=MOST_KEYS).map(|_| key().0).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        write(&path, &many);
        assert!(matches!(Signer::load(&path), Err(KeyError::TooMany(_))));
    }

    #[tokio::test]
    async fn a_token_is_good_as_long_as_its_key_is_in_the_file_and_bad_files_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.pem");
        let (a, b) = (key().0, key().0);
        let user: UserId = Id::new(7).unwrap();
        write(&path, &[&a]);
        let signer = Arc::new(Signer::load(&path).unwrap());
        let keys = Keys::new(signer.clone(), KeysInUse::default());
        let verifier = keys.verifier.clone();
        let (by_a, tag) = (signer.sign(user).unwrap(), signer.tag("here"));
        assert_eq!(verifier.verify(&by_a).await, Ok(user));
        // Published, signing, and then alone.
        for (held, good, known) in [
            (vec![&a, &b], true, true),
            (vec![&b, &a], true, true),
            (vec![&b], false, false),
            (vec![&a, &b], true, true),
        ] {
            let held: Vec<&str> = held.into_iter().map(String::as_str).collect();
            write(&path, &held);
            let newer = signer.newer(&path).await.unwrap();
            keys.work_with(newer.expect("something else"));
            let fresh = signer.sign(user).unwrap();
            assert_eq!(verifier.verify(&fresh).await, Ok(user));
            let verified = verifier.verify(&by_a).await;
            assert_eq!(verified == Ok(user), good, "{verified:?}");
            assert!(good || verified == Err(TokenError::Invalid));
            assert_eq!(signer.tags("here").contains(&tag), known);
            assert!(signer.newer(&path).await.unwrap().is_none(), "nothing new");
        }
        std::fs::write(&path, &a[..40]).unwrap();
        assert!(signer.newer(&path).await.is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(signer.newer(&path).await.is_err());
        assert_eq!(verifier.verify(&by_a).await, Ok(user));
    }

    /// A pipe that nobody writes into is a disk that does not answer.
    #[test]
    fn a_file_that_cannot_be_read_keeps_one_thread_and_is_taken_up_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let (path, pipe) = (folder.path().join("jwt.pem"), folder.path().join("pipe"));
        let signer = Arc::new(Signer::load_or_make(&path).unwrap());
        let (next, next_id) = key();
        let made = std::process::Command::new("mkfifo")
            .args(["-m", "600"])
            .arg(&pipe)
            .status();
        assert!(made.unwrap().success());
        let keys = Keys::new(signer.clone(), KeysInUse::default());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(2).build();
        let runtime = runtime.unwrap();
        let (told, written) = runtime.block_on(async {
            let (tasks, mut reading, mut told) = (Tasks::default(), None, true);
            for _ in 0..3 {
                let short = Duration::from_millis(20);
                keys.look(&pipe, &tasks, &mut reading, short).await;
                told = told && keys.failing.is_on() && reading.is_some();
            }
            // One of the two threads is free, or this would never begin.
            let into = pipe.clone();
            let writing = tokio::task::spawn_blocking(move || std::fs::write(into, next));
            let long = Duration::from_secs(30);
            keys.look(&pipe, &tasks, &mut reading, long).await;
            (told, tokio::time::timeout(long, writing).await)
        });
        // Without waiting for threads that stand still.
        runtime.shutdown_background();
        assert!(told);
        written.unwrap().unwrap().unwrap();
        assert!(!keys.failing.is_on());
        assert_eq!(signer.id(), Some(next_id));
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
