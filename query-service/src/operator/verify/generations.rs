//! Two generations of views, as one user sees them.

use std::time::Duration;

use shared::contract::ids::UserId;

use super::visible::{List, PAGE, answered, compare_page};
use crate::reads::model::ReadModel;
use crate::reads::unanswered::Unanswered;

/// What a user sees otherwise in another generation of views: a line for each page.
///
/// While others write, two generations are at the same position only for moments. So both are
/// asked for the same page at once, and again while they differ: only what stays different counts.
/// Whole timelines, read one after the other, would differ for as long as people write.
pub async fn compare_generations(
    old: &ReadModel,
    new: &ReadModel,
    user: UserId,
) -> Result<Vec<String>, Unanswered> {
    let profiles = settled(
        async || tokio::try_join!(old.user(user), new.user(user)),
        |(before, after)| before == after,
    );
    let (before, after) = profiles.await?;
    let mut differences = Vec::new();
    if before != after {
        differences.push(format!(
            "user {user}: profile: expected {before:?}, shown {after:?}"
        ));
    }
    let mut lists = Vec::from(List::OF_EVERYBODY);
    while let Some(list) = lists.pop() {
        let (mut page, mut cursor) = (0, None::<String>);
        loop {
            let at = cursor.as_deref();
            let pages = settled(
                async || {
                    let (before, after) = (
                        list.page(old, user, PAGE, at),
                        list.page(new, user, PAGE, at),
                    );
                    tokio::try_join!(before, after)
                },
                |(before, after)| {
                    let (before, after) = (before.comparable(after), after.comparable(before));
                    before == after
                },
            );
            let (before, after) = pages.await?;
            let (shown, again) = (before.comparable(&after), after.comparable(&before));
            differences.extend(compare_page(user, list, page, shown, again));
            if list == List::Posts {
                lists.extend(answered(shown));
            }
            // The cursors are made with the same key, so that one fits both. The shorter page's;
            // where only one goes on, the other shows nothing more.
            let (first, other) = if after.cut > before.cut {
                (after, before)
            } else {
                (before, after)
            };
            let Some(next) = first.next_cursor.or(other.next_cursor) else {
                break;
            };
            (page, cursor) = (page + 1, Some(next));
        }
    }
    Ok(differences)
}

/// Looks until two answers agree, or have not for a good while: then the last ones.
async fn settled<T>(
    look: impl AsyncFn() -> Result<(T, T), Unanswered>,
    agree: impl Fn(&(T, T)) -> bool,
) -> Result<(T, T), Unanswered> {
    const LOOKS: u32 = 30;
    let mut answers = look().await?;
    for again in 1..LOOKS {
        if agree(&answers) {
            break;
        }
        // Not in step with whoever writes.
        let pause = Duration::from_millis(u64::from(again) * 7 % 40);
        tokio::time::sleep(pause).await;
        answers = look().await?;
    }
    Ok(answers)
}
