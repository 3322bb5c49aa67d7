//! A user who writes at random and reads every write back with its token.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use serde_json::{Value, json};
use system_tests::api::{Accepted, Answer, Session};
use system_tests::world::Service;

use super::{posts, scroll, shows};

/// Posts that are never deleted, with their authors: others like, repost and answer them.
pub type Keepers = Arc<Mutex<Vec<(String, String)>>>;

/// What one writer found.
#[derive(Default)]
pub struct Seen {
    pub reflected: usize,
    pub failures: Vec<String>,
    /// How long each first read took.
    pub waits: Vec<Duration>,
    pub kinds: Vec<&'static str>,
}

/// A user who reads back every write.
pub struct Writer<'a> {
    number: usize,
    me: &'a Session,
    others: Vec<&'a Session>,
    /// The same user at two processes.
    reads: [Session; 2],
    keepers: &'a Keepers,
    rng: StdRng,
    following: BTreeSet<String>,
    liked: BTreeSet<String>,
    reposted: BTreeSet<String>,
    /// Own posts to be deleted one day.
    loose: Vec<String>,
    seen: Seen,
}

/// A command that was accepted: its kind, its token, and the reads that must show it.
struct Written {
    kind: &'static str,
    token: String,
    expected: Vec<Expected>,
}

impl Written {
    fn new(kind: &'static str, token: String, expected: Vec<Expected>) -> Self {
        Self {
            kind,
            token,
            expected,
        }
    }
}

/// What to look at after a write, and what must be true of it.
struct Expected {
    path: String,
    holds: Box<dyn Fn(&Answer) -> bool + Send>,
}

fn expect(path: impl Into<String>, holds: impl Fn(&Answer) -> bool + Send + 'static) -> Expected {
    Expected {
        path: path.into(),
        holds: Box::new(holds),
    }
}

fn shows_none(hidden: impl Fn(&Value) -> bool + Send + 'static) -> impl Fn(&Answer) -> bool + Send {
    move |page| page.status == StatusCode::OK && !posts(&page.body).iter().any(&hidden)
}

/// Whether a page of users shows one.
fn lists(user: &str, shown: bool) -> impl Fn(&Answer) -> bool + Send + 'static {
    let user = user.to_owned();
    move |page| {
        let mut users = page.body["users"].as_array().into_iter().flatten();
        page.status == StatusCode::OK && users.any(|listed| listed["user_id"] == *user) == shown
    }
}

impl<'a> Writer<'a> {
    pub fn new(
        number: usize,
        me: &'a Session,
        all: &'a [Session],
        processes: [&Service; 2],
        keepers: &'a Keepers,
        seed: u64,
    ) -> Self {
        let others = all.iter().filter(|other| other.user_id != me.user_id);
        Self {
            number,
            me,
            others: others.collect(),
            reads: processes.map(|process| me.through(process)),
            keepers,
            rng: StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 32)),
            following: BTreeSet::new(),
            liked: BTreeSet::new(),
            reposted: BTreeSet::new(),
            loose: Vec::new(),
            seen: Seen::default(),
        }
    }

    pub async fn run(mut self, writes: usize) -> Seen {
        for n in 0..writes {
            let Written {
                kind,
                token,
                expected,
            } = self.write(n).await;
            // In turn, and no two writers in step.
            let reader = &self.reads[(n + self.number) % 2];
            let mut reflected = true;
            for (at, Expected { path, holds }) in expected.into_iter().enumerate() {
                let asked = Instant::now();
                let answer = look(reader, &path, &token, &mut self.rng).await;
                if at == 0 {
                    self.seen.waits.push(asked.elapsed());
                }
                if !answer.as_ref().is_ok_and(&holds) {
                    reflected = false;
                    let who = &self.me.username;
                    let mut shown = format!("{answer:?}");
                    shown.truncate(2_000);
                    let failure = format!("{who}, {kind}, write {n}: {path}: {shown}");
                    self.seen.failures.push(failure);
                }
            }
            self.seen.reflected += usize::from(reflected);
            self.seen.kinds.push(kind);
        }
        self.seen
    }

    /// A random command.
    async fn write(&mut self, n: usize) -> Written {
        let keeper = {
            let keepers = self.keepers.lock().expect("nobody panics holding it");
            keepers.choose(&mut self.rng).cloned()
        };
        match (self.rng.random_range(0..100), keeper) {
            (0..18, Some((post, _))) => self.switch_like(post).await,
            (18..34, Some((post, _))) => self.switch_repost(post).await,
            (34..56, _) => self.switch_follow().await,
            (56..64, Some((post, _))) => self.reply(&post, n).await,
            (64..72, _) if !self.loose.is_empty() => self.delete().await,
            (72..78, _) => self.rename(n).await,
            _ => self.post(n).await,
        }
    }

    async fn switch_like(&mut self, post: String) -> Written {
        let on = self.liked.insert(post.clone());
        let done = if on {
            self.me.like(&post).await
        } else {
            self.liked.remove(&post);
            self.me.unlike(&post).await
        };
        let by_id = expect(format!("/posts?ids=4711,{post}"), move |found| {
            posts(&found.body).len() == 1 && posts(&found.body)[0]["liked"] == on
        });
        let single = expect(format!("/posts/{post}"), move |post| {
            post.body["liked"] == on
        });
        let likes = expect(
            format!("/posts/{post}/likes?limit=100"),
            lists(&self.me.user_id, on),
        );
        let kind = if on { "like" } else { "unlike" };
        let expected = vec![single, likes, by_id];
        Written::new(kind, done.accepted().consistency, expected)
    }

    async fn switch_repost(&mut self, post: String) -> Written {
        let me = self.me.user_id.clone();
        let on = self.reposted.insert(post.clone());
        let done = if on {
            self.me.repost(&post).await
        } else {
            self.reposted.remove(&post);
            self.me.unrepost(&post).await
        };
        let single = expect(format!("/posts/{post}"), move |post| {
            post.body["reposted"] == on
        });
        let who = expect(format!("/posts/{post}/reposts?limit=100"), lists(&me, on));
        let path = format!("/users/{me}/posts?limit=100");
        let mine = move |shown: &Value| {
            shown["post_id"] == *post && shown["reposted_by"]["user_id"] == *me
        };
        let list = expect(path, move |page| {
            page.status == StatusCode::OK && posts(&page.body).iter().any(&mine) == on
        });
        let kind = if on { "repost" } else { "unrepost" };
        Written::new(kind, done.accepted().consistency, vec![list, single, who])
    }

    async fn reply(&mut self, post: &str, n: usize) -> Written {
        let reply = self.me.reply(post, &format!("answer {n}")).await.accepted();
        let id = reply.value;
        let replies = expect(format!("/posts/{post}/replies?limit=100"), shows(&id));
        let home = expect("/timeline", shows(&id));
        let (parent, own) = (post.to_owned(), id.clone());
        let above = expect(format!("/posts/{id}/thread"), move |thread| {
            let above = thread.body["ancestors"].as_array();
            let above = above.and_then(|all| all.last());
            let above = above.is_some_and(|post| post["post_id"] == *parent);
            above && thread.body["post"]["post_id"] == *own
        });
        let below = expect(format!("/posts/{post}/thread?limit=100"), move |thread| {
            let replies = thread.body["replies"].as_array();
            let mut replies = replies.into_iter().flatten();
            replies.any(|reply| reply["post_id"] == *id)
        });
        let expected = vec![replies, home, above, below];
        Written::new("reply", reply.consistency, expected)
    }

    async fn delete(&mut self) -> Written {
        let at = self.rng.random_range(0..self.loose.len());
        let post = self.loose.swap_remove(at);
        let token = self.me.delete(&post).await.accepted().consistency;
        let gone = expect(format!("/posts/{post}"), |post| {
            post.status == StatusCode::NOT_FOUND
        });
        let home = expect(
            "/timeline",
            shows_none(move |shown| shown["post_id"] == *post),
        );
        Written::new("delete", token, vec![home, gone])
    }

    async fn rename(&mut self, n: usize) -> Written {
        let me = self.me.user_id.clone();
        let name = format!("{} {n}", self.me.username);
        let token = self.me.rename(&name).await.accepted().consistency;
        let expected = name.clone();
        let profile = expect(format!("/users/{me}"), move |user| {
            user.body["display_name"] == *expected
        });
        let expected = name.clone();
        let own = expect("/users/me", move |user| {
            user.body["display_name"] == *expected && user.body["email"].is_string()
        });
        // On every post of theirs, too.
        let home = expect(
            "/timeline",
            shows_none(move |shown| shown["user_id"] == *me && shown["display_name"] != *name),
        );
        Written::new("profile", token, vec![profile, own, home])
    }

    async fn post(&mut self, n: usize) -> Written {
        let me = self.me.user_id.clone();
        let content = format!("{} says {n}", self.me.username);
        let posted = self.me.post(&content, &format!("key-{n}")).await;
        let Accepted { value, consistency } = posted.accepted();
        if self.rng.random_bool(0.5) {
            self.loose.push(value.clone());
        } else {
            let mut keepers = self.keepers.lock().expect("nobody panics holding it");
            keepers.push((value.clone(), me.clone()));
        }
        let home = expect("/timeline", shows(&value));
        let own = expect(format!("/users/{me}/posts?limit=1"), shows(&value));
        let single = expect(format!("/posts/{value}"), move |post| {
            post.body["content"] == *content
        });
        Written::new("post", consistency, vec![home, own, single])
    }

    async fn switch_follow(&mut self) -> Written {
        let other = self.others.choose(&mut self.rng).expect("there are others");
        let id = other.user_id.clone();
        let on = self.following.insert(id.clone());
        let done = if on {
            self.me.follow(&id).await
        } else {
            self.following.remove(&id);
            self.me.unfollow(&id).await
        };
        let token = done.accepted().consistency;
        let between = expect(format!("/users/{id}/relationship"), move |with| {
            with.body["following"] == on
        });
        let many = expect(format!("/relationships?ids=4711,{id}"), move |with| {
            with.body["relationships"][0]["following"] == on
        });
        let list = expect(
            format!("/users/{}/following?limit=100", self.me.user_id),
            lists(&id, on),
        );
        // What they wrote themselves: others may repost it to the reader.
        let theirs = move |shown: &Value| shown["user_id"] == *id && shown["reposted_by"].is_null();
        let first = {
            let keepers = self.keepers.lock().expect("nobody panics holding it");
            let newest = keepers.iter().rev();
            newest
                .clone()
                .find(|(_, author)| *author == other.user_id)
                .map(|(post, _)| post.clone())
        };
        let home = match first.filter(|_| on) {
            Some(post) => expect("/timeline", shows(&post)),
            None if on => expect("/timeline", |page| page.status == StatusCode::OK),
            None => expect("/timeline", shows_none(theirs)),
        };
        let kind = if on { "follow" } else { "unfollow" };
        Written::new(kind, token, vec![home, between, many, list])
    }
}

/// One read with a token. The home timeline is read whole: what is looked for may be far down.
async fn look(
    reader: &Session,
    path: &str,
    token: &str,
    rng: &mut StdRng,
) -> Result<Answer, String> {
    if path != "/timeline" {
        return reader.get(path, Some(token)).await;
    }
    let limit = rng.random_range(20..=100);
    let all = scroll(reader, path, limit, Some(token)).await;
    all.map(|all| Answer {
        status: StatusCode::OK,
        retry_after: None,
        body: json!({ "posts": all }),
    })
}
