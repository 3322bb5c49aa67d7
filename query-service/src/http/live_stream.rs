//! One live stream, from its first line to its end.
//!
//! Every event's id is its stream sequence. An event is sent once all partitions have applied its
//! sequence, so whoever resumes after an id misses nothing and gets nothing twice.
//!
//! When the stream is made anew, sequences mean other places, and the ids of entries stay the same. Both
//! are understood. Ids of entries are not sent yet: 0.1.0 does not understand them, and answers beside
//! this version during an upgrade and on the way back.
//!
//! Comments and `retry:` end with one newline: after an empty line some libraries deliver an empty
//! event.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Bytes, Data};
use rand::RngExt;
use shared::auth::token::{TokenError, TokenVerifier, Verified};
use shared::contract::consistency::ConsistencyToken;
use shared::contract::ids::{EntryId, Id, SEQUENCE_BITS, UserId};
use shared::contract::time::{Clock, SystemClock};
use shared::resilience::{self, AdmissionControl};
use shared::runtime::error_chain::Chain;
use shared::runtime::settings::Secret;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::live::{Live, Refused, Subscription};
use crate::metric_rows::{LIVE_EVENTS, READS_ABANDONED};
use crate::reads::ReadFrom;
use crate::reads::bodies::PostView;
use crate::reads::budget::{ReadBudget, ReadLimits};
use crate::reads::model::{CurrentViews, ReadModel};
use crate::reads::newer::{NewPosts, Rest};
use crate::reads::unanswered::Unanswered;
use crate::reads::walks::WalkTurn;

/// The views are looked at this often although nothing woke the stream: a message may be lost.
const HEAL: Duration = Duration::from_secs(15);
/// Pieces that wait for a slow client.
const BUFFERED: usize = 64;
/// A client that takes nothing for so long is dropped: it can resume.
const SLOW: Duration = Duration::from_secs(5);
/// Between two looks at the views for one stream.
const PACE: Duration = Duration::from_millis(5);
/// Whoever waits is told after this time, and then with each heartbeat.
const SOON: Duration = Duration::from_millis(250);
/// Between two looks for the keys of a token.
const KEYS_AGAIN: Duration = Duration::from_secs(1);
/// Milliseconds after which clients come back. Not all after the same time: a stop ends all.
const RETRY: std::ops::RangeInclusive<u32> = 1_000..=3_000;

const WAITING: &str = ": waiting\n";
const CONNECTED: &str = ": connected\n";
const HEARTBEAT: &str = ": heartbeat\n";

/// A piece of the body of a stream. Where the pieces end without [`Piece::End`] the connection is
/// broken off, so that the client comes back.
pub enum Piece {
    Text(Bytes),
    /// Nobody need come back.
    End,
}

pub fn pieces() -> (mpsc::Sender<Piece>, mpsc::Receiver<Piece>) {
    mpsc::channel(BUFFERED)
}

/// Who asks for a stream.
pub enum Caller {
    Known(Verified, Subscription),
    /// The keys that verify the token cannot be had yet.
    Unknown {
        token: Secret,
        verifier: Arc<TokenVerifier>,
        waiting: OwnedSemaphorePermit,
    },
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ended {
    /// The client is gone, or takes nothing.
    Gone,
    Stopping,
    Expired,
    /// The keys came, and the token is not good.
    Unauthorized,
    /// The reader has as many streams as one may have; seen late, as the keys came late.
    TooMany,
    /// The reader has left for good.
    Left,
}

impl Ended {
    fn comment(self) -> Option<&'static str> {
        match self {
            Self::Gone => None,
            Self::Stopping => Some(": goodbye\n"),
            Self::Expired => Some(": token expired\n"),
            Self::Unauthorized => Some(": unauthorized\n"),
            Self::TooMany => Some(": too many live streams\n"),
            Self::Left => Some(": account deactivated\n"),
        }
    }
}

/// What a client has seen last, by the id of the event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    Entry(EntryId),
    Sequence(u64),
}

/// Ids have the time in their upper bits: each is far above any sequence.
const LEAST_ENTRY: i64 = 1 << 48;

impl Seen {
    /// What the number of an event names.
    pub fn of(number: u64) -> Self {
        let id = i64::try_from(number).ok().filter(|id| *id >= LEAST_ENTRY);
        id.and_then(Id::new)
            .map_or(Self::Sequence(number), Self::Entry)
    }
}

/// How far a stream has come.
#[derive(Clone, Copy)]
struct Place {
    /// The number of the views whose sequences these are.
    views: i64,
    /// All up to this sequence was sent.
    seq: u64,
    /// The last entry that was sent, or one that would have been made when the stream began.
    entry: EntryId,
}

pub struct LiveStream {
    views: CurrentViews,
    gate: Data<AdmissionControl>,
    live: Live,
    /// After what it begins; `None`: now.
    resume: Option<Seen>,
    /// It does not begin before the views reflect this write.
    reflect: Option<ConsistencyToken>,
    line: Line,
}

/// What a look for new entries found.
struct Newer {
    /// Where it began to look.
    after: Place,
    found: NewPosts,
    /// The lowest sequence that all partitions have applied.
    applied: u64,
    has_left: bool,
}

enum Beginning {
    At(Place),
    NotYet,
    HasLeft,
}

impl LiveStream {
    pub fn new(
        views: CurrentViews,
        gate: Data<AdmissionControl>,
        live: Live,
        resume: Option<Seen>,
        reflect: Option<ConsistencyToken>,
        pieces: mpsc::Sender<Piece>,
    ) -> Self {
        let line = Line::new(live.stopping(), live.heartbeat(), pieces);
        Self {
            views,
            gate,
            live,
            resume,
            reflect,
            line,
        }
    }

    pub async fn run(mut self, caller: Caller) {
        let Err(ended) = self.serve(caller).await;
        debug!(reason = ?ended, "a live stream ends");
        self.line.end(ended).await;
    }

    async fn serve(&mut self, caller: Caller) -> Result<Infallible, Ended> {
        self.line.send(retry()).await?;
        let (verified, mut subscription) = self.identify(caller).await?;
        self.line.expires = Some(Instant::now() + verified.remaining());
        self.line.during(subscription.placed(), WAITING).await?;
        let at = self.begin(verified.user).await?;
        self.line.beat = Instant::now() + self.line.heartbeat;
        self.line.send(CONNECTED.to_owned()).await?;
        self.follow(verified.user, &subscription, at).await
    }

    /// Waits for the keys of the token, where they could not be had.
    async fn identify(&mut self, caller: Caller) -> Result<(Verified, Subscription), Ended> {
        let (token, verifier, waiting) = match caller {
            Caller::Known(verified, subscription) => return Ok((verified, subscription)),
            Caller::Unknown {
                token,
                verifier,
                waiting,
            } => (token, verifier, waiting),
        };
        let verified = loop {
            let look = verifier.verified(token.expose());
            match self.line.during(look, WAITING).await? {
                Ok(verified) => break verified,
                Err(TokenError::Invalid) => return Err(Ended::Unauthorized),
                Err(TokenError::NoKeys) => self.line.during(sleep(KEYS_AGAIN), WAITING).await?,
            }
        };
        drop(waiting);
        let subscribed = self.live.subscribe(verified.user);
        let subscribed = self.line.during(subscribed, WAITING).await?;
        let subscription = subscribed.map_err(|refused| match refused {
            Refused::Reader => Ended::TooMany,
            // It comes back, and is told then.
            Refused::Process => Ended::Gone,
        })?;
        Ok((verified, subscription))
    }

    /// Waits until the views can be read and reflect what they should: the place after which events are
    /// sent.
    async fn begin(&mut self, reader: UserId) -> Result<Place, Ended> {
        let mut backoff = resilience::background();
        loop {
            let (reflect, resume) = (self.reflect.clone(), self.resume);
            let beginning = self.look(reader, false, WAITING, move |mut views, _| async move {
                if let Some(token) = reflect {
                    match views.reflecting(&token).await? {
                        Some(reflecting) => views = reflecting,
                        None => return Ok(Beginning::NotYet),
                    }
                }
                if views
                    .with(ReadFrom::CacheThenDatabase)
                    .is_deactivated(reader)
                    .await?
                {
                    return Ok(Beginning::HasLeft);
                }
                Ok(Beginning::At(place(&views, reader, resume).await?))
            });
            match beginning.await? {
                Ok(Beginning::At(place)) => return Ok(place),
                Ok(Beginning::HasLeft) => return Err(Ended::Left),
                Ok(Beginning::NotYet) => (),
                Err(error) => debug!(error = %Chain(&error), "a live stream cannot begin yet"),
            }
            let pause = sleep(backoff.next_delay());
            self.line.during(pause, WAITING).await?;
        }
    }

    /// Sends what becomes visible after `at`.
    async fn follow(
        &mut self,
        reader: UserId,
        subscription: &Subscription,
        mut at: Place,
    ) -> Result<Infallible, Ended> {
        let mut backoff = resilience::background();
        let mut heal = Instant::now() + HEAL;
        let (mut rest, mut waits_to_walk) = (None, false);
        loop {
            let asks_standing = Instant::now() >= heal;
            let left = rest.take();
            let newer = self
                .look_for_newer(reader, at, left, waits_to_walk, asks_standing)
                .await?;
            waits_to_walk = matches!(newer, Err(Unanswered::Busy));
            match newer {
                Ok(newer) => {
                    if newer.has_left {
                        return Err(Ended::Left);
                    }
                    let before = newer.after;
                    let last = newer.found.posts.last().map(|(_, post)| post.entry_id);
                    at = Place {
                        seq: before.seq.max(newer.found.all_up_to),
                        entry: last.unwrap_or(before.entry),
                        ..before
                    };
                    rest = newer.found.rest;
                    self.send_all(newer.found.posts).await?;
                    backoff.reset();
                    if asks_standing {
                        heal = Instant::now() + HEAL;
                    }
                    if at.seq > before.seq && at.seq < newer.applied {
                        continue;
                    }
                }
                // It waits for its turn, and looks again then.
                Err(Unanswered::Busy) => continue,
                Err(error) => {
                    debug!(error = %Chain(&error), "a live stream cannot read the views");
                    let pause = sleep(backoff.next_delay());
                    self.line.during(pause, HEARTBEAT).await?;
                    continue;
                }
            }
            let pace = Instant::now() + PACE;
            let something = async {
                tokio::select! {
                    () = subscription.woken() => sleep_until(pace).await,
                    () = sleep_until(heal) => (),
                }
            };
            self.line.during(something, HEARTBEAT).await?;
        }
    }

    /// Looks for what has become visible after `at`, with what the last look left.
    async fn look_for_newer(
        &mut self,
        reader: UserId,
        at: Place,
        left: Option<Rest>,
        waits_to_walk: bool,
        asks_standing: bool,
    ) -> Result<Result<Newer, Unanswered>, Ended> {
        let look = move |views: ReadModel, turn| async move {
            // First: a reader whose look is refused or takes long reads all the same.
            if let Err(error) = views.note_seen(reader).await {
                debug!(error = %Chain(&error), "that a stream's reader reads is not noted");
            }
            let (mut at, mut left) = (at, left);
            // Other views may be of a stream that was made anew.
            let shown = views.number();
            if at.views != shown {
                at.seq = views.sequence_of(reader, at.entry).await?;
                (at.views, left) = (shown, None);
            }
            let found = views.newer_for_a_stream(reader, at.seq, left, turn).await?;
            let now = views.with(ReadFrom::CacheThenDatabase);
            Ok(Newer {
                after: at,
                found,
                applied: views.position_now().await?,
                has_left: asks_standing && now.is_deactivated(reader).await?,
            })
        };
        self.look(reader, waits_to_walk, HEARTBEAT, look).await
    }

    /// Reads the views in a task of its own, in turn with other streams: comments go on meanwhile,
    /// and what is begun at the database is never dropped half way. When the stream ends, the read
    /// ends before its next query. One that `waits_to_walk` many author feeds takes no place of the
    /// others meanwhile.
    async fn look<T, F>(
        &mut self,
        reader: UserId,
        waits_to_walk: bool,
        comment: &'static str,
        read: impl FnOnce(ReadModel, Option<WalkTurn>) -> F,
    ) -> Result<Result<T, Unanswered>, Ended>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Unanswered>> + Send + 'static,
    {
        if self.gate.breaker().is_open() {
            return Ok(Err(Unanswered::Away));
        }
        let turn = self.line.during(self.live.turn(reader), comment).await?;
        let mut walk = None;
        if waits_to_walk {
            let views = self.views.borrow().clone();
            walk = self.line.during(views.turn_to_walk(), comment).await?;
        }
        let look = self
            .line
            .during(self.live.begin_read(turn), comment)
            .await?;
        let budget = ReadBudget::new(ReadLimits::OF_A_LOOK, true);
        // Lives as long as the stream waits, not as long as the task.
        let _waiting = budget.abandon_on_drop();
        // Whatever readers are shown now: a rebuild may have switched.
        let views = self.views.borrow().within(budget);
        let read = read(views, walk);
        let work = self.live.tasks().run(async move {
            let _look = look;
            let found = read.await;
            if matches!(found, Err(Unanswered::Abandoned)) {
                READS_ABANDONED.only().increment(1);
            }
            found
        });
        let done = self.line.during(work, comment).await?;
        Ok(done.unwrap_or(Err(Unanswered::Panicked)))
    }

    async fn send_all(&mut self, posts: Vec<(u64, PostView)>) -> Result<(), Ended> {
        for (seq, post) in posts {
            let Ok(json) = serde_json::to_string(&post) else {
                continue;
            };
            let event = format!("event: post\nid: {seq}\ndata: {json}\n\n");
            self.line.send(event).await?;
            LIVE_EVENTS.only().increment(1);
        }
        Ok(())
    }
}

/// Where a stream of these views begins.
async fn place(
    views: &ReadModel,
    reader: UserId,
    resume: Option<Seen>,
) -> Result<Place, Unanswered> {
    let now = views.position_now().await?;
    let this_moment = SystemClock.now().millis() << SEQUENCE_BITS;
    let this_moment = Id::new(this_moment).unwrap_or_else(|| unreachable!("it is long after 1970"));
    // A sequence that lies ahead is of a past that there is no more.
    let (seq, entry) = match resume {
        None => (now, this_moment),
        Some(Seen::Sequence(seq)) => (seq.min(now), this_moment),
        Some(Seen::Entry(entry)) => (views.sequence_of(reader, entry).await?.min(now), entry),
    };
    Ok(Place {
        views: views.number(),
        seq,
        entry,
    })
}

fn retry() -> String {
    format!("retry: {}\n", rand::rng().random_range(RETRY))
}

/// A stream that says that it waits, until it is told to come back. It holds `permit` so long.
pub async fn wait_until(
    closing: CancellationToken,
    heartbeat: Duration,
    pieces: mpsc::Sender<Piece>,
    permit: OwnedSemaphorePermit,
) {
    let mut line = Line::new(closing, heartbeat, pieces);
    let ended = match line.send(retry()).await {
        Ok(()) => line.during(std::future::pending(), WAITING).await,
        Err(ended) => Err(ended),
    };
    let Err(ended): Result<Infallible, Ended> = ended;
    line.end(ended).await;
    drop(permit);
}

/// The connection to a client, and what may end it at any moment.
struct Line {
    pieces: mpsc::Sender<Piece>,
    heartbeat: Duration,
    /// When the next comment is due.
    beat: Instant,
    stopping: CancellationToken,
    /// When the access token is not accepted any more, once it is known.
    expires: Option<Instant>,
}

impl Line {
    fn new(stopping: CancellationToken, heartbeat: Duration, pieces: mpsc::Sender<Piece>) -> Self {
        Self {
            pieces,
            heartbeat,
            beat: Instant::now() + SOON,
            stopping,
            expires: None,
        }
    }

    /// Waits, and sends comments meanwhile. `work` is dropped when the stream ends.
    async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        comment: &'static str,
    ) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        loop {
            let expiry = self.expires;
            let expired = async {
                match expiry {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.pieces.closed() => return Err(Ended::Gone),
                () = self.stopping.cancelled() => return Err(Ended::Stopping),
                () = expired => return Err(Ended::Expired),
                done = &mut work => return Ok(done),
                () = sleep_until(self.beat) => {
                    self.beat = Instant::now() + self.heartbeat;
                    self.send(comment.to_owned()).await?;
                }
            }
        }
    }

    async fn send(&self, text: String) -> Result<(), Ended> {
        self.put(Piece::Text(Bytes::from(text))).await
    }

    async fn put(&self, piece: Piece) -> Result<(), Ended> {
        match tokio::time::timeout(SLOW, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended::Gone),
        }
    }

    async fn end(self, ended: Ended) {
        let Some(comment) = ended.comment() else {
            return;
        };
        // Whoever takes nothing more has nothing to be told.
        let told = self.send(comment.to_owned()).await;
        if told.is_ok() && ended == Ended::Left {
            let _ = self.put(Piece::End).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_an_entry_or_a_sequence() {
        for number in [0, 7, 4_000_000_000] {
            assert_eq!(Seen::of(number), Seen::Sequence(number));
        }
        let made_in_2020 = 1_577_836_800_000_u64 << SEQUENCE_BITS;
        let entry = made_in_2020.to_string().parse().unwrap();
        assert_eq!(Seen::of(made_in_2020), Seen::Entry(entry));
        assert_eq!(Seen::of(u64::MAX), Seen::Sequence(u64::MAX));
    }
}
