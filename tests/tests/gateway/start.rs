//! Traefik leaves out what it cannot use, serves the rest, and says so in its log. A gateway that
//! routes only half of the requests is worse than none: so it does not start.

use std::path::Path;
use std::time::Duration;

use system_tests::root;
use system_tests::world::{free_ports, gateway};

pub async fn run() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path();
    let pair = |name: &str| {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(copy.join(format!("{name}.pem")), made.cert.pem()).expect("a file");
        std::fs::write(
            copy.join(format!("{name}.key")),
            made.signing_key.serialize_pem(),
        )
        .expect("a file");
    };
    pair("one");
    pair("other");
    let path = |name: &str| copy.join(name).display().to_string();
    let (cert, key, other_key) = (path("one.pem"), path("one.key"), path("other.key"));
    // Faults of whoever starts it.
    for (arguments, said) in [
        (
            ["--tls-cert", cert.as_str(), "--log", "log"],
            "set both for TLS, or neither",
        ),
        (
            ["--tls-key", key.as_str(), "--log", "log"],
            "set both for TLS, or neither",
        ),
        (
            ["--tls-cert", &cert, "--tls-key", &other_key],
            "KEY_VALUES_MISMATCH",
        ),
        (
            ["--tls-cert", &cert, "--tls-key", "nowhere"],
            "--tls-key: nowhere: No such file or directory",
        ),
        (
            ["--tls-cert", &key, "--tls-key", &key],
            "want a certificate chain and its private key",
        ),
    ] {
        fails(&root(), copy, &arguments, said).await;
    }
    // Faults in the configuration, each tried by itself in a copy of the files.
    for (file, right, wrong, said) in [
        // With two arguments the router is left out, and the commands would get all reads.
        (
            "microblog.yml",
            "Method(`GET`) || Method(`HEAD`)",
            "Method(`GET`, `HEAD`)",
            "unexpected number of parameters",
        ),
        (
            "microblog.yml",
            "retry:",
            "retyr:",
            "field not found, node: retyr",
        ),
        (
            "microblog.yml",
            "serversTransport: services",
            "serversTransport: nobody",
            "servers transport not found nobody@file",
        ),
        (
            "microblog.yml",
            "middlewares: [rate, query-errors, again]",
            "middlewares: [never]",
            "middleware \"never@file\" does not exist",
        ),
        ("microblog.yml", "http:", "http", "microblog.yml"),
        (
            "traefik.yml",
            "readTimeout: ",
            "readTimeuot: ",
            "field not found, node: readTimeuot",
        ),
    ] {
        for name in [
            "scripts/gateway.py",
            "scripts/engines.py",
            "scripts/supervisor.py",
            "manifests/gateway/traefik.yml",
            "manifests/gateway/microblog.yml",
        ] {
            let text = std::fs::read_to_string(root().join(name)).expect("a file of ours");
            let to = copy.join(name);
            std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            let text = if name.ends_with(file) {
                assert!(text.contains(right), "{name} has {right}");
                text.replacen(right, wrong, 1)
            } else {
                text
            };
            std::fs::write(to, text).expect("a copy");
        }
        fails(copy, copy, &[], said).await;
    }
}

/// It ends with 1 and says this.
async fn fails(root: &Path, folder: &Path, more: &[&str], said: &str) {
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let nobody = "http://127.0.0.1:1";
    let mut arguments = vec![
        "--addr",
        &address,
        "--commands",
        nobody,
        "--queries",
        nobody,
    ];
    arguments.extend(more);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let process = gateway(root, folder.path(), &arguments);
    process.start();
    let ended = process.wait(Duration::from_secs(30)).await;
    let output = process.tail(20);
    assert_eq!(
        ended.and_then(|status| status.code()),
        Some(1),
        "{said}: {output}"
    );
    assert!(output.contains(said), "{said}: {output}");
    println!(
        "does not start: {}",
        output.lines().last().unwrap_or_default()
    );
}
