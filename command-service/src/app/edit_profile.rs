//! Changing one's own name and bio.

use shared::events::{Event, LogStream, Payload};
use shared::ids::UserId;

use super::append::{Appended, Draft, Target, tries, wait_turn};
use super::register::own_token;
use super::store::Counts;
use super::{Accepted, App, CommandError};
use crate::domain::user::{self, ProfileChange, User};

/// A profile as its user is shown it, with its numbers as last projected.
#[derive(Clone, Debug)]
pub struct Edited {
    pub user: User,
    /// `None` where it cannot be read now: an edit is not refused for it.
    pub address: Option<String>,
    pub counts: Counts,
}

impl App {
    pub async fn edit_profile(
        &self,
        actor: UserId,
        change: ProfileChange,
    ) -> Result<Accepted<Edited>, CommandError> {
        let decide = |user: &User| user::edit_profile(user, &change).map_err(CommandError::from);
        let Accepted { value: user, token } = self.change_user(actor, decide).await?;
        let (address, counts) = tokio::join!(self.store.address(actor), self.store.counts(actor));
        Ok(Accepted {
            value: Edited {
                user,
                address: address.ok().flatten(),
                counts,
            },
            token,
        })
    }

    /// Decides on a user's own stream, and decides again as long as others are faster.
    pub(super) async fn change_user(
        &self,
        subject: UserId,
        decide: impl Fn(&User) -> Result<Option<Payload>, CommandError> + Send,
    ) -> Result<Accepted<User>, CommandError> {
        for attempt in 0..tries() {
            wait_turn(attempt).await;
            let mut events = self.store.user_events(subject).await?;
            let user = User::fold(&events).ok_or(CommandError::NoActor)?;
            let Some(payload) = decide(&user)? else {
                return Ok(accepted(user));
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
                Appended::Done(event) => {
                    events.push(event);
                    return self.remember(&events, user).await;
                }
                Appended::Ahead(ahead) => return Err(ahead.into()),
                Appended::Stale | Appended::KeyTaken(_) => {}
            }
        }
        Err(CommandError::Conflict)
    }

    /// What was just decided holds here at once, elsewhere when a cached standing expires.
    async fn remember(
        &self,
        events: &[Event],
        before: User,
    ) -> Result<Accepted<User>, CommandError> {
        let user = User::fold(events).unwrap_or(before);
        self.users.insert(user.id, user.clone().into()).await;
        Ok(accepted(user))
    }
}

fn accepted(user: User) -> Accepted<User> {
    Accepted {
        token: own_token(&user),
        value: user,
    }
}
