//! Engines that require credentials or certificates, and both of these, made for one test.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bson::doc;
use nkeys::KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair as CertificateKey,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::eventually;
use crate::process::Process;
use crate::world::{free_ports, needed, write_nats_config};

/// A broker with a configuration of its own, and the files that it and its clients read.
pub struct Broker {
    pub port: u16,
    /// For a listener that the configuration may add.
    pub other_port: u16,
    pub process: Process,
    /// The last field: it is removed after the process has been killed.
    folder: TempDir,
}

impl Broker {
    /// A broker that is not started yet.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("microblog-nats-").tempdir();
        let folder = folder.expect("a folder for temporary files");
        let [port, other_port] = free_ports();
        let config = write_nats_config(folder.path(), port, "").into_os_string();
        let program = needed("MICROBLOG_NATS_BIN");
        let process = Process::new("nats", Path::new(&program), folder.path())
            .arguments(["--config".into(), config]);
        Self {
            port,
            other_port,
            process,
            folder,
        }
    }

    /// Starts it with the configuration of every test broker, and `config` after it.
    pub fn start(&self, config: &str) {
        write_nats_config(self.folder.path(), self.port, config);
        self.process.start();
    }

    /// Makes it read another configuration while it runs.
    pub fn reload(&self, config: &str) {
        write_nats_config(self.folder.path(), self.port, config);
        self.process.reload();
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        write(self.folder.path(), name, text)
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a file that a setting names.
pub fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path.display().to_string()
}

/// A certificate authority of one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, CertificateKey>,
}

/// A certificate with its key, in PEM.
pub struct Certified {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = CertificateKey::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key);
        Self {
            issuer: issuer.expect("a certificate"),
        }
    }

    /// Its own certificate, in PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server that is reached by `host`.
    pub fn server(&self, host: &str) -> Certified {
        self.sign(host, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Certified {
        self.sign(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Certified {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages.push(usage);
        let key = CertificateKey::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a signature");
        Certified {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Operator, account and user, as `nsc` makes them.
pub struct Operator {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

impl Operator {
    #[expect(clippy::new_without_default, reason = "it makes keys")]
    pub fn new() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
        }
    }

    /// The configuration of a broker that trusts this operator.
    pub fn config(&self) -> String {
        let (system, account) = (self.system.public_key(), self.account.public_key());
        let operator = json!({
            "type": "operator", "version": 2, "system_account": system,
        });
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": true, "conn": -1, "leaf": -1,
        });
        let mut with_streams = limits.clone();
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            with_streams[limit] = json!(-1);
        }
        let account_of = |limits: Value| {
            json!({
                "type": "account", "version": 2, "limits": limits,
                "default_permissions": { "pub": {}, "sub": {} },
            })
        };
        let operator_jwt = jwt(&self.operator, &self.operator, &operator);
        let system_jwt = jwt(&self.operator, &self.system, &account_of(limits));
        let account_jwt = jwt(&self.operator, &self.account, &account_of(with_streams));
        format!(
            "operator: {operator_jwt}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {system}: {system_jwt}, {account}: {account_jwt} }}\n"
        )
    }

    /// A `.creds` file of a new user.
    pub fn creds(&self) -> String {
        let user = KeyPair::new_user();
        let claims = json!({
            "type": "user", "version": 2, "pub": {}, "sub": {},
            "subs": -1, "data": -1, "payload": -1,
        });
        let token = jwt(&self.account, &user, &claims);
        let seed = user.seed().expect("a seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: &Value) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let body = json!({
        "jti": format!("{:032x}", rand::random::<u128>()),
        "iat": now.as_secs(),
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": "microblog",
        "nats": claims,
    });
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", encode(&head), encode(&body));
    let signature = issuer.sign(signed.as_bytes()).expect("a private key");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A MongoDB that requires a user, or TLS.
pub struct SecuredMongo {
    pub port: u16,
    pub replica_set: &'static str,
    pub folder: PathBuf,
    process: Process,
    _folder: TempDir,
}

/// What a secured MongoDB requires.
#[derive(Clone, Copy, Default)]
pub struct Security<'a> {
    /// Name and password.
    pub user: Option<(&'a str, &'a str)>,
    /// The server's certificate, and the authority of its clients.
    pub tls: Option<(&'a Certified, Option<&'a Authority>)>,
}

impl SecuredMongo {
    /// `None` where tests run `mongod` and not the embedded MongoDB: it makes users in another way.
    pub async fn start(security: Security<'_>) -> Option<Self> {
        if needed("MICROBLOG_MONGODB_KIND") == "mongod" {
            println!("left out: needs the embedded MongoDB");
            return None;
        }
        let temporary = tempfile::Builder::new()
            .prefix("microblog-mongo-")
            .tempdir();
        let temporary = temporary.expect("a folder for temporary files");
        let folder = temporary.path().to_owned();
        let [port] = free_ports();
        let program = needed("MICROBLOG_MONGODB_BIN");
        let process = |arguments: &[String]| {
            Process::new("mongodb", Path::new(&program), &folder).arguments(arguments)
        };
        let mut arguments = arguments(&folder, port);
        if let Some((name, password)) = security.user {
            // A database that asks for users must have one before it asks.
            create_user(&process(&arguments), port, name, password).await;
            arguments.push("--auth".to_owned());
        }
        if let Some((server, clients)) = security.tls {
            arguments.extend(tls_arguments(&folder, server, clients));
        }
        let process = process(&arguments);
        process.start();
        let listens = async || TcpStream::connect(("127.0.0.1", port)).await.ok();
        eventually("MongoDB listens", Duration::from_secs(60), listens).await;
        Some(Self {
            port,
            replica_set: "secantus",
            folder,
            process,
            _folder: temporary,
        })
    }

    /// Fails with the last lines of its log if it has ended.
    pub fn check(&self) {
        assert!(self.process.is_running(), "{}", self.process.tail(20));
    }
}

/// What every embedded MongoDB of these tests is started with.
fn arguments(folder: &Path, port: u16) -> Vec<String> {
    [
        "--config",
        &write(folder, "secantus.toml", ""),
        "--port",
        &port.to_string(),
        "--storage-path",
        &folder.join("data").display().to_string(),
        "--cache-size",
        "256M",
        "--log-level",
        "WARNING",
    ]
    .map(str::to_owned)
    .into()
}

/// Starts the database, creates its first user, and stops it again.
async fn create_user(database: &Process, port: u16, name: &str, password: &str) {
    database.start();
    let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
    let client = mongodb::Client::with_uri_str(uri).await.expect("a client");
    eventually("a user is made", Duration::from_secs(60), async || {
        let user = doc! { "createUser": name, "pwd": password, "roles": ["root"] };
        client.database("admin").run_command(user).await.ok()
    })
    .await;
    database.terminate();
    let ended = database.wait(Duration::from_secs(30)).await;
    ended.expect("it ends when it is asked to");
}

/// The server's certificate and, if there is one, the authority whose clients it accepts.
fn tls_arguments(folder: &Path, server: &Certified, clients: Option<&Authority>) -> Vec<String> {
    let certificate = write(folder, "server.pem", &server.certificate);
    let key = write(folder, "server.key", &server.key);
    let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key];
    let mut arguments = Vec::from(files.map(str::to_owned));
    if let Some(authority) = clients {
        let ca = write(folder, "clients.pem", &authority.certificate());
        let asks = ["--tls-ca-file", &ca, "--tls-require-client-cert"];
        arguments.extend(asks.map(str::to_owned));
    }
    arguments
}
