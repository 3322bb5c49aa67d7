//! How many connections one address may have at a time.
//!
//! A connection on which nothing is asked is kept longer than the gateways of others keep theirs, so
//! that no request meets one that is about to close. An address that asks as often as it may could
//! then keep all connections of a process to itself, so it has a share of them. Trusted proxies are
//! no such address: their connections are everybody's.

use std::any::Any;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use ipnet::IpNet;
use socket2::SockRef;

use super::rate_limit::{customer, is_trusted};
use crate::runtime::settings::Settings;

/// Of the connections of all workers: 4 addresses are needed for those of two.
const MOST_OF_ONE_ADDRESS: usize = 5_000;

/// Open connections, by the address at the other end. Clones count together.
#[derive(Clone, Debug)]
pub struct Connections {
    most: usize,
    /// Their connections are not counted.
    trusted: Vec<IpNet>,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of an address's connections, until it is dropped.
struct Open {
    address: IpAddr,
    connections: Connections,
}

impl Connections {
    pub fn new(settings: &Settings) -> Self {
        // 0 turns off all limits of addresses.
        let most = match settings.ip_rate_per_second {
            0 => usize::MAX,
            _ => MOST_OF_ONE_ADDRESS,
        };
        Self::with(settings.trusted_proxies.clone(), most)
    }

    fn with(trusted: Vec<IpNet>, most: usize) -> Self {
        Self {
            most,
            trusted,
            open: Arc::default(),
        }
    }

    /// For each connection that is accepted: `data` lives as long as it does. One too many is shut.
    pub fn admit(&self, connection: &dyn Any, data: &mut Extensions) {
        let Some(stream) = connection.downcast_ref::<TcpStream>() else {
            return;
        };
        // One without a peer has ended already.
        let Ok(peer) = stream.peer_addr() else { return };
        let address = peer.ip().to_canonical();
        if is_trusted(&self.trusted, address) {
            return;
        }
        if let Some(open) = self.open(customer(address)) {
            data.insert(open);
        } else {
            // An error means that the other end was faster.
            let _ = SockRef::from(stream).shutdown(Shutdown::Both);
        }
    }

    fn open(&self, address: IpAddr) -> Option<Open> {
        let mut open = self.lock();
        let count = open.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Open {
            address,
            connections: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream as Client};

    use actix_web::{App, HttpResponse, HttpServer, web};

    use super::*;

    /// Whether a new connection is served; it stays open as long as it is kept.
    fn ask(server: SocketAddr) -> Option<Client> {
        let mut client = Client::connect(server).unwrap();
        // Both fail where it was shut before.
        let _ = client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut answer = [0; 12];
        client.read_exact(&mut answer).ok()?;
        assert_eq!(answer, *b"HTTP/1.1 200");
        Some(client)
    }

    #[actix_web::test]
    async fn an_address_has_its_share_of_connections_and_gets_it_back() {
        let serve = |trusted: Vec<IpNet>| {
            let connections = Connections::with(trusted, 3);
            let app = || App::new().route("/", web::get().to(HttpResponse::Ok));
            let server = HttpServer::new(app)
                .workers(2)
                .disable_signals()
                .on_connect(move |connection, data| connections.admit(connection, data))
                .bind("127.0.0.1:0")
                .unwrap();
            let address = server.addrs()[0];
            let server = server.run();
            let handle = server.handle();
            actix_web::rt::spawn(server);
            (address, handle)
        };
        let (server, handle) = serve(Vec::new());
        let asking = web::block(move || {
            let mut mine: Vec<_> = (0..3).map(|_| ask(server).expect("one of three")).collect();
            assert!(ask(server).is_none(), "the fourth");
            mine.pop();
            // As soon as its end has been noticed.
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while ask(server).is_none() {
                assert!(std::time::Instant::now() < until, "its place is not free");
            }
        });
        asking.await.unwrap();
        handle.stop(false).await;
        let (server, handle) = serve(vec!["127.0.0.0/8".parse().unwrap()]);
        let asking = web::block(move || {
            let all: Vec<_> = (0..10).filter_map(|_| ask(server)).collect();
            assert_eq!(all.len(), 10, "a trusted proxy has as many as it wants");
        });
        asking.await.unwrap();
        handle.stop(false).await;
    }
}
