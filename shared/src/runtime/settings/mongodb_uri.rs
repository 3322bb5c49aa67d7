//! What a connection string may say, judged by the driver itself before anything is connected.
//!
//! The driver's own errors repeat what they refuse, and that may be a password that was not
//! percent-encoded: they are read here and never shown.

use std::path::Path;

use futures_util::FutureExt;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, ConnectionString, Tls, TlsOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::faults::Faults;
use super::secret::Secret;
use super::variables::Text;

/// The views' database has `_views` behind the name, and mongod takes 63 bytes.
const LONGEST_NAME: usize = 57;
/// Every deployment has these, and none of them can hold a log: consoles name one to say where
/// the user is kept.
const SYSTEM_DATABASES: [&str; 3] = ["admin", "config", "local"];

const GENERAL: &str = "a MongoDB URI, as in mongodb://user:password@host:27017/database?option=value \
    or mongodb+srv://user:password@host/database";
const ENCODED: &str = "a MongoDB URI whose user, password and database are percent-encoded: \
    @ is written %40, : %3A, / %2F, ? %3F, % %25";
const PORT: &str = "a MongoDB URI whose ports are numbers from 1 to 65535";
const HOST: &str = "a MongoDB URI whose hosts are names or addresses, with commas between them";
const SRV_HOST: &str = "a MongoDB URI with one name and no port behind mongodb+srv://";
const NAME: &str = "a MongoDB URI whose database has 1 to 57 bytes and none of / \\ . \" $ and \
    blanks in its name";
const OPTION: &str = "a MongoDB URI with options that the driver knows, each once, as in ?tls=true&\
    replicaSet=rs0: see docs/settings.md";
const COMPRESSORS: &str = "a MongoDB URI whose compressors are among snappy and zstd";
const SOCKET_TIMEOUT: &str =
    "a MongoDB URI without socketTimeoutMS, which the driver does not support";
const CA_FILE: &str =
    "a MongoDB URI whose tlsCAFile is a file with certificates in PEM that can be read";
const KEY_FILE: &str = "a MongoDB URI whose tlsCertificateKeyFile is a file with a certificate and its \
    private key in PEM that can be read";
const RECORDS: &str =
    "a MongoDB URI whose mongodb+srv:// name has SRV records of hosts in its own domain";

/// The database that a connection string names for our data, if any.
pub fn database_name(uri: &Secret) -> Option<String> {
    let parsed = ConnectionString::parse(uri.expose()).ok()?;
    let name = parsed.default_database?;
    (!SYSTEM_DATABASES.contains(&name.as_str())).then_some(name)
}

/// The value, if it was given and is right.
pub(super) fn read(variable: &Text, given: Option<String>, faults: &mut Faults) -> Option<Secret> {
    let text = given?;
    let text = text.trim();
    match check(text) {
        Ok(()) => Some(Secret::new(text)),
        Err(wants) => {
            faults.say(variable.name, wants);
            None
        }
    }
}

/// What the URI should have been, if the driver would refuse it.
fn check(text: &str) -> Result<(), &'static str> {
    let is_srv = text.starts_with("mongodb+srv://");
    if !is_srv && !text.starts_with("mongodb://") {
        return Err(GENERAL);
    }
    let parsed = ConnectionString::parse(text).map_err(|error| wanted(&error, text))?;
    #[expect(deprecated, reason = "the driver refuses it when it connects")]
    if parsed.socket_timeout.is_some() {
        return Err(SOCKET_TIMEOUT);
    }
    if let (Some(least), Some(most)) = (parsed.min_pool_size, parsed.max_pool_size)
        && least > most
    {
        return Err(OPTION);
    }
    if let Some(name) = &parsed.default_database {
        check_name(name)?;
    }
    if let Some(Tls::Enabled(files)) = &parsed.tls {
        check_files(files)?;
    }
    // Without a name to look up nothing is waited for.
    if !is_srv {
        let options = ClientOptions::parse(parsed).into_future().now_or_never();
        if let Some(Err(error)) = options {
            return Err(wanted(&error, text));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let illegal = |c: char| "/\\.\"$".contains(c) || c.is_whitespace() || c.is_control();
    let fits = (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(illegal);
    fits.then_some(()).ok_or(NAME)
}

fn check_files(files: &TlsOptions) -> Result<(), &'static str> {
    if let Some(path) = &files.ca_file_path
        && !has_certificates(path)
    {
        return Err(CA_FILE);
    }
    if let Some(path) = &files.cert_key_file_path
        && !(has_certificates(path) && PrivateKeyDer::from_pem_file(path).is_ok())
    {
        return Err(KEY_FILE);
    }
    Ok(())
}

/// Whether a file can be read and holds certificates, and nothing that only looks like one.
pub(super) fn has_certificates(path: &Path) -> bool {
    certificates(path).is_some()
}

pub(super) fn certificates(path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path).ok()?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

/// Asks DNS for the hosts behind a `mongodb+srv://` name.
pub(super) async fn resolve(uri: &Secret) -> Result<(), &'static str> {
    if !uri.expose().starts_with("mongodb+srv://") {
        return Ok(());
    }
    match ClientOptions::parse(uri.expose()).await {
        Ok(_) => Ok(()),
        Err(error) => judge_resolution(&error, uri.expose()),
    }
}

/// A DNS that answers that there is nothing, or not what the driver can use, is a fault of the
/// setting. One that does not answer may answer later.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
fn judge_resolution(error: &Error, text: &str) -> Result<(), &'static str> {
    match error.kind.as_ref() {
        ErrorKind::DnsResolve { message, .. } => {
            let final_answers = [
                "no records found",
                "returned no records",
                "does not match domain name",
                "TXT ",
            ];
            let is_final = final_answers.iter().any(|said| message.contains(said));
            if is_final { Err(RECORDS) } else { Ok(()) }
        }
        _ => Err(wanted(error, text)),
    }
}

/// What a URI should have been, by what the driver (3.9) says of it.
fn wanted(error: &Error, text: &str) -> &'static str {
    let said = error.to_string();
    let says = |part: &str| said.contains(part);
    let has_stray_at = text
        .split_once('?')
        .is_some_and(|(_, behind)| behind.contains('@'));
    if says("must be URL encoded") || says("unescaped %") || has_stray_at {
        ENCODED
    } else if says("illegal character in database name") {
        NAME
    } else if says("mongodb+srv") {
        SRV_HOST
    } else if says("the port must be") {
        PORT
    } else if says("invalid server address") {
        HOST
    } else if says("compress") {
        COMPRESSORS
    } else if says("both not provided") {
        ENCODED
    } else {
        OPTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_consoles_hand_out_is_taken() {
        for uri in [
            "mongodb://127.0.0.1:27017/?replicaSet=rs0",
            "mongodb://u:p%40ss@a.example:27017,b.example:27018/social?authSource=admin&tls=true",
            "mongodb://u:p@h/?tls=true&replicaSet=rs0&readPreference=secondaryPreferred&retryWrites=false",
            "mongodb://u:p@h/?w=1&readConcernLevel=local&journal=true&directConnection=true",
            "mongodb://h/?compressors=zstd,snappy&appName=x&maxPoolSize=50&minPoolSize=5",
            "mongodb://u:p@h/?authMechanism=SCRAM-SHA-256&maxIdleTimeMS=120000&retryReads=true",
            "mongodb+srv://u:p@cluster0.example.net/?retryWrites=true&w=majority&appName=Cluster0",
            "mongodb+srv://doadmin:p@db.example.com/admin?tls=true&authSource=admin&replicaSet=db",
            "mongodb://[::1]:27017/a",
        ] {
            assert_eq!(check(uri), Ok(()), "{uri}");
        }
    }

    #[test]
    fn what_the_driver_refuses_is_said_by_what_it_wants() {
        let long = format!("mongodb://h/{}", "d".repeat(58));
        let missing = "mongodb://h/?tls=true&tlsCAFile=/nowhere/ca.pem";
        let missing_key = "mongodb://h/?tls=true&tlsCertificateKeyFile=/nowhere/key.pem";
        for (uri, wants) in [
            ("postgres://h", GENERAL),
            ("mongodb://u:p@ss@h", ENCODED),
            ("mongodb://u:p/ss@h", ENCODED),
            ("mongodb://u:p?ss@h", ENCODED),
            ("mongodb://u:p%ss@h", ENCODED),
            ("mongodb://u:p:ss@h", ENCODED),
            ("mongodb://@h", ENCODED),
            ("mongodb://h:65536", PORT),
            ("mongodb://h:0", PORT),
            ("mongodb://h:x", PORT),
            ("mongodb://[::1", HOST),
            ("mongodb://", HOST),
            ("mongodb://a,,b", HOST),
            ("mongodb+srv://a,b", SRV_HOST),
            ("mongodb+srv://a:27017", SRV_HOST),
            ("mongodb://h/a.b", NAME),
            ("mongodb://h/a%20b", NAME),
            ("mongodb://h/a$b", NAME),
            ("mongodb://h/a?b", OPTION),
            (&long, NAME),
            ("mongodb://h/?unheardOf=1", OPTION),
            ("mongodb://h/?tls=perhaps", OPTION),
            ("mongodb://h/?tls=true&tls=false", OPTION),
            ("mongodb://h/?compressors=zlib", COMPRESSORS),
            ("mongodb://h/?compressors=lzma", COMPRESSORS),
            ("mongodb://h/?zlibCompressionLevel=6", COMPRESSORS),
            ("mongodb://h/?socketTimeoutMS=1000", SOCKET_TIMEOUT),
            ("mongodb://a,b/?directConnection=true", OPTION),
            ("mongodb://h/?maxPoolSize=1&minPoolSize=2", OPTION),
            (missing, CA_FILE),
            (missing_key, KEY_FILE),
        ] {
            assert_eq!(check(uri), Err(wants), "{uri}");
        }
    }

    #[test]
    fn a_database_that_every_deployment_has_is_only_where_the_user_is_kept() {
        let name = |uri: &str| database_name(&Secret::new(uri));
        assert_eq!(name("mongodb://u:p@h/social").as_deref(), Some("social"));
        assert_eq!(name("mongodb://u:p@h/admin"), None);
        assert_eq!(name("mongodb://u:p@h"), None);
        assert_eq!(
            name("mongodb+srv://u:p@h.example.net/a").as_deref(),
            Some("a")
        );
    }
}
