//! Posts that the input has a name for, which replies and reactions mean by it.

use std::collections::HashMap;

use shared::contract::events::LogStream;
use shared::contract::ids::{PostId, UserId};

use super::error::ImportError;
use super::loader::Loader;
use super::order::name_hash;
use crate::domain::post::Post;

#[derive(Clone, Copy, Debug)]
pub(super) struct NamedPost {
    pub(super) id: PostId,
    pub(super) author: UserId,
    /// Written by this run; an older one may be deleted by now.
    pub(super) fresh: bool,
}

/// By a hash of the name.
#[derive(Default)]
pub(super) struct NamedPosts(HashMap<u64, NamedPost>);

impl NamedPosts {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, name: u64) -> Option<NamedPost> {
        self.0.get(&name).copied()
    }

    pub(super) fn insert(&mut self, name: u64, post: NamedPost) {
        self.0.insert(name, post);
    }

    /// A post of the input by its name. One that an earlier run wrote may be deleted by now.
    pub(super) async fn find(
        &self,
        loader: &mut Loader<'_>,
        name: &str,
    ) -> Result<Option<Post>, ImportError> {
        let Some(named) = self.get(name_hash(name)) else {
            return Ok(None);
        };
        let deleted = if named.fresh {
            false
        } else {
            let store = loader.store();
            let stream = LogStream::Post(named.id);
            let last = loader
                .with_retries(|| store.streams.last(named.author, stream))
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
}
