//! Users: registration, profile, status.

use shared::contract::events::{Event, NoAddress, NoData, Payload, ProfileEdited, UserRegistered};
use shared::contract::ids::{EventId, UserId};
use shared::contract::time::Timestamp;
use shared::runtime::settings::Secret;

use super::Fault;
use super::text::{Bio, DisplayName, Email, Password, Username};

/// Whether a user may act, and is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AccountStatus {
    Active,
    /// Signs in and reads, writes nothing.
    Suspended,
    /// Gone, for good.
    Deactivated,
}

/// Why a user may not act.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAllowed {
    #[error("the account is suspended")]
    Suspended,
    #[error("the account is deactivated")]
    Deactivated,
}

impl AccountStatus {
    /// Every write asks this first.
    pub fn can_write(self) -> Result<(), NotAllowed> {
        match self {
            Self::Active => Ok(()),
            Self::Suspended => Err(NotAllowed::Suspended),
            Self::Deactivated => Err(NotAllowed::Deactivated),
        }
    }

    /// Whether others can see them, follow them, and answer them.
    pub fn is_visible(self) -> bool {
        match self {
            Self::Active | Self::Suspended => true,
            Self::Deactivated => false,
        }
    }
}

/// A user, as their own stream tells it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    pub id: UserId,
    pub username: String,
    pub display_name: String,
    pub bio: String,
    pub verified: bool,
    pub status: AccountStatus,
    pub registered_at: Timestamp,
    /// Of the stream; the next event has the next one.
    pub version: i64,
    /// The stream's last event.
    pub last: EventId,
}

impl User {
    /// Folds the user's stream, in version order; `None` for a stream without a registration.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<Self> {
        let mut user: Option<Self> = None;
        for event in events {
            match &mut user {
                None => user = Self::registered(event),
                Some(user) => user.learn(event),
            }
        }
        user
    }

    fn registered(event: &Event) -> Option<Self> {
        let Payload::UserRegistered(data) = &event.payload else {
            return None;
        };
        Some(Self {
            id: event.id.cast(),
            username: data.username.clone(),
            display_name: data.display_name.clone(),
            bio: data.bio.clone(),
            verified: false,
            status: AccountStatus::Active,
            registered_at: event.at,
            version: event.version,
            last: event.id,
        })
    }

    /// Takes the next event of the stream.
    pub fn learn(&mut self, event: &Event) {
        match &event.payload {
            Payload::ProfileEdited(profile) => {
                self.display_name.clone_from(&profile.display_name);
                self.bio.clone_from(&profile.bio);
            }
            Payload::UserDeactivated(_) => self.status = AccountStatus::Deactivated,
            Payload::UserVerified(_) => self.verified = true,
            Payload::UserSuspended(_) => self.status = AccountStatus::Suspended,
            Payload::UserUnsuspended(_) => self.status = AccountStatus::Active,
            // A second registration, or an event of another stream, changes no user.
            Payload::UserRegistered(_)
            | Payload::PostCreated(_)
            | Payload::PostDeleted(_)
            | Payload::Followed(_)
            | Payload::Unfollowed(_)
            | Payload::Liked(_)
            | Payload::Unliked(_)
            | Payload::Reposted(_)
            | Payload::Unreposted(_) => {}
        }
        self.version = event.version;
        self.last = event.id;
    }
}

/// A registration as filled in.
#[derive(Clone, Debug, Default)]
pub struct RegistrationForm {
    pub username: String,
    pub email: String,
    /// An imported user may have none: they cannot sign in.
    pub password: Option<Secret>,
    pub display_name: Option<String>,
    pub bio: Option<String>,
}

/// A registration without faults.
#[derive(Clone, Debug)]
pub struct Registration {
    pub username: Username,
    pub email: Email,
    pub password: Option<Password>,
    display_name: DisplayName,
    bio: Bio,
}

impl Registration {
    /// Checks every field, and tells every fault at once.
    pub fn parse(form: &RegistrationForm) -> Result<Self, Vec<Fault>> {
        let username = Username::parse(&form.username).map_err(|e| Fault::of("username", &e));
        let email = Email::parse(&form.email).map_err(|e| Fault::of("email", &e));
        let password = form.password.as_ref().map(Secret::expose);
        let password = password.map(Password::parse).transpose();
        let password = password.map_err(|e| Fault::of("password", &e));
        // A form that was not filled in sends an empty name; an edit to one is a fault.
        let display_name = form.display_name.as_deref();
        let display_name = display_name.filter(|name| !name.trim().is_empty());
        let display_name = parse_display_name(display_name);
        let bio = parse_bio(form.bio.as_deref());
        match (username, email, password, display_name, bio) {
            (Ok(username), Ok(email), Ok(password), Ok(display_name), Ok(bio)) => Ok(Self {
                display_name: display_name.unwrap_or_else(|| DisplayName::from(&username)),
                bio: bio.unwrap_or_else(Bio::empty),
                username,
                email,
                password,
            }),
            (username, email, password, display_name, bio) => Err([
                username.err(),
                email.err(),
                password.err(),
                display_name.err(),
                bio.err(),
            ]
            .into_iter()
            .flatten()
            .collect()),
        }
    }

    /// The event that makes the user; whether the names are free is the store's to say.
    pub fn event(&self) -> Payload {
        Payload::UserRegistered(UserRegistered {
            username: self.username.as_str().to_owned(),
            email: NoAddress,
            display_name: self.display_name.as_str().to_owned(),
            bio: self.bio.as_str().to_owned(),
        })
    }
}

fn parse_display_name(text: Option<&str>) -> Result<Option<DisplayName>, Fault> {
    let name = text.map(DisplayName::parse).transpose();
    name.map_err(|e| Fault::of("display_name", &e))
}

fn parse_bio(text: Option<&str>) -> Result<Option<Bio>, Fault> {
    let bio = text.map(Bio::parse).transpose();
    bio.map_err(|e| Fault::of("bio", &e))
}

/// Changes to a profile; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct ProfileChange {
    display_name: Option<DisplayName>,
    bio: Option<Bio>,
}

impl ProfileChange {
    pub fn parse(display_name: Option<&str>, bio: Option<&str>) -> Result<Self, Vec<Fault>> {
        match (parse_display_name(display_name), parse_bio(bio)) {
            (Ok(display_name), Ok(bio)) => Ok(Self { display_name, bio }),
            (display_name, bio) => Err([display_name.err(), bio.err()]
                .into_iter()
                .flatten()
                .collect()),
        }
    }
}

pub fn edit_profile(user: &User, change: &ProfileChange) -> Result<Option<Payload>, NotAllowed> {
    user.status.can_write()?;
    let text = |new: Option<&str>, old: &str| new.unwrap_or(old).to_owned();
    let profile = ProfileEdited {
        display_name: text(
            change.display_name.as_ref().map(DisplayName::as_str),
            &user.display_name,
        ),
        bio: text(change.bio.as_ref().map(Bio::as_str), &user.bio),
    };
    let same = profile.display_name == user.display_name && profile.bio == user.bio;
    Ok((!same).then_some(Payload::ProfileEdited(profile)))
}

/// Leaving is allowed to the suspended too. Doing it twice is no error.
pub fn deactivate(user: &User) -> Option<Payload> {
    match user.status {
        AccountStatus::Active | AccountStatus::Suspended => {
            Some(Payload::UserDeactivated(NoData {}))
        }
        AccountStatus::Deactivated => None,
    }
}

pub fn verify(user: &User) -> Result<Option<Payload>, NotAllowed> {
    match user.status {
        AccountStatus::Deactivated => Err(NotAllowed::Deactivated),
        AccountStatus::Active | AccountStatus::Suspended => {
            Ok((!user.verified).then_some(Payload::UserVerified(NoData {})))
        }
    }
}

pub fn suspend(user: &User) -> Result<Option<Payload>, NotAllowed> {
    match user.status {
        AccountStatus::Active => Ok(Some(Payload::UserSuspended(NoData {}))),
        AccountStatus::Suspended => Ok(None),
        AccountStatus::Deactivated => Err(NotAllowed::Deactivated),
    }
}

pub fn unsuspend(user: &User) -> Result<Option<Payload>, NotAllowed> {
    match user.status {
        AccountStatus::Active => Ok(None),
        AccountStatus::Suspended => Ok(Some(Payload::UserUnsuspended(NoData {}))),
        AccountStatus::Deactivated => Err(NotAllowed::Deactivated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::contract::events::LogStream;
    use shared::contract::ids::Id;

    fn form() -> RegistrationForm {
        RegistrationForm {
            username: "Ada".into(),
            email: "ada@example.org".into(),
            password: Some(Secret::new("correct horse")),
            ..RegistrationForm::default()
        }
    }

    /// A user whose stream holds a registration and then `payloads`.
    fn given(payloads: impl IntoIterator<Item = Payload>) -> User {
        let registered = Registration::parse(&form()).unwrap().event();
        let events: Vec<Event> = [registered]
            .into_iter()
            .chain(payloads)
            .zip(1..)
            .map(|(payload, version)| Event {
                id: Id::new(100 + version).unwrap(),
                stream: LogStream::User(Id::new(101).unwrap()),
                version,
                actor: Id::new(101).unwrap(),
                at: Timestamp::from_millis(0),
                payload,
            })
            .collect();
        User::fold(&events).unwrap()
    }

    #[test]
    fn every_fault_of_a_registration_is_told_at_once() {
        let form = RegistrationForm {
            username: "a".into(),
            email: "a".into(),
            password: Some(Secret::new("short")),
            display_name: Some("x".repeat(51)),
            bio: Some("x".repeat(161)),
        };
        let faults = Registration::parse(&form).unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
        assert_eq!(
            fields,
            ["username", "email", "password", "display_name", "bio"]
        );
    }

    #[test]
    fn who_gives_no_display_name_is_shown_by_the_username() {
        assert_eq!(given([]).display_name, "ada");
        for empty in ["", " \t\r\n"] {
            let form = RegistrationForm {
                display_name: Some(empty.into()),
                ..form()
            };
            let registration = Registration::parse(&form).unwrap();
            assert_eq!(registration.display_name.as_str(), "ada", "{empty:?}");
        }
        let form = RegistrationForm {
            display_name: Some("\u{200b}".into()),
            ..form()
        };
        let faults = Registration::parse(&form).unwrap_err();
        assert_eq!((faults[0].field, faults[0].code), ("display_name", "blank"));
        assert!(ProfileChange::parse(Some(""), None).is_err());
    }

    #[test]
    fn editing_a_profile_keeps_what_is_not_named() {
        let change = ProfileChange::parse(None, Some("engines")).unwrap();
        let Ok(Some(Payload::ProfileEdited(profile))) = edit_profile(&given([]), &change) else {
            panic!("an edit is an event");
        };
        assert_eq!(
            (profile.display_name.as_str(), profile.bio.as_str()),
            ("ada", "engines")
        );
    }

    #[test]
    fn an_edit_that_changes_nothing_appends_nothing() {
        let change = ProfileChange::parse(Some("ada"), None).unwrap();
        assert_eq!(edit_profile(&given([]), &change), Ok(None));
    }

    #[test]
    fn a_suspended_user_cannot_edit_but_can_leave() {
        let user = given([Payload::UserSuspended(NoData {})]);
        let change = ProfileChange::parse(Some("Eve"), None).unwrap();
        assert_eq!(edit_profile(&user, &change), Err(NotAllowed::Suspended));
        assert_eq!(deactivate(&user), Some(Payload::UserDeactivated(NoData {})));
    }

    #[test]
    fn leaving_twice_is_no_error() {
        let user = given([Payload::UserDeactivated(NoData {})]);
        assert_eq!(deactivate(&user), None);
        assert_eq!(user.version, 2);
    }

    #[test]
    fn a_user_who_left_is_neither_verified_nor_suspended_nor_brought_back() {
        let user = given([
            Payload::UserSuspended(NoData {}),
            Payload::UserDeactivated(NoData {}),
        ]);
        for decided in [verify(&user), suspend(&user), unsuspend(&user)] {
            assert_eq!(decided, Err(NotAllowed::Deactivated));
        }
    }

    #[test]
    fn suspending_and_lifting_alternate_and_repeat_without_effect() {
        let active = given([]);
        assert_eq!(unsuspend(&active), Ok(None));
        assert_eq!(
            suspend(&active),
            Ok(Some(Payload::UserSuspended(NoData {})))
        );
        let suspended = given([Payload::UserSuspended(NoData {})]);
        assert_eq!(suspend(&suspended), Ok(None));
        assert_eq!(
            unsuspend(&suspended),
            Ok(Some(Payload::UserUnsuspended(NoData {})))
        );
        let lifted = given([
            Payload::UserSuspended(NoData {}),
            Payload::UserUnsuspended(NoData {}),
        ]);
        assert_eq!(lifted.status, AccountStatus::Active);
    }

    #[test]
    fn verifying_twice_appends_once() {
        assert_eq!(
            verify(&given([])),
            Ok(Some(Payload::UserVerified(NoData {})))
        );
        assert_eq!(verify(&given([Payload::UserVerified(NoData {})])), Ok(None));
    }
}
