//! The page: every operation, problem and schema of an OpenAPI document, one below the other.

use serde_json::{Map, Value};

use super::markup::{escaped, line, text};

/// In this order they are shown.
const METHODS: [&str; 5] = ["post", "get", "put", "patch", "delete"];

/// The page that shows a document.
pub fn of(document: &Value, style: &str) -> String {
    let title = escaped(string(&document["info"], "title"));
    let about = text(string(&document["info"], "description"));
    let version = escaped(string(&document["info"], "version"));
    let (mut contents, mut sections) = (String::new(), String::new());
    for tag in list(&document["tags"]) {
        let name = string(tag, "name");
        let operations = operations(document, name);
        contents += &format!("<li><a href=\"#{name}\">{name}</a><ul>");
        sections += &format!("<section aria-labelledby=\"{name}\"><h2 id=\"{name}\">{name}</h2>");
        sections += &text(string(tag, "description"));
        for (path, method, operation) in operations {
            let (id, summary) = (
                string(operation, "operationId"),
                string(operation, "summary"),
            );
            contents += &format!("<li><a href=\"#{id}\">{}</a></li>", line(summary));
            sections += &article(document, path, method, operation);
        }
        contents += "</ul></li>";
        sections += "</section>";
    }
    contents +=
        "<li><a href=\"#problems\">problems</a></li><li><a href=\"#schemas\">schemas</a></li>";
    sections += &problems(document);
    sections += &schemas(document);
    let token = text(string(
        &document["components"]["securitySchemes"]["bearer"],
        "description",
    ));
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title} API</title>\
         <style>{style}</style></head><body><a class=\"skip\" href=\"#main\">To the operations</a>\
         <header><h1>{title} API</h1><p>Version {version}, for programs: \
         <a href=\"openapi.json\">openapi.json</a></p></header>\
         <nav aria-label=\"Operations\"><ul>{contents}</ul></nav>\
         <main id=\"main\"><section aria-label=\"About\">{about}<p>Examples expect the address that \
         this page came from, with neither path nor last slash, in <code>$GATEWAY</code>, and an \
         access token in <code>$TOKEN</code>.</p><h2 id=\"token\">Access tokens</h2>{token}</section>{sections}</main></body></html>"
    )
}

/// Path, method and operation of all with this tag: what makes something first, and short paths before
/// long ones, so that signing up comes before all that wants an account.
fn operations<'a>(document: &'a Value, tag: &'a str) -> Vec<(&'a str, &'a str, &'a Value)> {
    let all = entries(&document["paths"]).flat_map(|(path, item)| {
        entries(item).map(move |(method, operation)| (path, method, operation))
    });
    let mut found: Vec<_> = all
        .filter(|(_, _, operation)| operation["tags"][0] == tag)
        .collect();
    found.sort_by_key(|(path, method, _)| {
        let method = METHODS.iter().position(|known| known == method);
        (method, path.matches('/').count())
    });
    found
}

fn article(document: &Value, path: &str, method: &str, operation: &Value) -> String {
    let id = string(operation, "operationId");
    let token = match list(&operation["security"]) {
        [] => "No token.",
        [one] if !is_empty(one) => "Needs a <a href=\"#token\">token</a>.",
        _ => "A <a href=\"#token\">token</a> may be sent.",
    };
    let mut html = format!(
        "<article aria-labelledby=\"{id}\"><h3 id=\"{id}\">{}</h3>\
         <p class=\"call\"><span class=\"{method}\">{}</span> <code>{}</code></p><p>{token}</p>{}",
        line(string(operation, "summary")),
        method.to_uppercase(),
        escaped(path),
        text(string(operation, "description")),
    );
    html += &parameters(list(&operation["parameters"]));
    for (_, content) in entries(&operation["requestBody"]["content"]) {
        let may = operation["requestBody"]["required"] == false;
        let may = if may { ", which may be left out" } else { "" };
        html += &format!("<h4>Body: {}{may}</h4>", kind(&content["schema"]));
    }
    html += &format!(
        "<h4>Example</h4>{}",
        example(&curl(path, method, operation))
    );
    html += "<h4>Answers</h4>";
    for (status, answer) in entries(&operation["responses"]) {
        html += &match answer["$ref"].as_str() {
            Some(reference) => problem_of(document, status, reference),
            None => success(document, status, answer),
        };
    }
    html + "</article>"
}

fn parameters(all: &[Value]) -> String {
    let rows = all.iter().map(|parameter| {
        let schema = &parameter["schema"];
        let needed = if parameter["required"] == true { ", needed" } else { "" };
        format!(
            "<tr><th scope=\"row\"><code>{}</code></th><td>{}{needed}</td><td>{}{}</td><td>{}</td></tr>",
            escaped(string(parameter, "name")),
            string(parameter, "in"),
            kind(schema),
            limits(schema),
            line(string(parameter, "description")),
        )
    });
    table(["Parameter", "In", "Type", "What it is"], rows.collect())
}

fn success(document: &Value, status: &str, answer: &Value) -> String {
    let mut html = format!(
        "<details><summary><strong>{status}</strong> {}</summary>",
        line(string(answer, "description"))
    );
    for (media, content) in entries(&answer["content"]) {
        html += &format!(
            "<p>{} in <code>{media}</code></p>",
            kind(&content["schema"])
        );
        let shown = &content["example"];
        html += &example(&shown.as_str().map_or_else(|| pretty(shown), str::to_owned));
    }
    html += &headers(document, answer);
    let links = entries(&answer["links"]).map(|(to, _)| format!("<a href=\"#{to}\">{to}</a>"));
    let links: Vec<_> = links.collect();
    if !links.is_empty() {
        html += &format!("<p>Leads to {}.</p>", links.join(", "));
    }
    html + "</details>"
}

fn headers(document: &Value, answer: &Value) -> String {
    let rows = entries(&answer["headers"]).map(|(name, header)| {
        let header = match header["$ref"].as_str() {
            Some(reference) => &document["components"]["headers"][last_of(reference)],
            None => header,
        };
        let value = &header["schema"]["examples"][0];
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!(
            "<tr><th scope=\"row\"><code>{name}</code></th><td>{}</td><td><code>{}</code></td></tr>",
            line(string(header, "description")),
            escaped(&value),
        )
    });
    table(["Header", "What it says", "For instance"], rows.collect())
}

/// One line about a problem, and where more of it stands.
fn problem_of(document: &Value, status: &str, reference: &str) -> String {
    let name = last_of(reference);
    let codes = codes(&document["components"]["responses"][name]);
    format!("<p class=\"problem\"><strong>{status}</strong> <a href=\"#{name}\">{codes}</a></p>")
}

fn codes(response: &Value) -> String {
    let examples = &response["content"]["application/problem+json"]["examples"];
    let codes = entries(examples).map(|(code, _)| format!("<code>{code}</code>"));
    codes.collect::<Vec<_>>().join(", ")
}

fn problems(document: &Value) -> String {
    let mut html =
        "<section aria-labelledby=\"problems\"><h2 id=\"problems\">problems</h2>".to_owned();
    for (name, response) in entries(&document["components"]["responses"]) {
        html += &format!("<article><h3 id=\"{name}\">{}</h3>", codes(response));
        html += &text(string(response, "description"));
        html += &headers(document, response);
        let examples = &response["content"]["application/problem+json"]["examples"];
        for (_, shown) in entries(examples) {
            html += &example(&pretty(&shown["value"]));
        }
        html += "</article>";
    }
    html + "</section>"
}

fn schemas(document: &Value) -> String {
    let mut html =
        "<section aria-labelledby=\"schemas\"><h2 id=\"schemas\">schemas</h2>".to_owned();
    for (name, schema) in entries(&document["components"]["schemas"]) {
        html += &format!("<article><h3 id=\"{name}\">{name}</h3>");
        html += &text(string(schema, "description"));
        let kinds = list(&schema["oneOf"]);
        if kinds.is_empty() {
            html += &fields(schema);
        }
        for one in kinds {
            html += &format!("<h4>{}</h4>{}", escaped(string(one, "title")), fields(one));
        }
        html += "</article>";
    }
    html + "</section>"
}

/// The fields of an object; of anything else, what it is.
fn fields(schema: &Value) -> String {
    if schema["properties"].is_null() {
        return format!("<p>{}{}</p>", kind(schema), limits(schema));
    }
    let needed = list(&schema["required"]);
    let rows = entries(&schema["properties"]).map(|(name, field)| {
        let always = needed.iter().any(|it| it == name);
        let always = if always { "" } else { ", may be absent" };
        format!(
            "<tr><th scope=\"row\"><code>{name}</code></th><td>{}{}{always}</td><td>{}</td></tr>",
            kind(field),
            limits(field),
            line(string(field, "description")),
        )
    });
    table(["Field", "Type", "What it is"], rows.collect())
}

/// What type a value has.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = last_of(reference);
        return format!("<a href=\"#{name}\">{name}</a>");
    }
    let one_of = list(&schema["oneOf"]);
    if !one_of.is_empty() {
        return one_of.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let names = list(&schema["type"]).iter().filter_map(Value::as_str);
    match schema["type"].as_str() {
        Some("array") => format!("array of {}", kind(&schema["items"])),
        Some(name) => name.to_owned(),
        None => names.collect::<Vec<_>>().join(" or "),
    }
}

/// What a value's type does not say.
fn limits(schema: &Value) -> String {
    let range = |least: &Value, most: &Value, unit: &str| match (least, most) {
        (Value::Null, Value::Null) => None,
        (least, Value::Null) => Some(format!("at least {least}{unit}")),
        (Value::Null, most) => Some(format!("at most {most}{unit}")),
        (least, most) => Some(format!("{least} to {most}{unit}")),
    };
    let format = schema["format"].as_str().filter(|name| *name != "int64");
    let default = &schema["default"];
    let all = [
        range(&schema["minLength"], &schema["maxLength"], " characters"),
        range(&schema["minItems"], &schema["maxItems"], " items"),
        range(&schema["minimum"], &schema["maximum"], ""),
        format.map(str::to_owned),
        (!default.is_null()).then(|| format!("{default} if it is absent")),
    ];
    all.into_iter()
        .flatten()
        .map(|limit| format!(", {}", escaped(&limit)))
        .collect()
}

/// How the operation is called from a shell.
fn curl(path: &str, method: &str, operation: &Value) -> String {
    let parameters = list(&operation["parameters"]);
    let mut path = path
        .replace("{id}", "117467262156800001")
        .replace("{name}", "ada");
    if let Some(ids) = parameters.iter().find(|it| it["name"] == "ids") {
        let ids = &ids["schema"]["examples"][0];
        path += &format!("?ids={}", ids.as_str().unwrap_or_default());
    }
    let body = &operation["requestBody"]["content"]["application/json"]["example"];
    let body = (operation["requestBody"]["required"] == true).then(|| body.to_string());
    let mut call = "curl".to_owned();
    if path.ends_with("/stream") {
        call += " --no-buffer";
    }
    match (method, &body) {
        ("get", _) | ("post", Some(_)) => (),
        _ => call += &format!(" -X {}", method.to_uppercase()),
    }
    call += &format!(" \"$GATEWAY{path}\"");
    // Where it may be left out, the call is shown without.
    if matches!(list(&operation["security"]), [needed] if !is_empty(needed)) {
        call += " \\\n  -H \"authorization: Bearer $TOKEN\"";
    }
    if let Some(body) = body {
        call += &format!(" \\\n  -H 'content-type: application/json' -d '{body}'");
    }
    call
}

fn example(text: &str) -> String {
    // Who has no mouse can scroll it.
    format!("<pre tabindex=\"0\"><code>{}</code></pre>", escaped(text))
}

fn table<const N: usize>(heads: [&str; N], rows: String) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heads = heads
        .map(|head| format!("<th scope=\"col\">{head}</th>"))
        .concat();
    format!(
        "<div class=\"wide\" tabindex=\"0\"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

fn pretty(json: &Value) -> String {
    serde_json::to_string_pretty(json).unwrap_or_default()
}

fn string<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

fn list(of: &Value) -> &[Value] {
    of.as_array().map_or(&[], Vec::as_slice)
}

fn entries(of: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let all = of.as_object().into_iter().flatten();
    all.map(|(name, value)| (name.as_str(), value))
}

fn is_empty(of: &Value) -> bool {
    of.as_object().is_none_or(Map::is_empty)
}

fn last_of(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or_default()
}
