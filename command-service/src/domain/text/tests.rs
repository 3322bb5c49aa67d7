//! What is refused, what is folded, what stays as it is.

use super::*;
use proptest::prelude::*;

/// Of each kind one: zero width, Braille, Hangul, soft hyphen, byte order mark, joiners, marks of
/// direction, variation, tags, musical.
const INVISIBLE: [char; 14] = [
    '\u{200b}',
    '\u{2800}',
    '\u{3164}',
    '\u{115f}',
    '\u{ffa0}',
    '\u{ad}',
    '\u{feff}',
    '\u{200d}',
    '\u{34f}',
    '\u{200e}',
    '\u{61c}',
    '\u{fe0f}',
    '\u{e0041}',
    '\u{1d159}',
];

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
fn content_that_shows_nothing_is_blank() {
    for text in ["", " ", "\n\t", "\r\n", "\u{2003}\u{a0}"] {
        assert_eq!(Content::parse(text), Err(InvalidContent::Blank), "{text:?}");
    }
    for c in INVISIBLE {
        let text = format!(" {c}{c} ");
        let (name, bio) = (DisplayName::parse(&text), Bio::parse(&text));
        assert_eq!(Content::parse(&text), Err(InvalidContent::Blank), "{c:?}");
        assert_eq!(name, Err(InvalidDisplayName::Blank), "{c:?}");
        assert_eq!(bio, Err(InvalidBio::Blank), "{c:?}");
        // Beside something that shows they may have a meaning.
        assert!(Content::parse(&format!("a{c}b")).is_ok(), "{c:?}");
    }
}

#[test]
fn line_ends_become_line_feeds_before_they_are_counted() {
    let lines = "a\r\nb\rc\nd";
    assert_eq!(Content::parse(lines).unwrap().as_str(), "a\nb\nc\nd");
    assert_eq!(Bio::parse(lines).unwrap().as_str(), "a\nb\nc\nd");
    assert!(Content::parse(&"a\r\n".repeat(CONTENT_MAX / 2)).is_ok());
}

#[test]
fn control_characters_are_refused_but_tab_and_line_feed_in_texts_of_lines() {
    for c in (0..=0x1f).chain(0x7f..=0x9f).filter_map(char::from_u32) {
        let text = format!("a{c}b");
        let lines = ['\t', '\n', '\r'].contains(&c);
        let (content, bio) = (Content::parse(&text), Bio::parse(&text));
        assert_eq!(
            content.err(),
            (!lines).then_some(InvalidContent::Control),
            "{c:?}"
        );
        assert_eq!(bio.err(), (!lines).then_some(InvalidBio::Control), "{c:?}");
        assert_eq!(
            DisplayName::parse(&text),
            Err(InvalidDisplayName::Control),
            "{c:?}"
        );
    }
}

#[test]
fn a_display_name_turns_no_direction_and_has_one_line() {
    let overrides = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
    for c in overrides.chain(['\u{2028}', '\u{2029}']) {
        let name = format!("ada{c}nimda");
        assert_eq!(
            DisplayName::parse(&name),
            Err(InvalidDisplayName::Control),
            "{c:?}"
        );
        assert!(Content::parse(&name).is_ok(), "a post may quote: {c:?}");
    }
    // Marks of direction turn nothing but what stands beside them.
    assert!(DisplayName::parse("\u{5d0}\u{200f}!").is_ok());
}

#[test]
fn combined_emoji_and_joined_scripts_stay_as_they_are() {
    for text in [
        "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{200d}\u{1f466}",
        "\u{2764}\u{fe0f}\u{200d}\u{1f525}",
        "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
        "1\u{fe0f}\u{20e3}",
        "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
    ] {
        assert_eq!(Content::parse(text).unwrap().as_str(), text);
        assert_eq!(DisplayName::parse(text).unwrap().as_str(), text);
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
