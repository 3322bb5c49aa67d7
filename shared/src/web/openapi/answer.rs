//! A success of an operation.

use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Content, ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

use super::headers::AnswerHeader;
use super::schemas::{Named, named, object, or_null, string};

/// What is answered where an operation succeeds.
pub struct Answer {
    pub(super) status: u16,
    description: &'static str,
    content: Option<(&'static str, Content)>,
    headers: Vec<&'static AnswerHeader>,
    pub(super) schemas: Vec<Named>,
}

impl Answer {
    /// One thing, in JSON.
    pub fn json<T: ToSchema>(status: u16, description: &'static str, example: Value) -> Self {
        let content = content(Ref::from_schema_name(T::name()).into(), example);
        Self {
            content: Some(("application/json", content)),
            schemas: named::<T>(),
            ..Self::empty(status, description)
        }
    }

    /// A page of `items`, which are listed under that name.
    pub fn page<T: ToSchema>(
        items: &'static str,
        description: &'static str,
        example: Value,
    ) -> Self {
        let listed = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let cursor = or_null(string()).description(Some(
            "Where the next page begins: send it as `cursor`. Null on the last page.",
        ));
        let page = ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("A page of a list."))
            .property(items, listed)
            .property("next_cursor", cursor)
            .required(items)
            .required("next_cursor");
        let name = format!("{}Page", T::name());
        let mut schemas = named::<T>();
        let reference = Ref::from_schema_name(&name).into();
        schemas.push((name, object(page)));
        Self {
            content: Some(("application/json", content(reference, example))),
            schemas,
            ..Self::empty(200, description)
        }
    }

    /// Server-sent events of one name, each with a `T` in JSON. As in OpenAPI 3.2, the schema is that of
    /// one event; 3.1 has no other place for it.
    pub fn events<T: ToSchema>(
        name: &'static str,
        description: &'static str,
        example: &Value,
    ) -> Self {
        let text = |text: String| string().description(Some(text));
        let data = text(format!("A `{}`, in JSON.", T::name()));
        let event = ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("One event of a stream."))
            .property("event", text(format!("`{name}`.")))
            .property("id", text("Send it back as `Last-Event-ID`.".to_owned()))
            .property("data", data.content_media_type("application/json"))
            .required("event")
            .required("id")
            .required("data");
        let component = format!("{}Event", T::name());
        let reference = Ref::from_schema_name(&component).into();
        let shown = json!({ "event": name, "id": "42", "data": example.to_string() });
        let mut schemas = named::<T>();
        schemas.push((component, object(event)));
        Self {
            content: Some(("text/event-stream", content(reference, shown))),
            schemas,
            ..Self::empty(200, description)
        }
    }

    /// All items that were asked for by their ids, listed under that name.
    pub fn all<T: ToSchema>(
        items: &'static str,
        description: &'static str,
        example: Value,
    ) -> Self {
        let listed = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let list = ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("What there is of what was asked for."))
            .property(items, listed)
            .required(items);
        let name = format!("{}List", T::name());
        let reference = Ref::from_schema_name(&name).into();
        let mut schemas = named::<T>();
        schemas.push((name, object(list)));
        Self {
            content: Some(("application/json", content(reference, example))),
            schemas,
            ..Self::empty(200, description)
        }
    }

    /// No body.
    pub fn empty(status: u16, description: &'static str) -> Self {
        Self {
            status,
            description,
            content: None,
            headers: Vec::new(),
            schemas: Vec::new(),
        }
    }

    /// With these headers besides.
    pub fn with(mut self, headers: &[&'static AnswerHeader]) -> Self {
        self.headers.extend(headers);
        self
    }

    pub(super) fn build(self) -> Response {
        let mut response = ResponseBuilder::new().description(self.description);
        for header in self.headers {
            response = response.header_ref(header.name, header.reference());
        }
        if let Some((media, content)) = self.content {
            response = response.content(media, content);
        }
        response.build()
    }
}

pub(super) fn content(schema: RefOr<Schema>, example: Value) -> Content {
    ContentBuilder::new()
        .schema(Some(schema))
        .example(Some(example))
        .build()
}
