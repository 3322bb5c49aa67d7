//! Row changes as statements: inserts, updates and deletes by collection and key.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, doc};

use super::generation::View;
use super::keys::Key;

/// The row changes of one batch. A row's changes are merged as they come.
#[derive(Debug, Default)]
pub(super) struct RowChanges {
    pub(super) deletes: BTreeMap<View, BTreeSet<Key>>,
    pub(super) inserts: BTreeMap<View, BTreeMap<Key, Document>>,
    pub(super) updates: BTreeMap<View, BTreeMap<Key, Update>>,
}

/// Changes of a row that was there before the batch.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub set: Document,
    pub inc: BTreeMap<&'static str, i64>,
}

impl RowChanges {
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.inserts.is_empty() && self.updates.is_empty()
    }

    pub fn count(&self) -> usize {
        let deletes = self.deletes.values().map(BTreeSet::len);
        let inserts = self.inserts.values().map(BTreeMap::len);
        let updates = self.updates.values().map(BTreeMap::len);
        deletes.chain(inserts).chain(updates).sum()
    }

    /// A row that is not there, or is deleted by this batch.
    pub fn insert(&mut self, view: View, key: Key, mut row: Document) {
        row.insert("_id", key.bson());
        self.inserts.entry(view).or_default().insert(key, row);
    }

    /// Fields of a row, made if it is missing.
    pub fn set(&mut self, view: View, key: Key, fields: Document) {
        if let Some(row) = self.inserted(view, &key) {
            row.extend(fields);
        } else {
            self.updates
                .entry(view)
                .or_default()
                .entry(key)
                .or_default()
                .set
                .extend(fields);
        }
    }

    /// Adds to a counter of a row, made if it is missing.
    pub fn add(&mut self, view: View, key: Key, field: &'static str, delta: i64) {
        if let Some(row) = self.inserted(view, &key) {
            let before = row.get_i64(field).unwrap_or(0);
            row.insert(field, before + delta);
        } else {
            let update = self
                .updates
                .entry(view)
                .or_default()
                .entry(key)
                .or_default();
            *update.inc.entry(field).or_default() += delta;
        }
    }

    pub fn delete(&mut self, view: View, key: Key) {
        if let Some(rows) = self.inserts.get_mut(&view) {
            rows.remove(&key);
        }
        if let Some(rows) = self.updates.get_mut(&view) {
            rows.remove(&key);
        }
        self.deletes.entry(view).or_default().insert(key);
    }

    fn inserted(&mut self, view: View, key: &Key) -> Option<&mut Document> {
        self.inserts.get_mut(&view)?.get_mut(key)
    }
}

impl Update {
    /// The statement for the `update` command. Posts and users are made by their own event alone.
    pub(super) fn statement(&self, view: View, key: &Key) -> Option<Document> {
        let upsert = !matches!(view, View::Posts | View::Users);
        let mut change = Document::new();
        if !self.set.is_empty() {
            change.insert("$set", self.set.clone());
        }
        let inc: Document = self
            .inc
            .iter()
            .filter(|(_, delta)| **delta != 0)
            .map(|(field, delta)| ((*field).to_owned(), Bson::Int64(*delta)))
            .collect();
        if !inc.is_empty() {
            change.insert("$inc", inc);
        }
        (!change.is_empty())
            .then(|| doc! { "q": { "_id": key.bson() }, "u": change, "upsert": upsert })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::Number(7)
    }

    #[test]
    fn changes_of_a_new_row_merge_into_it() {
        let mut changes = RowChanges::default();
        changes.insert(View::Posts, key(), doc! { "likes": 1_i64 });
        changes.add(View::Posts, key(), "likes", 2);
        changes.set(View::Posts, key(), doc! { "v": 2_i64 });
        assert_eq!(
            changes.inserts[&View::Posts][&key()],
            doc! { "likes": 3_i64, "_id": 7_i64, "v": 2_i64 }
        );
        assert!(changes.updates.is_empty());
    }

    #[test]
    fn a_row_inserted_and_deleted_in_one_batch_is_gone() {
        let mut changes = RowChanges::default();
        changes.insert(View::Followers, key(), doc! {});
        changes.delete(View::Followers, key());
        assert!(changes.inserts[&View::Followers].is_empty());
        changes.insert(View::Followers, key(), doc! {});
        // Deletes are written first: the row stands in the end.
        assert!(changes.deletes[&View::Followers].contains(&key()));
        assert_eq!(changes.inserts[&View::Followers].len(), 1);
    }

    #[test]
    fn counters_that_cancel_out_write_nothing() {
        let mut changes = RowChanges::default();
        changes.add(View::Posts, key(), "likes", 1);
        changes.add(View::Posts, key(), "likes", -1);
        assert_eq!(
            changes.updates[&View::Posts][&key()].statement(View::Posts, &key()),
            None
        );
    }
}
