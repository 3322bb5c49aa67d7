//! The three ways in which rows are read: all that a filter finds, or the first of them by key.

use bson::{Document, doc};
use futures_util::TryStreamExt;
use serde::de::DeserializeOwned;

use super::error::ViewError;
use super::generation::{Generation, View};

impl Generation {
    /// All rows that a filter finds.
    pub async fn all<T>(&self, view: View, filter: Document) -> Result<Vec<T>, ViewError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let rows = self.collection::<T>(view).find(filter).await?;
        Ok(rows.try_collect().await?)
    }

    /// The rows with the highest keys, in falling order.
    pub async fn newest<T>(
        &self,
        view: View,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<T>, ViewError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.sorted(view, filter, -1, limit).await
    }

    /// The rows with the lowest keys, in rising order.
    pub async fn oldest<T>(
        &self,
        view: View,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<T>, ViewError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.sorted(view, filter, 1, limit).await
    }

    async fn sorted<T>(
        &self,
        view: View,
        filter: Document,
        order: i32,
        limit: usize,
    ) -> Result<Vec<T>, ViewError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.collection::<T>(view);
        let query = rows.find(filter).sort(doc! { "_id": order }).limit(limit);
        Ok(query.await?.try_collect().await?)
    }
}
