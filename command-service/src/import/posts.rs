//! The third pass: posts and replies, and posts made up for everybody.

use std::collections::HashSet;

use shared::events::LogStream;
use shared::ids::{PostId, UserId};
use xxhash_rust::xxh3::xxh3_64;

use super::ImportError;
use super::loader::{BATCH, Fate, Loader, NamedPost, Wish, key};
use super::report::Kind;
use super::source::{Item, Items, Line, PostItem};
use crate::app::CommandError;
use crate::app::append::{Draft, Target};
use crate::app::store::Key;
use crate::domain::post::{Post, create_post, reply};
use crate::domain::text::Content;

/// Words of made-up posts: enough for a search to have something to find.
const WORDS: [&str; 16] = [
    "harbour", "lantern", "meadow", "copper", "thunder", "violet", "orchard", "granite", "ember",
    "willow", "compass", "marble", "falcon", "saffron", "glacier", "timber",
];

#[derive(Clone)]
struct Candidate {
    line: u64,
    author: UserId,
    content: Content,
    /// A hash of its name within the input.
    name: Option<u64>,
    reply_to: Option<String>,
    key: Key,
}

/// A post of the input, as reactions and replies find it.
pub(super) fn name_hash(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

pub(super) async fn load(loader: &mut Loader<'_>, mut items: Items<'_>) -> Result<(), ImportError> {
    loader.begin(&items);
    loop {
        let lines = loader.next_batch(&mut items, BATCH)?;
        let Some(position) = lines.last().map(|line| line.position) else {
            return Ok(());
        };
        let candidates = resolve(loader, lines).await?;
        write(loader, candidates).await?;
        loader.report.advance(position);
    }
}

/// Writes `each` posts for everybody in the input. Authors take turns, as they do in life.
pub(super) async fn generate(loader: &mut Loader<'_>, each: u32) -> Result<(), ImportError> {
    let Some(everybody) = loader.everybody.take() else {
        return Ok(());
    };
    let total = everybody.len() as u64 * u64::from(each);
    loader.report.begin("posts", total);
    let turns = (1..=each).flat_map(|turn| everybody.iter().map(move |author| (turn, *author)));
    let mut turns = turns.peekable();
    let mut written = 0;
    while turns.peek().is_some() {
        loader.check_stop()?;
        let batch: Vec<(u32, UserId)> = turns.by_ref().take(BATCH).collect();
        written += batch.len() as u64;
        let made_up = batch
            .into_iter()
            .filter_map(|(turn, author)| make_up(turn, author));
        let candidates = made_up.collect();
        write(loader, candidates).await?;
        loader.report.advance(written);
    }
    loader.everybody = Some(everybody);
    Ok(())
}

fn make_up(turn: u32, author: UserId) -> Option<Candidate> {
    let (turn_text, author_text) = (turn.to_string(), author.to_string());
    let key = key(&["generated", &author_text, &turn_text]);
    let dice = xxh3_64(key.text.as_bytes());
    let word = |shift: u32| WORDS[usize::try_from(dice >> shift & 15).unwrap_or(0)];
    let (a, b, c) = (word(0), word(4), word(8));
    let content = Content::parse(&format!("Note {turn}: the {a} by the {b}, and a {c}.")).ok()?;
    Some(Candidate {
        line: 0,
        author,
        content,
        name: None,
        reply_to: None,
        key,
    })
}

async fn resolve(loader: &mut Loader<'_>, lines: Vec<Line>) -> Result<Vec<Candidate>, ImportError> {
    let posts: Vec<(u64, PostItem)> = lines
        .into_iter()
        .filter_map(|line| match line.item {
            Ok(Item::Post(post)) => Some((line.number, post)),
            Ok(Item::User(_) | Item::Follow { .. } | Item::Reaction(_)) | Err(_) => None,
        })
        .collect();
    let names = posts.iter().map(|(_, post)| post.username.as_str());
    let users = loader.resolve(names).await?;
    let mut candidates = Vec::with_capacity(posts.len());
    for (line, post) in posts {
        match candidate(line, &post, users.get(&post.username)) {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => loader.report.refused(line, &why),
        }
    }
    Ok(candidates)
}

fn candidate(line: u64, post: &PostItem, author: Option<&UserId>) -> Result<Candidate, String> {
    let author = *author.ok_or_else(|| format!("no user {}", post.username))?;
    let content = Content::parse(&post.content).map_err(|error| format!("content: {error}"))?;
    let text = author.to_string();
    // A post without a name is known by what it says: said twice, it is one.
    let key = match &post.name {
        Some(name) => key(&["post", name]),
        None => {
            let parent = post.reply_to.as_deref().unwrap_or_default();
            key(&["text", &text, content.as_str(), parent])
        }
    };
    Ok(Candidate {
        line,
        author,
        content,
        name: post.name.as_deref().map(name_hash),
        reply_to: post.reply_to.clone(),
        key,
    })
}

async fn write(loader: &mut Loader<'_>, candidates: Vec<Candidate>) -> Result<(), ImportError> {
    let remaining = skip_done(loader, candidates).await?;
    for batch in split_dependent(remaining) {
        write_independent(loader, batch).await?;
    }
    Ok(())
}

/// Cuts before each reply to a post of the same batch: what is appended at once is appended in
/// any order, and a crash in between must not leave a reply without its parent.
fn split_dependent(candidates: Vec<Candidate>) -> Vec<Vec<Candidate>> {
    let mut batches = vec![Vec::new()];
    let mut names = HashSet::new();
    for candidate in candidates {
        let parent = candidate.reply_to.as_deref().map(name_hash);
        let repeated = candidate.name.is_some_and(|name| names.contains(&name));
        if repeated || parent.is_some_and(|parent| names.contains(&parent)) {
            names.clear();
            batches.push(Vec::new());
        }
        names.extend(candidate.name);
        if let Some(batch) = batches.last_mut() {
            batch.push(candidate);
        }
    }
    batches
}

async fn skip_done(
    loader: &mut Loader<'_>,
    candidates: Vec<Candidate>,
) -> Result<Vec<Candidate>, ImportError> {
    let keys = candidates
        .iter()
        .map(|candidate| (candidate.author, candidate.key.text.clone()));
    let done = loader.done_before(keys).await?;
    let mut remaining = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        match done.get(&candidate.key.text) {
            Some(event) => {
                remember(loader, &candidate, event.cast(), false);
                loader.report.already_there(1);
            }
            None => remaining.push(candidate),
        }
    }
    Ok(remaining)
}

fn remember(loader: &mut Loader<'_>, candidate: &Candidate, id: PostId, fresh: bool) {
    if let Some(name) = candidate.name {
        let author = candidate.author;
        let post = NamedPost { id, author, fresh };
        loader.posts.insert(name, post);
    }
}

async fn write_independent(
    loader: &mut Loader<'_>,
    candidates: Vec<Candidate>,
) -> Result<(), ImportError> {
    let authors = candidates.iter().map(|candidate| candidate.author);
    let parents = candidates.iter().filter_map(|candidate| {
        let name = candidate.reply_to.as_deref()?;
        Some(loader.posts.get(&name_hash(name))?.author)
    });
    let users: Vec<UserId> = authors.chain(parents).collect();
    loader.survey(users.into_iter()).await?;
    let mut wishes = Vec::with_capacity(candidates.len());
    let mut wished = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        match wish(loader, &candidate).await? {
            Ok(wish) => {
                wishes.push(wish);
                wished.push(candidate);
            }
            Err(why) => loader.report.refused(candidate.line, &why),
        }
    }
    let fates = loader.append_all(&wishes).await?;
    for ((wish, candidate), fate) in wishes.iter().zip(&wished).zip(fates) {
        let fate = match fate {
            Fate::NotAppended => loader.settle_post(wish).await?,
            Fate::Appended(_) | Fate::AlreadyThere(_) => fate,
        };
        if let Fate::Appended(event) | Fate::AlreadyThere(event) = fate {
            remember(loader, candidate, event.cast(), true);
        }
        loader.tell(Kind::Posts, fate);
    }
    Ok(())
}

async fn wish(
    loader: &mut Loader<'_>,
    candidate: &Candidate,
) -> Result<Result<Wish, String>, ImportError> {
    if let Some(other) = candidate.name.and_then(|name| loader.posts.get(&name))
        && other.author != candidate.author
    {
        return Ok(Err("another user's post has this id".to_owned()));
    }
    let author = loader.known(candidate.author);
    let (decided, read) = match &candidate.reply_to {
        None => (create_post(author.standing, &candidate.content), 0),
        Some(name) => {
            let Some(parent) = find(loader, name).await? else {
                return Ok(Err(format!("no post {name} before this line")));
            };
            let standing = loader.known(parent.author).standing;
            let seen = Some((&parent, standing));
            let decided = reply(author.standing, &candidate.content, seen);
            (decided, parent.id.get())
        }
    };
    Ok(decided
        .map_err(|refusal| CommandError::from(refusal).to_string())
        .map(|payload| Wish {
            line: candidate.line,
            draft: Draft {
                target: Target::NewPost,
                actor: candidate.author,
                payload,
                read: author.last.get().max(read),
                key: Some(candidate.key.clone()),
            },
        }))
}

/// A post of the input by its name. One that an earlier run wrote may be deleted by now.
pub(super) async fn find(loader: &mut Loader<'_>, name: &str) -> Result<Option<Post>, ImportError> {
    let Some(named) = loader.posts.get(&name_hash(name)).copied() else {
        return Ok(None);
    };
    let deleted = if named.fresh {
        false
    } else {
        let store = loader.store();
        let stream = LogStream::Post(named.id);
        let last = loader
            .patiently(|| store.last(named.author, stream))
            .await?;
        last.is_none_or(|event| event.version > 1)
    };
    Ok(Some(Post {
        id: named.id,
        author: named.author,
        reply_to: None,
        deleted,
    }))
}
