//! Registering: the one command that needs a transaction, for names are unique across users.

use shared::contract::consistency::ConsistencyToken;
use shared::contract::events::{Event, LogStream};
use shared::contract::ids::UserId;
use shared::runtime::settings::Secret;
use shared::runtime::trace::{self, Kind};

use super::append::{ID_TRIES, measured, no_free_id};
use super::context::current_trace;
use super::error::Refusal;
use super::ports::{AccountName, Counts, NewAccount, Registered, StoreError};
use super::{Accepted, App, CommandError, Edited};
use crate::domain::user::{AccountStatus, Registration, RegistrationForm, User};

impl App {
    pub async fn register(&self, form: RegistrationForm) -> Result<Accepted<Edited>, CommandError> {
        let registration = Registration::parse(&form).map_err(CommandError::Invalid)?;
        self.refuse_taken_names(&registration).await?;
        let password_hash = match &registration.password {
            Some(password) => Some(Secret::new(self.passwords.hash(password.clone()).await?)),
            None => None,
        };
        let append = self.append_account(&registration, password_hash);
        trace::part(Kind::Internal, "append", append).await
    }

    /// Appends the registration, under the next id that is free.
    async fn append_account(
        &self,
        registration: &Registration,
        password_hash: Option<Secret>,
    ) -> Result<Accepted<Edited>, CommandError> {
        let mut refused = 0;
        for _ in 0..ID_TRIES {
            let account = self.new_account(registration, password_hash.clone(), refused)?;
            let is_appended = |outcome: &_| matches!(outcome, Registered::Done);
            let register = self.store.accounts.register(&account);
            match measured(&account.event, register, is_appended).await? {
                Registered::Done => return accepted(account),
                Registered::UsernameTaken => return Err(Refusal::UsernameTaken.into()),
                Registered::EmailTaken => return Err(Refusal::EmailTaken.into()),
                Registered::IdTaken => refused = account.event.id.get(),
            }
        }
        Err(no_free_id().into())
    }

    /// The event that registers, with its own id, above `refused`, as the user's.
    pub(crate) fn new_account(
        &self,
        registration: &Registration,
        password_hash: Option<Secret>,
        refused: i64,
    ) -> Result<NewAccount, CommandError> {
        let id = self.ids.next(self.clock.as_ref(), refused)?;
        Ok(NewAccount {
            event: Event {
                id,
                stream: LogStream::User(id.cast()),
                version: 1,
                actor: id.cast(),
                at: self.clock.now(),
                payload: registration.event(),
            },
            username: registration.username.as_str().to_owned(),
            email: registration.email.folded(),
            address: registration.email.as_str().to_owned(),
            password_hash,
            trace: current_trace(),
            nonce: rand::random(),
        })
    }

    /// Spares the hashing and the transaction; the reservation is what decides.
    async fn refuse_taken_names(&self, registration: &Registration) -> Result<(), CommandError> {
        let username = AccountName::Username(registration.username.as_str().to_owned());
        let email = AccountName::Email(registration.email.folded());
        let (username, email) = tokio::join!(
            self.store.accounts.find(&username),
            self.store.accounts.find(&email)
        );
        if username?.is_some() {
            return Err(Refusal::UsernameTaken.into());
        }
        if let Some(owner) = email?
            && !self.forgets(owner).await?
        {
            return Err(Refusal::EmailTaken.into());
        }
        Ok(())
    }

    /// Forgets an account whose user has left, if that is not done yet: an address is free at
    /// once, whatever became of the cleanup, or of the build that took the deactivation.
    pub(super) async fn forgets(&self, owner: UserId) -> Result<bool, StoreError> {
        let owner = self.load_user(owner).await?;
        let left = owner.filter(|owner| owner.status == AccountStatus::Deactivated);
        match left {
            Some(owner) => self.store.accounts.forget(owner.id).await.map(|()| true),
            None => Ok(false),
        }
    }
}

fn accepted(account: NewAccount) -> Result<Accepted<Edited>, CommandError> {
    let unfolded = || StoreError::Corrupt("a registration that registers nobody".into());
    let user = User::fold([&account.event]).ok_or_else(unfolded)?;
    // Nothing of theirs can be before it.
    let token = ConsistencyToken {
        stream: LogStream::User(user.id),
        version: user.version,
        actor: user.id,
        owner: user.id,
        latest: Vec::new(),
    };
    let value = Edited {
        user,
        address: Some(account.address),
        counts: Counts::default(),
        allowance: None,
    };
    Ok(Accepted { value, token })
}
