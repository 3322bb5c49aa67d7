//! Which characters a text may have, and which of them show anything.

use std::ops::RangeInclusive;

use unicode_normalization::UnicodeNormalization;

/// `Default_Ignorable_Code_Point` of Unicode 16.0.0 (`DerivedCoreProperties.txt`): what a display
/// leaves out where it does nothing. Unassigned ones are reserved with the others, so that a later
/// Unicode changes little here.
const IGNORABLE: [RangeInclusive<char>; 17] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fff8}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Symbols that fonts draw as an empty space: the Braille pattern without dots, the musical null
/// notehead.
const EMPTY_SYMBOLS: [char; 2] = ['\u{2800}', '\u{1d159}'];

/// NFC, with every line end as a line feed: CR LF, and a CR by itself, which some forms still send.
pub fn tidy(text: &str) -> String {
    text.replace("\r\n", "\n")
        .replace('\r', "\n")
        .nfc()
        .collect()
}

/// Whether a reader would see nothing: white space and invisible characters alone, or no text.
pub fn shows_nothing(text: &str) -> bool {
    text.chars().all(|c| {
        c.is_whitespace() || c.is_control() || is_ignorable(c) || EMPTY_SYMBOLS.contains(&c)
    })
}

fn is_ignorable(c: char) -> bool {
    IGNORABLE.iter().any(|range| range.contains(&c))
}

/// Control characters have no place in a text; line feed and tab have.
pub fn is_refused_in_text(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// The line and paragraph separators; `\n` and its like are control characters.
pub fn is_line_end(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Embeddings, overrides and isolates: a name with one turns the text around it (`U+202E` makes
/// `ada` and what follows run backwards).
pub fn is_bidi_override(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the tables of `regex-syntax`, which are generated from Unicode's files.
        #[test]
        fn the_table_is_unicode_s(
            ignorable in "\\p{Default_Ignorable_Code_Point}",
            other in "\\P{Default_Ignorable_Code_Point}",
        ) {
            prop_assert!(ignorable.chars().all(is_ignorable), "{ignorable:?}");
            prop_assert!(!other.chars().any(is_ignorable), "{other:?}");
        }
    }

    #[test]
    fn the_table_has_as_many_characters_as_unicode_s() {
        let count: usize = IGNORABLE.iter().map(|range| range.clone().count()).sum();
        assert_eq!(count, 4_174);
    }
}
