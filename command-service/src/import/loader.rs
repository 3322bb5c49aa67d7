//! What all passes share: who is who, patience with the database, and appending in bulk.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use shared::error_chain::Chain;
use shared::events::Payload;
use shared::ids::{EventId, PostId, UserId};
use shared::resilience::Backoff;
use shared::time::{Clock, SystemClock};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::error::ImportError;
use super::report::{Kind, Report, Summary};
use super::source::{Items, Line, Pass};
use crate::app::append::{Appended, Draft, Target};
use crate::app::error::Refusal;
use crate::app::ports::{Append, Key, Receipts, Store, StoreError};
use crate::app::{App, CommandError};
use crate::domain::edge::Edge;
use crate::domain::user::Standing;

/// Events per write: 1,000 of at most 1,120 bytes of content and 600 of everything else are
/// below 2 MB.
pub(super) const BATCH: usize = 1_000;
/// A database that is away this long will not be back soon.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
const SAY_AFTER: Duration = Duration::from_secs(3);
/// Names remembered; past it all are forgotten, and looked up again.
const NAMES: usize = 1_000_000;
/// How long a standing is believed.
const STANDINGS_TTL: Duration = Duration::from_secs(10);
/// Decisions on one stream before an import gives up on its rivals.
const TRIES: u32 = 32;

/// A user as the passes need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) standing: Standing,
    /// The last event that was read of the user's stream.
    pub(super) last: EventId,
}

/// A post that the input has a name for.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedPost {
    pub(super) id: PostId,
    pub(super) author: UserId,
    /// Written by this run; an older one may be deleted by now.
    pub(super) fresh: bool,
}

pub(super) struct Loader<'a> {
    pub(super) app: &'a App,
    pub(super) report: &'a mut Report,
    stop: &'a CancellationToken,
    names: HashMap<String, UserId>,
    /// Registered by this run: active, and without earlier events.
    fresh: HashSet<UserId>,
    standings: HashMap<UserId, Known>,
    standings_since: Instant,
    /// Everybody who was believed to be there, for the last look.
    involved: HashSet<UserId>,
    /// How many each follower follows, if asked before.
    pub(super) following: HashMap<UserId, u32>,
    /// By a hash of the name.
    pub(super) posts: HashMap<u64, NamedPost>,
    /// All users of the input, in its order, if posts are written for them.
    pub(super) everybody: Option<Vec<UserId>>,
}

/// An event that is wanted, decided as if its stream were empty.
pub(super) struct Wish {
    pub(super) line: u64,
    pub(super) draft: Draft,
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Appended(EventId),
    AlreadyThere(EventId),
    NotAppended,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        app: &'a App,
        report: &'a mut Report,
        stop: &'a CancellationToken,
        remember_everybody: bool,
    ) -> Self {
        Self {
            app,
            report,
            stop,
            names: HashMap::new(),
            fresh: HashSet::new(),
            standings: HashMap::new(),
            standings_since: Instant::now(),
            involved: HashSet::new(),
            following: HashMap::new(),
            posts: HashMap::new(),
            everybody: remember_everybody.then(Vec::new),
        }
    }

    pub(super) fn store(&self) -> &'a Store {
        self.app.store()
    }

    pub(super) fn summary(&self) -> Summary {
        self.report.summary()
    }

    /// The next lines of a pass, at most `most`; none at its end. Faults are told here.
    pub(super) fn next_batch(
        &mut self,
        items: &mut Items<'_>,
        most: usize,
    ) -> Result<Vec<Line>, ImportError> {
        self.check_stop()?;
        let mut batch: Vec<Line> = Vec::with_capacity(most);
        while batch.len() < most {
            let Some(line) = items.read()? else { break };
            match &line.item {
                Ok(_) => batch.push(line),
                Err(fault) => self.report.refused(line.number, fault),
            }
        }
        Ok(batch)
    }

    /// Between two batches is where an import may end.
    pub(super) fn check_stop(&self) -> Result<(), ImportError> {
        if self.stop.is_cancelled() {
            return Err(ImportError::Interrupted);
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, items: &Items<'_>) {
        let what = match items.pass() {
            Pass::Users => "users",
            Pass::Follows => "follows",
            Pass::Posts => "posts",
            Pass::Reactions => "likes",
        };
        self.report.begin(what, items.size());
    }

    /// Asks the database until it answers, for minutes.
    pub(super) async fn patiently<T, A, F>(&mut self, ask: A) -> Result<T, ImportError>
    where
        A: Fn() -> F,
        F: Future<Output = Result<T, StoreError>>,
    {
        let (started, mut said) = (Instant::now(), false);
        let mut backoff = Backoff::between_millis(50, 2_000);
        loop {
            let error = match ask().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.is_transient() || started.elapsed() >= PATIENCE {
                return Err(error.into());
            }
            if self.stop.is_cancelled() {
                return Err(ImportError::Interrupted);
            }
            if !said && started.elapsed() >= SAY_AFTER {
                said = true;
                self.report.say(&format!("waiting: {}", Chain(&error)));
            }
            backoff.wait().await;
        }
    }

    /// Remembers a user that this run has registered.
    pub(super) fn registered(&mut self, username: &str, user: UserId) {
        self.fresh.insert(user);
        self.remember_name(username, user);
    }

    pub(super) fn remember_name(&mut self, username: &str, user: UserId) {
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        self.names.insert(username.to_owned(), user);
    }

    /// Whether the user's streams were empty when this run began.
    pub(super) fn is_fresh(&self, user: UserId) -> bool {
        self.fresh.contains(&user)
    }

    /// Looks up who has these names; those that nobody has are absent.
    pub(super) async fn resolve<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<HashMap<String, UserId>, ImportError> {
        let mut found = HashMap::new();
        let mut unknown = HashSet::new();
        for name in names {
            match self.names.get(name) {
                Some(user) => drop(found.insert(name.to_owned(), *user)),
                None => drop(unknown.insert(name.to_owned())),
            }
        }
        if !unknown.is_empty() {
            let unknown: Vec<String> = unknown.into_iter().collect();
            let store = self.store();
            let users = self
                .patiently(|| store.accounts.users_named(&unknown))
                .await?;
            for (name, user) in users {
                self.remember_name(&name, user);
                found.insert(name, user);
            }
        }
        Ok(found)
    }

    /// Loads the standings of these users, as far as they are not known.
    pub(super) async fn survey(
        &mut self,
        users: impl Iterator<Item = UserId>,
    ) -> Result<(), ImportError> {
        if self.standings_since.elapsed() >= STANDINGS_TTL {
            self.standings.clear();
            self.standings_since = Instant::now();
        }
        let users: HashSet<UserId> = users.collect();
        let is_unknown =
            |user: &&UserId| !self.is_fresh(**user) && !self.standings.contains_key(*user);
        let unknown: Vec<UserId> = users.iter().filter(is_unknown).copied().collect();
        if !unknown.is_empty() {
            let store = self.store();
            let found = self.patiently(|| store.streams.standings(&unknown)).await?;
            let known = |(user, (standing, last))| (user, Known { standing, last });
            self.standings.extend(found.into_iter().map(known));
        }
        for user in users {
            if self.known(user).standing.is_visible() {
                self.involved.insert(user);
            }
        }
        Ok(())
    }

    /// Looks once more who is there, now that all is in the log. Who has left meanwhile is said
    /// farewell again, which ends what was appended on an older standing.
    pub(super) async fn look_again(&mut self) -> Result<(), ImportError> {
        let involved: Vec<UserId> = self.involved.drain().collect();
        let store = self.store();
        for users in involved.chunks(BATCH) {
            let standings = self.patiently(|| store.streams.standings(users)).await?;
            for (user, (standing, _)) in standings {
                if !standing.is_visible() {
                    let now = SystemClock.now();
                    self.patiently(|| store.cleanups.plan(user, now)).await?;
                }
            }
        }
        Ok(())
    }

    /// A surveyed user; who cannot be found is gone.
    pub(super) fn known(&self, user: UserId) -> Known {
        let fresh = Known {
            standing: if self.is_fresh(user) {
                Standing::Active
            } else {
                Standing::Deactivated
            },
            last: user.cast(),
        };
        self.standings.get(&user).copied().unwrap_or(fresh)
    }

    /// Which of these keys an earlier run has used. Who is new has used none.
    pub(super) async fn done_before(
        &mut self,
        keys: impl Iterator<Item = (UserId, String)>,
    ) -> Result<Receipts, ImportError> {
        let keys: Vec<(UserId, String)> =
            keys.filter(|(owner, _)| !self.is_fresh(*owner)).collect();
        let store = self.store();
        self.patiently(|| store.log.receipts(&keys)).await
    }

    /// Appends all of them. Those that are not appended want a closer look.
    pub(super) async fn append_all(&mut self, wishes: &[Wish]) -> Result<Vec<Fate>, ImportError> {
        // What builds on something too far ahead of the clock is looked at more closely, too.
        let drafted: Vec<Option<Append>> = wishes
            .iter()
            .map(|wish| self.app.draft_event(&wish.draft, 0).ok())
            .collect();
        let ids: Vec<Option<EventId>> = drafted
            .iter()
            .map(|append| append.as_ref().map(|append| append.event.id))
            .collect();
        let appends: Vec<Append> = drafted.into_iter().flatten().collect();
        let store = self.store();
        let appended = self.patiently(|| store.log.append_all(&appends)).await?;
        let mut appended = appended.into_iter();
        let fate = |id: &Option<EventId>| match id {
            Some(id) if appended.next() == Some(true) => Fate::Appended(*id),
            Some(_) | None => Fate::NotAppended,
        };
        Ok(ids.iter().map(fate).collect())
    }

    /// Decides on one edge as it stands now: somebody else has changed it.
    pub(super) async fn settle_edge(
        &mut self,
        wish: &Wish,
        decide: impl Fn(&Edge) -> Result<Option<Payload>, CommandError>,
    ) -> Result<Result<Fate, CommandError>, ImportError> {
        let Target::Stream { owner, stream, .. } = wish.draft.target else {
            return self.settle_post(wish).await.map(Ok);
        };
        for _ in 0..TRIES {
            if let Some(done) = self.receipt(&wish.draft).await? {
                return Ok(Ok(Fate::AlreadyThere(done)));
            }
            let store = self.store();
            let last = self.patiently(|| store.streams.last(owner, stream)).await?;
            let edge = last.as_ref().map_or_else(Edge::default, Edge::after);
            let payload = match decide(&edge) {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(None) => {
                    let last = edge.last.map_or(wish.draft.actor.cast(), |(id, _)| id);
                    return Ok(Ok(Fate::AlreadyThere(last)));
                }
                Ok(Some(payload)) => payload,
            };
            let draft = Draft {
                target: Target::Stream {
                    owner,
                    stream,
                    version: edge.version + 1,
                },
                payload,
                read: edge.last.map_or(0, |(id, _)| id.get()).max(wish.draft.read),
                ..wish.draft.clone()
            };
            if let Some(fate) = self.append_one(&draft).await? {
                return Ok(Ok(fate));
            }
        }
        Err(ImportError::Command(Refusal::Conflict.into()))
    }

    /// Writes one post, unless an earlier run or this very line did.
    pub(super) async fn settle_post(&mut self, wish: &Wish) -> Result<Fate, ImportError> {
        for _ in 0..TRIES {
            if let Some(done) = self.receipt(&wish.draft).await? {
                return Ok(Fate::AlreadyThere(done));
            }
            if let Some(fate) = self.append_one(&wish.draft).await? {
                return Ok(fate);
            }
        }
        Err(ImportError::Command(Refusal::Conflict.into()))
    }

    async fn append_one(&mut self, draft: &Draft) -> Result<Option<Fate>, ImportError> {
        let app = self.app;
        // Tried again after a lost answer, it finds its own key and counts as already there.
        let append = || async {
            match app.append(draft).await? {
                Appended::Done(event) => Ok(Some(Fate::Appended(event.id))),
                Appended::KeyTaken(receipt) => Ok(Some(Fate::AlreadyThere(receipt.event.id))),
                Appended::Stale => Ok(None),
                // It gets nearer while an import waits.
                Appended::Ahead(ahead) => Err(StoreError::Unavailable(Box::new(ahead))),
            }
        };
        self.patiently(append).await
    }

    async fn receipt(&mut self, draft: &Draft) -> Result<Option<EventId>, ImportError> {
        let owner = match draft.target {
            Target::NewPost => draft.actor,
            Target::Stream { owner, .. } => owner,
        };
        let Some(key) = &draft.key else {
            return Ok(None);
        };
        let store = self.store();
        let receipt = self
            .patiently(|| store.log.receipt(owner, &key.text))
            .await?;
        Ok(receipt.map(|receipt| receipt.event.id))
    }

    /// Counts what became of a wish.
    pub(super) fn tell(&mut self, kind: Kind, fate: Fate) {
        match fate {
            Fate::Appended(_) => self.report.appended(kind, 1),
            Fate::AlreadyThere(_) => self.report.already_there(1),
            Fate::NotAppended => {}
        }
    }
}

/// The key of an imported event: the same input makes the same key.
pub(super) fn key(parts: &[&str]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        // Lengths first: no two lists of parts make the same bytes.
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let text = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
    Key {
        text: format!("import:{}", text.collect::<String>()),
        hash: 0,
    }
}

/// A hash that tells two posts, or two users, by the same name apart. It is stored beside the key
/// of a post with a name; imports of before stored 0.
pub(super) fn fingerprint(parts: &[&str]) -> i64 {
    let hash = xxh3_64(key(parts).text.as_bytes());
    i64::from_be_bytes(hash.to_be_bytes()) | 1
}
