//! The first pass: registrations, a few hundred in one transaction.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt;
use shared::contract::ids::UserId;
use shared::runtime::settings::Secret;

use super::error::ImportError;
use super::keys::fingerprint;
use super::loader::Loader;
use super::order::{Naming, Said, name_hash};
use super::pass::Pass;
use super::report::Kind;
use super::source::{Item, Items, Line};
use crate::app::CommandError;
use crate::app::error::Refusal;
use crate::app::ports::NewAccount;
use crate::domain::user::{AccountStatus, Registration, RegistrationForm};

/// Users per transaction: four documents each.
const CHUNK: usize = 250;
/// Passwords hashed at once; each takes a core for a while.
const HASHES: usize = 4;
/// Names may be taken between the look and the transaction.
const TRIES: u32 = 8;

pub(super) struct Candidate {
    line: u64,
    registration: Registration,
}

pub(super) struct Users<'a> {
    /// What was said of a name, where two lines may say different things.
    said: Option<Said>,
    /// All users of the input, in its order, if posts are written for them.
    everybody: &'a mut Option<Vec<UserId>>,
}

impl<'a> Users<'a> {
    pub(super) fn new(items: &Items<'_>, everybody: &'a mut Option<Vec<UserId>>) -> Self {
        Self {
            said: items.describes_users().then(Said::default),
            everybody,
        }
    }
}

impl Pass for Users<'_> {
    type Candidate = Candidate;
    const BATCH: usize = CHUNK;

    async fn resolve(
        &mut self,
        loader: &mut Loader<'_>,
        lines: Vec<Line>,
    ) -> Result<Vec<Candidate>, ImportError> {
        Ok(parse(loader, lines, self.said.as_mut()))
    }

    async fn write(
        &mut self,
        loader: &mut Loader<'_>,
        candidates: Vec<Candidate>,
    ) -> Result<(), ImportError> {
        let order: Vec<String> = candidates
            .iter()
            .map(|candidate| candidate.registration.username.as_str().to_owned())
            .collect();
        let users = register(loader, candidates).await?;
        if let Some(everybody) = self.everybody.as_mut() {
            everybody.extend(order.iter().filter_map(|name| users.get(name)));
        }
        Ok(())
    }
}

/// Those that are registrations, and the first of each name.
fn parse(loader: &mut Loader<'_>, lines: Vec<Line>, mut said: Option<&mut Said>) -> Vec<Candidate> {
    let mut names = HashSet::new();
    let mut candidates = Vec::with_capacity(lines.len());
    for line in lines {
        let Ok(Item::User(form)) = line.item else {
            continue;
        };
        match Registration::parse(&form) {
            Err(faults) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                loader.report.refused(line.number, &faults.join("; "));
            }
            Ok(registration) => {
                let name = name_hash(registration.username.as_str());
                let naming = said.as_mut().map_or(Naming::New, |said| {
                    said.name(name, line.number, says(&form))
                });
                match naming {
                    Naming::New if names.insert(name) => candidates.push(Candidate {
                        line: line.number,
                        registration,
                    }),
                    Naming::New | Naming::Again => loader.report.already_there(1),
                    Naming::Taken(first) => {
                        let why = format!("line {first} says something else of this user");
                        loader.report.refused(line.number, &why);
                    }
                }
            }
        }
    }
    candidates
}

/// All but the name.
fn says(form: &RegistrationForm) -> i64 {
    let password = form.password.as_ref().map(Secret::expose);
    fingerprint(&[
        &form.email,
        password.unwrap_or_default(),
        form.display_name.as_deref().unwrap_or_default(),
        form.bio.as_deref().unwrap_or_default(),
    ])
}

/// Registers them all; who has these names then.
async fn register(
    loader: &mut Loader<'_>,
    candidates: Vec<Candidate>,
) -> Result<HashMap<String, UserId>, ImportError> {
    let mut users: HashMap<String, UserId> = HashMap::new();
    let mut remaining = candidates;
    let mut attempted: Vec<NewAccount> = Vec::new();
    for _ in 0..TRIES {
        remaining = skip_existing(loader, remaining, &attempted, &mut users).await?;
        if remaining.is_empty() {
            break;
        }
        attempted = accounts(loader, &remaining).await?;
        let store = loader.store();
        if loader
            .with_retries(|| store.accounts.register_all(&attempted))
            .await?
        {
            for account in &attempted {
                done(loader, account, &mut users);
            }
            remaining.clear();
            break;
        }
    }
    if !remaining.is_empty() {
        return Err(ImportError::Command(Refusal::Conflict.into()));
    }
    Ok(users)
}

fn done(loader: &mut Loader<'_>, account: &NewAccount, users: &mut HashMap<String, UserId>) {
    let user: UserId = account.event.id.cast();
    loader.people.registered(&account.username, user);
    loader.report.appended(Kind::Users, 1);
    users.insert(account.username.clone(), user);
}

/// Counts those who are there, refuses those whose address is another's, and leaves the rest.
async fn skip_existing(
    loader: &mut Loader<'_>,
    candidates: Vec<Candidate>,
    attempted: &[NewAccount],
    users: &mut HashMap<String, UserId>,
) -> Result<Vec<Candidate>, ImportError> {
    let names: Vec<String> = candidates
        .iter()
        .map(|candidate| candidate.registration.username.as_str().to_owned())
        .collect();
    let emails: Vec<String> = candidates
        .iter()
        .map(|candidate| candidate.registration.email.folded())
        .collect();
    let store = loader.store();
    let named = loader
        .with_retries(|| store.accounts.users_named(&names))
        .await?;
    let at = loader
        .with_retries(|| store.accounts.users_at(&emails))
        .await?;
    let mut taken = still_taken(loader, at).await?;
    let mut remaining = Vec::new();
    for candidate in candidates {
        let username = candidate.registration.username.as_str();
        if let Some(user) = named.get(username) {
            // An attempt whose answer was lost may have done it.
            let mine = |account: &&NewAccount| account.event.id.cast() == *user;
            if let Some(account) = attempted.iter().find(mine) {
                done(loader, account, users);
            } else {
                loader.people.remember_name(username, *user);
                loader.report.already_there(1);
                users.insert(username.to_owned(), *user);
            }
        } else if taken.insert(candidate.registration.email.folded()) {
            remaining.push(candidate);
        } else {
            let why = "email: belongs to another user";
            loader.report.refused(candidate.line, why);
        }
    }
    Ok(remaining)
}

/// The addresses among these whose users are still there: those of who left are free.
async fn still_taken(
    loader: &mut Loader<'_>,
    at: HashMap<String, UserId>,
) -> Result<HashSet<String>, ImportError> {
    let app = loader.app;
    let owners: Vec<UserId> = at.values().copied().collect();
    let statuses = loader
        .with_retries(|| app.store().streams.statuses(&owners))
        .await?;
    let mut taken = HashSet::with_capacity(at.len());
    for (address, owner) in at {
        let status = statuses.get(&owner).map(|(status, _)| *status);
        let left = status == Some(AccountStatus::Deactivated);
        if left {
            loader
                .with_retries(|| app.store().accounts.forget(owner))
                .await?;
        } else {
            taken.insert(address);
        }
    }
    Ok(taken)
}

async fn accounts(
    loader: &mut Loader<'_>,
    candidates: &[Candidate],
) -> Result<Vec<NewAccount>, ImportError> {
    let app = loader.app;
    let hashes: Vec<Result<Option<String>, CommandError>> = futures_util::stream::iter(candidates)
        .map(|candidate| async move {
            match &candidate.registration.password {
                Some(password) => app.hash_password(password.clone()).await.map(Some),
                None => Ok(None),
            }
        })
        .buffered(HASHES)
        .collect()
        .await;
    let account = |(candidate, hash): (&Candidate, Result<Option<String>, CommandError>)| {
        let hash = hash.map_err(ImportError::Command)?;
        let account = app.new_account(&candidate.registration, hash.map(Secret::new), 0);
        account.map_err(ImportError::Command)
    };
    candidates.iter().zip(hashes).map(account).collect()
}
