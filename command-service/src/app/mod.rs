//! Use cases: one file each, and each the same three steps: load, decide, append.
//!
//! * [`ports`]: the doors to the database, one trait for each owner of data.
//! * `context`: what the use cases share ([`App`]); `load` reads what they decide on, `token`
//!   makes the answer's consistency token.
//! * [`append`]: ids, lost answers, and deciding again when somebody was faster.
//! * [`mod@error`]: why a command was not accepted.
//! * `register`, `sign_in`, `edit_profile`, `deactivate`, `moderate`: users; `account`: their
//!   passwords, addresses and sessions; `cleanup`: what becomes of those who left.
//! * `take_back`: after a restore, what users had taken back since the backup.
//! * `create_post`, `delete_post`, `follow`, `react`: posts and edges.
//! * `quotas`, `login_limits`, [`passwords`]: what keeps callers from overdoing it.
//!
//! A command runs to its end even if whoever sent it goes away ([`App::run`]); it is never left
//! in the middle.

mod account;
pub mod append;
mod cleanup;
mod context;
mod create_post;
mod deactivate;
mod delete_post;
mod edit_profile;
pub mod error;
mod follow;
mod load;
mod login_limits;
mod moderate;
pub mod passwords;
pub mod ports;
mod quotas;
mod react;
mod register;
mod sign_in;
mod take_back;
#[cfg(test)]
mod tests;
mod token;

pub use account::{AddressChange, PasswordChange};
pub use context::{App, DEADLINE, Parts, counting_rejections};
pub use create_post::{Created, NewPost};
pub use edit_profile::Edited;
pub use error::CommandError;
pub use follow::Followed;
pub use moderate::ModerationAction;
pub use react::Reacted;
pub use sign_in::{SignIn, Tokens};
pub use take_back::TAKEN_BACK;
pub use token::Accepted;
