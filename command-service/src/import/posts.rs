//! The third pass: posts and replies, and posts made up for everybody.
//!
//! A post with a name is known by it. One without is known by its author, what it says, the name of
//! its parent, and how many such posts the input had before: what is said twice is two posts, and
//! the same input run again, whole, corrected or with more behind it, adds none.
//!
//! Replies may stand before their parent. They wait for it in memory ([`super::order`]); where too
//! many do, the input is read again, as often as it takes to write what can be written.

use std::collections::{HashMap, HashSet};

use shared::contract::events::Payload;
use shared::contract::ids::{EventId, UserId};
use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::xxh3_64;

use super::error::ImportError;
use super::keys::{fingerprint, key};
use super::loader::{BATCH, Loader};
use super::named_posts::{NamedPost, NamedPosts};
use super::order::{MOST_WAITING, Naming, Said, Waiting, name_hash};
use super::pass::{Events, Pass, append, plan, run_pass, skip_done};
use super::report::Kind;
use super::source::{Item, ItemKind, Items, Line, PostItem, Source};
use crate::app::append::{Draft, Target};
use crate::app::error::Refusal;
use crate::app::ports::Key;
use crate::domain::edge::Edge;
use crate::domain::post::{Post, create_post, reply};
use crate::domain::text::Content;

/// Words of made-up posts: enough for a search to have something to find.
const WORDS: [&str; 16] = [
    "harbour", "lantern", "meadow", "copper", "thunder", "violet", "orchard", "granite", "ember",
    "willow", "compass", "marble", "falcon", "saffron", "glacier", "timber",
];

/// One round through the input.
struct Posts<'a> {
    named: &'a mut NamedPosts,
    round: Round,
    waiting: Waiting<Candidate>,
}

#[derive(Clone)]
struct Candidate {
    line: u64,
    author: UserId,
    content: Content,
    /// A hash of its name within the input.
    name: Option<u64>,
    reply_to: Option<String>,
    /// The post that `reply_to` names, once that is written.
    parent: Option<Post>,
    /// Of posts without a name, the how manieth like it this is.
    count: u32,
    key: Key,
    /// The key that an earlier build gave it, where that is another.
    earlier: Option<String>,
}

/// Which lines a round is for.
enum Round {
    First(Said),
    /// These, with what their posts were counted as.
    Again(HashMap<u64, u32>),
}

pub(super) async fn load(
    loader: &mut Loader<'_>,
    named: &mut NamedPosts,
    source: &Source,
) -> Result<(), ImportError> {
    let mut round = Round::First(Said::default());
    loop {
        let known = named.len();
        let is_first = matches!(round, Round::First(_));
        let mut posts = Posts::new(named, round, MOST_WAITING);
        run_pass(loader, &mut posts, source.items(ItemKind::Posts)?).await?;
        let left = match posts.waiting.end() {
            Ok(alone) => {
                refuse(loader, alone);
                return Ok(());
            }
            Err(left) => left,
        };
        if !is_first && named.len() == known {
            // Nobody's parent was written in this round, so none will be in the next.
            return refuse_lines(loader, source.items(ItemKind::Posts)?, &left);
        }
        round = Round::Again(left);
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
pub(super) async fn generate(
    loader: &mut Loader<'_>,
    named: &mut NamedPosts,
    everybody: &[UserId],
    each: u32,
) -> Result<(), ImportError> {
    let total = everybody.len() as u64 * u64::from(each);
    loader.report.begin("posts", total);
    let turns = (1..=each).flat_map(|turn| everybody.iter().map(move |author| (turn, *author)));
    let mut turns = turns.peekable();
    let mut posts = Posts::new(named, Round::First(Said::default()), 0);
    let mut written = 0;
    while turns.peek().is_some() {
        loader.check_stop()?;
        let batch: Vec<(u32, UserId)> = turns.by_ref().take(BATCH).collect();
        written += batch.len() as u64;
        let made_up = batch
            .into_iter()
            .filter_map(|(turn, author)| make_up(turn, author));
        posts.write(loader, made_up.collect()).await?;
        loader.report.advance(written);
    }
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
        parent: None,
        count: 1,
        key,
        earlier: None,
    })
}

impl Pass for Posts<'_> {
    type Candidate = Candidate;
    const BATCH: usize = BATCH;

    async fn resolve(
        &mut self,
        loader: &mut Loader<'_>,
        lines: Vec<Line>,
    ) -> Result<Vec<Candidate>, ImportError> {
        let posts: Vec<(u64, PostItem)> = lines
            .into_iter()
            .filter(|line| match &self.round {
                Round::First(_) => true,
                Round::Again(left) => left.contains_key(&line.number),
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
            match candidate(line, &post, users.get(&post.username), &mut self.round) {
                Ok(Some(candidate)) => candidates.push(candidate),
                Ok(None) => loader.report.already_there(1),
                Err(why) => loader.report.refused(line, &why),
            }
        }
        Ok(candidates)
    }

    /// Writes what can be written; the others wait.
    async fn write(
        &mut self,
        loader: &mut Loader<'_>,
        candidates: Vec<Candidate>,
    ) -> Result<(), ImportError> {
        let names: Vec<u64> = candidates.iter().filter_map(|post| post.name).collect();
        let remaining = skip_done(loader, self, candidates).await?;
        let mut ready = Vec::with_capacity(remaining.len());
        // Those that an earlier run has written may be waited for as well.
        for name in names {
            if self.named.get(name).is_some() {
                release(name, &mut self.waiting, &mut ready);
            }
        }
        let mut coming: HashSet<u64> = ready.iter().filter_map(|reply| reply.name).collect();
        for candidate in remaining {
            let parent = candidate.reply_to.as_deref().map(name_hash);
            let is_there =
                |parent: &u64| self.named.get(*parent).is_some() || coming.contains(parent);
            if let Some(parent) = parent.filter(|parent| !is_there(parent)) {
                self.waiting
                    .add(candidate.line, parent, candidate.count, candidate);
                continue;
            }
            let (first, name) = (ready.len(), candidate.name);
            ready.push(candidate);
            if let Some(name) = name {
                release(name, &mut self.waiting, &mut ready);
            }
            coming.extend(ready[first..].iter().filter_map(|post| post.name));
        }
        for batch in split_dependent(ready) {
            self.write_independent(loader, batch).await?;
        }
        Ok(())
    }
}

impl Events for Posts<'_> {
    fn line(candidate: &Candidate) -> u64 {
        candidate.line
    }

    fn kind(_: &Candidate) -> Kind {
        Kind::Posts
    }

    fn keys(candidate: &Candidate) -> Vec<(UserId, String)> {
        let texts = std::iter::once(&candidate.key.text).chain(&candidate.earlier);
        texts.map(|text| (candidate.author, text.clone())).collect()
    }

    fn users(candidate: &Candidate) -> [UserId; 2] {
        let parent = candidate.parent.map(|parent| parent.author);
        [candidate.author, parent.unwrap_or(candidate.author)]
    }

    fn decide(
        &self,
        loader: &Loader<'_>,
        candidate: &Candidate,
        _: &Edge,
    ) -> Result<Option<Payload>, Refusal> {
        let author = loader.people.known(candidate.author).status;
        let post = match &candidate.parent {
            None => create_post(author, &candidate.content)?,
            Some(parent) => {
                let seen = Some((parent, loader.people.known(parent.author).status));
                reply(author, &candidate.content, seen)?
            }
        };
        Ok(Some(Payload::PostCreated(post)))
    }

    fn draft(loader: &Loader<'_>, candidate: &Candidate, payload: Payload) -> Draft {
        let parent = candidate.parent.map_or(0, |parent| parent.id.get());
        Draft {
            target: Target::NewPost,
            actor: candidate.author,
            payload,
            read: loader.people.known(candidate.author).last.get().max(parent),
            key: Some(candidate.key.clone()),
        }
    }

    fn was_done(&mut self, candidate: &Candidate, event: EventId, says: i64) -> Result<(), String> {
        self.remember(candidate, event, false);
        if candidate.name.is_none() || [0, candidate.key.hash].contains(&says) {
            Ok(())
        } else {
            Err("an earlier import gave its id to another post".to_owned())
        }
    }

    fn is_there(&mut self, candidate: &Candidate, event: EventId) {
        self.remember(candidate, event, true);
    }
}

impl<'a> Posts<'a> {
    fn new(named: &'a mut NamedPosts, round: Round, most_waiting: usize) -> Self {
        Self {
            named,
            round,
            waiting: Waiting::new(most_waiting),
        }
    }

    fn remember(&mut self, candidate: &Candidate, event: EventId, fresh: bool) {
        if let Some(name) = candidate.name {
            let (id, author) = (event.cast(), candidate.author);
            self.named.insert(name, NamedPost { id, author, fresh });
        }
    }

    /// Writes posts of which none answers another.
    async fn write_independent(
        &mut self,
        loader: &mut Loader<'_>,
        candidates: Vec<Candidate>,
    ) -> Result<(), ImportError> {
        let mut ready = Vec::with_capacity(candidates.len());
        for mut candidate in candidates {
            let named = candidate.name.and_then(|name| self.named.get(name));
            if named.is_some_and(|other| other.author != candidate.author) {
                let why = "another user's post has this id";
                loader.report.refused(candidate.line, why);
                continue;
            }
            if let Some(name) = &candidate.reply_to {
                candidate.parent = self.named.find(loader, name).await?;
                if candidate.parent.is_none() {
                    loader.report.refused(candidate.line, &no_parent(name));
                    continue;
                }
            }
            ready.push(candidate);
        }
        let planned = plan(loader, self, ready).await?;
        append(loader, self, &planned).await
    }
}

/// What a line asks for; nothing if a line before it asked for the very same.
fn candidate(
    line: u64,
    post: &PostItem,
    author: Option<&UserId>,
    round: &mut Round,
) -> Result<Option<Candidate>, String> {
    let author = *author.ok_or_else(|| format!("no user {}", post.username))?;
    let content = Content::parse(&post.content).map_err(|error| format!("content: {error}"))?;
    let author_text = author.to_string();
    let parent = post.reply_to.as_deref().unwrap_or_default();
    let same = ["text", &author_text, content.as_str(), parent];
    let name = post.name.as_deref().map(name_hash);
    let says = fingerprint(&same);
    let count = match (round, name) {
        (Round::First(said), Some(name)) => match said.name(name, line, says) {
            Naming::New => 1,
            Naming::Again => return Ok(None),
            Naming::Taken(first) => {
                return Err(format!("line {first} gives its id to another post"));
            }
        },
        (Round::First(said), None) => said.count(key(&same).text.as_bytes()),
        (Round::Again(left), _) => left.get(&line).copied().unwrap_or(1),
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
        parent: None,
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
