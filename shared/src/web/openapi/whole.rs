//! Both services as one, as clients see them behind a gateway.

use serde_json::{Value, json};

use super::links;
use super::tags::TAGS;
use crate::web::routes;

/// The document of the whole: the operations of both, in the order of the table of routes.
///
/// # Errors
/// Both have something of the same name that is not the same.
pub fn whole(commands: &Value, queries: &Value) -> Result<Value, String> {
    let mut whole = queries.clone();
    whole["info"]["title"] = json!("Microblog");
    let about = whole["info"]["description"].as_str().unwrap_or_default();
    let behind = "Both services behind one address: a gateway sends `GET` and `HEAD` to the query service, \
        and everything else to the command service.";
    let about = about.split_once("\n\n").map_or(about, |(_, common)| common);
    whole["info"]["description"] = json!(format!("{behind}\n\n{about}"));
    whole["servers"] = json!([{ "url": "/", "description": "where this document is" }]);
    whole["tags"] = tags(commands, queries);
    for kind in ["schemas", "responses", "headers", "securitySchemes"] {
        let added = commands["components"][kind].as_object();
        for (name, value) in added.into_iter().flatten() {
            let there = &mut whole["components"][kind][name.as_str()];
            if !there.is_null() && there != value {
                return Err(format!(
                    "{kind}: the services do not mean the same by {name}"
                ));
            }
            *there = value.clone();
        }
        sort(&mut whole["components"][kind]);
    }
    let mut paths = serde_json::Map::new();
    for path in routes::paths() {
        let mut item = serde_json::Map::new();
        for document in [queries, commands] {
            let methods = document["paths"][path].as_object();
            item.extend(
                methods
                    .into_iter()
                    .flatten()
                    .map(|(method, it)| (method.clone(), it.clone())),
            );
        }
        if !item.is_empty() {
            paths.insert(path.to_owned(), Value::Object(item));
        }
    }
    whole["paths"] = Value::Object(paths);
    links::add(&mut whole);
    Ok(whole)
}

/// The tags of both, in their own order.
fn tags(commands: &Value, queries: &Value) -> Value {
    let known = |name: &str| {
        let all = [commands, queries].into_iter();
        let mut all = all.flat_map(|it| it["tags"].as_array().into_iter().flatten());
        all.find(|tag| tag["name"] == name)
    };
    TAGS.iter()
        .filter_map(|(name, _)| known(name))
        .cloned()
        .collect()
}

fn sort(components: &mut Value) {
    if let Some(map) = components.as_object_mut() {
        let mut all: Vec<_> = std::mem::take(map).into_iter().collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        map.extend(all);
    }
}
