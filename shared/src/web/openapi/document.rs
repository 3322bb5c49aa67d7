//! The document of one service.

use serde_json::Value;
use utoipa::openapi::path::{HttpMethod, PathItem, PathsBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder, ServerBuilder,
};

use super::operation::{BEARER, Operation};
use super::tags::TAGS;
use super::{headers, links, problems};
use crate::runtime::settings::VERSION;
use crate::web::routes::{ROUTES, Service};

const BEARER_TEXT: &str = "An access token of `POST /api/v1/auth/login`: a JWT signed with EdDSA \
    (Ed25519), valid for 15 minutes. Its keys are at `/.well-known/jwks.json`. Where a token is sent it \
    must be valid, also where none is needed.";

/// The document of one service.
pub fn document(service: Service, operations: Vec<Operation>) -> Value {
    let mut paths = PathsBuilder::new();
    let mut components = ComponentsBuilder::new()
        .schemas_from_iter(problems::schemas())
        .security_scheme(
            BEARER,
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Bearer)
                    .bearer_format("JWT")
                    .description(Some(BEARER_TEXT))
                    .build(),
            ),
        );
    let mut tags: Vec<&str> = Vec::new();
    for operation in operations {
        tags.push(operation.tag());
        let (path, method) = (operation.path(), method(operation.method()));
        let made = operation.build();
        components = components
            .schemas_from_iter(made.schemas)
            .responses_from_iter(made.problems);
        paths = paths.path(path, PathItem::new(method, made.operation));
    }
    for header in headers::ALL {
        components = components.header(header.name, header.build());
    }
    let tags = TAGS.iter().filter(|(name, _)| tags.contains(name));
    let tags = tags.map(|(name, text)| {
        let tag = TagBuilder::new().name(*name).description(Some(*text));
        tag.build()
    });
    let (title, about, url) = match service {
        Service::Command => (
            "Microblog: commands",
            "The command service: everything that changes something.",
            "http://127.0.0.1:8081",
        ),
        Service::Query => (
            "Microblog: queries",
            "The query service: everything that only reads.",
            "http://127.0.0.1:8082",
        ),
    };
    let document = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title(title)
                .version(VERSION)
                .description(Some(format!("{about}\n\n{ABOUT}")))
                .license(Some(
                    LicenseBuilder::new()
                        .name("MIT OR Apache-2.0")
                        .identifier(Some("MIT OR Apache-2.0"))
                        .build(),
                )),
        )
        .servers(Some([ServerBuilder::new()
            .url(url)
            .description(Some("as `make run` starts it"))
            .build()]))
        .tags(Some(tags))
        .paths(paths)
        .components(Some(components.build()))
        .build();
    let mut document = serde_json::to_value(document).unwrap_or_default();
    allow_empty_values(&mut document);
    leave_out_unused_headers(&mut document);
    links::add(&mut document);
    document
}

fn leave_out_unused_headers(document: &mut Value) {
    let text = document.to_string();
    let headers = document["components"]["headers"].as_object_mut();
    if let Some(headers) = headers {
        headers.retain(|name, _| text.contains(&format!("#/components/headers/{name}\"")));
    }
}

/// Query parameters without a value count as absent: utoipa has no field that says so.
fn allow_empty_values(document: &mut Value) {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let operations = paths.flat_map(|(_, item)| item.as_object_mut().into_iter().flatten());
    let parameters = operations.filter_map(|(_, it)| it.get_mut("parameters")?.as_array_mut());
    for parameter in parameters.flatten() {
        if parameter["in"] == "query" && parameter["required"] == false {
            parameter["allowEmptyValue"] = Value::Bool(true);
        }
    }
}

/// What holds for every operation.
const ABOUT: &str = "\
JSON in and out, in `snake_case`. Ids are decimal strings; times are RFC 3339 in UTC with milliseconds. \
Unknown fields of a request's body are refused; fields that are new in an answer are to be ignored.

**Errors** are `application/problem+json` (RFC 9457), always. `code` is stable; each answer below lists its codes.

**Read your own writes**: every accepted command answers with `X-Consistency-Token`. A client keeps the \
last one and sends it with its reads; the answer then reflects everything that its user had accepted.

**Limits**: an address may ask 200 times a second, and 400 times at once. A user may write 300 posts in \
three hours, and edit the profile as often; verified users three times as much. An account may be signed \
in to 10 times a minute from one address. Bodies have at most 16 KiB, and so have headers together. \
`RateLimit-Policy` and `RateLimit` say how the limits stand; `Retry-After` when to ask again.

**Requests** may have `X-Request-Id` (1 to 64 of letters, digits, `-`, `_` and `.`), which the answer then \
has too, and `traceparent` (W3C). `HEAD` is answered wherever `GET` is. Query parameters without a value \
count as absent, and unknown ones are ignored.";

fn method(name: &str) -> HttpMethod {
    match name {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

/// For tests of the services: the operations of a document are the routes of its service.
///
/// # Panics
/// One is missing in the document, or in the table of routes.
pub fn assert_complete(service: Service, document: &Value) {
    let mut described = operations(document);
    let routes = ROUTES.iter().filter(|route| route.service == service);
    let routes = routes.map(|route| (route.method.to_owned(), route.path.to_owned()));
    let mut listed: Vec<_> = routes.collect();
    described.sort_unstable();
    listed.sort_unstable();
    assert_eq!(
        described, listed,
        "described on the left, served on the right"
    );
}

/// Method and path of each operation of a document.
fn operations(document: &Value) -> Vec<(String, String)> {
    const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
    let paths = document["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        let methods = methods.map(|(method, _)| method.as_str());
        let methods = methods.filter(|method| METHODS.contains(method));
        methods.map(move |method| (method.to_uppercase(), path.clone()))
    });
    all.collect()
}
