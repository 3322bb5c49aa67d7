//! How NATS is reached, and with which credentials: `NATS_URL` and the variables beside it.
//!
//! async-nats (0.51) sends no credentials that stand in a URL: they are taken out of it here and
//! handed over when it connects. Files are read when the process starts, so that a bad one stops
//! the start, and again at each connection, so that credentials and certificates can be renewed
//! while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_nats::ServerAddr;
use nkeys::{KeyPair, KeyPairType};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::environment::Environment;
use super::faults::Faults;
use super::mongodb_uri::{certificates, has_certificates};
use super::secret::Secret;
use super::variables;

const URL: &str = "one or more URLs that begin with nats://, tls://, ws:// or wss://, with commas between \
    them, as in nats://user:password@host:4222; user, password and token are percent-encoded, and nothing \
    stands behind the port but, of ws:// and wss://, a path";
const ONE_IDENTITY: &str =
    "URLs that agree: one user and password, or one token, in all that have any";
const ONE_KIND: &str = "URLs of one kind: nats:// and tls://, or ws:// and wss://";
const NO_IDENTITY: &str =
    "URLs without user, password or token where NATS_CREDS_FILE or NATS_NKEY_FILE is set";
const ENCRYPTED: &str =
    "URLs with wss:// rather than ws:// where NATS_TLS_CA_FILE or NATS_TLS_CERT_FILE is set";
const CREDS_FILE: &str = "the path of a file, which can be read, with the JWT and the NKEY seed of a NATS user, \
    as nsc writes it";
const NKEY_FILE: &str = "the path of a file, which can be read, with the NKEY seed of a NATS user: SU and 56 \
    letters and digits";
const NO_NKEY_FILE: &str = "unset where NATS_CREDS_FILE is set";
const CA_FILE: &str =
    "the path of a file, which can be read, with certificates of authorities in PEM";
const CERT_FILE: &str = "the path of a file, which can be read, with a certificate and those between it and \
    its authority in PEM; set together with NATS_TLS_KEY_FILE";
const KEY_FILE: &str = "the path of a file, which can be read, with the private key of NATS_TLS_CERT_FILE in \
    PEM; set together with it";
const JS_DOMAIN: &str = "the name of a JetStream domain, without blanks and any of . * >";

/// How to reach NATS, and with which credentials. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct NatsSettings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    given: Secret,
    servers: Vec<ServerAddr>,
    sign_in: SignIn,
    tls: TlsFiles,
    js_domain: Option<String>,
}

/// How we sign in.
#[derive(Clone, Debug)]
pub enum SignIn {
    /// Without credentials: the server decides who that is.
    Nobody,
    Password {
        user: String,
        password: Secret,
    },
    Token(Secret),
    /// A file with a JWT and the seed of its key.
    Creds(PathBuf),
    /// A file with the seed of a key.
    Nkey(PathBuf),
}

#[derive(Clone, Debug, Default)]
struct TlsFiles {
    ca: Option<PathBuf>,
    certificate_and_key: Option<(PathBuf, PathBuf)>,
}

impl NatsSettings {
    /// Of a value of `NATS_URL` alone; `None` if it is no good.
    pub fn from_url(url: &str) -> Option<Self> {
        let mut faults = Faults::default();
        let given = Given {
            url: Some(url.to_owned()),
            ..Given::default()
        };
        let settings = read(given, &mut faults);
        faults.is_empty().then_some(settings)
    }

    /// `NATS_URL` as it was given, with what is secret in it.
    pub fn url(&self) -> &Secret {
        &self.0.given
    }

    /// The servers, without credentials.
    pub fn servers(&self) -> &[ServerAddr] {
        &self.0.servers
    }

    pub fn sign_in(&self) -> &SignIn {
        &self.0.sign_in
    }

    /// Certificates of the authorities to trust, in place of the system's.
    pub fn ca_file(&self) -> Option<&Path> {
        self.0.tls.ca.as_deref()
    }

    /// The client certificate and its key, for a server that asks for them.
    pub fn certificate_and_key(&self) -> Option<(&Path, &Path)> {
        let files = self.0.tls.certificate_and_key.as_ref();
        files.map(|(certificate, key)| (certificate.as_path(), key.as_path()))
    }

    /// Whether no connection may do without TLS.
    pub fn requires_tls(&self) -> bool {
        let encrypted = |server: &ServerAddr| ["tls", "wss"].contains(&server.scheme());
        self.0.tls.is_set() || self.0.servers.iter().any(encrypted)
    }

    /// The domain whose JetStream is meant, if not that of the server connected to.
    pub fn js_domain(&self) -> Option<&str> {
        self.0.js_domain.as_deref()
    }
}

impl TlsFiles {
    fn is_set(&self) -> bool {
        self.ca.is_some() || self.certificate_and_key.is_some()
    }
}

impl SignIn {
    /// The JWT, if there is one, and the key that signs what the server asks to be signed.
    ///
    /// # Errors
    /// What the file should have been.
    pub fn read_key(&self) -> Result<Option<(Option<String>, KeyPair)>, &'static str> {
        match self {
            Self::Nobody | Self::Password { .. } | Self::Token(_) => Ok(None),
            Self::Creds(path) => {
                let text = std::fs::read_to_string(path).map_err(|_| CREDS_FILE)?;
                let (jwt, key) = parse_creds(&text).ok_or(CREDS_FILE)?;
                Ok(Some((Some(jwt), key)))
            }
            Self::Nkey(path) => {
                let text = std::fs::read_to_string(path).map_err(|_| NKEY_FILE)?;
                let key = text.lines().find_map(user_key).ok_or(NKEY_FILE)?;
                Ok(Some((None, key)))
            }
        }
    }
}

/// What the variables say, unchecked.
#[derive(Default)]
pub(super) struct Given {
    pub url: Option<String>,
    pub creds_file: Option<String>,
    pub nkey_file: Option<String>,
    pub ca_file: Option<String>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    pub js_domain: Option<String>,
}

impl Given {
    pub(super) fn of(env: &Environment) -> Self {
        Self {
            url: env.text(&variables::NATS_URL),
            creds_file: env.text(&variables::NATS_CREDS_FILE),
            nkey_file: env.text(&variables::NATS_NKEY_FILE),
            ca_file: env.text(&variables::NATS_TLS_CA_FILE),
            cert_file: env.text(&variables::NATS_TLS_CERT_FILE),
            key_file: env.text(&variables::NATS_TLS_KEY_FILE),
            js_domain: env.text(&variables::NATS_JS_DOMAIN),
        }
    }
}

pub(super) fn read(given: Given, faults: &mut Faults) -> NatsSettings {
    let file = |text: Option<String>| {
        let text = text.map(|text| text.trim().to_owned());
        text.filter(|text| !text.is_empty()).map(PathBuf::from)
    };
    let by_file = by_file(file(given.creds_file), file(given.nkey_file), faults);
    let (cert, key) = (file(given.cert_file), file(given.key_file));
    let tls = read_tls(file(given.ca_file), cert, key, faults);
    let text = given
        .url
        .unwrap_or_else(|| variables::NATS_URL.default.to_owned());
    let urls = read_urls(&text).and_then(|(servers, in_url)| {
        let plain = |server: &ServerAddr| server.scheme() == "ws";
        if by_file.is_some() && in_url.is_some() {
            Err(NO_IDENTITY)
        } else if tls.is_set() && servers.iter().any(plain) {
            Err(ENCRYPTED)
        } else {
            Ok((servers, in_url))
        }
    });
    let (servers, in_url) = urls.unwrap_or_else(|wants| {
        faults.say(variables::NATS_URL.name, wants);
        Default::default()
    });
    let js_domain = given.js_domain.map(|text| text.trim().to_owned());
    let js_domain = js_domain.filter(|text| !text.is_empty());
    if let Some(domain) = &js_domain
        && domain.contains(|c: char| ".*>".contains(c) || c.is_whitespace() || c.is_control())
    {
        faults.say(variables::NATS_JS_DOMAIN.name, JS_DOMAIN);
    }
    NatsSettings(Arc::new(Inner {
        given: Secret::new(text),
        servers,
        sign_in: by_file.or(in_url).unwrap_or(SignIn::Nobody),
        tls,
        js_domain,
    }))
}

fn by_file(creds: Option<PathBuf>, nkey: Option<PathBuf>, faults: &mut Faults) -> Option<SignIn> {
    let has_creds = creds.is_some();
    let creds = creds.map(|path| (variables::NATS_CREDS_FILE.name, SignIn::Creds(path)));
    let nkey = nkey.map(|path| (variables::NATS_NKEY_FILE.name, SignIn::Nkey(path)));
    if has_creds && nkey.is_some() {
        faults.say(variables::NATS_NKEY_FILE.name, NO_NKEY_FILE);
    }
    let mut first = None;
    for (name, sign_in) in [creds, nkey].into_iter().flatten() {
        if let Err(wants) = sign_in.read_key() {
            faults.say(name, wants);
        }
        first.get_or_insert(sign_in);
    }
    first
}

fn read_tls(
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    faults: &mut Faults,
) -> TlsFiles {
    if ca.as_deref().is_some_and(|path| !has_certificates(path)) {
        faults.say(variables::NATS_TLS_CA_FILE.name, CA_FILE);
    }
    let chain = cert.as_deref().and_then(certificates);
    let private = key.as_deref().map(PrivateKeyDer::from_pem_file);
    let private = private.and_then(Result::ok);
    if chain.is_none() && (cert.is_some() || key.is_some()) {
        faults.say(variables::NATS_TLS_CERT_FILE.name, CERT_FILE);
    }
    if private.is_none() && (cert.is_some() || key.is_some()) {
        faults.say(variables::NATS_TLS_KEY_FILE.name, KEY_FILE);
    }
    if let (Some(chain), Some(private)) = (chain, private) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let belongs = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_client_auth_cert(chain, private)
            });
        if belongs.is_err() {
            faults.say(variables::NATS_TLS_KEY_FILE.name, KEY_FILE);
        }
    }
    TlsFiles {
        ca,
        certificate_and_key: cert.zip(key),
    }
}

/// The servers of a list of URLs, and the credentials that stand in them.
fn read_urls(text: &str) -> Result<(Vec<ServerAddr>, Option<SignIn>), &'static str> {
    let (mut servers, mut identity): (Vec<ServerAddr>, Option<(String, Option<String>)>) =
        Default::default();
    for item in text.split(',') {
        let (server, own) = read_url(item.trim()).ok_or(URL)?;
        if servers
            .iter()
            .any(|other| other.is_websocket() != server.is_websocket())
        {
            return Err(ONE_KIND);
        }
        servers.push(server);
        match (&identity, own) {
            (Some(known), Some(own)) if *known != own => return Err(ONE_IDENTITY),
            (None, Some(own)) => identity = Some(own),
            (_, None) | (Some(_), Some(_)) => (),
        }
    }
    let sign_in = identity.map(|identity| match identity {
        (user, Some(password)) => SignIn::Password {
            user,
            password: Secret::new(password),
        },
        (token, None) => SignIn::Token(Secret::new(token)),
    });
    Ok((servers, sign_in))
}

type Userinfo = (String, Option<String>);

/// One URL without its credentials, and those: a user with a password, or a token.
fn read_url(text: &str) -> Option<(ServerAddr, Option<Userinfo>)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_websocket = match scheme {
        "nats" | "tls" => false,
        "ws" | "wss" => true,
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let path_fits = match behind {
        "" | "/" => true,
        path => is_websocket && !path.contains(['?', '#', '@']),
    };
    let (userinfo, place) = match authority.rsplit_once('@') {
        Some((userinfo, place)) => (Some(userinfo), place),
        None => (None, authority),
    };
    let port = place.rsplit_once(':').map(|(_, port)| port);
    let port_fits = match port {
        // Colons of an IPv6 address.
        None => true,
        Some(port) if port.ends_with(']') => true,
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse() != Ok(0_u16),
    };
    let userinfo = match userinfo {
        Some(userinfo) => Some(read_userinfo(userinfo)?),
        None => None,
    };
    let blank = |c: char| c.is_whitespace() || c.is_control();
    if !path_fits || !port_fits || place.contains(blank) || behind.contains(blank) {
        return None;
    }
    let server: ServerAddr = format!("{scheme}://{place}{behind}").parse().ok()?;
    (!server.host().is_empty()).then_some((server, userinfo))
}

fn read_userinfo(text: &str) -> Option<Userinfo> {
    let (name, password) = match text.split_once(':') {
        Some((name, password)) => (name, Some(password)),
        None => (text, None),
    };
    if name.is_empty() || password.is_some_and(|password| password.contains(':')) {
        return None;
    }
    let password = match password {
        Some(password) => Some(percent_decoded(password)?),
        None => None,
    };
    Some((percent_decoded(name)?, password))
}

/// `None` where a percent sign begins nothing, or what comes out is no text.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (hex, rest) = (part.get(..2)?, part.get(2..)?);
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// The JWT and the key of a file as nsc writes it: each in the line behind its heading.
fn parse_creds(text: &str) -> Option<(String, KeyPair)> {
    let mut lines = text.lines().map(str::trim);
    let mut behind = |heading: &str| {
        let is_heading = |line: &str| line.starts_with("---") && line.contains(heading);
        lines.find(|line| is_heading(line))?;
        lines.find(|line| !line.is_empty())
    };
    let jwt = behind("BEGIN NATS USER JWT")?;
    let key = user_key(behind("BEGIN USER NKEY SEED")?)?;
    let looks_right = jwt.split('.').count() == 3 && !jwt.starts_with('-');
    looks_right.then(|| (jwt.to_owned(), key))
}

fn user_key(line: &str) -> Option<KeyPair> {
    let line = line.trim();
    let key = line
        .starts_with("SU")
        .then(|| KeyPair::from_seed(line))?
        .ok()?;
    matches!(key.key_pair_type(), KeyPairType::User).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in(url: &str) -> SignIn {
        NatsSettings::from_url(url).unwrap().sign_in().clone()
    }

    #[test]
    fn user_and_password_or_a_token_are_taken_out_of_the_url() {
        let settings =
            NatsSettings::from_url("nats://us%65r:p%40s%2Fs%25%C3%BC@a:4222, nats://b:4223/")
                .unwrap();
        let SignIn::Password { user, password } = settings.sign_in() else {
            panic!("{settings:?}")
        };
        assert_eq!((user.as_str(), password.expose()), ("user", "p@s/s%ü"));
        let servers: Vec<_> = settings
            .servers()
            .iter()
            .map(ServerAddr::as_url_str)
            .collect();
        assert_eq!(servers, ["nats://a:4222", "nats://b:4223/"]);
        assert!(!format!("{settings:?}").contains("p@s"), "{settings:?}");
        let SignIn::Token(token) = sign_in("tls://t%3Ak@[::1]:4222") else {
            panic!()
        };
        assert_eq!(token.expose(), "t:k");
        // What is not encoded and can be told apart all the same.
        let SignIn::Password { password, .. } = sign_in("nats://u:p@ss@h") else {
            panic!()
        };
        assert_eq!(password.expose(), "p@ss");
        assert!(matches!(
            sign_in("nats://u:p@a,nats://u:p@b"),
            SignIn::Password { .. }
        ));
        assert!(matches!(sign_in("wss://h/nats"), SignIn::Nobody));
    }

    #[test]
    fn a_url_that_would_never_connect_is_refused() {
        for url in [
            "",
            "nats://",
            "http://h",
            "h:4222",
            "nats://h:x",
            "nats://h:0",
            "nats://h:65536",
            "nats://a,",
            "nats://a,,nats://b",
            "nats://a nats://b",
            "nats://u:p/w@h",
            "nats://u:1?x@h",
            "nats://u:%zz@h",
            "nats://u:a:b@h",
            "nats://:p@h",
            "nats://@h",
            "nats://h/path",
            "nats://h?x=y",
            "nats://u:p@a,nats://u:q@b",
            "nats://t@a,nats://u:p@b",
            "nats://a,ws://b",
            "nats://u:%ff@h",
            "ws://h/a@b",
        ] {
            assert!(NatsSettings::from_url(url).is_none(), "{url}");
        }
    }

    #[test]
    fn tls_is_required_where_a_url_or_a_file_asks_for_it() {
        let requires = |url: &str| NatsSettings::from_url(url).unwrap().requires_tls();
        assert!(requires("nats://a,tls://b"));
        assert!(requires("wss://a"));
        assert!(!requires("nats://a"));
    }

    #[test]
    fn a_seed_of_somebody_else_than_a_user_is_refused() {
        let user = KeyPair::new_user();
        assert!(user_key(&user.seed().unwrap()).is_some());
        assert!(user_key(&KeyPair::new_account().seed().unwrap()).is_none());
        assert!(user_key("SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLN").is_none());
        let seed = user.seed().unwrap();
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n\n\
             *** IMPORTANT ***\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let (jwt, key) = parse_creds(&creds.replace('\n', "\r\n")).unwrap();
        assert_eq!(
            (jwt.as_str(), key.public_key()),
            ("a.b.c", user.public_key())
        );
        assert!(parse_creds(&seed).is_none());
    }
}
