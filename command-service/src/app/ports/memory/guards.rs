//! What stands beside the log: accounts, sessions, guards of limits, jobs.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use shared::contract::ids::UserId;
use shared::contract::sessions::{MOST_SESSIONS, PasswordMark, SessionId};
use shared::contract::time::{Clock, SystemClock, Timestamp};

use super::super::{
    AccountName, Accounts, Cleanups, Credentials, DeactivationCleanup, FOLLOW_COUNT_RESTS,
    FollowCounts, Limited, NewAccount, NewAddress, NewPassword, Owner, Quota, QuotaState, Quotas,
    Registered, Relation, Renewal, Renewed, Replaced, Result, Rotation, Session, Sessions,
};
use super::data::{Follows, Kept, Memory, Window};

#[async_trait]
impl Accounts for Memory {
    async fn register(&self, account: &NewAccount) -> Result<Registered> {
        Ok(self.data().register(std::slice::from_ref(account)))
    }

    async fn register_all(&self, accounts: &[NewAccount]) -> Result<bool> {
        Ok(self.data().register(accounts) == Registered::Done)
    }

    async fn find(&self, name: &AccountName) -> Result<Option<UserId>> {
        let data = self.data();
        Ok(match name {
            AccountName::Username(name) => data.usernames.get(name).copied(),
            AccountName::Email(folded) => data.addresses.get(folded).map(|(user, _)| *user),
        })
    }

    async fn users_named(&self, usernames: &[String]) -> Result<HashMap<String, UserId>> {
        let data = self.data();
        let found = usernames.iter();
        let found = found.filter_map(|name| Some((name.clone(), *data.usernames.get(name)?)));
        Ok(found.collect())
    }

    async fn users_at(&self, emails: &[String]) -> Result<HashMap<String, UserId>> {
        let data = self.data();
        let found = emails.iter();
        let found = found.filter_map(|at| Some((at.clone(), data.addresses.get(at)?.0)));
        Ok(found.collect())
    }

    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>> {
        Ok(self.data().passwords.get(&user).cloned())
    }

    async fn change_password(&self, change: &NewPassword) -> Result<Replaced> {
        let mut data = self.data();
        let Some(known) = data.passwords.get_mut(&change.user) else {
            return Ok(Replaced::Gone);
        };
        if known.password_hash.expose() == change.from.expose() {
            *known = Credentials {
                password_hash: change.to.clone(),
                mark: PasswordMark {
                    mark: Some(change.mark),
                    kept: change.kept,
                },
            };
        }
        let is_ours = known.mark.mark == Some(change.mark);
        Ok(if is_ours {
            Replaced::Done
        } else {
            Replaced::Taken
        })
    }

    async fn change_address(&self, change: &NewAddress) -> Result<Replaced> {
        let mut data = self.data();
        let owner = data.addresses.get(&change.folded).map(|(owner, _)| *owner);
        if owner.is_some_and(|owner| owner != change.user) {
            return Ok(Replaced::Taken);
        }
        let before = data.addresses.len();
        data.addresses.retain(|_, (owner, _)| *owner != change.user);
        if data.addresses.len() == before {
            return Ok(Replaced::Gone);
        }
        let address = (change.user, change.address.clone());
        data.addresses.insert(change.folded.clone(), address);
        Ok(Replaced::Done)
    }

    async fn address(&self, user: UserId) -> Result<Option<String>> {
        let data = self.data();
        let mut addresses = data.addresses.values();
        let found = addresses.find(|(owner, _)| *owner == user);
        Ok(found.map(|(_, address)| address.clone()))
    }

    async fn forget(&self, user: UserId) -> Result<()> {
        let mut data = self.data();
        data.addresses.retain(|_, (owner, _)| *owner != user);
        data.passwords.remove(&user);
        Ok(())
    }
}

#[async_trait]
impl Sessions for Memory {
    async fn open(&self, session: &Session) -> Result<()> {
        let kept = Kept {
            session: session.clone(),
            renewed: None,
        };
        let mut data = self.data();
        data.sessions.entry(session.family.clone()).or_insert(kept);
        let own = data
            .sessions
            .values()
            .filter(|kept| kept.session.user == session.user);
        let mut own: Vec<_> = own
            .map(|kept| (kept.session.expires_at, kept.session.family.clone()))
            .collect();
        own.sort();
        let beyond = own.len().saturating_sub(MOST_SESSIONS as usize);
        for (_, family) in &own[..beyond] {
            data.sessions.remove(family);
        }
        Ok(())
    }

    async fn renew(&self, renewal: &Renewal) -> Result<Rotation> {
        let mut data = self.data();
        let kept = data.sessions.get_mut(&renewal.next.family);
        let Some(kept) = kept.filter(|kept| kept.session.expires_at > SystemClock.now()) else {
            return Ok(Rotation::Unknown);
        };
        if kept.session.current == renewal.used {
            let began = kept.session.began;
            kept.session = Session {
                began,
                ..renewal.next.clone()
            };
            let renewed = Renewed {
                salt: renewal.salt,
                at: renewal.at,
                current: renewal.next.current,
            };
            kept.renewed = Some((renewal.used, renewed));
        }
        Ok(match kept.renewed {
            Some((used, renewed)) if used == renewal.used => Rotation::Renewed(renewed),
            Some(_) | None => Rotation::Reused,
        })
    }

    async fn has_from(&self, user: UserId, origins: &[[u8; 32]]) -> Result<bool> {
        let now = SystemClock.now();
        let is_from = |kept: &Kept| {
            let session = &kept.session;
            let origin = session.origin;
            session.user == user
                && origin.is_some_and(|origin| origins.contains(&origin))
                && session.expires_at > now
        };
        Ok(self.data().sessions.values().any(is_from))
    }

    async fn owner(&self, family: &str) -> Result<Option<Owner>> {
        let data = self.data();
        Ok(data.sessions.get(family).map(|kept| Owner {
            user: kept.session.user,
            mark: kept.session.began.mark,
        }))
    }

    async fn close(&self, family: &str) -> Result<()> {
        self.data().sessions.remove(family);
        Ok(())
    }

    async fn close_own(&self, user: UserId, session: SessionId) -> Result<()> {
        let is_it = |kept: &Kept| {
            kept.session.user == user && SessionId::of(&kept.session.family) == session
        };
        self.data().sessions.retain(|_, kept| !is_it(kept));
        Ok(())
    }

    async fn close_all(&self, user: UserId) -> Result<()> {
        let mut data = self.data();
        data.sessions.retain(|_, kept| kept.session.user != user);
        Ok(())
    }

    async fn close_ended(
        &self,
        user: UserId,
        before: &PasswordMark,
        kept: Option<SessionId>,
    ) -> Result<()> {
        let goes_on = |session: &Session| {
            let id = SessionId::of(&session.family);
            session.user != user || kept == Some(id) || !before.keeps(id, session.began.mark)
        };
        let mut data = self.data();
        data.sessions.retain(|_, kept| goes_on(&kept.session));
        Ok(())
    }
}

impl Window {
    fn state(self, quota: Quota, now: Timestamp) -> QuotaState {
        QuotaState {
            granted: self.granted,
            remaining: quota.posts.saturating_sub(self.used),
            window_start: self.start,
            resets_in: quota.window.saturating_sub(passed(self.start, now)),
        }
    }
}

#[async_trait]
impl Quotas for Memory {
    async fn reserve(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState> {
        let (mut data, now) = (self.data(), SystemClock.now());
        let fresh = Window {
            start: now,
            used: 0,
            granted: false,
        };
        let window = data.windows(of).entry(user).or_insert(fresh);
        if passed(window.start, now) >= quota.window {
            *window = fresh;
        }
        window.granted = window.used < quota.posts;
        window.used += u32::from(window.granted);
        Ok(window.state(quota, now))
    }

    async fn state(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState> {
        let (mut data, now) = (self.data(), SystemClock.now());
        let window = data.windows(of).get(&user);
        let state = window.map(|window| window.state(quota, now));
        let fresh = QuotaState {
            granted: true,
            remaining: quota.posts,
            window_start: now,
            resets_in: Duration::ZERO,
        };
        Ok(state
            .filter(|state| !state.resets_in.is_zero())
            .unwrap_or(fresh))
    }

    async fn release(&self, of: Limited, user: UserId, window_start: Timestamp) -> Result<()> {
        let mut data = self.data();
        let window = data.windows(of).get_mut(&user);
        if let Some(window) = window.filter(|window| window.start == window_start) {
            window.used = window.used.saturating_sub(1);
        }
        Ok(())
    }
}

#[async_trait]
impl FollowCounts for Memory {
    async fn reserve(&self, follower: UserId, limit: u32) -> Result<Option<u32>> {
        let (mut data, now) = (self.data(), SystemClock.now());
        let counted = data.count_follows(follower);
        let row = data.follows.entry(follower).or_insert(Follows {
            count: counted,
            touched: now,
            stale: false,
        });
        if row.stale || (row.count >= limit && passed(row.touched, now) >= FOLLOW_COUNT_RESTS) {
            (row.count, row.touched, row.stale) = (counted.min(limit), now, false);
        }
        if row.count >= limit {
            return Ok(None);
        }
        row.count += 1;
        row.touched = now;
        Ok(Some(row.count - 1))
    }

    async fn release(&self, follower: UserId) -> Result<()> {
        if let Some(row) = self.data().follows.get_mut(&follower) {
            row.count = row.count.saturating_sub(1);
        }
        Ok(())
    }

    async fn count(&self, follower: UserId) -> Result<u32> {
        Ok(self.data().count_follows(follower))
    }

    async fn mark_stale(&self, followers: &[UserId]) -> Result<()> {
        let mut data = self.data();
        for follower in followers {
            if let Some(row) = data.follows.get_mut(follower) {
                row.stale = true;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Cleanups for Memory {
    async fn plan(&self, user: UserId, now: Timestamp) -> Result<()> {
        let job = DeactivationCleanup {
            user,
            planned_at: now,
            passes: 0,
            relation: Relation::ALL[0],
            after: None,
        };
        let mut data = self.data();
        let due = data.jobs.get(&user).map_or(now, |(_, due)| *due);
        data.jobs.insert(user, (job, due));
        Ok(())
    }

    async fn claim(&self, now: Timestamp, lease: Duration) -> Result<Option<DeactivationCleanup>> {
        let mut data = self.data();
        let jobs = data.jobs.values_mut().filter(|(_, due)| *due <= now);
        let Some((job, due)) = jobs.min_by_key(|(_, due)| *due) else {
            return Ok(None);
        };
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        *due = Timestamp::from_millis(now.millis().saturating_add(lease));
        Ok(Some(job.clone()))
    }

    async fn save(&self, job: &DeactivationCleanup, due: Timestamp) -> Result<()> {
        if let Some(kept) = self.data().as_claimed(job) {
            *kept = (job.clone(), due);
        }
        Ok(())
    }

    async fn remove(&self, job: &DeactivationCleanup) -> Result<()> {
        let mut data = self.data();
        if data.as_claimed(job).is_some() {
            data.jobs.remove(&job.user);
        }
        Ok(())
    }
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    let passed = now.millis().saturating_sub(since.millis());
    Duration::from_millis(u64::try_from(passed).unwrap_or(0))
}
