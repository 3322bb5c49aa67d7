//! The authorization matrix: every route against every kind of token.

use std::path::Path;

use jsonwebtoken::jwk::JwkSet;

use super::clients::{Clients, People, Person};
use super::forgeries::forgeries;
use super::routes::{Access, Row, all_rows};

/// Who asks, the `Authorization` header, and the expected status and code.
type Case<'a> = (&'a str, Option<String>, (u16, &'static str));

pub async fn every_route_answers_every_token_as_specified(
    clients: &Clients,
    people: &People,
    key: &Path,
) {
    let keys = clients.request("command-service", "GET", "/.well-known/jwks.json");
    let keys = clients.send(keys).await.body;
    let keys: JwkSet = serde_json::from_value(keys).expect("a key set");
    let pem = std::fs::read(key).expect("the key");
    let forgeries = forgeries(&people.ada.id, &people.ada.token, &pem, &keys);
    let (mut asked, mut wrong) = (0, Vec::new());
    for row in all_rows() {
        for (who, header, (status, code)) in cases(&row, people, &forgeries) {
            let mut request = clients.request(row.service, row.method, &row.path_for(people));
            if let Some(body) = &row.body {
                request = request.json(body);
            }
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let answer = clients.send(request).await;
            asked += 1;
            if (answer.status, answer.code()) != (status, code) || answer.fault().is_some() {
                wrong.push(format!(
                    "{} {} for {who}: {status} {code} expected, {} {}",
                    row.method, row.path, answer.status, answer.body
                ));
            }
        }
    }
    let right = asked - wrong.len();
    println!("authorization matrix: {right} of {asked} as specified");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All callers of one route; the owner is the last, because the call may delete the object.
fn cases<'a>(row: &Row, people: &People, forgeries: &'a [(&str, String)]) -> Vec<Case<'a>> {
    let bearer = |person: &Person| Some(format!("Bearer {}", person.token));
    let unauthorized = (401, "unauthorized");
    let (refused, nobody) = match row.access {
        Access::Open => (row.owner, row.owner),
        Access::Optional => (unauthorized, row.owner),
        Access::Required => (unauthorized, unauthorized),
    };
    let mut cases: Vec<Case<'_>> = vec![
        ("nobody", None, nobody),
        ("who left", bearer(&people.dora), refused),
    ];
    let forged = forgeries.iter();
    cases.extend(forged.map(|(name, header)| (*name, Some(header.clone()), refused)));
    cases.extend([
        ("the suspended", bearer(&people.carl), row.suspended),
        ("another", bearer(&people.bob), row.other),
        ("the owner", bearer(&people.ada), row.owner),
    ]);
    cases
}
