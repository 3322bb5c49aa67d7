//! Every problem as an answer.

use serde_json::{Value, json};
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, Response, ResponseBuilder};

use super::headers::{ALLOW, CHALLENGE, LIMIT, POLICY, REQUEST_ID, RETRY_AFTER};
use super::schemas::{Named, integer, object, string};
use crate::web::problem::{Code, Problem};

const PROBLEM: &str = "Problem";
const FIELD_ERROR: &str = "FieldError";
const EXAMPLE_REQUEST: &str = "6f9619ff8b86d011b42d00cf4fc964ff";

/// What the answer to these codes is called among the components. They have one status.
pub(super) fn name(codes: &[Code]) -> String {
    codes.iter().map(|code| format!("{code:?}")).collect()
}

/// The answer to these codes, which have one status.
pub(super) fn response(codes: &[Code]) -> Response {
    let description = match codes {
        [code] => format!("`{}`: {}.", code.name(), code.title()),
        _ => {
            let lines = codes.iter();
            let lines = lines.map(|code| format!("- `{}`: {}.", code.name(), code.title()));
            format!("One of these:\n\n{}", lines.collect::<Vec<_>>().join("\n"))
        }
    };
    let examples = codes.iter().map(|code| {
        let example = ExampleBuilder::new().summary(code.title());
        (code.name(), example.value(Some(example_of(*code))).build())
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(PROBLEM)))
        .examples_from_iter(examples)
        .build();
    let status = codes.first().map_or(0, |code| code.status().as_u16());
    let mut response = ResponseBuilder::new()
        .description(description)
        .header_ref(REQUEST_ID.name, REQUEST_ID.reference());
    let own = match status {
        401 => Some(&CHALLENGE),
        405 => Some(&ALLOW),
        429 | 503 => Some(&RETRY_AFTER),
        _ => None,
    };
    // A gateway's own, and what is refused before anything is counted.
    let is_counted = ![431, 502, 504].contains(&status);
    let limits = [&POLICY, &LIMIT].into_iter().filter(|_| is_counted);
    for header in own.into_iter().chain(limits) {
        response = response.header_ref(header.name, header.reference());
    }
    response
        .content("application/problem+json", content)
        .build()
}

fn example_of(code: Code) -> Value {
    let problem = if code == Code::Invalid {
        Problem::field("username", "too_short", "has at least 3 characters")
    } else {
        Problem::new(code, code.title())
    };
    problem.to_json(EXAMPLE_REQUEST.to_owned(), None)
}

/// The schemas of problems.
pub(super) fn schemas() -> [Named; 2] {
    let text = |description: &str| string().description(Some(description));
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
    let known = ExtensionsBuilder::new()
        .add("x-extensible-enum", json!(codes))
        .build();
    let problem = ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("Why a request was not served (RFC 9457)."))
        .property("type", text("`urn:microblog:problem:` and the code."))
        .property("title", text("The code in words."))
        .property(
            "status",
            integer().description(Some("The status of the answer.")),
        )
        .property(
            "code",
            text("Stable. More may come: treat an unknown one by its status.")
                .extensions(Some(known)),
        )
        .property(
            "detail",
            text("What is wrong with this request, for people."),
        )
        .property(
            "errors",
            ArrayBuilder::new()
                .items(Ref::from_schema_name(FIELD_ERROR))
                .description(Some("Which fields are at fault, where it is about fields.")),
        )
        .property("request_id", text("As in `X-Request-Id`."))
        .property("trace_id", text("The trace of the request, if it has one."));
    let field_error = ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("A fault of one field."))
        .property("field", text("The name of the field, parameter or header."))
        .property(
            "code",
            text("Stable: `too_short`, `too_long`, `bad_character`, …"),
        )
        .property("detail", text("What the field takes, for people."));
    let needed = ["type", "title", "status", "code", "detail", "request_id"];
    let problem = needed.into_iter().fold(problem, ObjectBuilder::required);
    let needed = ["field", "code", "detail"];
    let field_error = needed
        .into_iter()
        .fold(field_error, ObjectBuilder::required);
    [
        (PROBLEM.to_owned(), object(problem)),
        (FIELD_ERROR.to_owned(), object(field_error)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What is sent has the fields that the schema has, and those that it must have.
    #[test]
    fn a_problem_is_what_its_schema_says() {
        let [(_, problem), (_, field_error)] =
            schemas().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap()));
        let sent = Problem::field("a", "b", "c").to_json("id".into(), Some("trace".into()));
        let least = Problem::new(Code::Internal, "").to_json("id".into(), None);
        let keys = |value: &Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let needed = |schema: &Value| -> BTreeSet<String> {
            serde_json::from_value(schema["required"].clone()).unwrap()
        };
        assert_eq!(keys(&sent), keys(&problem["properties"]));
        assert_eq!(keys(&least), needed(&problem));
        assert_eq!(keys(&sent["errors"][0]), keys(&field_error["properties"]));
        assert_eq!(keys(&sent["errors"][0]), needed(&field_error));
    }
}
