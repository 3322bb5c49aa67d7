//! A plain recomputation of what readers should see, straight from the log.
//!
//! Obviously right rather than fast, and it shares nothing with the fold: the last event of each
//! log stream says what holds, and a timeline is sorted anew for each reader.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use shared::contract::events::{
    Event, LogStream, Payload, PostCreated, PostDeleted, PostRef, UserRegistered,
};
use shared::contract::ids::{EntryId, PostId, UserId};
use shared::contract::time::Timestamp;

use super::visible::{Cuts, Line, List, PAGE, Visible, answered};
use crate::reads::bodies::{PostView, Relationship, Rendered, Reposter, UserView};

#[derive(Debug)]
struct User {
    username: String,
    display_name: String,
    bio: String,
    verified: bool,
    active: bool,
    at: Timestamp,
}

#[derive(Debug)]
struct Post {
    author: UserId,
    content: String,
    at: Timestamp,
    reply_to: Option<PostRef>,
}

/// What holds after a set of events.
#[derive(Debug, Default)]
pub struct Model {
    users: BTreeMap<UserId, User>,
    posts: HashMap<PostId, Post>,
    following: HashMap<UserId, BTreeSet<UserId>>,
    followers: HashMap<UserId, BTreeSet<UserId>>,
    likes: HashMap<PostId, HashSet<UserId>>,
    reposts: HashMap<PostId, HashSet<UserId>>,
    replies: HashMap<PostId, BTreeSet<PostId>>,
    /// What each post answered, deleted or not.
    answered: HashMap<PostId, PostId>,
    /// What each user posted and reposted.
    author_feeds: HashMap<UserId, BTreeMap<EntryId, PostId>>,
}

/// What belongs to a key, empty at first.
fn set<K: Eq + Hash, S: Default>(sets: &mut HashMap<K, S>, key: K) -> &mut S {
    sets.entry(key).or_default()
}

impl Model {
    /// Recomputes from the events of the log, in any order.
    pub fn of(mut events: Vec<Event>) -> Self {
        // A stream's events grow with their version, and so do ids inside a stream.
        events.sort_by_key(|event| event.id);
        let mut model = Self::default();
        for event in events {
            model.apply(event);
        }
        model
    }

    fn apply(&mut self, event: Event) {
        let actor = event.actor;
        match event.payload {
            Payload::UserRegistered(user) => self.registered(actor, event.at, user),
            Payload::ProfileEdited(profile) => self.change(actor, |user| {
                user.display_name = profile.display_name;
                user.bio = profile.bio;
            }),
            Payload::UserDeactivated(_) => self.change(actor, |user| user.active = false),
            Payload::UserVerified(_) => self.change(actor, |user| user.verified = true),
            // A suspended user keeps what they have: nothing that readers see changes.
            Payload::UserSuspended(_) | Payload::UserUnsuspended(_) => (),
            Payload::PostCreated(created) => {
                self.post_created(event.id.cast(), actor, event.at, created);
            }
            Payload::PostDeleted(deleted) => self.post_deleted(actor, &deleted),
            Payload::Followed(edge) => {
                set(&mut self.following, edge.follower).insert(edge.followee);
                set(&mut self.followers, edge.followee).insert(edge.follower);
            }
            Payload::Unfollowed(edge) => {
                set(&mut self.following, edge.follower).remove(&edge.followee);
                set(&mut self.followers, edge.followee).remove(&edge.follower);
            }
            Payload::Liked(post) => {
                set(&mut self.likes, post.post).insert(actor);
            }
            Payload::Unliked(post) => {
                set(&mut self.likes, post.post).remove(&actor);
            }
            Payload::Reposted(post) => {
                set(&mut self.reposts, post.post).insert(actor);
                set(&mut self.author_feeds, actor).insert(event.id.cast(), post.post);
            }
            Payload::Unreposted(repost) => {
                set(&mut self.reposts, repost.post).remove(&actor);
                set(&mut self.author_feeds, actor).remove(&repost.entry);
            }
        }
    }

    fn registered(&mut self, user: UserId, at: Timestamp, profile: UserRegistered) {
        let profile = User {
            username: profile.username,
            display_name: profile.display_name,
            bio: profile.bio,
            verified: false,
            active: true,
            at,
        };
        self.users.insert(user, profile);
    }

    fn post_created(&mut self, id: PostId, author: UserId, at: Timestamp, post: PostCreated) {
        if let Some(parent) = post.reply_to {
            set(&mut self.replies, parent.post).insert(id);
            self.answered.insert(id, parent.post);
        }
        let post = Post {
            author,
            content: post.content,
            at,
            reply_to: post.reply_to,
        };
        self.posts.insert(id, post);
        set(&mut self.author_feeds, author).insert(id.cast(), id);
    }

    fn post_deleted(&mut self, author: UserId, deleted: &PostDeleted) {
        self.posts.remove(&deleted.post);
        if let Some(parent) = deleted.reply_to {
            set(&mut self.replies, parent.post).remove(&deleted.post);
        }
        set(&mut self.author_feeds, author).remove(&deleted.post.cast());
    }

    fn change(&mut self, user: UserId, change: impl FnOnce(&mut User)) {
        if let Some(user) = self.users.get_mut(&user) {
            change(user);
        }
    }

    pub fn users(&self) -> impl Iterator<Item = UserId> {
        self.users.keys().copied()
    }

    pub fn posts_len(&self) -> usize {
        self.posts.len()
    }

    pub fn follows_len(&self) -> usize {
        self.following.values().map(BTreeSet::len).sum()
    }

    fn active(&self, id: UserId) -> Option<&User> {
        self.users.get(&id).filter(|user| user.active)
    }

    /// All that one user sees and shows, in pages of `PAGE`, which may be cut short.
    pub fn visible(&self, id: UserId, cuts: &Cuts) -> Visible {
        if self.active(id).is_none() {
            return Visible::default();
        }
        let people = |ids: Vec<UserId>| vec![ids.into_iter().map(Line::User).collect()];
        let none = BTreeSet::new();
        let paged = |list: List, entries: &[PostView]| {
            let cuts = cuts.get(&list).unwrap_or(&none);
            let pages = pages(entries, PAGE, cuts).into_iter();
            let lines = |page: Vec<PostView>| page.into_iter().map(Box::new).map(Line::Post);
            pages.map(|page| lines(page).collect()).collect()
        };
        let mut lists: BTreeMap<List, Vec<Vec<Line>>> = BTreeMap::from([
            (List::Followers, people(self.followers(id))),
            (List::Following, people(self.followees(id))),
            (List::Mutuals, people(self.mutuals(id))),
            (List::Home, paged(List::Home, &self.home(id))),
            (List::Posts, paged(List::Posts, &self.posts_of(id))),
        ]);
        let own: Vec<List> = answered(lists[&List::Posts].iter().flatten()).collect();
        for list in own {
            if let List::Replies(post) = list {
                lists.insert(list, paged(list, &self.replies_to(post)));
            }
        }
        Visible {
            profile: self.user(id),
            lists,
            cuts: cuts.clone(),
        }
    }

    /// The profile that others see; `None` for a deactivated user.
    pub fn user(&self, id: UserId) -> Option<UserView> {
        let user = self.active(id)?;
        let own = self.author_feeds.get(&id).into_iter().flatten();
        Some(UserView {
            user_id: id,
            username: user.username.clone(),
            display_name: user.display_name.clone(),
            bio: user.bio.clone(),
            verified: user.verified,
            created_at: user.at,
            followers_count: count(self.followers.get(&id).map_or(0, BTreeSet::len)),
            following_count: count(self.following.get(&id).map_or(0, BTreeSet::len)),
            posts_count: count(
                own.filter(|(entry, post)| entry.get() == post.get())
                    .count(),
            ),
            email: None,
        })
    }

    /// Followees who are active, newest account first.
    pub fn followees(&self, id: UserId) -> Vec<UserId> {
        self.listed(self.following.get(&id))
    }

    /// Followers who are active, newest account first.
    pub fn followers(&self, id: UserId) -> Vec<UserId> {
        self.listed(self.followers.get(&id))
    }

    /// Followees who are active and follow back, newest account first.
    pub fn mutuals(&self, id: UserId) -> Vec<UserId> {
        let mut mutuals = self.followees(id);
        let followers = self.followers.get(&id);
        mutuals.retain(|peer| followers.is_some_and(|followers| followers.contains(peer)));
        mutuals
    }

    /// How `viewer` and `user` stand; `None` if there is no such user.
    pub fn relationship(&self, viewer: UserId, user: UserId) -> Option<Relationship> {
        self.active(user)?;
        let follows = |follower, followee| {
            let following = self.following.get(&follower);
            following.is_some_and(|followees| followees.contains(&followee))
        };
        Some(Relationship {
            following: follows(viewer, user),
            followed_by: follows(user, viewer),
        })
    }

    fn listed(&self, ids: Option<&BTreeSet<UserId>>) -> Vec<UserId> {
        ids.into_iter()
            .flatten()
            .rev()
            .copied()
            .filter(|id| self.active(*id).is_some())
            .collect()
    }

    /// Every entry of a home timeline, newest first.
    pub fn home(&self, reader: UserId) -> Vec<PostView> {
        let followees = self.following.get(&reader).into_iter().flatten();
        let authors = followees.chain([&reader]);
        let mut entries: Vec<(EntryId, PostId, UserId)> = authors
            .flat_map(|author| {
                self.author_feeds
                    .get(author)
                    .into_iter()
                    .flatten()
                    .map(|(entry, post)| (*entry, *post, *author))
            })
            .collect();
        entries.sort_by_key(|(entry, ..)| std::cmp::Reverse(*entry));
        entries
            .into_iter()
            .filter_map(|(entry, post, by)| self.post(entry, post, by, Some(reader)))
            .collect()
    }

    /// Everything a user posted and reposted, newest first.
    pub fn posts_of(&self, user: UserId) -> Vec<PostView> {
        let feed = self.author_feeds.get(&user).into_iter().flatten();
        feed.rev()
            .filter_map(|(entry, post)| self.post(*entry, *post, user, None))
            .collect()
    }

    /// Every post there is, whether its author is active or not.
    pub fn posts(&self) -> impl Iterator<Item = PostId> {
        self.posts.keys().copied()
    }

    /// A post by itself, if it stands.
    pub fn by_id(&self, post: PostId, viewer: Option<UserId>) -> Option<PostView> {
        self.post(post.cast(), post, post.cast(), viewer)
    }

    /// The replies to a post, newest first.
    pub fn replies_to(&self, post: PostId) -> Vec<PostView> {
        let standing = self.by_id(post, None);
        let replies = self.replies.get(&post).filter(|_| standing.is_some());
        let replies = replies.into_iter().flatten().rev();
        replies
            .filter_map(|reply| self.by_id(*reply, None))
            .collect()
    }

    /// What a post answers, down from the first: those that stand.
    pub fn ancestors_of(&self, post: PostId) -> Vec<PostView> {
        let above = |post: &PostId| self.answered.get(post).copied();
        let all = std::iter::successors(above(&post), above);
        let mut shown: Vec<_> = all.filter_map(|post| self.by_id(post, None)).collect();
        shown.reverse();
        shown
    }

    /// Who likes a post and is active, newest account first.
    pub fn likers(&self, post: PostId) -> Vec<UserId> {
        self.reacting(&self.likes, post)
    }

    /// Who reposted a post and is active, newest account first.
    pub fn reposters(&self, post: PostId) -> Vec<UserId> {
        self.reacting(&self.reposts, post)
    }

    fn reacting(&self, who: &HashMap<PostId, HashSet<UserId>>, post: PostId) -> Vec<UserId> {
        let who = who.get(&post).filter(|_| self.by_id(post, None).is_some());
        let who: BTreeSet<UserId> = who.into_iter().flatten().copied().collect();
        self.listed(Some(&who))
    }

    fn post(
        &self,
        entry: EntryId,
        id: PostId,
        by: UserId,
        viewer: Option<UserId>,
    ) -> Option<PostView> {
        let post = self.posts.get(&id)?;
        let author = self.active(post.author)?;
        let reposted_by = if entry.get() == id.get() {
            None
        } else {
            let reposter = self.active(by)?;
            Some(Reposter {
                user_id: by,
                username: reposter.username.clone(),
                reposted_at: entry.timestamp(),
            })
        };
        let by_viewer = |who: &HashMap<PostId, HashSet<UserId>>| {
            viewer.map(|viewer| who.get(&id).is_some_and(|users| users.contains(&viewer)))
        };
        Some(PostView {
            entry_id: entry,
            post_id: id,
            user_id: post.author,
            username: author.username.clone(),
            display_name: author.display_name.clone(),
            content: post.content.clone(),
            created_at: post.at,
            reply_to_post_id: post.reply_to.map(|parent| parent.post),
            likes_count: count(self.likes.get(&id).map_or(0, HashSet::len)),
            reposts_count: count(self.reposts.get(&id).map_or(0, HashSet::len)),
            replies_count: count(self.replies.get(&id).map_or(0, BTreeSet::len)),
            liked: by_viewer(&self.likes),
            reposted: by_viewer(&self.reposts),
            reposted_by,
            rendered: Rendered::default(),
        })
    }
}

/// The pages that a list of entries makes: each post once a page, a page ends when it is full, or
/// with the entry that it was cut at.
pub fn pages(entries: &[PostView], limit: usize, cuts: &BTreeSet<i64>) -> Vec<Vec<PostView>> {
    let mut pages: Vec<Vec<PostView>> = vec![Vec::new()];
    let mut cuts = cuts.iter().rev().peekable();
    let begin_unless_open = |pages: &mut Vec<Vec<PostView>>| {
        if pages.last().is_some_and(|page| page.len() == limit) {
            pages.push(Vec::new());
        }
    };
    for entry in entries {
        while cuts.next_if(|cut| **cut > entry.entry_id.get()).is_some() {
            begin_unless_open(&mut pages);
            pages.push(Vec::new());
        }
        begin_unless_open(&mut pages);
        if let Some(page) = pages.last_mut()
            && page.iter().all(|shown| shown.post_id != entry.post_id)
        {
            page.push(entry.clone());
        }
    }
    for _ in cuts {
        begin_unless_open(&mut pages);
        pages.push(Vec::new());
    }
    pages
}

fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// Whether an event's stream is the one its payload belongs to: a log that says otherwise is
/// corrupt.
pub fn is_consistent(event: &Event) -> bool {
    match (&event.payload, event.stream) {
        (
            Payload::UserRegistered(_)
            | Payload::ProfileEdited(_)
            | Payload::UserDeactivated(_)
            | Payload::UserVerified(_)
            | Payload::UserSuspended(_)
            | Payload::UserUnsuspended(_),
            LogStream::User(user),
        ) => user == event.actor,
        (Payload::PostCreated(_), LogStream::Post(post)) => post.get() == event.id.get(),
        (Payload::PostDeleted(deleted), LogStream::Post(post)) => deleted.post == post,
        (
            Payload::Followed(edge) | Payload::Unfollowed(edge),
            LogStream::Follow { follower, followee },
        ) => (edge.follower, edge.followee) == (follower, followee),
        (Payload::Liked(liked) | Payload::Unliked(liked), LogStream::Like { user, post }) => {
            (event.actor, liked.post) == (user, post)
        }
        (Payload::Reposted(reposted), LogStream::Repost { user, post }) => {
            (event.actor, reposted.post) == (user, post)
        }
        (Payload::Unreposted(withdrawn), LogStream::Repost { user, post }) => {
            (event.actor, withdrawn.post) == (user, post)
        }
        _ => false,
    }
}
