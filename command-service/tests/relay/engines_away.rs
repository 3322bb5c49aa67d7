//! Engines that go away.

use super::*;

/// A broker of the test's own, to be killed.
pub(crate) struct Broker {
    pub(crate) child: tokio::process::Child,
    pub(crate) port: u16,
}

impl Broker {
    pub(crate) async fn start(store: &Path, port: u16) -> Self {
        let (store, on) = (store.to_str().unwrap(), port.to_string());
        Self::start_with(&["-js", "-a", "127.0.0.1", "-p", &on, "-sd", store], port).await
    }

    pub(crate) async fn start_with(arguments: &[&str], port: u16) -> Self {
        let child = tokio::process::Command::new(var("MICROBLOG_NATS_BIN"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually(async || TcpStream::connect(("127.0.0.1", port)).await).await;
        Self { child, port }
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) -> u16 {
        self.child.kill().await.unwrap();
        self.port
    }
}

pub(crate) struct Folder(pub(crate) std::path::PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let name = format!("relay-test-{:016x}", rand::random::<u64>());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Stands before an engine and cuts it off.
pub(crate) struct Gate {
    pub(crate) port: u16,
    pub(crate) open: tokio::sync::watch::Sender<bool>,
}

impl Gate {
    pub(crate) async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut is_open, target) = (is_open.clone(), target.clone());
                tokio::spawn(async move {
                    if !*is_open.borrow() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(target).await else {
                        return;
                    };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    tokio::select! {
                        _ = is_open.wait_for(|open| !open) => (),
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => (),
                    }
                });
            }
        });
        Self { port, open }
    }
}

pub(crate) fn address_in(uri: &str) -> String {
    let rest = uri.split_once("://").unwrap().1;
    rest.split(['/', '?']).next().unwrap().to_owned()
}
