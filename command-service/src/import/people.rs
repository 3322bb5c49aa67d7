//! Who is who, as remembered: names, and the status of accounts.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use shared::contract::ids::{EventId, UserId};

use crate::domain::user::AccountStatus;

/// Names remembered; past it all are forgotten, and looked up again.
const NAMES: usize = 1_000_000;

/// A user as the passes need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) status: AccountStatus,
    /// The last event that was read of the user's stream.
    pub(super) last: EventId,
}

pub(super) struct People {
    pub(super) names: HashMap<String, UserId>,
    /// Registered by this run: active, and without earlier events.
    fresh: HashSet<UserId>,
    pub(super) statuses: HashMap<UserId, Known>,
    pub(super) statuses_since: Instant,
    /// Everybody who was believed to be there, for the last look.
    pub(super) involved: HashSet<UserId>,
}

impl People {
    pub(super) fn new() -> Self {
        Self {
            names: HashMap::new(),
            fresh: HashSet::new(),
            statuses: HashMap::new(),
            statuses_since: Instant::now(),
            involved: HashSet::new(),
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

    /// A user whose status is loaded; one who cannot be found is gone.
    pub(super) fn known(&self, user: UserId) -> Known {
        let fresh = Known {
            status: if self.is_fresh(user) {
                AccountStatus::Active
            } else {
                AccountStatus::Deactivated
            },
            last: user.cast(),
        };
        self.statuses.get(&user).copied().unwrap_or(fresh)
    }
}
