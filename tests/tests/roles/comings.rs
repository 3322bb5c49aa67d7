//! Readers whose live streams break and who come back by themselves, as client libraries do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use system_tests::api::Session;
use system_tests::events::{Events, Item};
use tokio::task::JoinHandle;

/// One reader's live stream, opened again after the last event whenever it ends.
pub struct Follower {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    reading: JoinHandle<()>,
}

/// What a reader has heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// How often each post came.
    pub posts: BTreeMap<String, usize>,
    /// How often the stream is open, again and again.
    pub opened: usize,
    /// Times without a stream, from its end until the next one is connected.
    pub away: Vec<Duration>,
    /// Attempts to come back that were answered with something else.
    pub refused: Vec<String>,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.away.iter().max().copied().unwrap_or_default();
        let again = self.posts.values().sum::<usize>() - self.posts.len();
        write!(
            f,
            "{} posts, {again} of them again, open {} times, {} attempts refused, away {longest:.1?} at the longest",
            self.posts.len(),
            self.opened,
            self.refused.len(),
        )
    }
}

/// Before the service has said after which time to come back.
const RETRY: Duration = Duration::from_secs(1);

impl Follower {
    pub fn of(reader: Session) -> Self {
        Self::of_current(Arc::new(Mutex::new(reader)))
    }

    /// Of a reader whose access token is renewed meanwhile.
    pub fn of_current(reader: Arc<Mutex<Session>>) -> Self {
        let (heard, stop) = (Arc::<Mutex<Heard>>::default(), Arc::<AtomicBool>::default());
        let reading = tokio::spawn(read(reader, heard.clone(), stop.clone()));
        Self {
            heard,
            stop,
            reading,
        }
    }

    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }

    /// What it has heard in the end. It stops with the next thing that it hears.
    pub async fn stop(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        self.reading.await.expect("a reader does not panic");
        std::mem::take(&mut *lock(&self.heard))
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(reader: Arc<Mutex<Session>>, heard: Arc<Mutex<Heard>>, stop: Arc<AtomicBool>) {
    let (mut last, mut retry) = (None, RETRY);
    let mut ended = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut request = now.live_request("");
        if let Some(id) = last {
            request = request.header("last-event-id", u64::to_string(&id));
        }
        match Events::try_begin(request).await {
            Ok(mut stream) => {
                while let Some(item) = stream.item().await {
                    note(item, &heard, ended, (&mut last, &mut retry));
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
                ended = Instant::now();
            }
            Err(why) => lock(&heard).refused.push(why),
        }
        // As libraries do: not a wait for something.
        tokio::time::sleep(retry).await;
    }
}

fn note(
    item: Item,
    heard: &Mutex<Heard>,
    ended: Instant,
    (last, retry): (&mut Option<u64>, &mut Duration),
) {
    match item {
        Item::Retry(millis) => *retry = Duration::from_millis(millis),
        Item::Comment(comment) if comment == "connected" => {
            let mut heard = lock(heard);
            if heard.opened > 0 {
                heard.away.push(ended.elapsed());
            }
            heard.opened += 1;
        }
        Item::Comment(_) => (),
        Item::Event(event) => {
            *last = Some(event.id);
            let id = event.post["post_id"].as_str().expect("a post has an id");
            *lock(heard).posts.entry(id.to_owned()).or_default() += 1;
        }
    }
}
