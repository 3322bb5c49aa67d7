//! The third pass: posts and replies, and posts made up for everybody.
//!
//! A post with a name is known by it. One without is known by its author, what it says, the name of
//! its parent, and how many such posts the input had before: what is said twice is two posts, and
//! the same input run again, whole, corrected or with more behind it, adds none.
//!
//! Replies may stand before their parent. They wait for it in memory ([`super::order`]); where too
//! many do, the input is looked at again, as often as it takes to write what can be written.

use std::collections::{HashMap, HashSet};

use shared::events::LogStream;
use shared::ids::{PostId, UserId};
use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::xxh3_64;

use super::error::ImportError;
use super::loader::{BATCH, Fate, Loader, NamedPost, Wish, fingerprint, key};
use super::order::{MOST_WAITING, Naming, Said, Waiting, name_hash};
use super::report::Kind;
use super::source::{Item, Items, Line, Pass, PostItem, Source};
use crate::app::CommandError;
use crate::app::append::{Draft, Target};
use crate::app::ports::Key;
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
    /// Of posts without a name, the how manieth like it this is.
    count: u32,
    key: Key,
    /// The key that an earlier build gave it, where that is another.
    earlier: Option<String>,
}

impl Candidate {
    /// The keys under which an earlier run may have written it.
    fn keys(&self) -> impl Iterator<Item = (UserId, String)> {
        let texts = std::iter::once(&self.key.text).chain(&self.earlier);
        texts.map(|text| (self.author, text.clone()))
    }
}

/// Which lines a look at the input is for.
enum Look {
    First(Said),
    /// These, with what their posts were counted as.
    Again(HashMap<u64, u32>),
}

pub(super) async fn load(loader: &mut Loader<'_>, source: &Source) -> Result<(), ImportError> {
    let mut look = Look::First(Said::default());
    loop {
        let known = loader.posts.len();
        let is_first = matches!(look, Look::First(_));
        let waiting = read(loader, source.items(Pass::Posts)?, look).await?;
        let left = match waiting.end() {
            Ok(alone) => {
                refuse(loader, alone);
                return Ok(());
            }
            Err(left) => left,
        };
        if !is_first && loader.posts.len() == known {
            // Nobody's parent was written in this look, so none will be in the next.
            return refuse_lines(loader, source.items(Pass::Posts)?, &left);
        }
        look = Look::Again(left);
    }
}

/// Looks at the input once, and writes what can be written: those that wait are returned.
async fn read(
    loader: &mut Loader<'_>,
    mut items: Items<'_>,
    mut look: Look,
) -> Result<Waiting<Candidate>, ImportError> {
    loader.begin(&items);
    let mut waiting = Waiting::new(MOST_WAITING);
    loop {
        let lines = loader.next_batch(&mut items, BATCH)?;
        let Some(position) = lines.last().map(|line| line.position) else {
            return Ok(waiting);
        };
        let candidates = resolve(loader, lines, &mut look).await?;
        write(loader, candidates, &mut waiting).await?;
        loader.report.advance(position);
    }
}

fn refuse(loader: &mut Loader<'_>, alone: Vec<Candidate>) {
    for candidate in alone {
        let parent = candidate.reply_to.unwrap_or_default();
        loader.report.refused(candidate.line, &no_parent(&parent));
    }
}

fn no_parent(name: &str) -> String {
    format!("no post {name} in the input, or it was refused")
}

fn refuse_lines(
    loader: &mut Loader<'_>,
    mut items: Items<'_>,
    left: &HashMap<u64, u32>,
) -> Result<(), ImportError> {
    while let Some(line) = items.read()? {
        if let Ok(Item::Post(post)) = line.item
            && left.contains_key(&line.number)
        {
            let parent = post.reply_to.unwrap_or_default();
            loader.report.refused(line.number, &no_parent(&parent));
        }
    }
    Ok(())
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
        write(loader, candidates, &mut Waiting::new(0)).await?;
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
        count: 1,
        key,
        earlier: None,
    })
}

async fn resolve(
    loader: &mut Loader<'_>,
    lines: Vec<Line>,
    look: &mut Look,
) -> Result<Vec<Candidate>, ImportError> {
    let posts: Vec<(u64, PostItem)> = lines
        .into_iter()
        .filter(|line| match look {
            Look::First(_) => true,
            Look::Again(left) => left.contains_key(&line.number),
        })
        .filter_map(|line| match line.item {
            Ok(Item::Post(post)) => Some((line.number, post)),
            Ok(Item::User(_) | Item::Follow { .. } | Item::Reaction(_)) | Err(_) => None,
        })
        .collect();
    let names = posts.iter().map(|(_, post)| post.username.as_str());
    let users = loader.resolve(names).await?;
    let mut candidates = Vec::with_capacity(posts.len());
    for (line, post) in posts {
        match candidate(line, &post, users.get(&post.username), look) {
            Ok(Some(candidate)) => candidates.push(candidate),
            Ok(None) => loader.report.already_there(1),
            Err(why) => loader.report.refused(line, &why),
        }
    }
    Ok(candidates)
}

/// What a line asks for; nothing if a line before it asked for the very same.
fn candidate(
    line: u64,
    post: &PostItem,
    author: Option<&UserId>,
    look: &mut Look,
) -> Result<Option<Candidate>, String> {
    let author = *author.ok_or_else(|| format!("no user {}", post.username))?;
    let content = Content::parse(&post.content).map_err(|error| format!("content: {error}"))?;
    let author_text = author.to_string();
    let parent = post.reply_to.as_deref().unwrap_or_default();
    let same = ["text", &author_text, content.as_str(), parent];
    let name = post.name.as_deref().map(name_hash);
    let says = fingerprint(&same);
    let count = match (look, name) {
        (Look::First(said), Some(name)) => match said.name(name, line, says) {
            Naming::New => 1,
            Naming::Again => return Ok(None),
            Naming::Taken(first) => {
                return Err(format!("line {first} gives its id to another post"));
            }
        },
        (Look::First(said), None) => said.count(key(&same).text.as_bytes()),
        (Look::Again(left), _) => left.get(&line).copied().unwrap_or(1),
    };
    let earlier = (name.is_none() && count == 1)
        .then(|| earlier_key(&author_text, &post.content, parent))
        .flatten();
    let key = match &post.name {
        Some(name) => Key {
            hash: says,
            ..key(&["post", name])
        },
        // As every import before counted.
        None if count == 1 => key(&same),
        None => {
            let [text, author, content, parent] = same;
            key(&[text, author, content, parent, &count.to_string()])
        }
    };
    Ok(Some(Candidate {
        line,
        author,
        content,
        name,
        reply_to: post.reply_to.clone(),
        count,
        key,
        earlier,
    }))
}

/// The key that builds before this one gave a post without a name whose line ends are not line
/// feeds: they kept them.
fn earlier_key(author: &str, content: &str, parent: &str) -> Option<String> {
    let kept = || content.nfc().collect::<String>();
    content
        .contains('\r')
        .then(|| key(&["text", author, &kept(), parent]).text)
}

async fn write(
    loader: &mut Loader<'_>,
    candidates: Vec<Candidate>,
    waiting: &mut Waiting<Candidate>,
) -> Result<(), ImportError> {
    let names: Vec<u64> = candidates.iter().filter_map(|post| post.name).collect();
    let remaining = skip_done(loader, candidates).await?;
    let mut ready = Vec::with_capacity(remaining.len());
    // Those that an earlier run has written may be waited for as well.
    for name in names {
        if loader.posts.contains_key(&name) {
            release(name, waiting, &mut ready);
        }
    }
    let mut coming: HashSet<u64> = ready.iter().filter_map(|reply| reply.name).collect();
    for candidate in remaining {
        let parent = candidate.reply_to.as_deref().map(name_hash);
        let is_there = |parent: &u64| loader.posts.contains_key(parent) || coming.contains(parent);
        if let Some(parent) = parent.filter(|parent| !is_there(parent)) {
            waiting.add(candidate.line, parent, candidate.count, candidate);
            continue;
        }
        let (first, name) = (ready.len(), candidate.name);
        ready.push(candidate);
        if let Some(name) = name {
            release(name, waiting, &mut ready);
        }
        coming.extend(ready[first..].iter().filter_map(|post| post.name));
    }
    for batch in split_dependent(ready) {
        write_independent(loader, batch).await?;
    }
    Ok(())
}

/// Those who wait for a post, those who wait for them, and so on: parents before replies.
fn release(name: u64, waiting: &mut Waiting<Candidate>, ready: &mut Vec<Candidate>) {
    let mut next = ready.len();
    ready.extend(waiting.take(name));
    while let Some(reply) = ready.get(next) {
        let name = reply.name;
        next += 1;
        if let Some(name) = name {
            ready.extend(waiting.take(name));
        }
    }
}

/// Cuts before each reply to a post of the same batch: what is appended at once is appended in
/// any order, and a crash in between must not leave a reply without its parent. No batch is longer
/// than [`BATCH`].
fn split_dependent(candidates: Vec<Candidate>) -> Vec<Vec<Candidate>> {
    let mut batches: Vec<Vec<Candidate>> = vec![Vec::new()];
    let mut names = HashSet::new();
    for candidate in candidates {
        let parent = candidate.reply_to.as_deref().map(name_hash);
        let repeated = candidate.name.is_some_and(|name| names.contains(&name));
        let full = batches.last().is_some_and(|batch| batch.len() == BATCH);
        if full || repeated || parent.is_some_and(|parent| names.contains(&parent)) {
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
    let keys = candidates.iter().flat_map(Candidate::keys);
    let done = loader.done_before(keys).await?;
    let mut remaining = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let found = candidate.keys().find_map(|key| done.get(&key));
        match found {
            Some((event, says)) => {
                remember(loader, &candidate, event.cast(), false);
                if candidate.name.is_none() || [0, candidate.key.hash].contains(says) {
                    loader.report.already_there(1);
                } else {
                    let why = "an earlier import gave its id to another post";
                    loader.report.refused(candidate.line, why);
                }
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
                return Ok(Err(no_parent(name)));
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
            .patiently(|| store.streams.last(named.author, stream))
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
