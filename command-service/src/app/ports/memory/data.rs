//! What MongoDB would keep, behind one lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::contract::events::{Event, LogStream};
use shared::contract::ids::{EventId, UserId};
use shared::contract::sessions::PasswordMark;
use shared::contract::time::Timestamp;

use super::super::{
    AppendOutcome, Credentials, DeactivationCleanup, Key, Limited, NewAccount, NewEvent,
    PriorRequest, Registered, Renewed, Session, Store,
};
use crate::domain::user::User;

/// What MongoDB would keep.
#[derive(Default)]
pub struct Memory(Mutex<Data>);

#[derive(Default)]
pub(super) struct Data {
    pub(super) events: BTreeMap<EventId, Stored>,
    pub(super) usernames: HashMap<String, UserId>,
    /// By the folded address: whose it is, and how they wrote it.
    pub(super) addresses: HashMap<String, (UserId, String)>,
    pub(super) passwords: HashMap<UserId, Credentials>,
    pub(super) sessions: HashMap<String, Kept>,
    pub(super) posts: HashMap<UserId, Window>,
    pub(super) edits: HashMap<UserId, Window>,
    pub(super) follows: HashMap<UserId, Follows>,
    /// With the moment from which on each is due.
    pub(super) jobs: BTreeMap<UserId, (DeactivationCleanup, Timestamp)>,
}

pub(super) struct Stored {
    pub(super) event: Event,
    pub(super) owner: UserId,
    pub(super) key: Option<Key>,
    pub(super) nonce: i64,
}

pub(super) struct Kept {
    pub(super) session: Session,
    /// The token that was used last, and what it was renewed to.
    pub(super) renewed: Option<([u8; 32], Renewed)>,
}

#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) start: Timestamp,
    pub(super) used: u32,
    pub(super) granted: bool,
}

pub(super) struct Follows {
    pub(super) count: u32,
    pub(super) touched: Timestamp,
    pub(super) stale: bool,
}

impl Memory {
    /// Its doors.
    pub fn store(self: &Arc<Self>) -> Store {
        Store {
            log: self.clone(),
            streams: self.clone(),
            accounts: self.clone(),
            sessions: self.clone(),
            quotas: self.clone(),
            follows: self.clone(),
            cleanups: self.clone(),
            projections: self.clone(),
        }
    }

    /// The log, in order of ids.
    pub fn events(&self) -> Vec<Event> {
        let data = self.data();
        data.events.values().map(|it| it.event.clone()).collect()
    }

    pub(super) fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    /// Which of the log's three unique indexes refuses the event, if one does.
    pub(super) fn insert(&mut self, append: &NewEvent) -> AppendOutcome {
        if let Some(stored) = self.events.get(&append.event.id) {
            return if stored.nonce == append.nonce {
                AppendOutcome::Appended(stored.event.clone())
            } else {
                AppendOutcome::IdTaken
            };
        }
        if let Some(key) = &append.key
            && let Some(prior_request) = self.prior_request(append.owner, &key.text)
        {
            return AppendOutcome::KeyTaken(prior_request);
        }
        let same = |event: &Event| event.version == append.event.version;
        if self.stream(append.owner, append.event.stream).any(same) {
            return AppendOutcome::VersionTaken;
        }
        let stored = Stored {
            event: append.event.clone(),
            owner: append.owner,
            key: append.key.clone(),
            nonce: append.nonce,
        };
        self.events.insert(append.event.id, stored);
        AppendOutcome::Appended(append.event.clone())
    }

    pub(super) fn prior_request(&self, owner: UserId, key: &str) -> Option<PriorRequest> {
        let has_key = |stored: &&Stored| {
            let text = stored.key.as_ref().map(|key| key.text.as_str());
            stored.owner == owner && text == Some(key)
        };
        let found = self.events.values().find(has_key)?;
        Some(PriorRequest {
            event: found.event.clone(),
            hash: found.key.as_ref().map_or(0, |key| key.hash),
        })
    }

    pub(super) fn stream(&self, owner: UserId, stream: LogStream) -> impl Iterator<Item = &Event> {
        let of_stream = move |it: &&Stored| it.owner == owner && it.event.stream == stream;
        self.events
            .values()
            .filter(of_stream)
            .map(|stored| &stored.event)
    }

    pub(super) fn user_before(&self, user: UserId, id: Option<EventId>) -> Option<User> {
        let stream = self.stream(user, LogStream::User(user));
        let mut events: Vec<&Event> = stream
            .filter(|event| id.is_none_or(|id| event.id < id))
            .collect();
        events.sort_unstable_by_key(|event| event.version);
        User::fold(events)
    }

    /// All of them or, for the first name, address or id that is taken, none.
    pub(super) fn register(&mut self, accounts: &[NewAccount]) -> Registered {
        let taken_twice = |of: fn(&NewAccount) -> &str| {
            let mut names: Vec<&str> = accounts.iter().map(of).collect();
            names.sort_unstable();
            names.windows(2).any(|pair| pair[0] == pair[1])
        };
        let is_taken = |account: &NewAccount| self.usernames.contains_key(&account.username);
        if accounts.iter().any(is_taken) || taken_twice(|it| &it.username) {
            return Registered::UsernameTaken;
        }
        let is_taken = |account: &NewAccount| self.addresses.contains_key(&account.email);
        if accounts.iter().any(is_taken) || taken_twice(|it| &it.email) {
            return Registered::EmailTaken;
        }
        let is_taken = |account: &NewAccount| self.events.contains_key(&account.event.id);
        if accounts.iter().any(is_taken) {
            return Registered::IdTaken;
        }
        for account in accounts {
            let user: UserId = account.event.id.cast();
            self.usernames.insert(account.username.clone(), user);
            let address = (user, account.address.clone());
            self.addresses.insert(account.email.clone(), address);
            if let Some(hash) = &account.password_hash {
                let credentials = Credentials {
                    password_hash: hash.clone(),
                    mark: PasswordMark::default(),
                };
                self.passwords.insert(user, credentials);
            }
            self.insert(&NewEvent {
                event: account.event.clone(),
                owner: user,
                key: None,
                trace: None,
                nonce: account.nonce,
            });
        }
        Registered::Done
    }

    /// The standing edges of a follower.
    pub(super) fn count_follows(&self, user: UserId) -> u32 {
        let mut last: HashMap<LogStream, i64> = HashMap::new();
        for stored in self.events.values().filter(|stored| stored.owner == user) {
            if matches!(stored.event.stream, LogStream::Follow { .. }) {
                let version = last.entry(stored.event.stream).or_default();
                *version = stored.event.version.max(*version);
            }
        }
        let standing = last.values().filter(|version| *version % 2 == 1);
        u32::try_from(standing.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn windows(&mut self, of: Limited) -> &mut HashMap<UserId, Window> {
        match of {
            Limited::Posts => &mut self.posts,
            Limited::Edits => &mut self.edits,
        }
    }

    /// A job, unless it has been planned again since it was claimed.
    pub(super) fn as_claimed(
        &mut self,
        job: &DeactivationCleanup,
    ) -> Option<&mut (DeactivationCleanup, Timestamp)> {
        let found = self.jobs.get_mut(&job.user);
        found.filter(|(planned, _)| planned.planned_at == job.planned_at)
    }
}
