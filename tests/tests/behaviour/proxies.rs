//! Live streams and entity tags through the proxies that people put in front, with the set-ups of
//! `docs/proxies.md`. A proxy that is not installed is skipped with a word.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::StatusCode;
use system_tests::api::Session;
use system_tests::events::{End, Event, Events};
use system_tests::process::{Process, describe};
use system_tests::world::{PATIENCE, World, free_ports};
use system_tests::{alone, eventually, http_client};

use super::text;

/// After so many seconds of silence each proxy here gives up.
const TIMEOUT_SECS: u64 = 3;

/// One way in, through one proxy or two.
struct Front {
    name: &'static str,
    url: String,
    /// Whether it can tell a stream that is broken off from one that ends: not by HTTP/1.0.
    tells_breaks: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_streams_and_entity_tags_pass_through_proxies() {
    let _alone = alone().await;
    let world = World::start(&[("STREAM_HEARTBEAT_SECS", "1")]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let query = world.query.api.trim_start_matches("http://").to_owned();
    let (mut proxies, mut fronts) = (Vec::new(), Vec::new());
    for start in [nginx, haproxy, apache, varnish] {
        if let Some((process, ways_in)) = start(folder.path(), &query) {
            process.start();
            proxies.push(process);
            fronts.extend(ways_in);
        }
    }
    for front in &fronts {
        answers(front, &proxies).await;
    }
    let sessions = world.sessions(&world.api(), "reader", fronts.len()).await;
    let clients = fronts.iter().zip(&sessions);
    let streams = join_all(clients.map(|(front, session)| through(front, session))).await;
    // The service stops: whoever can tell, does.
    world.query.process.terminate();
    for (front, mut stream) in fronts.iter().zip(streams) {
        while stream.item().await.is_some() {}
        let expected = if front.tells_breaks {
            End::BrokenOff
        } else {
            End::InOrder
        };
        assert_eq!(stream.end(), Some(expected), "{}", front.name);
    }
}

/// Waits until a proxy answers.
async fn answers(front: &Front, proxies: &[Arc<Process>]) {
    let what = format!("{} answers", front.name);
    let http = http_client(None);
    eventually(&what, PATIENCE, async || {
        for process in proxies {
            if let Some(status) = process.ended() {
                panic!("{}: {}", describe(status), process.tail(20));
            }
        }
        let answer = http.get(format!("{}/api/v1/users/1", front.url));
        let answer = answer.send().await.ok()?;
        (answer.status() == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
}

/// An event at once, alive past the proxy's timeout, resumed by id, 304 by what it makes of tags.
async fn through(front: &Front, session: &Session) -> Events {
    let name = front.name;
    let session = session.at(&front.url);
    let mut stream = session.live(None).await;
    let began = Instant::now();
    let (first, took) = posted(&session, &mut stream, &format!("{name} first")).await;
    while began.elapsed() < Duration::from_secs(TIMEOUT_SECS + 1) {
        stream.comment("heartbeat").await;
    }
    posted(&session, &mut stream, &format!("{name} after a while")).await;
    drop(stream);
    let mut stream = session.live(Some(first.id)).await;
    let missed = stream.next().await.expect("it is resumed");
    assert_eq!(
        text(&missed.post, "content"),
        format!("{name} after a while")
    );

    let profile = format!("/users/{}", session.user_id);
    let ask = |tag: Option<String>| {
        let request = session.request(&profile).header("accept-encoding", "gzip");
        match tag {
            Some(tag) => request.header("if-none-match", tag),
            None => request,
        }
    };
    let answer = ask(None).send().await.expect("a profile");
    assert_eq!(answer.status(), StatusCode::OK, "{name}");
    let header = |header: &str| {
        let value = answer.headers().get(header);
        value
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let (tag, coding) = (header("etag").expect("a tag"), header("content-encoding"));
    let again = ask(Some(tag.clone())).send().await.expect("an answer");
    println!(
        "{name}: an event {took:.1?} after its post; {tag} ({coding:?}) again: {}",
        again.status()
    );
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{name}: {tag}");
    stream
}

/// Posts, and waits for the event: soon, or something holds it back.
async fn posted(session: &Session, stream: &mut Events, content: &str) -> (Event, Duration) {
    let began = Instant::now();
    session
        .post(content, &content.replace(' ', "-"))
        .await
        .accepted();
    let event = stream.next().await.expect("an event");
    let took = began.elapsed();
    assert_eq!(text(&event.post, "content"), content);
    // What is held back comes when a buffer of some kilobytes is full: minutes later.
    assert!(took < Duration::from_secs(5), "{content}: {took:?}");
    (event, took)
}

type Started = Option<(Arc<Process>, Vec<Front>)>;

/// A program on the path, or where Debian keeps what administrators run.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        println!("{name} is not installed: skipped");
    }
    found
}

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a configuration");
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn front(name: &'static str, port: u16, tells_breaks: bool) -> Front {
    Front {
        name,
        url: format!("http://127.0.0.1:{port}"),
        tells_breaks,
    }
}

fn nginx(folder: &Path, query: &str) -> Started {
    let program = program("nginx")?;
    let [plain, kept, outer] = free_ports();
    let folder_text = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder_text}/{kind};\n"))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {folder_text}/nginx.pid;\n\
         error_log stderr;\n\
         events {{ }}\n\
         http {{\n\
         access_log off;\n\
         {temporary}\
         gzip on; gzip_min_length 1; gzip_proxied any; gzip_types application/json;\n\
         proxy_read_timeout {TIMEOUT_SECS}s;\n\
         # As nginx comes.\n\
         server {{ listen 127.0.0.1:{plain}; location / {{ proxy_pass http://{query}; }} }}\n\
         # As docs/proxies.md has it; the next one may stand before it.\n\
         server {{ listen 127.0.0.1:{kept}; location / {{\n\
         proxy_pass http://{query};\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_pass_header X-Accel-Buffering;\n\
         }} }}\n\
         server {{ listen 127.0.0.1:{outer}; location / {{\n\
         proxy_pass http://127.0.0.1:{kept};\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         }} }}\n\
         }}\n"
    );
    let config = written(folder, "nginx.conf", &config);
    let prefix = folder.to_str().expect("a path in UTF-8");
    let process = Process::new("nginx", &program, folder);
    let process = process.arguments(["-p", prefix, "-c", &config, "-e", "stderr"]);
    let ways_in = vec![
        front("nginx as it comes", plain, false),
        front("nginx", kept, true),
        front("two nginx in a row", outer, true),
    ];
    Some((Arc::new(process), ways_in))
}

fn haproxy(folder: &Path, query: &str) -> Started {
    let program = program("haproxy")?;
    let [port] = free_ports();
    let config = format!(
        "global\n maxconn 100\n\
         defaults\n mode http\n timeout connect 2s\n timeout client {TIMEOUT_SECS}s\n \
         timeout server {TIMEOUT_SECS}s\n\
         frontend all\n bind 127.0.0.1:{port}\n default_backend queries\n\
         backend queries\n server query {query}\n"
    );
    let config = written(folder, "haproxy.cfg", &config);
    // In the foreground, one process.
    let process = Process::new("haproxy", &program, folder).arguments(["-db", "-f", &config]);
    Some((Arc::new(process), vec![front("haproxy", port, true)]))
}

fn apache(folder: &Path, query: &str) -> Started {
    let program = program("apache2")?;
    let modules = Path::new("/usr/lib/apache2/modules");
    if !modules.is_dir() {
        println!("apache2 has its modules elsewhere: skipped");
        return None;
    }
    let [port] = free_ports();
    let load: String = [
        "mpm_event",
        "authz_core",
        "filter",
        "deflate",
        "proxy",
        "proxy_http",
    ]
    .map(|name| {
        format!(
            "LoadModule {name}_module {}/mod_{name}.so\n",
            modules.display()
        )
    })
    .concat();
    let folder_text = folder.display();
    let config = format!(
        "ServerRoot {folder_text}\nServerName localhost\nPidFile {folder_text}/apache.pid\n\
         DefaultRuntimeDir {folder_text}\nMutex pthread\nErrorLog /dev/stderr\n\
         Listen 127.0.0.1:{port}\n{load}\
         <IfModule mod_unixd.c>\nUser www-data\nGroup www-data\n</IfModule>\n\
         AddOutputFilterByType DEFLATE application/json\n\
         ProxyTimeout {TIMEOUT_SECS}\n\
         ProxyPass / http://{query}/\n"
    );
    let config = written(folder, "apache.conf", &config);
    // One process, in the foreground.
    let process = Process::new("apache2", &program, folder).arguments(["-X", "-f", &config]);
    Some((Arc::new(process), vec![front("Apache", port, true)]))
}

fn varnish(folder: &Path, query: &str) -> Started {
    let program = program("varnishd")?;
    let [port] = free_ports();
    let (host, query_port) = query.rsplit_once(':').expect("a port");
    let config = format!(
        "vcl 4.1;\nbackend query {{ .host = \"{host}\"; .port = \"{query_port}\"; \
         .between_bytes_timeout = {TIMEOUT_SECS}s; }}\n"
    );
    let config = written(folder, "microblog.vcl", &config);
    let work = folder.join("varnish");
    let work = work.to_str().expect("a path in UTF-8");
    let listen = format!("127.0.0.1:{port}");
    let process = Process::new("varnishd", &program, folder).arguments([
        "-F",
        "-j",
        "none",
        "-a",
        &listen,
        "-f",
        &config,
        "-n",
        work,
        "-s",
        "malloc,16m",
    ]);
    Some((Arc::new(process), vec![front("Varnish", port, true)]))
}
