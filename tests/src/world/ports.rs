//! Free ports.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use rand::RngExt;

/// Ports that no process listens on, and that this process has not given out before.
///
/// They are below the range from which the kernel takes ports for outgoing connections. Otherwise a
/// client could get the port of a process that was just killed; and a client that connects from the
/// port to itself succeeds.
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
