//! One operation: a method of a path, for those who call it.

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::path::{OperationBuilder, Parameter};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, RefOr, Required, Response};

use super::answer::{Answer, content};
use super::headers::{AnswerHeader, CONSISTENCY_TOKEN, ETAG, LIMIT, POLICY, REQUEST_ID};
use super::schemas::{Named, named};
use super::{parameters, problems};
use crate::contract::ids::UserId;
use crate::web::problem::Code;

/// The name of the security scheme.
pub(super) const BEARER: &str = "bearer";

/// Who may ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Anybody; no token is looked at.
    Open,
    /// Anybody; a token says who asks.
    Optional,
    /// Users, by their token.
    User,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Command,
    Query,
    /// Neither: the same for everybody.
    Plain,
}

/// What an operation takes, answers and refuses. What all of its kind have in common is added here.
pub struct Operation {
    kind: Kind,
    access: Access,
    method: &'static str,
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    answers: Vec<Answer>,
    codes: Vec<Code>,
    schemas: Vec<Named>,
}

/// An operation of a document, with the components that it refers to.
pub(super) struct Made {
    pub operation: utoipa::openapi::path::Operation,
    pub problems: Vec<(String, Response)>,
    pub schemas: Vec<Named>,
}

impl Operation {
    fn new(kind: Kind, method: &'static str, path: &'static str, id: &'static str) -> Self {
        let mut operation = Self {
            kind,
            access: Access::Open,
            method,
            path,
            id,
            tag: "",
            summary: "",
            description: "",
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            codes: vec![
                Code::MethodNotAllowed,
                Code::HeadersTooLarge,
                Code::TooManyRequests,
                Code::Internal,
                Code::BadGateway,
                Code::GatewayTimeout,
                Code::Unavailable,
            ],
            schemas: Vec::new(),
        };
        if path.contains("{id}") {
            let what = if path.contains("/users/") {
                "user"
            } else {
                "post"
            };
            let parameter = parameters::id(&format!("The id of the {what}."));
            operation = operation.takes([parameter]);
            operation.codes.extend([Code::Invalid, Code::NotFound]);
            operation.schemas.extend(named::<UserId>());
        }
        operation
    }

    /// Something that changes something.
    pub fn command(method: &'static str, path: &'static str, id: &'static str) -> Self {
        let mut command = Self::new(Kind::Command, method, path, id);
        command.codes.push(Code::Overloaded);
        command
    }

    /// Something that reads.
    pub fn query(path: &'static str, id: &'static str) -> Self {
        let mut query = Self::new(Kind::Query, "GET", path, id).by(Access::Optional);
        query.codes.extend([
            Code::Overloaded,
            Code::BadConsistencyToken,
            Code::NotYetVisible,
        ]);
        query
    }

    /// Something that is the same for everybody, and asks no database.
    pub fn plain(path: &'static str, id: &'static str) -> Self {
        Self::new(Kind::Plain, "GET", path, id)
    }

    /// What it is about, what it does in a few words, and what else there is to know.
    pub fn says(
        mut self,
        tag: &'static str,
        summary: &'static str,
        description: &'static str,
    ) -> Self {
        (self.tag, self.summary, self.description) = (tag, summary, description);
        self
    }

    pub fn by(mut self, access: Access) -> Self {
        self.access = access;
        if access != Access::Open {
            self.codes.push(Code::Unauthorized);
        }
        self
    }

    pub fn takes(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// A JSON body, which must be there.
    pub fn body<T: ToSchema>(self, example: Value) -> Self {
        self.with_body::<T>(Required::True, example)
    }

    /// A JSON body, which may be left out.
    pub fn optional_body<T: ToSchema>(self, example: Value) -> Self {
        self.with_body::<T>(Required::False, example)
    }

    fn with_body<T: ToSchema>(mut self, required: Required, example: Value) -> Self {
        let reference = Ref::from_schema_name(T::name()).into();
        let body = RequestBodyBuilder::new()
            .required(Some(required))
            .content("application/json", content(reference, example));
        self.body = Some(body.build());
        self.schemas.extend(named::<T>());
        self.refuses(&[
            Code::MalformedBody,
            Code::RequestTimeout,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
        ])
    }

    pub fn answers(mut self, answer: Answer) -> Self {
        self.answers.push(answer);
        self
    }

    /// Codes that others of its kind do not have.
    pub fn refuses(mut self, codes: &[Code]) -> Self {
        self.codes.extend(codes);
        self
    }

    /// No limit counts it.
    pub fn unlimited(mut self) -> Self {
        self.codes.retain(|code| *code != Code::TooManyRequests);
        self
    }

    pub(super) fn tag(&self) -> &'static str {
        self.tag
    }

    pub(super) fn path(&self) -> &'static str {
        self.path
    }

    pub(super) fn method(&self) -> &'static str {
        self.method
    }

    pub(super) fn build(mut self) -> Made {
        let is_tagged = self.kind == Kind::Query && !self.has_stream();
        let own: &[&AnswerHeader] = match self.kind {
            Kind::Command => &[&CONSISTENCY_TOKEN],
            Kind::Query if is_tagged => &[&ETAG],
            Kind::Query | Kind::Plain => &[],
        };
        if self.kind == Kind::Query {
            let given = parameters::of_a_query();
            let wanted = given
                .into_iter()
                .filter(|it| is_tagged || it.name != "If-None-Match");
            self.parameters.extend(wanted);
        }
        if is_tagged {
            let same = Answer::empty(
                304,
                "The client has this already: its `If-None-Match` says so.",
            );
            self.answers.push(same);
        }
        let mut operation = OperationBuilder::new()
            .tag(self.tag)
            .summary(Some(self.summary))
            .operation_id(Some(self.id))
            .securities(Some(security(self.access)))
            .request_body(self.body);
        if !self.description.is_empty() {
            operation = operation.description(Some(self.description));
        }
        if !self.parameters.is_empty() {
            operation = operation.parameters(Some(self.parameters));
        }
        let is_limited = self.codes.contains(&Code::TooManyRequests);
        let shared = [&POLICY, &LIMIT].into_iter().filter(|_| is_limited);
        let shared: Vec<_> = shared.chain([&REQUEST_ID]).collect();
        for mut answer in self.answers {
            self.schemas.append(&mut answer.schemas);
            let status = answer.status.to_string();
            operation = operation.response(status, answer.with(own).with(&shared).build());
        }
        let mut made = Vec::new();
        for codes in by_status(&self.codes) {
            let name = problems::name(&codes);
            let status = codes[0].status().as_str().to_owned();
            let reference: RefOr<Response> = Ref::from_response_name(&name).into();
            operation = operation.response(status, reference);
            made.push((name, problems::response(&codes)));
        }
        Made {
            operation: operation.build(),
            problems: made,
            schemas: self.schemas,
        }
    }

    fn has_stream(&self) -> bool {
        self.path.ends_with("/stream")
    }
}

/// The codes in the order of the table, those of one status together.
fn by_status(codes: &[Code]) -> Vec<Vec<Code>> {
    let mut groups: Vec<Vec<Code>> = Vec::new();
    for code in Code::ALL.iter().filter(|code| codes.contains(code)) {
        let same = groups.iter_mut().find(|it| it[0].status() == code.status());
        match same {
            Some(group) => group.push(*code),
            None => groups.push(vec![*code]),
        }
    }
    groups
}

fn security(access: Access) -> Vec<SecurityRequirement> {
    let bearer = || SecurityRequirement::new::<&str, [&str; 0], &str>(BEARER, []);
    match access {
        Access::Open => Vec::new(),
        Access::Optional => vec![SecurityRequirement::default(), bearer()],
        Access::User => vec![bearer()],
    }
}
