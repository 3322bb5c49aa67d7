//! Schemas of what is no body of its own: ids, times, texts.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::contract::ids::Id;
use crate::contract::time::Timestamp;

/// A schema among the components, with its name.
pub(super) type Named = (String, RefOr<Schema>);

/// What an id that is made before the year 2450 looks like.
pub(super) const ID: &str = "^[1-9][0-9]{0,17}$";
pub(super) const EXAMPLE_ID: &str = "117467262156800001";

impl<K> PartialSchema for Id<K> {
    fn schema() -> RefOr<Schema> {
        let id = string()
            .description(Some(
                "A decimal number, as a string: it does not fit into a double.",
            ))
            .pattern(Some(ID))
            .examples([serde_json::json!(EXAMPLE_ID)]);
        object(id)
    }
}

impl<K> ToSchema for Id<K> {
    fn name() -> Cow<'static, str> {
        "Id".into()
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let time = string()
            .description(Some("RFC 3339, in UTC, with milliseconds."))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples([serde_json::json!("2026-11-28T09:20:00.000Z")]);
        object(time)
    }
}

impl ToSchema for Timestamp {
    fn name() -> Cow<'static, str> {
        "Timestamp".into()
    }
}

pub fn object(builder: ObjectBuilder) -> RefOr<Schema> {
    RefOr::T(Schema::Object(builder.build()))
}

/// A session's id: 16 bytes in base64url.
pub fn session_id() -> ObjectBuilder {
    string()
        .pattern(Some("^[A-Za-z0-9_-]{21}[AQgw]$"))
        .examples([serde_json::json!("Jxu--2oce4bC7V6RSN60EA")])
}

pub fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

pub fn integer() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer)
}

/// A text, or null, which counts as absent.
pub fn or_null(text: ObjectBuilder) -> ObjectBuilder {
    text.schema_type(SchemaType::from_iter([Type::String, Type::Null]))
}

/// A body's schema, and those that it refers to.
pub(super) fn named<T: ToSchema>() -> Vec<Named> {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    schemas
}
