//! How many lines of the log could not be written.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Cloning gives another handle on the same number.
#[derive(Clone, Debug, Default)]
pub struct Refused(Arc<AtomicU64>);

impl Refused {
    pub fn lines(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts the lines that the writer refuses, as one does whose disk is full or whose reader has gone:
/// the thread that writes the log tells nobody.
#[derive(Debug)]
pub struct CountRefused<W> {
    writer: W,
    refused: Refused,
}

impl<W> CountRefused<W> {
    pub fn new(writer: W, refused: Refused) -> Self {
        Self { writer, refused }
    }
}

impl<W: Write> Write for CountRefused<W> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.writer.write(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Lines come so, one at a time.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.writer.write_all(line).inspect_err(|_| {
            self.refused.0.fetch_add(1, Ordering::Relaxed);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufWriter;

    use super::*;

    /// A disk that is full until somebody makes room.
    #[derive(Clone, Default)]
    struct Disk {
        written: Vec<u8>,
        has_room: bool,
    }

    impl Write for &mut Disk {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            if !self.has_room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_neither_written_nor_kept_are_counted() {
        let mut disk = Disk::default();
        let refused = Refused::default();
        let buffered = BufWriter::with_capacity(16, &mut disk);
        let mut log = CountRefused::new(buffered, refused.clone());
        for line in ["first 7\n", "second\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert!(log.flush().is_err());
        assert_eq!(refused.lines(), 0, "they are kept until there is room");
        assert!(log.write_all(b"third\n").is_err());
        assert!(log.write_all(b"fourth\n").is_err());
        assert_eq!(refused.lines(), 2);
        log.writer.get_mut().has_room = true;
        log.write_all(b"fifth\n").unwrap();
        log.flush().unwrap();
        drop(log);
        assert_eq!(disk.written, b"first 7\nsecond\nfifth\n");
        assert_eq!(refused.lines(), 2);
    }
}
