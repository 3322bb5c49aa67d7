//! Lines of an import.

use serde_json::json;

pub fn user(name: &str) -> String {
    json!({ "type": "user", "username": name }).to_string()
}

pub fn follow(follower: &str, followee: &str) -> String {
    json!({ "type": "follow", "follower": follower, "followee": followee }).to_string()
}

pub fn post(author: &str, content: &str) -> String {
    json!({ "type": "post", "username": author, "content": content }).to_string()
}
