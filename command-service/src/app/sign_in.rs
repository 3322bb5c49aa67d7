//! Signing in and staying signed in.
//!
//! An access token is good for fifteen minutes. A refresh token is `family.secret`, good once:
//! each use makes the next one. An old one coming back means that somebody copied it, and ends
//! the whole family; but for a short grace, in which the token that was used last gets the same
//! answer again: it was lost, or two tabs asked at once.
//!
//! The next secret is a hash of the one that was used and a random salt. So the same use makes the
//! same token again, on every replica, and what is stored (the salt, and digests) makes none.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use shared::auth::token::LIFETIME;
use shared::contract::consistency::ConsistencyToken;
use shared::contract::ids::UserId;
use shared::contract::sessions::{SESSION_LIFETIME_MS, SessionId};
use shared::contract::time::Timestamp;
use shared::runtime::settings::Secret;
use shared::web::rate_limit::customer;

use super::error::{Internal, Refusal};
use super::login_limits::{Checked, Purpose};
use super::ports::{AccountName, Began, Renewal, Renewed, Rotation, Session};
use super::{Accepted, App, CommandError};
use crate::domain::text::Password;
use crate::domain::user::User;

const FAMILY_BYTES: usize = 16;
/// How long after its use a refresh token gets the same answer again.
const GRACE: Duration = Duration::from_secs(30);
/// Keeps what is hashed here apart from everything else that is hashed.
const SUCCESSOR: &[u8] = b"microblog refresh token";

/// Somebody claims to be somebody.
#[derive(Clone, Debug)]
pub struct SignIn {
    pub account: AccountName,
    pub password: Password,
    /// Where the claim comes from.
    pub address: Option<IpAddr>,
}

/// What a session is carried on with.
#[derive(Clone)]
pub struct Tokens {
    pub access: String,
    /// How long the access token is good for.
    pub expires_in: Duration,
    pub refresh: String,
}

/// A refresh token, taken apart.
struct Refresh {
    family: String,
    secret: [u8; 32],
}

impl App {
    /// Unknown account, wrong password, somebody who left: one answer, after the same work.
    pub async fn sign_in(&self, claim: SignIn) -> Result<Accepted<Tokens>, CommandError> {
        let user = self.store.accounts.find(&claim.account).await?;
        let account = account_label(user, &claim.account);
        self.may_try(Purpose::SignIn, user, &account, claim.address)
            .await?;
        // Asked for an unknown account too: its absence must not be told by the time it takes.
        let nobody = UserId::new(1).unwrap_or_else(|| unreachable!("1 is positive"));
        let known = self.store.accounts.credentials(user.unwrap_or(nobody));
        let known = known.await?.filter(|_| user.is_some());
        let mark = known.as_ref().and_then(|known| known.mark.mark);
        let hash = known.map(|known| known.password_hash);
        let matches = self.passwords.verify(claim.password, hash).await?;
        let user = user.filter(|_| matches).ok_or(Refusal::BadCredentials)?;
        let user = self.find_active(user).await?;
        let user = user.ok_or(Refusal::BadCredentials)?;
        let refresh = Refresh::new_family();
        let session = self.session(user.id, &refresh, claim.address, mark);
        self.store.sessions.open(&session).await?;
        self.login_limits.learn(&account, claim.address);
        let token = self.own_token(&user, false).await?;
        self.tokens(&user, &refresh, self.clock.now(), token)
    }

    /// Carries a session on. The same token twice within `GRACE` gets the same tokens.
    pub async fn refresh(
        &self,
        token: Secret,
        address: Option<IpAddr>,
    ) -> Result<Accepted<Tokens>, CommandError> {
        let old = Refresh::parse(token.expose()).ok_or(Refusal::BadRefreshToken)?;
        let owner = self.store.sessions.owner(&old.family).await?;
        let owner = owner.ok_or(Refusal::BadRefreshToken)?;
        let (user, account) = tokio::join!(
            self.find_active(owner.user),
            self.store.accounts.credentials(owner.user)
        );
        // Who has no password has changed none.
        let marked = account?.map(|account| account.mark).unwrap_or_default();
        let goes_on = marked.keeps(SessionId::of(&old.family), owner.mark);
        let Some(user) = user?.filter(|_| goes_on) else {
            self.store.sessions.close(&old.family).await?;
            return Err(Refusal::BadRefreshToken.into());
        };
        // Asked before the renewal: what fails now leaves the old token good. Afterwards the client
        // needs its answer, or is out of the session once the grace is over.
        let before = self.own_token(&user, false).await?;
        let (salt, now) = (rand::random(), self.clock.now());
        let renewal = Renewal {
            used: old.digest(),
            salt,
            at: now,
            next: self.session(user.id, &old.next(&salt), address, owner.mark),
        };
        match self.store.sessions.renew(&renewal).await? {
            Rotation::Renewed(renewed) if old.may_repeat(&renewed, now) => {
                self.login_limits.learn(&user.id.to_string(), address);
                // Asked again for what was accepted meanwhile.
                let token = self.own_token(&user, false).await.unwrap_or(before);
                self.tokens(&user, &old.next(&renewed.salt), renewed.at, token)
            }
            Rotation::Renewed(_) | Rotation::Reused => {
                self.store.sessions.close(&old.family).await?;
                Err(Refusal::BadRefreshToken.into())
            }
            Rotation::Unknown => Err(Refusal::BadRefreshToken.into()),
        }
    }

    /// Counts a guess at a password, or refuses it.
    ///
    /// When others have used up what strangers may try at the account, the store is asked whether
    /// the caller is none: a restart, or another replica, has forgotten who is known here.
    pub(super) async fn may_try(
        &self,
        purpose: Purpose,
        user: Option<UserId>,
        account: &str,
        address: Option<IpAddr>,
    ) -> Result<(), CommandError> {
        let refusal = match self.login_limits.check(purpose, account, address) {
            Checked::Granted => return Ok(()),
            Checked::Refused(refusal) => return Err(refusal.into()),
            Checked::Stranger(refusal) => refusal,
        };
        let (Some(user), Some(place)) = (user, address) else {
            return Err(refusal.into());
        };
        // A session that was used last before the key changed has a tag of the key before.
        let origins = self.signer.tags(&origin(user, place));
        if !self.store.sessions.has_from(user, &origins).await? {
            return Err(refusal.into());
        }
        self.login_limits.learn(account, address);
        Ok(self.login_limits.check_known(purpose, account, address)?)
    }

    /// Stands for where a user is, in their sessions: an address is nobody's to read there.
    fn origin(&self, user: UserId, address: Option<IpAddr>) -> Option<[u8; 32]> {
        Some(self.signer.tag(&origin(user, address?)))
    }

    /// Ends the family of a refresh token. Nothing is told about one that is not ours.
    pub async fn sign_out(&self, token: Secret) -> Result<Option<ConsistencyToken>, CommandError> {
        let Some(refresh) = Refresh::parse(token.expose()) else {
            return Ok(None);
        };
        let user = match self.store.sessions.owner(&refresh.family).await? {
            Some(owner) => self.load_user(owner.user).await?,
            None => None,
        };
        self.store.sessions.close(&refresh.family).await?;
        Ok(match &user {
            Some(user) => Some(self.own_token(user, false).await?),
            None => None,
        })
    }

    /// `mark`: that of the password which the session began with.
    fn session(
        &self,
        user: UserId,
        refresh: &Refresh,
        address: Option<IpAddr>,
        mark: Option<i64>,
    ) -> Session {
        let now = self.clock.now();
        Session {
            family: refresh.family.clone(),
            user,
            current: refresh.digest(),
            expires_at: Timestamp::from_millis(now.millis() + SESSION_LIFETIME_MS),
            origin: self.origin(user, address),
            began: Began { at: now, mark },
        }
    }

    /// Reads by the consistency `token` that goes with them know the account as it is now, and all
    /// that was written by it. Of a session that was begun or renewed at `since`: the same tokens
    /// whenever they are made.
    fn tokens(
        &self,
        user: &User,
        refresh: &Refresh,
        since: Timestamp,
        token: ConsistencyToken,
    ) -> Result<Accepted<Tokens>, CommandError> {
        let session = SessionId::of(&refresh.family);
        let access = self
            .signer
            .sign_at(user.id, Some(session), seconds(since.millis()));
        let age = seconds(self.clock.now().millis().saturating_sub(since.millis()));
        let value = Tokens {
            access: access.map_err(Internal::Signing)?,
            expires_in: LIFETIME.saturating_sub(Duration::from_secs(age)),
            refresh: refresh.encode(),
        };
        Ok(Accepted { value, token })
    }
}

impl Refresh {
    fn new_family() -> Self {
        Self {
            family: URL_SAFE_NO_PAD.encode(rand::random::<[u8; FAMILY_BYTES]>()),
            secret: rand::random(),
        }
    }

    /// The one that a use makes of this one, and nobody who has not both it and the salt.
    fn next(&self, salt: &[u8; 32]) -> Self {
        let secret = Sha256::new().chain_update(SUCCESSOR);
        let secret = secret.chain_update(self.secret).chain_update(salt);
        Self {
            family: self.family.clone(),
            secret: secret.finalize().into(),
        }
    }

    /// Whether a renewal by this token may be answered: this very one, or one not long ago whose
    /// token has not been used since.
    fn may_repeat(&self, renewed: &Renewed, now: Timestamp) -> bool {
        let age = now.millis().saturating_sub(renewed.at.millis());
        let grace = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
        age <= grace && self.next(&renewed.salt).digest() == renewed.current
    }

    fn parse(token: &str) -> Option<Self> {
        let (family, secret) = token.split_once('.')?;
        let known = URL_SAFE_NO_PAD.decode(family).ok()?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?;
        (known.len() == FAMILY_BYTES).then(|| Self {
            family: family.to_owned(),
            secret,
        })
    }

    fn encode(&self) -> String {
        format!("{}.{}", self.family, URL_SAFE_NO_PAD.encode(self.secret))
    }

    /// What is stored: whoever reads the database cannot carry a session on.
    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

/// What is tagged: a user, and where they are.
fn origin(user: UserId, address: IpAddr) -> String {
    format!("origin {user} {}", customer(address))
}

/// Whole seconds; none before the epoch.
fn seconds(millis: i64) -> u64 {
    u64::try_from(millis / 1_000).unwrap_or(0)
}

/// An account is one, by whichever name it is called.
fn account_label(user: Option<UserId>, name: &AccountName) -> String {
    match (user, name) {
        (Some(user), _) => user.to_string(),
        (None, AccountName::Username(name) | AccountName::Email(name)) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refresh_token_reads_back() {
        let refresh = Refresh::new_family();
        let back = Refresh::parse(&refresh.encode()).unwrap();
        assert_eq!((back.family, back.secret), (refresh.family, refresh.secret));
    }

    #[test]
    fn who_signs_in_or_registers_shows_no_secret() {
        let claim = SignIn {
            account: AccountName::Username("ada".into()),
            password: Password::guess("canary"),
            address: None,
        };
        let form = crate::domain::user::RegistrationForm {
            password: Some(Secret::new("canary")),
            ..Default::default()
        };
        assert!(!format!("{claim:?} {form:?}").contains("canary"));
    }

    #[test]
    fn the_next_token_is_of_the_same_family_with_another_secret() {
        let first = Refresh::new_family();
        let next = first.next(&[1; 32]);
        assert_eq!(first.family, next.family);
        assert_ne!(first.digest(), next.digest());
        assert_eq!(
            next.digest(),
            first.next(&[1; 32]).digest(),
            "and the same again"
        );
        assert_ne!(next.digest(), first.next(&[2; 32]).digest());
        assert_ne!(next.digest(), Refresh::new_family().next(&[1; 32]).digest());
    }

    #[test]
    fn a_renewal_is_repeated_for_half_a_minute_and_only_by_its_own_token() {
        let (first, at) = (Refresh::new_family(), Timestamp::from_millis(1_000_000));
        let renewed = Renewed {
            salt: [7; 32],
            at,
            current: first.next(&[7; 32]).digest(),
        };
        let after = |millis: i64| Timestamp::from_millis(at.millis() + millis);
        for (millis, repeats) in [(-900, true), (0, true), (30_000, true), (30_001, false)] {
            assert_eq!(
                first.may_repeat(&renewed, after(millis)),
                repeats,
                "{millis} ms"
            );
        }
        assert!(!Refresh::new_family().may_repeat(&renewed, at));
        // An earlier build renewed since: it left the salt of the renewal before.
        let since = Renewed {
            current: [0; 32],
            ..renewed
        };
        assert!(!first.may_repeat(&since, at));
    }

    proptest! {
        #[test]
        fn any_text_is_a_refresh_token_or_refused(text in "\\PC{0,100}") {
            let _ = Refresh::parse(&text);
        }
    }
}
