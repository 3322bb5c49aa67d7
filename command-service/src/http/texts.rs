//! Schemas of what people type, for the OpenAPI document: the limits are the domain's.

use shared::web::openapi::schemas::{or_null, string};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat};

use crate::domain::text;

/// Of posts and bios: no control characters but tab and line ends.
const TEXT: &str = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$";
/// The same, of which something is no white space.
const TEXT_THAT_SHOWS: &str = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$";
/// One line, nothing that turns the direction of the text around it.
const LINE: &str = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$";
/// The same, of which something is no white space.
const LINE_THAT_SHOWS: &str = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*[^\s\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069][^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$";
/// A dot-atom, and a domain with a dot.
const EMAIL: &str = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+$";

pub fn username() -> ObjectBuilder {
    string()
        .description(Some("Capitals are folded. It stays reserved for ever."))
        .min_length(Some(text::USERNAME_MIN))
        .max_length(Some(text::USERNAME_MAX))
        .pattern(Some("^[A-Za-z0-9_]*$"))
}

pub fn email() -> ObjectBuilder {
    string()
        .description(Some(
            "In ASCII, at most 64 characters before the `@`. Shown to its user alone.",
        ))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Email)))
        .max_length(Some(text::EMAIL_MAX))
        .pattern(Some(EMAIL))
}

/// One that is chosen now.
pub fn new_password() -> ObjectBuilder {
    password()
        .description(Some("Counted in NFC."))
        .min_length(Some(text::PASSWORD_MIN))
        .max_length(Some(text::PASSWORD_MAX))
}

/// One that was chosen before.
pub fn password() -> ObjectBuilder {
    string().format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
}

pub fn refresh_token() -> ObjectBuilder {
    string().description(Some("Good once, for 30 days."))
}

pub fn first_display_name() -> ObjectBuilder {
    or_null(string())
        .description(Some("One line; the username, if it is left out or blank."))
        .max_length(Some(text::DISPLAY_NAME_MAX))
        .pattern(Some(LINE))
}

pub fn display_name() -> ObjectBuilder {
    or_null(string())
        .description(Some(
            "One line, of which something shows. Left out, it stays.",
        ))
        .min_length(Some(1))
        .max_length(Some(text::DISPLAY_NAME_MAX))
        .pattern(Some(LINE_THAT_SHOWS))
}

pub fn bio() -> ObjectBuilder {
    or_null(string())
        .description(Some("Empty, or something of it shows. Left out, it stays."))
        .max_length(Some(text::BIO_MAX))
        .pattern(Some(TEXT))
}

pub fn content() -> ObjectBuilder {
    string()
        .description(Some(
            "Counted in Unicode scalar values, in NFC, with a line feed at each line's end. Something of \
             it must show: white space and invisible characters alone are no post.",
        ))
        .min_length(Some(1))
        .max_length(Some(text::CONTENT_MAX))
        .pattern(Some(TEXT_THAT_SHOWS))
}
