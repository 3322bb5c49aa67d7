//! Which answer leads to which operation, as a client goes on with what it was told.

use serde_json::{Map, Value, json};

/// An operation and the status of its answer, the operation it leads to, and what that one takes.
type Lead = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const SEEN: (&str, &str) = (
    "X-Consistency-Token",
    "$response.header.X-Consistency-Token",
);
const NEW_USER: (&str, &str) = ("id", "$response.body#/user_id");
const NEW_POST: (&str, &str) = ("id", "$response.body#/post_id");
const SAME: (&str, &str) = ("id", "$request.path.id");
const NEXT: (&str, &str) = ("cursor", "$response.body#/next_cursor");

const LEADS: &[Lead] = &[
    ("register", "201", "getUser", &[NEW_USER, SEEN]),
    ("register", "201", "listPostsOfUser", &[NEW_USER, SEEN]),
    ("register", "201", "follow", &[NEW_USER]),
    ("createPost", "201", "getPost", &[NEW_POST, SEEN]),
    ("createPost", "201", "listReplies", &[NEW_POST, SEEN]),
    ("createPost", "201", "getThread", &[NEW_POST, SEEN]),
    ("createPost", "201", "like", &[NEW_POST]),
    ("createPost", "201", "repost", &[NEW_POST]),
    ("createPost", "201", "deletePost", &[NEW_POST]),
    ("createPost", "201", "getTimeline", &[SEEN]),
    ("follow", "200", "getRelationship", &[SAME, SEEN]),
    ("follow", "200", "unfollow", &[SAME]),
    ("login", "200", "getMe", &[SEEN]),
    ("like", "200", "listLikers", &[SAME, SEEN]),
    ("like", "200", "unlike", &[SAME]),
    ("repost", "200", "listReposters", &[SAME, SEEN]),
    ("repost", "200", "unrepost", &[SAME]),
    ("getTimeline", "200", "getTimeline", &[NEXT]),
    ("listReplies", "200", "listReplies", &[SAME, NEXT]),
    ("listPostsOfUser", "200", "listPostsOfUser", &[SAME, NEXT]),
    ("listFollowers", "200", "listFollowers", &[SAME, NEXT]),
    ("listFollowing", "200", "listFollowing", &[SAME, NEXT]),
    ("listMutuals", "200", "listMutuals", &[SAME, NEXT]),
];

/// Adds those links of which a document has both ends.
pub(super) fn add(document: &mut Value) {
    let known = ids(document);
    for (from, status, to, taken) in LEADS {
        if !known.iter().any(|id| id == to) {
            continue;
        }
        let answers = operation(document, from).and_then(|it| it.get_mut("responses"));
        let Some(answer) = answers.and_then(|it| it.get_mut(*status)) else {
            continue;
        };
        let taken = taken
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)));
        answer["links"][*to] = json!({
            "operationId": to,
            "parameters": taken.collect::<Map<String, Value>>(),
        });
    }
}

fn all(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    paths.flat_map(|(_, path)| path.as_object_mut().into_iter().flatten().map(|(_, it)| it))
}

fn operation<'a>(document: &'a mut Value, id: &str) -> Option<&'a mut Value> {
    all(document).find(|operation| operation["operationId"] == id)
}

fn ids(document: &mut Value) -> Vec<String> {
    let ids = all(document).filter_map(|it| it["operationId"].as_str().map(str::to_owned));
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole document has every link: none names an operation or an answer that there is not.
    #[test]
    fn every_lead_is_a_link_of_the_whole_document() {
        let mut document = super::super::files::read("microblog").expect("it is checked in");
        for (from, status, to, _) in LEADS {
            let operation = operation(&mut document, from).unwrap_or_else(|| panic!("no {from}"));
            let link = &operation["responses"][*status]["links"][*to];
            assert_eq!(link["operationId"], *to, "{from} {status}");
        }
    }
}
