//! Changing one's own name and bio.

use shared::contract::events::{LogStream, Payload};
use shared::contract::ids::UserId;

use super::append::{Draft, TRIES, Target, backoff_after_conflict};
use super::error::{Refusal, may_have_happened};
use super::ports::{Allowance, AppendOutcome, Counts, Limited};
use super::{Accepted, App, CommandError};
use crate::domain::user::{self, ProfileChange, User};

/// A profile as its user is shown it, with its numbers as last projected.
#[derive(Clone, Debug)]
pub struct Edited {
    pub user: User,
    /// `None` where it cannot be read now: an edit is not refused for it.
    pub address: Option<String>,
    pub counts: Counts,
    /// How the user's quota of edits stands, where one was taken.
    pub allowance: Option<Allowance>,
}

/// A user's own stream after a command.
struct Changed {
    user: User,
    /// Whether this command changed it.
    changed: bool,
}

impl App {
    pub async fn edit_profile(
        &self,
        actor: UserId,
        change: ProfileChange,
    ) -> Result<Accepted<Edited>, CommandError> {
        let decide = |user: &User| user::edit_profile(user, &change).map_err(CommandError::from);
        // What is refused, or changes nothing, takes nothing from the quota.
        let before = self.load_user(actor).await?.ok_or(Refusal::NoActor)?;
        let (outcome, allowance) = if decide(&before)?.is_some() {
            let allowance = self.reserve(Limited::Edits, &before).await?;
            let outcome = self.decide_on_user(actor, Some(before), decide).await;
            if !may_have_happened(&outcome, |it| it.changed) {
                self.release(actor, allowance).await;
            }
            (outcome?, Some(allowance))
        } else {
            let unchanged = Changed {
                user: before,
                changed: false,
            };
            (unchanged, None)
        };
        let Changed { user, changed } = outcome;
        let (address, counts, token) = tokio::join!(
            self.store.accounts.address(actor),
            self.store.projections.counts(actor),
            self.own_token(&user, changed)
        );
        Ok(Accepted {
            token: token?,
            value: Edited {
                user,
                address: address.ok().flatten(),
                counts,
                allowance,
            },
        })
    }

    /// Decides on a user's own stream, and decides again as long as others are faster.
    pub(super) async fn change_user(
        &self,
        subject: UserId,
        decide: impl Fn(&User) -> Result<Option<Payload>, CommandError> + Send,
    ) -> Result<Accepted<User>, CommandError> {
        let Changed { user, changed } = self.decide_on_user(subject, None, decide).await?;
        Ok(Accepted {
            token: self.own_token(&user, changed).await?,
            value: user,
        })
    }

    /// The same, beginning with the user as `known`, if that is.
    async fn decide_on_user(
        &self,
        subject: UserId,
        mut known: Option<User>,
        decide: impl Fn(&User) -> Result<Option<Payload>, CommandError> + Send,
    ) -> Result<Changed, CommandError> {
        for attempt in 0..TRIES {
            backoff_after_conflict(attempt).await;
            let user = match known.take() {
                Some(user) => Some(user),
                None => self.load_user(subject).await?,
            };
            let mut user = user.ok_or(Refusal::NoActor)?;
            let Some(payload) = decide(&user)? else {
                return Ok(Changed {
                    user,
                    changed: false,
                });
            };
            let draft = Draft {
                target: Target::Stream {
                    owner: subject,
                    stream: LogStream::User(subject),
                    version: user.version + 1,
                },
                actor: subject,
                payload,
                read: user.last.get(),
                key: None,
            };
            match self.append(&draft).await? {
                AppendOutcome::Appended(event) => {
                    user.learn(&event);
                    self.remember(&user).await;
                    return Ok(Changed {
                        user,
                        changed: true,
                    });
                }
                AppendOutcome::IdTaken
                | AppendOutcome::VersionTaken
                | AppendOutcome::KeyTaken(_) => {}
            }
        }
        Err(Refusal::Conflict.into())
    }

    /// What was just decided holds here at once, elsewhere when a cached status expires.
    async fn remember(&self, user: &User) {
        self.decided.insert(user.id, user.clone().into()).await;
    }
}
