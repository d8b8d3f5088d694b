//! A backup: the state of a cluster after one committed op, on its way from a member to a file and from there into a new cluster.
//!
//! ```text
//!   magic and version (8) │ length of the header (4) │ header │ its checksum (4) │ state
//! ```
//!
//! Numbers are little endian, the header is postcard, checksums are CRC32C. Why it can be trusted: the member computes the state's checksum
//! when it has taken the state, the header carries it, and both who writes the file and who reads it compare; the header has one
//! of its own. The file ends with the state, so one that is cut short or goes on is noticed. The state's own format is the server's.

use std::fmt;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// "PLUMBAK", then the format's version.
const MAGIC: [u8; 8] = *b"PLUMBAK\x01";
/// Of the magic, what does not change with the version.
const NAME_BYTES: usize = 7;
/// A header is some dozens of bytes and a name.
const HEADER_MAX_BYTES: usize = 64 << 10;
/// The most bytes of the state in one answer: small, because an answer that is not read stays in the server's memory.
pub const BACKUP_PART_MAX_BYTES: usize = 64 << 10;

/// What a backup holds. Fields are added in a new version only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The cluster's id.
    pub cluster: u128,
    /// The cluster's name.
    pub name: String,
    /// Who took it.
    pub member: u64,
    /// The view of the last op that it holds.
    pub view: u64,
    /// The last op that it holds.
    pub op: u64,
    /// When it was taken, by that member's clock: µs since 1970.
    pub taken_us: u64,
    /// Length of the state.
    pub state_bytes: u64,
    /// CRC32C of the state.
    pub state_crc32c: u32,
}

/// What is asked for a backup. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupRequest {
    /// Take the state as it is now, and hold it for a while.
    Begin,
    /// The bytes of the state from here on.
    Part {
        /// Of the state that was taken, as its header says.
        op: u64,
        /// Where they begin.
        offset: u64,
    },
}

/// The answer to a [`BackupRequest`]. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupAnswer {
    /// To `Begin`.
    Begun(BackupHeader),
    /// To `Part`: at most [`BACKUP_PART_MAX_BYTES`], at least one unless the offset is the end.
    Part(Vec<u8>),
}

/// Why a file is no backup that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It begins otherwise.
    #[error("it is no backup of a Plumeria cluster")]
    Foreign,
    /// It was written by a later release.
    #[error("the backup has format {found}, this program knows {}: use a newer program", MAGIC[NAME_BYTES])]
    Version {
        /// What it says.
        found: u8,
    },
    /// It is shorter than it says.
    #[error("the backup is cut short: {found} of {expected} bytes are there")]
    Cut {
        /// Its length.
        found: u64,
        /// What it should be, at least.
        expected: u64,
    },
    /// Its bytes are not those that were written.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
}

impl BackupHeader {
    /// All that stands in front of the state.
    pub fn encode(&self) -> Vec<u8> {
        let header = postcard::to_stdvec(self).expect("writing to memory, of a type whose length is known");
        let length = u32::try_from(header.len()).expect("a cluster's name is short");
        [&MAGIC[..], &length.to_le_bytes(), &header, &crc32c::crc32c(&header).to_le_bytes()].concat()
    }

    /// Reads a whole backup; gives its header and its state.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn read(file: &[u8]) -> Result<(BackupHeader, &[u8]), BackupError> {
        let rest = file.strip_prefix(&MAGIC[..NAME_BYTES]).ok_or(BackupError::Foreign)?;
        let (version, rest) = rest.split_first().ok_or(BackupError::Foreign)?;
        if *version != MAGIC[NAME_BYTES] {
            return Err(BackupError::Version { found: *version });
        }
        let cut = |expected: u64| BackupError::Cut { found: file.len() as u64, expected };
        let (length, rest) = rest.split_first_chunk().ok_or(cut(MAGIC.len() as u64 + 4))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > HEADER_MAX_BYTES {
            return Err(BackupError::Damaged("its header is too long"));
        }
        let front = (MAGIC.len() + 8 + length) as u64;
        let (bytes, rest) = rest.split_at_checked(length).ok_or(cut(front))?;
        let (checksum, state) = rest.split_first_chunk().ok_or(cut(front))?;
        let header = match postcard::take_from_bytes::<BackupHeader>(bytes) {
            Ok((header, [])) if crc32c::crc32c(bytes) == u32::from_le_bytes(*checksum) => header,
            _ => return Err(BackupError::Damaged("its header is not what was written")),
        };
        header.check(state).map(|()| (header, state)).map_err(|error| match error {
            BackupError::Cut { expected, .. } => cut(front.saturating_add(expected)),
            other => other,
        })
    }

    fn check(&self, state: &[u8]) -> Result<(), BackupError> {
        let found = state.len() as u64;
        match found.cmp(&self.state_bytes) {
            std::cmp::Ordering::Less => Err(BackupError::Cut { found, expected: self.state_bytes }),
            std::cmp::Ordering::Greater => Err(BackupError::Damaged("something stands behind its end")),
            std::cmp::Ordering::Equal if crc32c::crc32c(state) != self.state_crc32c => {
                Err(BackupError::Damaged("its state is not what was taken"))
            }
            std::cmp::Ordering::Equal => Ok(()),
        }
    }
}

/// Writes a backup as its parts come, and compares what was written with what the header promises.
pub struct BackupWriter<W> {
    to: W,
    header: BackupHeader,
    written: u64,
    checksum: u32,
}

impl<W> fmt::Debug for BackupWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupWriter").field("header", &self.header).field("written", &self.written).finish()
    }
}

impl<W: Write> BackupWriter<W> {
    /// Writes all that stands in front of the state.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(mut to: W, header: BackupHeader) -> io::Result<Self> {
        to.write_all(&header.encode())?;
        Ok(BackupWriter { to, header, written: 0, checksum: 0 })
    }

    /// The bytes of the state that come next.
    ///
    /// # Errors
    /// They cannot be written, or are more than there should be.
    pub fn part(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.header.state_bytes {
            return Err(io::Error::other("the member sends more than it said"));
        }
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.to.write_all(bytes)
    }

    /// How much of the state there is: where the next part begins.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The whole state is written, and is what the member took; gives back what it was written to.
    ///
    /// # Errors
    /// It is not.
    pub fn finish(self) -> io::Result<W> {
        let is_whole = (self.written, self.checksum) == (self.header.state_bytes, self.header.state_crc32c);
        is_whole.then_some(self.to).ok_or_else(|| io::Error::other("what came is not what the member took"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(state: &[u8]) -> BackupHeader {
        BackupHeader {
            cluster: 7,
            name: "plumeria".into(),
            member: 2,
            view: 3,
            op: 300,
            taken_us: 1,
            state_bytes: state.len() as u64,
            state_crc32c: crc32c::crc32c(state),
        }
    }

    fn backup(state: &[u8]) -> Vec<u8> {
        let mut writer = BackupWriter::begin(Vec::new(), header(state)).expect("in memory");
        state.chunks(3).for_each(|part| writer.part(part).expect("in memory"));
        writer.finish().expect("whole")
    }

    #[test]
    fn a_backup_has_these_bytes_for_ever() {
        let golden = b"PLUMBAK\x01\x15\0\0\0\x07\x08plumeria\x02\x03\xac\x02\x01\x05";
        let file = backup(b"state");
        assert_eq!(file[..golden.len()], golden[..]);
        assert_eq!(BackupHeader::read(&file), Ok((header(b"state"), &b"state"[..])));
    }

    #[test]
    fn each_flipped_bit_and_each_cut_of_a_backup_is_noticed() {
        let file = backup(b"state");
        for place in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[place] ^= 1 << bit;
                assert!(BackupHeader::read(&damaged).is_err(), "bit {bit} of byte {place}");
            }
            assert!(BackupHeader::read(&file[..place]).is_err(), "cut at {place}");
        }
        assert!(BackupHeader::read(&[&file[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_in_one_line_with_its_cause() {
        let file = backup(b"state");
        let newer = [b"PLUMBAK\x02", &file[8..]].concat();
        let damaged = [&file[..file.len() - 1], b"f"].concat();
        let long = [&file[..8], &[0xff; 40]].concat();
        for (bytes, expected) in [
            (&b""[..], "no backup of a Plumeria cluster"),
            (b"#!/bin/sh\n", "no backup of a Plumeria cluster"),
            (&newer, "format 2, this program knows 1: use a newer program"),
            (&file[..file.len() - 2], "cut short: 40 of 42 bytes"),
            (&file[..20], "cut short: 20 of 37 bytes"),
            (&damaged, "damaged: its state"),
            (&long, "damaged: its header is too long"),
        ] {
            let line = BackupHeader::read(bytes).expect_err("refused").to_string();
            assert!(line.contains(expected) && !line.contains('\n'), "wanted: {expected}\n{line}");
        }
    }

    #[test]
    fn what_comes_from_a_member_and_is_not_what_it_took_is_no_backup() {
        for (state, parts) in
            [(&b"state"[..], &[&b"stat"[..]][..]), (b"state", &[b"stats"]), (b"state", &[b"sta", b"te."])]
        {
            let mut writer = BackupWriter::begin(Vec::new(), header(state)).expect("in memory");
            let written = parts.iter().try_for_each(|part| writer.part(part));
            assert!(written.and_then(|()| writer.finish()).is_err(), "{parts:?}");
        }
    }
}
