//! Free ports.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use rand::RngExt;

/// Ports that nobody listens on, and that this process has not given out before.
///
/// Below the range from which the kernel takes ports for outgoing connections: a port that is
/// free for a moment, because its process was killed, must not be taken by a client. Least of all
/// by the client that knocks there: a connection from a port to itself succeeds.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static GIVEN: LazyLock<Mutex<BTreeSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = rand::rng();
    std::array::from_fn(|_| {
        loop {
            let port = rng.random_range(20_000..32_000);
            if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                given.insert(port);
                return port;
            }
        }
    })
}
