//! Names as they are compared: one function, for registration, sign-in, import and look-ups.

/// The form in which two usernames, or two e-mail addresses, are the same one.
///
/// Only ASCII letters are folded, for names have no others. Unicode's folding would take the
/// Kelvin sign U+212A for a `k`: a user would be found under a name that cannot be registered or
/// signed in with.
pub fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_capitals_are_folded_and_nothing_else() {
        assert_eq!(fold("Ada_99"), "ada_99");
        // Kelvin sign, dotted capital I, long s, fullwidth A: no letter of a username.
        for name in ["\u{212a}ada", "\u{130}da", "\u{17f}am", "\u{ff21}da"] {
            assert_eq!(fold(name), name);
        }
    }
}
