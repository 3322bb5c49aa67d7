//! Looking up who is who.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use shared::contract::ids::UserId;
use shared::contract::time::{Clock, SystemClock};

use super::error::ImportError;
use super::loader::{BATCH, Loader};
use super::people::Known;

/// How long a status is believed.
const STATUS_TTL: Duration = Duration::from_secs(10);

impl Loader<'_> {
    /// Looks up who has these names; those that nobody has are absent.
    pub(super) async fn resolve<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<HashMap<String, UserId>, ImportError> {
        let mut found = HashMap::new();
        let mut unknown = HashSet::new();
        for name in names {
            match self.people.names.get(name) {
                Some(user) => drop(found.insert(name.to_owned(), *user)),
                None => drop(unknown.insert(name.to_owned())),
            }
        }
        if !unknown.is_empty() {
            let unknown: Vec<String> = unknown.into_iter().collect();
            let store = self.store();
            let users = self
                .with_retries(|| store.accounts.users_named(&unknown))
                .await?;
            for (name, user) in users {
                self.people.remember_name(&name, user);
                found.insert(name, user);
            }
        }
        Ok(found)
    }

    /// Loads the status of these users, as far as they are not known.
    pub(super) async fn load_statuses(
        &mut self,
        users: impl Iterator<Item = UserId>,
    ) -> Result<(), ImportError> {
        if self.people.statuses_since.elapsed() >= STATUS_TTL {
            self.people.statuses.clear();
            self.people.statuses_since = Instant::now();
        }
        let users: HashSet<UserId> = users.collect();
        let is_unknown = |user: &&UserId| {
            !self.people.is_fresh(**user) && !self.people.statuses.contains_key(*user)
        };
        let unknown: Vec<UserId> = users.iter().filter(is_unknown).copied().collect();
        if !unknown.is_empty() {
            let store = self.store();
            let found = self
                .with_retries(|| store.streams.statuses(&unknown))
                .await?;
            let known = |(user, (status, last))| (user, Known { status, last });
            self.people.statuses.extend(found.into_iter().map(known));
        }
        for user in users {
            if self.people.known(user).status.is_visible() {
                self.people.involved.insert(user);
            }
        }
        Ok(())
    }

    /// Looks once more who is there, now that all is in the log. A cleanup is planned again for
    /// everybody who has left meanwhile: it removes what was appended on an older status.
    pub(super) async fn reconcile_deactivated(&mut self) -> Result<(), ImportError> {
        let involved: Vec<UserId> = self.people.involved.drain().collect();
        let store = self.store();
        for users in involved.chunks(BATCH) {
            let statuses = self.with_retries(|| store.streams.statuses(users)).await?;
            for (user, (status, _)) in statuses {
                if !status.is_visible() {
                    let now = SystemClock.now();
                    self.with_retries(|| store.cleanups.plan(user, now)).await?;
                }
            }
        }
        Ok(())
    }
}
