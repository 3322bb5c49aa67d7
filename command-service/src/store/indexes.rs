//! The indexes, made at every start: making one that exists changes nothing.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Database, IndexModel};

pub(super) async fn make(database: &Database) -> mongodb::error::Result<()> {
    let events = database.collection::<Document>(shared::contract::log::COLLECTION);
    let unique = || IndexOptions::builder().unique(true);
    let only = |field: &str| doc! { field: { "$exists": true } };
    events
        .create_indexes([
            // Optimistic concurrency, and the way to a stream's last event.
            index(
                doc! { "owner": 1, "stream": 1, "version": 1 },
                unique().build(),
            ),
            // What a user has done last.
            index(doc! { "owner": 1, "_id": 1 }, IndexOptions::default()),
            // A repeated idempotency key.
            index(
                doc! { "owner": 1, "key": 1 },
                unique().partial_filter_expression(only("key")).build(),
            ),
            // Whether a user was ever verified.
            index(
                doc! { "owner": 1 },
                IndexOptions::builder()
                    .name("verified".to_owned())
                    .partial_filter_expression(doc! { "type": "user.verified" })
                    .build(),
            ),
            // What a user who left has answered.
            index(
                doc! { "owner": 1, "stream": 1 },
                IndexOptions::builder()
                    .name("replies".to_owned())
                    .partial_filter_expression(only("data.reply_to.post"))
                    .build(),
            ),
            // Who follows a user who left.
            index(
                doc! { "data.followee": 1, "owner": 1 },
                IndexOptions::builder()
                    .partial_filter_expression(only("data.followee"))
                    .build(),
            ),
        ])
        .await?;
    let sessions = database.collection::<Document>(shared::contract::sessions::SESSIONS);
    let at_expiry = IndexOptions::builder().expire_after(Duration::ZERO).build();
    sessions
        .create_indexes([
            index(doc! { "expires_at": 1 }, at_expiry),
            // A user's own, the one used last first.
            index(
                doc! { "user": 1, "expires_at": -1 },
                IndexOptions::default(),
            ),
            // One of them, and those that have no id.
            index(doc! { "user": 1, "sid": 1 }, IndexOptions::default()),
        ])
        .await?;
    // A collection that is first written in a transaction must exist on older servers.
    for name in super::accounts::COLLECTIONS {
        let rows = database.collection::<Document>(name);
        let by_user = index(doc! { "user": 1 }, IndexOptions::default());
        rows.create_index(by_user).await?;
    }
    Ok(())
}

fn index(keys: Document, options: IndexOptions) -> IndexModel {
    IndexModel::builder().keys(keys).options(options).build()
}
