//! What people type, parsed into types that are valid for good. Each limit is one constant.

use std::fmt;

use shared::contract::names;
use unicode_normalization::UnicodeNormalization;

use super::Coded;
use super::characters::{is_bidi_override, is_line_end, is_refused_in_text, shows_nothing, tidy};

pub const USERNAME_MIN: usize = 3;
pub const USERNAME_MAX: usize = 30;
pub const EMAIL_MAX: usize = 254;
pub const PASSWORD_MIN: usize = 8;
pub const PASSWORD_MAX: usize = 128;
pub const DISPLAY_NAME_MAX: usize = 50;
pub const BIO_MAX: usize = 160;
pub const CONTENT_MAX: usize = 280;

/// RFC 5321: the part before the `@`, one label of a domain.
const EMAIL_LOCAL_MAX: usize = 64;
const LABEL_MAX: usize = 63;

/// Declares an error of parsing with a stable word and a sentence per variant.
macro_rules! faults {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $code:literal $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
        pub enum $name { $(#[error($text)] $variant),* }

        impl Coded for $name {
            fn code(&self) -> &'static str {
                match self { $(Self::$variant => $code),* }
            }
        }
    };
}

/// A text that is given out again as it was parsed.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, PartialEq, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

faults!(
    /// Why a text is not a username.
    InvalidUsername {
        TooShort "too_short" "has at least {USERNAME_MIN} characters";
        TooLong "too_long" "has at most {USERNAME_MAX} characters";
        Character "bad_character" "is made of a-z, 0-9 and _";
    }
);

text_type!(
    /// Invariant: [`USERNAME_MIN`] to [`USERNAME_MAX`] of `a-z 0-9 _`; capitals are folded.
    Username
);

impl Username {
    pub fn parse(text: &str) -> Result<Self, InvalidUsername> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !text.bytes().all(allowed) {
            return Err(InvalidUsername::Character);
        }
        match text.len() {
            ..USERNAME_MIN => Err(InvalidUsername::TooShort),
            USERNAME_MIN..=USERNAME_MAX => Ok(Self(names::fold(text))),
            _ => Err(InvalidUsername::TooLong),
        }
    }
}

faults!(
    /// Why a text is not an e-mail address.
    InvalidEmail {
        TooLong "too_long" "has at most {EMAIL_MAX} characters";
        Form "bad_form" "has the form name@example.org, in ASCII";
    }
);

text_type!(
    /// Invariant: ASCII, `local@domain` with a dot in the domain. Kept as written; two that differ
    /// in case alone are the same address, see [`Email::folded`].
    Email
);

impl Email {
    pub fn parse(text: &str) -> Result<Self, InvalidEmail> {
        if text.len() > EMAIL_MAX {
            return Err(InvalidEmail::TooLong);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidEmail::Form)?;
        if is_local_part(local) && is_domain(domain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidEmail::Form)
        }
    }

    /// The key under which the address is reserved.
    pub fn folded(&self) -> String {
        names::fold(&self.0)
    }
}

/// RFC 5322 `dot-atom`: quoted local parts are refused.
fn is_local_part(local: &str) -> bool {
    let atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    local.len() <= EMAIL_LOCAL_MAX
        && local
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(atom))
}

fn is_domain(domain: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    domain.contains('.') && domain.split('.').all(label)
}

faults!(
    /// Why a text cannot be a new password.
    InvalidPassword {
        TooShort "too_short" "has at least {PASSWORD_MIN} characters";
        TooLong "too_long" "has at most {PASSWORD_MAX} characters";
    }
);

/// A password in NFC, so that two keyboards type the same one. Never printed.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(String);

impl Password {
    /// A new password: [`PASSWORD_MIN`] to [`PASSWORD_MAX`] scalar values.
    pub fn parse(text: &str) -> Result<Self, InvalidPassword> {
        let password: String = text.nfc().collect();
        match password.chars().count() {
            ..PASSWORD_MIN => Err(InvalidPassword::TooShort),
            PASSWORD_MIN..=PASSWORD_MAX => Ok(Self(password)),
            _ => Err(InvalidPassword::TooLong),
        }
    }

    /// Somebody's guess: compared, never kept, and cut where no password goes on.
    pub fn guess(text: &str) -> Self {
        Self(text.nfc().take(PASSWORD_MAX + 1).collect())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

faults!(
    /// Why a text is not a display name.
    InvalidDisplayName {
        Empty "empty" "is not empty";
        Blank "blank" "is more than invisible characters";
        TooLong "too_long" "has at most {DISPLAY_NAME_MAX} characters";
        Control "bad_character" "has no control characters, line ends or overrides of direction";
    }
);

text_type!(
    /// Invariant: NFC, trimmed, 1 to [`DISPLAY_NAME_MAX`] scalar values, of which one shows; one
    /// line, no control characters, nothing that turns the direction of the text around it.
    DisplayName
);

impl DisplayName {
    pub fn parse(text: &str) -> Result<Self, InvalidDisplayName> {
        let name = tidy(text.trim());
        if name.is_empty() {
            return Err(InvalidDisplayName::Empty);
        }
        let refused = |c: char| c.is_control() || is_line_end(c) || is_bidi_override(c);
        if name.chars().any(refused) {
            return Err(InvalidDisplayName::Control);
        }
        if shows_nothing(&name) {
            return Err(InvalidDisplayName::Blank);
        }
        if name.chars().count() > DISPLAY_NAME_MAX {
            return Err(InvalidDisplayName::TooLong);
        }
        Ok(Self(name))
    }
}

impl From<&Username> for DisplayName {
    /// Who gives no name is shown by the username, which is always a valid one.
    fn from(username: &Username) -> Self {
        Self(username.as_str().to_owned())
    }
}

faults!(
    /// Why a text is not a bio.
    InvalidBio {
        Blank "blank" "is empty, or more than invisible characters";
        TooLong "too_long" "has at most {BIO_MAX} characters";
        Control "bad_character" "has no control characters but line feed and tab";
    }
);

text_type!(
    /// Invariant: NFC, trimmed, at most [`BIO_MAX`] scalar values, no control characters but `\n`
    /// and `\t`; empty, or one of them shows.
    Bio
);

impl Bio {
    pub fn parse(text: &str) -> Result<Self, InvalidBio> {
        let bio = tidy(text.trim());
        if bio.chars().any(is_refused_in_text) {
            return Err(InvalidBio::Control);
        }
        if !bio.is_empty() && shows_nothing(&bio) {
            return Err(InvalidBio::Blank);
        }
        if bio.chars().count() > BIO_MAX {
            return Err(InvalidBio::TooLong);
        }
        Ok(Self(bio))
    }

    pub fn empty() -> Self {
        Self(String::new())
    }
}

faults!(
    /// Why a text is not the content of a post.
    InvalidContent {
        Blank "blank" "is more than white space and invisible characters";
        TooLong "too_long" "has at most {CONTENT_MAX} characters";
        Control "bad_character" "has no control characters but line feed and tab";
    }
);

text_type!(
    /// Invariant: NFC, line ends are `\n`, 1 to [`CONTENT_MAX`] scalar values of which one shows, no
    /// control characters but `\n` and `\t`.
    Content
);

impl Content {
    pub fn parse(text: &str) -> Result<Self, InvalidContent> {
        let content = tidy(text);
        if content.chars().any(is_refused_in_text) {
            return Err(InvalidContent::Control);
        }
        if shows_nothing(&content) {
            return Err(InvalidContent::Blank);
        }
        if content.chars().count() > CONTENT_MAX {
            return Err(InvalidContent::TooLong);
        }
        Ok(Self(content))
    }

    /// Whether this is `text`, tidied.
    pub fn is_made_of(&self, text: &str) -> bool {
        tidy(text) == self.0
    }
}

#[cfg(test)]
mod tests;
