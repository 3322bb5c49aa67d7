//! The ways into a broker: its configuration, and the settings that go with it, right and wrong.

use nkeys::KeyPair;
use system_tests::secured::{Authority, Broker, Operator};

/// Settings of a service.
pub type Variables = Vec<(&'static str, String)>;

/// A broker's configuration, and the services' settings for it.
pub struct Way {
    pub name: &'static str,
    pub broker: Broker,
    pub config: String,
    pub right: Variables,
    /// What does not work, and the sentence about it.
    pub wrong: Vec<(Variables, &'static str)>,
}

const UNKNOWN_AUTHORITY: &str =
    "its certificate comes from an authority that we do not know: see NATS_TLS_CA_FILE";

pub fn all() -> [Way; 8] {
    [
        by_password(),
        by_token(),
        by_nkey(),
        by_creds(),
        behind_tls(),
        with_client_certificates(),
        by_websocket(),
        in_a_domain(),
    ]
}

fn by_password() -> Way {
    let broker = Broker::new();
    let (port, other) = (broker.port, broker.other_port);
    let url = |userinfo: &str| vec![("NATS_URL", format!("nats://{userinfo}127.0.0.1:{port}"))];
    Way {
        name: "user and password",
        config: "authorization { user: \"us er\", password: \"p@ss/w:rd%ü\" }".to_owned(),
        right: vec![(
            "NATS_URL",
            // The first is not there: credentials are those of all servers.
            format!(
                "nats://us%20er:p%40ss%2Fw%3Ard%25%C3%BC@127.0.0.1:{other}, nats://127.0.0.1:{port}"
            ),
        )],
        wrong: vec![
            (
                url("us%20er:another@"),
                "it refuses the user and password in NATS_URL",
            ),
            (
                url(""),
                "it wants credentials, and none are set: see NATS_URL and NATS_CREDS_FILE",
            ),
        ],
        broker,
    }
}

fn by_token() -> Way {
    let broker = Broker::new();
    let url = |token: &str| {
        vec![(
            "NATS_URL",
            format!("nats://{token}@127.0.0.1:{}", broker.port),
        )]
    };
    Way {
        name: "token",
        config: "authorization { token: \"t:k/n@\" }".to_owned(),
        right: url("t%3Ak%2Fn%40"),
        wrong: vec![(url("another"), "it refuses the token in NATS_URL")],
        broker,
    }
}

fn by_nkey() -> Way {
    let broker = Broker::new();
    let user = KeyPair::new_user();
    let with = |name: &str, key: &KeyPair| {
        let seed = key.seed().expect("a seed") + "\n";
        vec![
            ("NATS_URL", format!("nats://127.0.0.1:{}", broker.port)),
            ("NATS_NKEY_FILE", broker.file(name, &seed)),
        ]
    };
    Way {
        name: "nkey",
        config: format!(
            "authorization {{ users: [{{ nkey: {} }}] }}",
            user.public_key()
        ),
        right: with("right.nk", &user),
        wrong: vec![(
            with("wrong.nk", &KeyPair::new_user()),
            "it refuses the key of NATS_NKEY_FILE",
        )],
        broker,
    }
}

fn by_creds() -> Way {
    let broker = Broker::new();
    let (operator, another) = (Operator::new(), Operator::new());
    let with = |name: &str, operator: &Operator| {
        vec![
            ("NATS_URL", format!("nats://127.0.0.1:{}", broker.port)),
            ("NATS_CREDS_FILE", broker.file(name, &operator.creds())),
        ]
    };
    Way {
        name: "creds",
        config: operator.config(),
        right: with("right.creds", &operator),
        wrong: vec![(
            with("wrong.creds", &another),
            "it refuses the credentials of NATS_CREDS_FILE",
        )],
        broker,
    }
}

/// The files of a server's certificate, as its configuration names them.
fn server_files(broker: &Broker, authority: &Authority) -> String {
    let server = authority.server("localhost");
    let certificate = broker.file("server.pem", &server.certificate);
    let key = broker.file("server.key", &server.key);
    format!("cert_file: {certificate:?}, key_file: {key:?}")
}

fn behind_tls() -> Way {
    let broker = Broker::new();
    let (authority, another) = (Authority::new("ours"), Authority::new("theirs"));
    let ours = broker.file("ours.pem", &authority.certificate());
    let theirs = broker.file("theirs.pem", &another.certificate());
    let at = |url: String, ca: &str| vec![("NATS_URL", url), ("NATS_TLS_CA_FILE", ca.to_owned())];
    let port = broker.port;
    Way {
        name: "TLS",
        config: format!("tls {{ {} }}", server_files(&broker, &authority)),
        right: at(format!("tls://localhost:{port}"), &ours),
        wrong: vec![
            (
                at(format!("tls://localhost:{port}"), &theirs),
                UNKNOWN_AUTHORITY,
            ),
            (
                at(format!("nats://127.0.0.1:{port}"), &ours),
                "its certificate is for another name than NATS_URL's host",
            ),
        ],
        broker,
    }
}

fn with_client_certificates() -> Way {
    let broker = Broker::new();
    let authority = Authority::new("ours");
    let ca = broker.file("ca.pem", &authority.certificate());
    let client = authority.client("microblog");
    let certificate = broker.file("client.pem", &client.certificate);
    let key = broker.file("client.key", &client.key);
    let bare = vec![
        ("NATS_URL", format!("tls://localhost:{}", broker.port)),
        ("NATS_TLS_CA_FILE", ca.clone()),
    ];
    let mut right = bare.clone();
    right.extend([
        ("NATS_TLS_CERT_FILE", certificate),
        ("NATS_TLS_KEY_FILE", key),
    ]);
    Way {
        name: "client certificates",
        config: format!(
            "tls {{ {}, ca_file: {ca:?}, verify: true }}",
            server_files(&broker, &authority)
        ),
        right,
        wrong: vec![(
            bare,
            "it refuses our TLS: does it want a certificate (NATS_TLS_CERT_FILE)?",
        )],
        broker,
    }
}

fn by_websocket() -> Way {
    let broker = Broker::new();
    let (authority, another) = (Authority::new("ours"), Authority::new("theirs"));
    let ours = broker.file("ours.pem", &authority.certificate());
    let theirs = broker.file("theirs.pem", &another.certificate());
    let (port, other) = (broker.port, broker.other_port);
    let at = |url: String, ca: &str| vec![("NATS_URL", url), ("NATS_TLS_CA_FILE", ca.to_owned())];
    Way {
        name: "wss",
        config: format!(
            "authorization {{ user: u, password: \"p w\" }}\n\
             websocket {{ listen: \"127.0.0.1:{other}\", tls {{ {} }} }}",
            server_files(&broker, &authority)
        ),
        right: at(format!("wss://u:p%20w@localhost:{other}"), &ours),
        wrong: vec![
            (
                at(format!("wss://u:p%20w@localhost:{other}"), &theirs),
                UNKNOWN_AUTHORITY,
            ),
            (
                at(format!("wss://u:p@localhost:{other}"), &ours),
                "it refuses the user and password in NATS_URL",
            ),
            (
                // Plain NATS where TLS is asked for.
                at(format!("tls://u:p%20w@localhost:{port}"), &ours),
                "it does not speak TLS, which NATS_URL or a NATS_TLS_ file asks for",
            ),
        ],
        broker,
    }
}

fn in_a_domain() -> Way {
    let broker = Broker::new();
    let store = broker.folder().join("hub").display().to_string();
    let url = |port: u16| ("NATS_URL", format!("ws://127.0.0.1:{port}/"));
    let (port, other) = (broker.port, broker.other_port);
    Way {
        name: "domain, ws",
        config: format!(
            "jetstream {{ store_dir: {store:?}, domain: hub }}\n\
             websocket {{ listen: \"127.0.0.1:{other}\", no_tls: true }}"
        ),
        right: vec![url(other), ("NATS_JS_DOMAIN", "hub".to_owned())],
        wrong: vec![(vec![url(port)], "what answers there speaks no WebSocket")],
        broker,
    }
}
