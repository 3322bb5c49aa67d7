//! Lines of files as items, read anew for each pass; memory does not grow with the file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::contract::names;
use shared::runtime::settings::Secret;

use super::arguments::Arguments;
use super::error::ImportError;
use crate::domain::user::RegistrationForm;

/// More than the longest valid line, with every character escaped.
const MAX_LINE: u64 = 64 * 1024;
const READ_AHEAD: usize = 256 * 1024;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What a pass is interested in; the others are passed over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ItemKind {
    Users,
    Follows,
    Posts,
    Reactions,
}

/// One thing to load.
#[derive(Clone, Debug)]
pub enum Item {
    User(RegistrationForm),
    Follow { follower: String, followee: String },
    Post(PostItem),
    Reaction(ReactionItem),
}

#[derive(Clone, Debug)]
pub struct PostItem {
    pub username: String,
    pub content: String,
    /// A name for the post within the input.
    pub name: Option<String>,
    pub reply_to: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ReactionItem {
    pub username: String,
    pub post: String,
    pub repost: bool,
}

/// An item with the place it comes from.
#[derive(Clone, Debug)]
pub struct Line {
    pub number: u64,
    /// Bytes of the input up to the end of this line.
    pub position: u64,
    pub item: Result<Item, String>,
}

/// One input.
pub struct Source {
    path: PathBuf,
    file: File,
    format: Format,
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Edges { undirected: bool },
}

impl Source {
    /// All inputs of a command: edges first. Standard input is kept in a file, for it can be read
    /// only once.
    pub fn open_all(arguments: &Arguments) -> Result<Vec<Self>, ImportError> {
        let mut sources = Vec::new();
        if let Some(path) = &arguments.edges {
            let undirected = arguments.undirected;
            sources.push(Self::open(path, Format::Edges { undirected })?);
        }
        if let Some(path) = &arguments.file {
            sources.push(Self::open(path, Format::Json)?);
        }
        Ok(sources)
    }

    fn open(path: &Path, format: Format) -> Result<Self, ImportError> {
        let opened = if path == Path::new("-") {
            spool(io::stdin().lock())
        } else {
            File::open(path).and_then(rewindable)
        };
        let file = opened.map_err(|error| ImportError::Read(path.to_owned(), error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            format,
        })
    }

    /// The items of one pass, from the beginning. Lines that are no items are told in the first.
    pub fn items(&self, kind: ItemKind) -> Result<Items<'_>, ImportError> {
        let mut file = &self.file;
        let begun = file.rewind().and_then(|()| file.metadata());
        let size = begun.map_err(|error| self.failed(error))?.len();
        let reader = BufReader::with_capacity(READ_AHEAD, file);
        Ok(Items {
            source: self,
            kind,
            size,
            reader,
            number: 0,
            position: 0,
            seen: HashSet::new(),
            pending: Vec::new(),
        })
    }

    fn failed(&self, error: io::Error) -> ImportError {
        ImportError::Read(self.path.clone(), error)
    }
}

/// A pipe by name can be read only once as well.
fn rewindable(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        spool(file)
    }
}

fn spool(mut input: impl Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut input, &mut file)?;
    Ok(file)
}

/// The items of one pass over one source.
pub struct Items<'a> {
    source: &'a Source,
    kind: ItemKind,
    size: u64,
    reader: BufReader<&'a File>,
    number: u64,
    position: u64,
    /// Nodes of an edge list that are registered.
    seen: HashSet<u64>,
    /// Further items of the line, last first.
    pending: Vec<Line>,
}

impl Items<'_> {
    pub fn kind(&self) -> ItemKind {
        self.kind
    }

    /// Whether two lines may say different things of the same user.
    pub fn describes_users(&self) -> bool {
        match self.source.format {
            Format::Json => true,
            Format::Edges { .. } => false,
        }
    }

    /// Bytes of the whole input.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next item of this pass.
    pub fn read(&mut self) -> Result<Option<Line>, ImportError> {
        loop {
            if let Some(line) = self.pending.pop() {
                return Ok(Some(line));
            }
            let mut text = Vec::new();
            let read = read_line(&mut self.reader, &mut text);
            let (length, whole) = read.map_err(|error| self.source.failed(error))?;
            if length == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.position += length;
            let mut items = if whole {
                self.parse(&text)
            } else {
                vec![Err(format!("the line is longer than {MAX_LINE} bytes"))]
            };
            items.retain(|item| wanted(self.kind, item));
            let (number, position) = (self.number, self.position);
            let line = |item| Line {
                number,
                position,
                item,
            };
            self.pending.extend(items.into_iter().rev().map(line));
        }
    }

    fn parse(&mut self, text: &[u8]) -> Vec<Result<Item, String>> {
        // Editors and spreadsheets put a byte order mark in front of a file; files that were
        // joined have it within.
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let Ok(text) = std::str::from_utf8(text) else {
            return vec![Err("the line is not UTF-8".to_owned())];
        };
        let text = text.trim();
        if text.is_empty() {
            return Vec::new();
        }
        match self.source.format {
            Format::Json => vec![parse_json(text)],
            Format::Edges { .. } if text.starts_with(['#', '%']) => Vec::new(),
            Format::Edges { undirected } => match parse_edge(text) {
                Ok(edge) => self.of_edge(edge, undirected),
                Err(fault) => vec![Err(fault)],
            },
        }
    }

    fn of_edge(&mut self, (a, b): (u64, u64), undirected: bool) -> Vec<Result<Item, String>> {
        let follow = |a: u64, b: u64| {
            Ok(Item::Follow {
                follower: username(a),
                followee: username(b),
            })
        };
        match self.kind {
            ItemKind::Users => [a, b]
                .into_iter()
                .filter(|node| self.seen.insert(*node))
                .map(|node| Ok(Item::User(node_form(node))))
                .collect(),
            ItemKind::Follows if undirected && a != b => vec![follow(a, b), follow(b, a)],
            ItemKind::Follows => vec![follow(a, b)],
            ItemKind::Posts | ItemKind::Reactions => Vec::new(),
        }
    }
}

fn wanted(kind: ItemKind, item: &Result<Item, String>) -> bool {
    match item {
        Ok(Item::User(_)) | Err(_) => kind == ItemKind::Users,
        Ok(Item::Follow { .. }) => kind == ItemKind::Follows,
        Ok(Item::Post(_)) => kind == ItemKind::Posts,
        Ok(Item::Reaction(_)) => kind == ItemKind::Reactions,
    }
}

/// Reads a line, its bytes only up to [`MAX_LINE`]; how long it was, and whether that is all.
fn read_line(reader: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<(u64, bool)> {
    let length = reader.by_ref().take(MAX_LINE).read_until(b'\n', text)?;
    let mut length = length as u64;
    let whole = length < MAX_LINE || text.ends_with(b"\n");
    if !whole {
        length += skip_line(reader)?;
    }
    Ok((length, whole))
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok(skipped);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(available.len(), |end| end + 1);
        reader.consume(used);
        skipped += used as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

/// What a line of JSON may say.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum JsonLine {
    User {
        username: String,
        email: Option<String>,
        password: Option<Secret>,
        display_name: Option<String>,
        bio: Option<String>,
    },
    Follow {
        follower: String,
        followee: String,
    },
    Post {
        username: String,
        content: String,
        id: Option<String>,
        reply_to: Option<String>,
    },
    Like {
        username: String,
        post: String,
    },
    Repost {
        username: String,
        post: String,
    },
}

fn parse_json(text: &str) -> Result<Item, String> {
    let line: JsonLine = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let fold = |name: String| names::fold(&name);
    Ok(match line {
        JsonLine::User {
            username,
            email,
            password,
            display_name,
            bio,
        } => Item::User(RegistrationForm {
            email: email.unwrap_or_else(|| invalid_address(&username)),
            username,
            password,
            display_name,
            bio,
        }),
        JsonLine::Follow { follower, followee } => Item::Follow {
            follower: fold(follower),
            followee: fold(followee),
        },
        JsonLine::Post {
            username,
            content,
            id,
            reply_to,
        } => Item::Post(PostItem {
            username: fold(username),
            content,
            name: id,
            reply_to,
        }),
        JsonLine::Like { username, post } => Item::Reaction(ReactionItem {
            username: fold(username),
            post,
            repost: false,
        }),
        JsonLine::Repost { username, post } => Item::Reaction(ReactionItem {
            username: fold(username),
            post,
            repost: true,
        }),
    })
}

/// `a b`, and whatever some data sets write behind it: weights, times.
fn parse_edge(text: &str) -> Result<(u64, u64), String> {
    let mut columns = text.split(|c: char| c.is_whitespace() || c == ',');
    let mut node = || {
        let column = columns.find(|column| !column.is_empty())?;
        column.parse().ok()
    };
    match (node(), node()) {
        (Some(a), Some(b)) => Ok((a, b)),
        _ => Err("an edge is two numbers: a b".to_owned()),
    }
}

fn username(node: u64) -> String {
    format!("user_{node}")
}

fn node_form(node: u64) -> RegistrationForm {
    let username = username(node);
    RegistrationForm {
        email: invalid_address(&username),
        username,
        ..RegistrationForm::default()
    }
}

/// An address at which nobody can be reached (RFC 2606).
fn invalid_address(username: &str) -> String {
    format!("{}@example.invalid", names::fold(username))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn source(format: Format, text: &str) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Source {
            path: "test".into(),
            file,
            format,
        }
    }

    fn items(source: &Source, kind: ItemKind) -> Vec<Line> {
        let mut items = source.items(kind).unwrap();
        std::iter::from_fn(|| items.read().unwrap()).collect()
    }

    #[test]
    fn an_edge_list_registers_each_node_once_and_skips_comments() {
        let source = source(
            Format::Edges { undirected: true },
            "# a\n% b\n1 2\n2 3 0.5\n3\t1\n",
        );
        assert_eq!(items(&source, ItemKind::Users).len(), 3);
        assert_eq!(items(&source, ItemKind::Follows).len(), 6);
        assert_eq!(items(&source, ItemKind::Posts).len(), 0);
    }

    #[test]
    fn a_loop_is_one_line_even_both_ways() {
        let source = source(Format::Edges { undirected: true }, "7 7\n");
        assert_eq!(items(&source, ItemKind::Users).len(), 1);
        assert_eq!(items(&source, ItemKind::Follows).len(), 1);
    }

    #[test]
    fn bad_lines_are_told_once_with_their_number() {
        let long = "x".repeat(100_000);
        let text = format!(
            "{{\"type\":\"user\",\"username\":\"ada\"}}\nnonsense\n\n{long}\n{{\"type\":\"user\"}}"
        );
        let source = source(Format::Json, &text);
        let lines = items(&source, ItemKind::Users);
        let bad: Vec<u64> = lines
            .iter()
            .filter(|line| line.item.is_err())
            .map(|line| line.number)
            .collect();
        assert_eq!(bad, [2, 4, 5]);
        assert_eq!(lines.len(), 4);
        assert!(items(&source, ItemKind::Follows).is_empty());
        assert_eq!(lines.last().unwrap().position, text.len() as u64);
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_line_behind_it() {
        let comment = source(Format::Edges { undirected: false }, "\u{feff}# a\n1 2\n");
        assert!(
            items(&comment, ItemKind::Users)
                .iter()
                .all(|line| line.item.is_ok())
        );
        assert_eq!(items(&comment, ItemKind::Follows).len(), 1);
        let edge = source(Format::Edges { undirected: false }, "\u{feff}1 2\n2 1\n");
        assert_eq!(items(&edge, ItemKind::Follows).len(), 2);
        let ada = r#"{"type":"user","username":"ada"}"#;
        let joined = source(
            Format::Json,
            &format!("\u{feff}{ada}\r\n\u{feff}{ada}\n\u{feff}\n"),
        );
        let lines = items(&joined, ItemKind::Users);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.item.is_ok()));
        // Within a line it is a character like any other, and there is only one.
        let twice = source(Format::Json, &format!("\u{feff}\u{feff}{ada}\n"));
        assert!(items(&twice, ItemKind::Users)[0].item.is_err());
    }

    #[test]
    fn who_gives_no_address_gets_one_that_reaches_nobody() {
        let Ok(Item::User(form)) = parse_json(r#"{"type":"user","username":"Ada"}"#) else {
            panic!("a user is a user");
        };
        assert_eq!(form.email, "ada@example.invalid");
    }

    proptest! {
        #[test]
        fn no_input_makes_the_reader_panic(text in "(?s).{0,300}") {
            for format in [Format::Json, Format::Edges { undirected: false }] {
                for kind in [ItemKind::Users, ItemKind::Follows, ItemKind::Posts, ItemKind::Reactions] {
                    let _ = items(&source(format, &text), kind);
                }
            }
        }
    }
}
