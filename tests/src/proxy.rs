//! A TCP proxy between a service and an engine, with faults that a test can set: its weather.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Weather {
    /// Everything passes.
    #[default]
    Fair,
    /// Connections are cut, new ones closed at once.
    Refuse,
    /// Connections stay, nothing passes.
    Stall,
    /// Everything passes this much later.
    Slow(Duration),
    /// Questions pass, answers vanish. When the weather changes the connection is cut: what comes
    /// next would make no sense.
    LoseAnswers,
    /// Each piece, either way, is the last of its connection with this probability.
    Flaky(f64),
}

/// A proxy in front of one port of this machine. It stops when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    cuts: Arc<AtomicUsize>,
}

/// One direction of a connection.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Question,
    Answer,
}

impl Proxy {
    /// Begins to listen; `target` need not listen yet.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (weather, seen) = watch::channel(Weather::Fair);
        let cuts = Arc::<AtomicUsize>::default();
        tokio::spawn(accept(listener, target, seen, cuts.clone()));
        Self {
            port,
            weather,
            cuts,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Connections that were cut because of the weather.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    target: u16,
    weather: watch::Receiver<Weather>,
    cuts: Arc<AtomicUsize>,
) {
    loop {
        // The sender belongs to the [`Proxy`]: when it is dropped, this task ends.
        let mut ends = weather.clone();
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            () = async { while ends.changed().await.is_ok() {} } => return,
        };
        let Ok((client, _)) = client else { continue };
        if *weather.borrow() == Weather::Refuse {
            continue;
        }
        let (weather, cuts) = (weather.clone(), cuts.clone());
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await {
                connect(client, server, weather, cuts).await;
            }
        });
    }
}

async fn connect(
    client: TcpStream,
    server: TcpStream,
    weather: watch::Receiver<Weather>,
    cuts: Arc<AtomicUsize>,
) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let lost = Arc::<AtomicBool>::default();
    // When one direction ends, both are dropped, and so both connections are closed.
    let cut = tokio::select! {
        cut = pump(from_client, to_server, Way::Question, weather.clone(), lost.clone()) => cut,
        cut = pump(from_server, to_client, Way::Answer, weather, lost) => cut,
    };
    cuts.fetch_add(usize::from(cut), Ordering::Relaxed);
}

/// Copies one direction. Returns whether the weather ended it.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut weather: watch::Receiver<Weather>,
    lost: Arc<AtomicBool>,
) -> bool {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let now = *weather.borrow_and_update();
        let was_lost = lost.load(Ordering::Relaxed);
        if now == Weather::Refuse || (was_lost && now != Weather::LoseAnswers) {
            return true;
        }
        if now == Weather::Stall {
            if weather.changed().await.is_err() {
                return false;
            }
            continue;
        }
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            changed = weather.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return false,
            },
        };
        let len = match read {
            Ok(len) if len > 0 => len,
            Ok(_) | Err(_) => return false,
        };
        let now = *weather.borrow();
        match now {
            Weather::Fair | Weather::Stall => (),
            Weather::Refuse => return true,
            Weather::Slow(by) => tokio::time::sleep(by).await,
            Weather::LoseAnswers if way == Way::Answer => {
                lost.store(true, Ordering::Relaxed);
                continue;
            }
            Weather::LoseAnswers => (),
            Weather::Flaky(probability) if rand::random::<f64>() < probability => {
                // In half of the cases it arrives, and only the answer is lost.
                if rand::random() {
                    let _ = to.write_all(&piece[..len]).await;
                }
                return true;
            }
            Weather::Flaky(_) => (),
        }
        if to.write_all(&piece[..len]).await.is_err() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn say(stream: &mut TcpStream) -> std::io::Result<usize> {
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await
    }

    #[tokio::test]
    async fn weather_does_what_it_says() {
        let proxy = Proxy::start(echo().await).await;
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()));
        let mut stream = connect().await.unwrap();
        assert_eq!(say(&mut stream).await.unwrap(), 5);
        proxy.set(Weather::Stall);
        let patience = Duration::from_millis(50);
        let stalled = tokio::time::timeout(patience, say(&mut stream)).await;
        assert!(stalled.is_err());
        proxy.set(Weather::Fair);
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        proxy.set(Weather::LoseAnswers);
        let lost = tokio::time::timeout(patience, say(&mut stream)).await;
        assert!(lost.is_err());
        proxy.set(Weather::Fair);
        assert!(say(&mut stream).await.is_err(), "it was cut");
        let mut stream = connect().await.unwrap();
        assert_eq!(say(&mut stream).await.unwrap(), 5);
        proxy.set(Weather::Refuse);
        assert!(say(&mut stream).await.is_err());
        proxy.set(Weather::Flaky(1.0));
        let mut stream = connect().await.unwrap();
        assert!(say(&mut stream).await.is_err());
        assert_eq!(proxy.cuts(), 3);
    }
}
