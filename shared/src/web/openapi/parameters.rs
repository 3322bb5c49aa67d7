//! What a request carries beside its body.

use serde_json::Value;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::ObjectBuilder;
use utoipa::openapi::{Ref, Required};

use super::schemas::{EXAMPLE_ID, integer, string};

/// `{id}` in a path.
pub(super) fn id(text: &str) -> Parameter {
    ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(text))
        .schema(Some(Ref::from_schema_name("Id")))
        .build()
}

/// Any other part of a path.
pub fn path(name: &str, text: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(text))
        .schema(Some(schema))
        .build()
}

/// An id in a query, which may be left out.
pub fn query_id(name: &str, text: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(text))
        .schema(Some(Ref::from_schema_name("Id")))
        .build()
}

/// The ids of several things, of which there is one at least.
pub fn ids(text: &str) -> Parameter {
    let list = string()
        .pattern(Some("^[1-9][0-9]{0,17}(,[1-9][0-9]{0,17}){0,99}$"))
        .examples([Value::from(format!("{EXAMPLE_ID},117467262156800002"))]);
    ParameterBuilder::new()
        .name("ids")
        .parameter_in(ParameterIn::Query)
        .required(Required::True)
        .description(Some(text))
        .schema(Some(list))
        .build()
}

/// A query parameter, which may be left out.
pub fn query(name: &str, text: &str, schema: ObjectBuilder) -> Parameter {
    optional(ParameterIn::Query, name, text, schema)
}

/// A header, which may be left out.
pub fn header(name: &str, text: &str, schema: ObjectBuilder) -> Parameter {
    optional(ParameterIn::Header, name, text, schema)
}

fn optional(place: ParameterIn, name: &str, text: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(text))
        .schema(Some(schema))
        .build()
}

/// How much of a list, and from where.
pub fn of_a_page() -> [Parameter; 2] {
    let limit = integer()
        .minimum(Some(1))
        .maximum(Some(100))
        .default(Some(Value::from(20)));
    [
        query("limit", "How many items the page has at most.", limit),
        query(
            "cursor",
            "Where the page begins: `next_cursor` of the page before. Opaque; one that was changed is refused.",
            string().examples([Value::from("AQAB")]),
        ),
    ]
}

/// What every read takes.
pub(super) fn of_a_query() -> [Parameter; 2] {
    [
        header(
            "X-Consistency-Token",
            "The last one that the client was given: the answer reflects what it covers, or is 503 \
             `not_yet_visible` after a second.",
            string().max_length(Some(1_400)),
        ),
        header(
            "If-None-Match",
            "The `ETag` of what the client has: 304 if that is still right.",
            string().examples([Value::from("W/\"00ff00ff00ff00ff\"")]),
        ),
    ]
}
