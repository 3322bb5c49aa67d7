//! What people type, parsed into types that are valid for good. Each limit is one constant.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

use super::Coded;

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
            USERNAME_MIN..=USERNAME_MAX => Ok(Self(text.to_ascii_lowercase())),
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
        self.0.to_ascii_lowercase()
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
        TooLong "too_long" "has at most {DISPLAY_NAME_MAX} characters";
        Control "bad_character" "has no control characters";
    }
);

text_type!(
    /// Invariant: NFC, trimmed, 1 to [`DISPLAY_NAME_MAX`] scalar values, no control characters.
    DisplayName
);

impl DisplayName {
    pub fn parse(text: &str) -> Result<Self, InvalidDisplayName> {
        let name: String = text.trim().nfc().collect();
        if name.is_empty() {
            return Err(InvalidDisplayName::Empty);
        }
        if name.chars().any(char::is_control) {
            return Err(InvalidDisplayName::Control);
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
        TooLong "too_long" "has at most {BIO_MAX} characters";
        Control "bad_character" "has no control characters but line ends";
    }
);

text_type!(
    /// Invariant: NFC, trimmed, at most [`BIO_MAX`] scalar values, no control characters but `\n`.
    Bio
);

impl Bio {
    pub fn parse(text: &str) -> Result<Self, InvalidBio> {
        let bio: String = text.trim().nfc().collect();
        if bio.chars().any(|c| c.is_control() && c != '\n') {
            return Err(InvalidBio::Control);
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
        Blank "blank" "is more than white space";
        TooLong "too_long" "has at most {CONTENT_MAX} characters";
    }
);

text_type!(
    /// Invariant: NFC, 1 to [`CONTENT_MAX`] scalar values, not only white space.
    Content
);

impl Content {
    pub fn parse(text: &str) -> Result<Self, InvalidContent> {
        let content: String = text.nfc().collect();
        if content.chars().all(char::is_whitespace) {
            return Err(InvalidContent::Blank);
        }
        if content.chars().count() > CONTENT_MAX {
            return Err(InvalidContent::TooLong);
        }
        Ok(Self(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_username_is_folded_to_lower_case() {
        assert_eq!(Username::parse("Ada_99").unwrap().as_str(), "ada_99");
    }

    #[test]
    fn a_username_has_3_to_30_plain_characters() {
        assert_eq!(Username::parse("ab"), Err(InvalidUsername::TooShort));
        assert_eq!(
            Username::parse(&"a".repeat(31)),
            Err(InvalidUsername::TooLong)
        );
        for text in ["ada lovelace", "ada-l", "ädä", "ada.l", "ada\0"] {
            assert_eq!(
                Username::parse(text),
                Err(InvalidUsername::Character),
                "{text}"
            );
        }
    }

    #[test]
    fn an_email_keeps_its_case_and_is_compared_without_it() {
        let email = Email::parse("Ada@Example.ORG").unwrap();
        assert_eq!(email.as_str(), "Ada@Example.ORG");
        assert_eq!(email.folded(), "ada@example.org");
    }

    #[test]
    fn what_is_no_email_is_refused() {
        for text in [
            "",
            "ada",
            "@example.org",
            "ada@",
            "ada@localhost",
            "a b@example.org",
            "ada@-x.org",
            "ada@x..org",
            "ada.@example.org",
            ".ada@example.org",
            "ada@exämple.org",
            "a@b@example.org",
            "ada@example.org\n",
        ] {
            assert_eq!(Email::parse(text), Err(InvalidEmail::Form), "{text:?}");
        }
        let long = format!("ada@{}example.org", "a.".repeat(130));
        assert_eq!(Email::parse(&long), Err(InvalidEmail::TooLong));
    }

    #[test]
    fn a_password_is_counted_in_characters_and_never_printed() {
        assert_eq!(Password::parse("1234567"), Err(InvalidPassword::TooShort));
        assert!(Password::parse("пароль12").is_ok());
        assert_eq!(
            Password::parse(&"x".repeat(129)),
            Err(InvalidPassword::TooLong)
        );
        assert_eq!(
            format!("{:?}", Password::parse("canary-1").unwrap()),
            "[redacted]"
        );
    }

    #[test]
    fn the_same_password_from_two_keyboards_is_one() {
        assert!(Password::parse("caf\u{e9}-1234").unwrap() == Password::guess("cafe\u{301}-1234"));
    }

    #[test]
    fn a_display_name_is_trimmed_and_has_no_line_ends() {
        assert_eq!(DisplayName::parse("  Ada  ").unwrap().as_str(), "Ada");
        assert_eq!(DisplayName::parse("   "), Err(InvalidDisplayName::Empty));
        assert_eq!(DisplayName::parse("A\nB"), Err(InvalidDisplayName::Control));
        assert_eq!(
            DisplayName::parse(&"a".repeat(51)),
            Err(InvalidDisplayName::TooLong)
        );
    }

    #[test]
    fn a_bio_may_be_empty_and_have_lines() {
        assert_eq!(Bio::parse("").unwrap(), Bio::empty());
        assert_eq!(Bio::parse("a\nb").unwrap().as_str(), "a\nb");
        assert_eq!(Bio::parse(&"a".repeat(161)), Err(InvalidBio::TooLong));
    }

    #[test]
    fn content_is_counted_after_composition() {
        let decomposed = "e\u{301}".repeat(CONTENT_MAX);
        assert_eq!(
            Content::parse(&decomposed).unwrap().as_str(),
            "\u{e9}".repeat(CONTENT_MAX)
        );
        assert!(Content::parse(&"🦀".repeat(CONTENT_MAX)).is_ok());
        assert_eq!(
            Content::parse(&"🦀".repeat(CONTENT_MAX + 1)),
            Err(InvalidContent::TooLong)
        );
    }

    #[test]
    fn content_of_white_space_alone_is_blank() {
        for text in ["", " ", "\n\t", "\u{2003}\u{a0}"] {
            assert_eq!(Content::parse(text), Err(InvalidContent::Blank), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_parsing_again_changes_nothing(text in "(?s).{0,400}") {
            if let Ok(username) = Username::parse(&text) {
                prop_assert_eq!(&Username::parse(username.as_str()).unwrap(), &username);
            }
            if let Ok(email) = Email::parse(&text) {
                prop_assert!(email.as_str().is_ascii());
            }
            if let Ok(name) = DisplayName::parse(&text) {
                prop_assert!(name.as_str().chars().count() <= DISPLAY_NAME_MAX);
                prop_assert_eq!(&DisplayName::parse(name.as_str()).unwrap(), &name);
            }
            if let Ok(bio) = Bio::parse(&text) {
                prop_assert!(bio.as_str().chars().count() <= BIO_MAX);
                prop_assert_eq!(&Bio::parse(bio.as_str()).unwrap(), &bio);
            }
            if let Ok(content) = Content::parse(&text) {
                prop_assert!((1..=CONTENT_MAX).contains(&content.as_str().chars().count()));
                prop_assert_eq!(&Content::parse(content.as_str()).unwrap(), &content);
            }
            if let Ok(password) = Password::parse(&text) {
                prop_assert!(Password::guess(&text) == password);
            }
        }

        #[test]
        fn addresses_of_the_plain_form_are_accepted(
            local in "[a-zA-Z0-9+_-]{1,20}(\\.[a-z0-9]{1,5}){0,2}",
            domain in "[a-z0-9]{1,20}(\\.[a-z]{2,10}){1,2}",
        ) {
            let address = format!("{local}@{domain}");
            prop_assert!(Email::parse(&address).is_ok());
        }

        #[test]
        fn plain_names_are_usernames(text in "[A-Za-z0-9_]{3,30}") {
            prop_assert_eq!(Username::parse(&text).unwrap().into_string(), text.to_lowercase());
        }
    }
}
