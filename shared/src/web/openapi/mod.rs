//! The HTTP contract as OpenAPI 3.1 documents: one of each service, and one of both behind a gateway.
//!
//! A service lists its [`Operation`]s, beside its handlers; bodies derive their schemas where they are
//! declared. What operations share is said once, here:
//! * [`Operation`]: what each kind of operation takes, answers and refuses.
//! * [`Answer`], [`headers`]: a success, and the headers of all answers.
//! * [`tags`]: what operations are about.
//! * `problems`: every [`Code`](crate::web::problem::Code) as an answer, with an example.
//! * [`parameters`], [`schemas`]: ids, times, texts.
//! * `links`: which answer leads to which operation.
//! * [`files`]: the documents as they are checked in, under `docs/openapi/`.

mod answer;
mod document;
pub mod files;
pub mod headers;
mod links;
mod operation;
pub mod parameters;
mod problems;
pub mod schemas;
pub mod tags;
mod whole;

pub use answer::Answer;
pub use document::{assert_complete, document};
pub use operation::{Access, Operation};
pub use whole::whole;
