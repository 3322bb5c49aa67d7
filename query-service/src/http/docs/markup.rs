//! Texts as HTML. Of Markdown there is what the document uses: paragraphs, lists, code, strong.

/// A text that is no markup.
pub fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            c => html.push(c),
        }
    }
    html
}

/// One line, with `code` and **strong**.
pub fn line(text: &str) -> String {
    between(&escaped(text), "`", "code", |text| {
        between(text, "**", "strong", str::to_owned)
    })
}

/// Wraps every second piece between two marks; `rest` goes on with what is not wrapped.
fn between(text: &str, mark: &str, element: &str, rest: impl Fn(&str) -> String) -> String {
    let pieces = text.split(mark).enumerate();
    let pieces = pieces.map(|(at, piece)| match at % 2 {
        0 => rest(piece),
        _ => format!("<{element}>{piece}</{element}>"),
    });
    pieces.collect()
}

/// Paragraphs and lists.
pub fn text(markdown: &str) -> String {
    let blocks = markdown.split("\n\n").filter(|block| !block.is_empty());
    let blocks = blocks.map(|block| {
        if block.starts_with("- ") {
            let items = block.lines().map(|item| item.trim_start_matches("- "));
            let items = items.map(|item| format!("<li>{}</li>", line(item)));
            format!("<ul>{}</ul>", items.collect::<String>())
        } else {
            format!("<p>{}</p>", line(block))
        }
    });
    blocks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_markup_is_text() {
        assert_eq!(
            line("a<b> & `\"c\"`"),
            "a&lt;b&gt; &amp; <code>&quot;c&quot;</code>"
        );
        assert_eq!(
            line("**a** `**b**`"),
            "<strong>a</strong> <code>**b**</code>"
        );
        assert_eq!(
            text("One:\n\n- `a`: b\n- c"),
            "<p>One:</p><ul><li><code>a</code>: b</li><li>c</li></ul>"
        );
    }
}
