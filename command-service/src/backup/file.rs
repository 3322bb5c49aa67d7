//! A backup as bytes.
//!
//! A file of Zstandard frames, as `zstd -d` reads it. The first frame is one that readers skip: what
//! it is, and the version of the format. Each of the others holds one record, a BSON document: a
//! header, batches of documents, batches of changes, and the end, with a checksum over all before it.
//! What has no end is a part of a backup, and none.
//!
//! Each record is compressed for itself, so that the same documents make the same bytes: of two
//! backups, a store that finds equal parts keeps the common beginning once.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bson::{RawDocumentBuf, oid::ObjectId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A skippable frame of Zstandard (RFC 8878, 3.1.2), little-endian.
const SKIPPABLE: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
const NAME: &str = "microblog backup ";
/// Raised when a reader of before would misunderstand what is written.
const VERSION: u32 = 1;
/// The level that Zstandard itself takes where none is named.
const LEVEL: i32 = 3;
/// A batch of documents and what one more may add: a document of MongoDB has 16 MiB at most.
const MOST_BYTES: usize = 32 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("this is no backup of Microblog")]
    NoBackup,
    #[error(
        "the backup has format {0}, and this build reads {VERSION}: restore it with the build that wrote it, or a later one"
    )]
    OtherVersion(String),
    #[error("the backup is cut off: it has no end")]
    Cut,
    #[error("the backup is damaged")]
    Damaged(#[source] io::Error),
    #[error("the backup is damaged: a record cannot be understood")]
    Record(#[source] bson::error::Error),
    #[error("the backup is damaged: {0}")]
    Wrong(&'static str),
    #[error("write a record")]
    Encode(#[source] bson::error::Error),
    #[error("read or write")]
    Io(#[source] io::Error),
}

/// What stands in a backup, one after the other. One of the fields is there.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Header>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<Documents>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The identity of the log, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The build that wrote it.
    pub version: String,
    pub begun: bson::DateTime,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Documents {
    pub collection: String,
    pub documents: Vec<RawDocumentBuf>,
}

/// What happened to a document while the database was copied.
#[derive(Debug, Serialize, Deserialize)]
pub struct Change {
    pub collection: String,
    /// `_id` alone.
    pub key: RawDocumentBuf,
    /// The document as it is from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<RawDocumentBuf>,
    /// What changed in it: `$set`, `$unset`. Where neither is there it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<RawDocumentBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// Everything that was acknowledged before is in the backup.
    pub at: bson::DateTime,
    /// The mark up to which changes were read.
    pub mark: ObjectId,
    /// How many documents of each collection were copied.
    pub documents: BTreeMap<String, i64>,
    pub changes: i64,
    /// The greatest id of an event in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<i64>,
    /// SHA-256 of all records before this one.
    pub sha256: String,
}

/// Writes records.
pub struct Writer<W> {
    out: W,
    compressor: zstd::bulk::Compressor<'static>,
    hash: Sha256,
    /// Written so far.
    bytes: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(mut out: W) -> io::Result<Self> {
        let says = format!("{NAME}{VERSION}\n");
        out.write_all(&SKIPPABLE)?;
        out.write_all(&u32::try_from(says.len()).unwrap_or(0).to_le_bytes())?;
        out.write_all(says.as_bytes())?;
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        Ok(Self {
            out,
            compressor,
            hash: Sha256::new(),
            bytes: 8 + says.len() as u64,
        })
    }

    pub fn write(&mut self, record: &Record) -> Result<(), FileError> {
        let raw = bson::serialize_to_vec(record).map_err(FileError::Encode)?;
        self.hash.update(&raw);
        let frame = self.compressor.compress(&raw).map_err(FileError::Io)?;
        self.out.write_all(&frame).map_err(FileError::Io)?;
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Writes the end; how many bytes it has become.
    pub fn finish(mut self, mut end: End) -> Result<(W, u64), FileError> {
        end.sha256 = hex(self.hash.clone());
        let end = Record {
            end: Some(end),
            ..Record::default()
        };
        self.write(&end)?;
        self.out.flush().map_err(FileError::Io)?;
        Ok((self.out, self.bytes))
    }
}

/// Reads records, and believes none that is damaged.
pub struct Reader<'a> {
    frames: zstd::stream::read::Decoder<'a, io::BufReader<Box<dyn Read + Send>>>,
    hash: Sha256,
    /// The length of the next record; `None` where there is none.
    ahead: Option<[u8; 4]>,
    ended: bool,
    documents: BTreeMap<String, i64>,
    changes: i64,
}

impl Reader<'_> {
    /// Makes sure that it is a backup that this build can read.
    pub fn new(mut from: Box<dyn Read + Send>) -> Result<Self, FileError> {
        let mut start = [0; 8];
        read_start(&mut from, &mut start)?;
        let length = u32::from_le_bytes([start[4], start[5], start[6], start[7]]);
        // Longer than any that was ever written.
        if start[..4] != SKIPPABLE || !(18..64).contains(&length) {
            return Err(FileError::NoBackup);
        }
        let mut says = vec![0; length as usize];
        read_start(&mut from, &mut says)?;
        let says = String::from_utf8(says).map_err(|_| FileError::NoBackup)?;
        let version = says.strip_prefix(NAME);
        let version = version.and_then(|says| says.strip_suffix('\n'));
        let version = version.ok_or(FileError::NoBackup)?;
        if version != VERSION.to_string() {
            return Err(FileError::OtherVersion(version.to_owned()));
        }
        let mut reader = Self {
            frames: zstd::stream::read::Decoder::new(from).map_err(FileError::Io)?,
            hash: Sha256::new(),
            ahead: None,
            ended: false,
            documents: BTreeMap::new(),
            changes: 0,
        };
        reader.ahead = reader.length()?;
        Ok(reader)
    }

    /// The next record; `None` after the end, when everything has been checked.
    pub fn read(&mut self) -> Result<Option<Record>, FileError> {
        let Some(raw) = self.raw()? else {
            return if self.ended {
                Ok(None)
            } else {
                Err(FileError::Cut)
            };
        };
        if self.ended {
            return Err(FileError::Wrong("there is more behind its end"));
        }
        let record: Record = bson::deserialize_from_slice(&raw).map_err(FileError::Record)?;
        if let Some(end) = &record.end {
            self.ended = true;
            self.check(end)?;
        }
        if let Some(batch) = &record.documents {
            *self.documents.entry(batch.collection.clone()).or_default() += count(&batch.documents);
        }
        self.changes += record.changes.as_ref().map_or(0, |changes| count(changes));
        self.hash.update(&raw);
        Ok(Some(record))
    }

    fn check(&self, end: &End) -> Result<(), FileError> {
        if end.sha256 != hex(self.hash.clone()) {
            return Err(FileError::Wrong("its checksum is another"));
        }
        // The checksum says so already, unless it was written by a build with a fault.
        if end.documents != self.documents || end.changes != self.changes {
            return Err(FileError::Wrong("it does not hold as much as its end says"));
        }
        Ok(())
    }

    /// The bytes of a record, as they were written: the decoder compares a frame with its checksum only
    /// when it is asked for what follows, so that is read first.
    fn raw(&mut self) -> Result<Option<Vec<u8>>, FileError> {
        let Some(length) = self.ahead else {
            return Ok(None);
        };
        let all = u32::from_le_bytes(length) as usize;
        if !(5..=MOST_BYTES).contains(&all) {
            return Err(FileError::Wrong("a record has an impossible length"));
        }
        let mut raw = vec![0; all];
        raw[..4].copy_from_slice(&length);
        self.frames.read_exact(&mut raw[4..]).map_err(damaged)?;
        self.ahead = self.length()?;
        Ok(Some(raw))
    }

    fn length(&mut self) -> Result<Option<[u8; 4]>, FileError> {
        let mut length = [0; 4];
        let mut read = 0;
        while read < length.len() {
            match self.frames.read(&mut length[read..]) {
                Ok(0) if read == 0 => return Ok(None),
                Ok(0) => return Err(FileError::Cut),
                Ok(some) => read += some,
                Err(error) => return Err(damaged(error)),
            }
        }
        Ok(Some(length))
    }
}

fn read_start(from: &mut impl Read, into: &mut [u8]) -> Result<(), FileError> {
    from.read_exact(into).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            FileError::NoBackup
        } else {
            FileError::Io(error)
        }
    })
}

fn damaged(error: io::Error) -> FileError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        FileError::Cut
    } else {
        FileError::Damaged(error)
    }
}

fn count<T>(items: &[T]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use bson::rawdoc;
    use proptest::prelude::*;

    use super::*;

    fn documents(count: i64) -> Record {
        Record {
            documents: Some(Documents {
                collection: "events".to_owned(),
                documents: (0..count).map(|id| rawdoc! { "_id": id }).collect(),
            }),
            ..Record::default()
        }
    }

    fn end() -> End {
        End {
            at: bson::DateTime::from_millis(7),
            mark: ObjectId::from_bytes([1; 12]),
            documents: [("events".to_owned(), 40)].into(),
            changes: 1,
            last_event: Some(39),
            sha256: String::new(),
        }
    }

    fn whole() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let header = Header {
            log: None,
            version: "0".to_owned(),
            begun: bson::DateTime::from_millis(1),
        };
        let header = Record {
            header: Some(header),
            ..Record::default()
        };
        writer.write(&header).unwrap();
        writer.write(&documents(20)).unwrap();
        writer.write(&documents(20)).unwrap();
        let change = Change {
            collection: "sessions".to_owned(),
            key: rawdoc! { "_id": "a" },
            document: None,
            update: Some(rawdoc! { "$set": { "x": 1 } }),
        };
        let changes = Record {
            changes: Some(vec![change]),
            ..Record::default()
        };
        writer.write(&changes).unwrap();
        writer.finish(end()).unwrap().0
    }

    /// How many records can be read, and what comes after them.
    fn read(bytes: &[u8]) -> (usize, Result<(), FileError>) {
        let mut reader = match Reader::new(Box::new(Cursor::new(bytes.to_vec()))) {
            Ok(reader) => reader,
            Err(error) => return (0, Err(error)),
        };
        let mut records = 0;
        loop {
            match reader.read() {
                Ok(Some(_)) => records += 1,
                Ok(None) => return (records, Ok(())),
                Err(error) => return (records, Err(error)),
            }
        }
    }

    #[test]
    fn what_was_written_is_read() {
        assert!(matches!(read(&whole()), (5, Ok(()))));
    }

    #[test]
    fn a_backup_that_is_cut_anywhere_is_none() {
        let whole = whole();
        for length in 0..whole.len() {
            let (_, outcome) = read(&whole[..length]);
            let error = outcome.expect_err("a part is no backup");
            assert!(
                matches!(error, FileError::NoBackup | FileError::Cut),
                "{length} of {}: {error:?}",
                whole.len()
            );
        }
    }

    /// The records that are handed out, and how the backup ends.
    fn contents(bytes: &[u8]) -> (Vec<Vec<u8>>, Result<(), FileError>) {
        let mut records = Vec::new();
        let ends = (|| {
            let mut reader = Reader::new(Box::new(Cursor::new(bytes.to_vec())))?;
            while let Some(record) = reader.read()? {
                records.push(bson::serialize_to_vec(&record).map_err(FileError::Encode)?);
            }
            Ok(())
        })();
        (records, ends)
    }

    /// Zstandard has bits that say nothing.
    #[test]
    fn a_backup_with_a_flipped_bit_anywhere_is_none_or_reads_the_same() {
        let whole = whole();
        let (wanted, ends) = contents(&whole);
        ends.unwrap();
        let mut refused = 0;
        for at in 0..whole.len() {
            for bit in [0x01, 0x80] {
                let mut flipped = whole.clone();
                flipped[at] ^= bit;
                let (found, ends) = contents(&flipped);
                // What is handed out before the fault is seen goes into a database.
                assert!(wanted.starts_with(&found), "byte {at}, bit {bit:#x}");
                match ends {
                    Ok(()) => assert_eq!(found, wanted, "byte {at}, bit {bit:#x}"),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > whole.len(), "{refused} of twice {}", whole.len());
    }

    #[test]
    fn what_stands_behind_the_end_is_not_ignored() {
        let mut twice = whole();
        twice.extend(whole());
        assert!(matches!(read(&twice), (5, Err(FileError::Wrong(_)))));
    }

    #[test]
    fn a_missing_or_doubled_batch_is_noticed() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.write(&documents(39)).unwrap();
        let (bytes, _) = writer.finish(end()).unwrap();
        assert!(matches!(read(&bytes), (1, Err(FileError::Wrong(_)))));
    }

    #[test]
    fn another_version_and_another_file_are_told_apart() {
        let mut newer = whole();
        let at = 8 + NAME.len();
        assert_eq!(newer[at], b'1');
        newer[at] = b'2';
        assert!(matches!(read(&newer), (0, Err(FileError::OtherVersion(said))) if said == "2"));
        for other in [&b""[..], b"{}", b"PK\x03\x04 an archive of some other kind"] {
            assert!(matches!(read(other), (0, Err(FileError::NoBackup))));
        }
    }

    #[test]
    fn the_same_documents_make_the_same_bytes() {
        let common = |header: i64| {
            let mut writer = Writer::new(Vec::new()).unwrap();
            writer.write(&documents(header)).unwrap();
            let before = writer.bytes;
            writer.write(&documents(500)).unwrap();
            let (bytes, _) = writer.finish(end()).unwrap();
            let before = usize::try_from(before).unwrap();
            bytes[before..before + 300].to_vec()
        };
        assert_eq!(common(1), common(7));
    }

    proptest! {
        #[test]
        fn no_input_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let mut behind = whole()[..26].to_vec();
            behind.extend(bytes);
            let _ = read(&behind);
        }
    }
}
