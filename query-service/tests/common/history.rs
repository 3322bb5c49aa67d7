//! Random things that people do, in an order in which a command service could have written them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shared::contract::events::{
    Edge, Event, LogStream, NoAddress, NoData, Payload, PostCreated, PostDeleted, PostRef,
    ProfileEdited, Unreposted, UserRegistered,
};
use shared::contract::ids::{EntryId, EventId, Id, PostId, UserId};
use shared::contract::time::Timestamp;

/// A random history that a command service could have written.
pub struct History {
    pub rng: StdRng,
    next: i64,
    users: Vec<UserId>,
    registered: usize,
    posts: Vec<(PostId, UserId, Option<PostRef>)>,
    /// Whose every post is, and what it answers.
    written: HashMap<PostId, (UserId, Option<PostRef>)>,
    /// Ties of those who left, not ended yet.
    farewells: VecDeque<(UserId, LogStream)>,
    versions: HashMap<LogStream, (i64, Option<EntryId>)>,
}

impl History {
    pub fn new(seed: u64) -> Self {
        // Ids of the recent past, a millisecond apart, so that windows of time matter.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_millis() as i64;
        Self {
            rng: StdRng::seed_from_u64(seed),
            next: (now - 3_600_000) << 16,
            users: Vec::new(),
            registered: 0,
            posts: Vec::new(),
            written: HashMap::new(),
            farewells: VecDeque::new(),
            versions: HashMap::new(),
        }
    }

    /// Everything from here on happens after this moment, in milliseconds since 1970: the same seed
    /// makes the same history again.
    pub fn begin_at(&mut self, millis: i64) {
        self.next = millis << 16;
    }

    /// From here on ids are ahead of the clock by this: as of a replica whose clock is slow.
    pub fn go_ahead_of_the_clock(&mut self, by: Duration) {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        self.next = ((now + by).as_millis() as i64) << 16;
    }

    /// How much has happened.
    pub fn len(&self) -> usize {
        self.versions
            .values()
            .map(|(version, _)| *version)
            .sum::<i64>() as usize
    }

    /// Everything from here on happens so much earlier.
    pub fn earlier(&mut self, by: Duration) {
        self.next -= (by.as_millis() as i64) << 16;
    }

    pub fn users(&self) -> &[UserId] {
        &self.users
    }

    fn event(
        &mut self,
        actor: Option<UserId>,
        stream: impl FnOnce(EventId) -> LogStream,
        payload: Payload,
    ) -> Event {
        self.next += 1 << 16;
        let id: EventId = Id::new(self.next).expect("a positive id");
        let stream = stream(id);
        let version = self.versions.entry(stream).or_default();
        version.0 += 1;
        Event {
            id,
            stream,
            version: version.0,
            actor: actor.unwrap_or(id.cast()),
            at: Timestamp::from_millis(self.next >> 16),
            payload,
        }
    }

    pub fn register(&mut self) -> Event {
        let n = self.registered;
        self.registered += 1;
        let user = UserRegistered {
            username: format!("user_{n}"),
            email: NoAddress,
            display_name: format!("User {n}"),
            bio: String::new(),
        };
        let event = self.event(
            None,
            |id| LogStream::User(id.cast()),
            Payload::UserRegistered(user),
        );
        self.users.push(event.id.cast());
        event
    }

    pub fn post(&mut self, author: UserId, reply_to: Option<PostRef>) -> Event {
        let content = format!("post {}", self.posts.len());
        let event = self.event(
            Some(author),
            |id| LogStream::Post(id.cast()),
            Payload::PostCreated(PostCreated { content, reply_to }),
        );
        self.posts.push((event.id.cast(), author, reply_to));
        self.written.insert(event.id.cast(), (author, reply_to));
        event
    }

    pub fn delete(&mut self, post: PostId) -> Event {
        self.posts.retain(|(other, ..)| *other != post);
        let (author, reply_to) = self.written[&post];
        self.event(
            Some(author),
            |_| LogStream::Post(post),
            Payload::PostDeleted(PostDeleted { post, reply_to }),
        )
    }

    /// Follows, or unfollows where the edge stands.
    pub fn toggle_follow(&mut self, follower: UserId, followee: UserId) -> Event {
        let stream = LogStream::Follow { follower, followee };
        let edge = Edge { follower, followee };
        let on = self
            .versions
            .get(&stream)
            .is_none_or(|(version, _)| version % 2 == 0);
        let payload = if on {
            Payload::Followed(edge)
        } else {
            Payload::Unfollowed(edge)
        };
        self.event(Some(follower), |_| stream, payload)
    }

    pub fn toggle_like(&mut self, user: UserId, post: PostRef) -> Event {
        let stream = LogStream::Like {
            user,
            post: post.post,
        };
        let on = self
            .versions
            .get(&stream)
            .is_none_or(|(version, _)| version % 2 == 0);
        let payload = if on {
            Payload::Liked(post)
        } else {
            Payload::Unliked(post)
        };
        self.event(Some(user), |_| stream, payload)
    }

    pub fn toggle_repost(&mut self, user: UserId, post: PostRef) -> Event {
        let stream = LogStream::Repost {
            user,
            post: post.post,
        };
        let withdrawn = self
            .versions
            .get(&stream)
            .filter(|(version, _)| version % 2 == 1)
            .and_then(|(_, entry)| *entry);
        let payload = match withdrawn {
            None => Payload::Reposted(post),
            Some(entry) => Payload::Unreposted(Unreposted {
                post: post.post,
                author: post.author,
                entry,
            }),
        };
        let event = self.event(Some(user), |_| stream, payload);
        if let Some(version) = self.versions.get_mut(&stream) {
            version.1 = Some(event.id.cast());
        }
        event
    }

    pub fn any_user(&mut self) -> UserId {
        self.users[self.rng.random_range(0..self.users.len())]
    }

    /// Whoever leaves does nothing any more; what counts elsewhere of them ends one by one, as
    /// [`History::act`] goes on.
    pub fn leave(&mut self, user: UserId) -> Event {
        self.users.retain(|other| *other != user);
        self.posts.retain(|(_, author, _)| *author != user);
        let is_tie = |stream: &LogStream| match *stream {
            LogStream::Follow { follower, followee } => follower == user || followee == user,
            LogStream::Repost { user: by, .. } => by == user,
            LogStream::Post(post) => {
                let (author, reply_to) = self.written[&post];
                author == user && reply_to.is_some()
            }
            LogStream::User(_) | LogStream::Like { .. } => false,
        };
        let ties = self.versions.keys().filter(|stream| is_tie(stream));
        let mut ties: Vec<LogStream> = ties.copied().collect();
        // In an order that a seed repeats.
        ties.sort_by_key(LogStream::to_string);
        let ties = ties.into_iter().map(|tie| (user, tie));
        self.farewells.extend(ties);
        let left = Payload::UserDeactivated(NoData {});
        self.event(Some(user), |_| LogStream::User(user), left)
    }

    /// Ends a tie of somebody who left, unless it has ended.
    fn farewell(&mut self) -> Option<Event> {
        while let Some((actor, stream)) = self.farewells.pop_front() {
            let (version, entry) = self.versions[&stream];
            if version % 2 == 0 {
                continue;
            }
            let ended = match stream {
                LogStream::Follow { follower, followee } => {
                    Payload::Unfollowed(Edge { follower, followee })
                }
                LogStream::Repost { post, .. } => Payload::Unreposted(Unreposted {
                    post,
                    author: self.written[&post].0,
                    entry: entry.expect("a repost that stands has an entry"),
                }),
                LogStream::Post(post) => Payload::PostDeleted(PostDeleted {
                    post,
                    reply_to: self.written[&post].1,
                }),
                LogStream::User(_) | LogStream::Like { .. } => unreachable!("no tie: {stream}"),
            };
            return Some(self.event(Some(actor), |_| stream, ended));
        }
        None
    }

    /// Random things that people do, in an order in which the log may hold them: who does not
    /// know of each other may be the other way round than their ids.
    pub fn acts(&mut self, count: usize) -> Vec<Event> {
        let mut events: Vec<Event> = (0..count).map(|_| self.act()).collect();
        for at in 1..events.len() {
            let [one, two] = [&events[at - 1], &events[at]];
            let free = |event: &Event| match &event.payload {
                Payload::PostCreated(post) => post.reply_to.is_none(),
                Payload::Followed(_) | Payload::Unfollowed(_) => true,
                Payload::UserRegistered(_)
                | Payload::ProfileEdited(_)
                | Payload::UserDeactivated(_)
                | Payload::UserVerified(_)
                | Payload::UserSuspended(_)
                | Payload::UserUnsuspended(_)
                | Payload::PostDeleted(_)
                | Payload::Liked(_)
                | Payload::Unliked(_)
                | Payload::Reposted(_)
                | Payload::Unreposted(_) => false,
            };
            let strangers = one.actor != two.actor && one.stream != two.stream;
            if strangers && free(one) && free(two) && self.rng.random_bool(0.5) {
                events.swap(at - 1, at);
            }
        }
        events
    }

    /// One random thing that somebody does.
    pub fn act(&mut self) -> Event {
        if self.rng.random_bool(0.5)
            && let Some(ended) = self.farewell()
        {
            return ended;
        }
        let actor = self.any_user();
        let other = self.any_user();
        let any_post = match self.posts.len() {
            0 => None,
            len => Some(self.rng.random_range(0..len)),
        };
        match (self.rng.random_range(0..100), any_post) {
            (0..30, _) if other != actor => self.toggle_follow(actor, other),
            (30..50, Some(at)) => {
                let (post, author, _) = self.posts[at];
                self.toggle_like(actor, PostRef { post, author })
            }
            (50..62, Some(at)) => {
                let (post, author, _) = self.posts[at];
                self.toggle_repost(actor, PostRef { post, author })
            }
            (62..70, Some(at)) => {
                let (post, ..) = self.posts[at];
                self.delete(post)
            }
            (70..75, Some(at)) => {
                let (post, author, _) = self.posts[at];
                self.post(actor, Some(PostRef { post, author }))
            }
            (75..77, _) => {
                let profile = ProfileEdited {
                    display_name: format!("Again {}", self.next),
                    bio: "new".into(),
                };
                self.event(
                    Some(actor),
                    |_| LogStream::User(actor),
                    Payload::ProfileEdited(profile),
                )
            }
            (77, _) => self.event(
                Some(actor),
                |_| LogStream::User(actor),
                Payload::UserVerified(NoData {}),
            ),
            (79..81, _) if self.users.len() < 16 => self.register(),
            (78, _) if self.users.len() > 6 => self.leave(actor),
            _ => self.post(actor, None),
        }
    }
}
