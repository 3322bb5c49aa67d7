//! How much one account may write: posts and edits of the profile. The counts are in the store, so
//! that they hold over all replicas.

use shared::contract::ids::UserId;
use shared::runtime::error_chain::Chain;
use shared::runtime::trace::{self, Kind};
use tracing::warn;

use super::error::Limit;
use super::ports::{Allowance, Limited, Quota, StoreError};
use super::{App, CommandError};
use crate::domain::user::User;

/// Verified users write this many times as much.
const VERIFIED_FACTOR: u32 = 3;

impl App {
    /// Takes one from the user's quota.
    pub(super) async fn reserve(
        &self,
        of: Limited,
        user: &User,
    ) -> Result<Allowance, CommandError> {
        let quota = self.quota_of(user);
        let reserve = self.store.quotas.reserve(of, user.id, quota);
        let state = trace::part(Kind::Internal, "reserve quota", reserve).await?;
        let allowance = Allowance { of, quota, state };
        if state.granted {
            Ok(allowance)
        } else {
            Err(Limit::Quota(allowance).into())
        }
    }

    /// How the user's quota stands; what is only told is not worth a failure.
    pub(super) async fn allowance(&self, of: Limited, user: &User) -> Option<Allowance> {
        let quota = self.quota_of(user);
        let state = self.store.quotas.state(of, user.id, quota).await.ok()?;
        Some(Allowance { of, quota, state })
    }

    /// Gives a reservation back after a definite failure.
    pub(super) async fn release(&self, user: UserId, allowance: Allowance) {
        let window = allowance.state.window_start;
        let released: Result<(), StoreError> =
            self.store.quotas.release(allowance.of, user, window).await;
        if let Err(error) = released {
            let what = allowance.of.name();
            warn!(error = %Chain(&error), what, "what was not written stays counted");
        }
    }

    /// Posts and edits have as many each.
    fn quota_of(&self, user: &User) -> Quota {
        let factor = if user.verified { VERIFIED_FACTOR } else { 1 };
        Quota {
            posts: self.quota.posts.saturating_mul(factor),
            window: self.quota.window,
        }
    }
}
