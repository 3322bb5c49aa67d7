//! Faults of clients: connections that are reset, requests that never end.

use std::time::Duration;

use rand::RngExt;
use system_tests::api::{Outcome, Session};
use system_tests::history::{Action, Told};
use system_tests::load::Load;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::CLIENTS;
use super::scene::Scene;

impl Scene {
    /// Commands whose clients are gone before the answer: whole or absent, and told when asked
    /// again under the same key.
    pub async fn reset_some(&mut self, load: &Load, client: &Session, round: usize) {
        for number in 0..20 {
            let content = format!("{} is cut off {round} {number}", client.username);
            let key = format!("reset-{round}-{number}");
            let action = Action::Post {
                content: content.clone(),
            };
            let command = load.history.invoke(&client.user_id, action);
            let after = Duration::from_micros(self.rng.random_range(0..6_000));
            client.post_and_reset(&content, &key, after).await;
            if self.rng.random_bool(0.5) {
                let again = client.post(&content, &key).await;
                if let Outcome::Accepted(post) = again {
                    load.history.told(command, Told::Accepted(Some(post.value)));
                    load.history.resolved_by_asking_again();
                }
            }
        }
    }

    /// Clients that keep connections open and never finish a request do not delay others.
    pub async fn slow_bodies(&mut self, load: &Load, session: &Session) {
        const CONNECTIONS: usize = 200;
        let head = format!(
            "POST /api/v1/posts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
            session.token()
        );
        let address = self.world.command.api.trim_start_matches("http://");
        let mut open = Vec::new();
        for number in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let len = if number % 2 == 0 { head.len() } else { 20 };
            let some = &head.as_bytes()[..len];
            stream.write_all(some).await.expect("some bytes");
            open.push(stream);
        }
        load.acknowledged(5 * CLIENTS).await;
        // They are told to go while they do nothing.
        for mut stream in open {
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            assert!(read.is_ok(), "a request that never ends is kept open");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        }
    }
}
