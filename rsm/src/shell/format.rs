//! What the store's bytes mean: an entry is a frame, the control record a blob, a snapshot its state.
//!
//! Why it is right: each of the three begins with, or is marked by, a version, and is checked when it is read. Bytes that
//! pass the store's checksums but not these checks come from another program; they are refused, never guessed at.
//!
//! ```text
//! batch     frame kind 0; body = postcard of Vec<Vec<u8>>: count, then length and bytes of each command
//! barrier   frame kind 1; body empty
//! control   version 1 (one byte), then postcard of Control
//!           where the log is in memory: version 2 (one byte), the incarnation (16 bytes), then the same
//!           where that is guarded: version 3 (one byte), the incarnation (16 bytes), then postcard of (Option<Guard>, Control)
//!           in the memory itself, once it is whole: version 4 (one byte), its number (8 bytes, little endian)
//! snapshot  tag 1; the state machine's own bytes
//! ```

use nvm_log::Frame;
use serde::{Serialize, Serializer};

use crate::{Control, Entry, Guard, Incarnation, MemoryId, Payload, Viewstamp, octets};

/// The mark of a snapshot in this format.
pub(super) const SNAPSHOT_TAG: u64 = 1;

const BATCH: u8 = 0;
const BARRIER: u8 = 1;
const CONTROL_VERSION: u8 = 1;
const LIFE_VERSION: u8 = 2;
const GUARDED_LIFE_VERSION: u8 = 3;
const MEMORY_VERSION: u8 = 4;

/// Why stored bytes cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Written by a program of another version.
    #[error("the {what} has format {found}, this program knows {known}: use the program that wrote it")]
    Version {
        /// Which part of the store.
        what: &'static str,
        /// What it says.
        found: u64,
        /// What this program writes.
        known: u64,
    },
    /// Written in another durability mode.
    #[error("it was made for another durability mode: start it with the mode of its cluster")]
    Mode,
    /// Not what any version writes.
    #[error("the {what} is malformed: move the directory away, and start with an empty one as a new incarnation")]
    Malformed {
        /// Which part of the store.
        what: String,
    },
}

struct Commands<'a>(&'a [Vec<u8>]);

impl Serialize for Commands<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        octets::many::serialize(self.0, serializer)
    }
}

/// The entry as a frame.
pub(super) fn frame_of(entry: &Entry) -> Frame {
    let (kind, count, body) = match &entry.payload {
        Payload::Barrier => (BARRIER, 1, Vec::new()),
        Payload::Batch(commands) => (BATCH, commands.len(), encode(&Commands(commands))),
    };
    Frame {
        kind,
        view: entry.viewstamp.view,
        first_op: entry.first_op(),
        count: u32::try_from(count).expect("an entry has at most limits::BATCH_MAX_OPS ops"),
        previous: (entry.previous.view, entry.previous.op),
        body,
    }
}

/// The frame's entry. Of a frame cut by a truncation, the ops that stayed.
pub(super) fn entry_of(frame: &Frame) -> Result<Entry, FormatError> {
    let malformed = || FormatError::Malformed { what: format!("log entry at op {}", frame.first_op) };
    let payload = match frame.kind {
        BARRIER if frame.body.is_empty() => Payload::Barrier,
        BATCH => {
            let (mut commands, rest): (Vec<&[u8]>, _) =
                postcard::take_from_bytes(&frame.body).map_err(|_| malformed())?;
            if !rest.is_empty() || commands.len() < frame.count as usize {
                return Err(malformed());
            }
            commands.truncate(frame.count as usize);
            Payload::Batch(commands.into_iter().map(<[u8]>::to_vec).collect())
        }
        _ => return Err(malformed()),
    };
    let entry = Entry {
        viewstamp: Viewstamp { view: frame.view, op: frame.last_op() },
        previous: Viewstamp { view: frame.previous.0, op: frame.previous.1 },
        payload,
    };
    if entry.is_sound() { Ok(entry) } else { Err(malformed()) }
}

/// The control record as a blob.
pub(super) fn control_blob(control: &Control) -> Vec<u8> {
    let mut blob = vec![CONTROL_VERSION];
    blob.extend(encode(control));
    blob
}

/// The control record of one life of a member whose log is in memory, as a blob.
pub(super) fn life_blob(incarnation: Incarnation, control: &Control) -> Vec<u8> {
    let mut blob = vec![LIFE_VERSION];
    blob.extend(incarnation.0.to_le_bytes());
    blob.extend(encode(control));
    blob
}

/// The same of one whose memory is guarded.
pub(super) fn guarded_life_blob(incarnation: Incarnation, guard: Option<Guard>, control: &Control) -> Vec<u8> {
    let mut blob = vec![GUARDED_LIFE_VERSION];
    blob.extend(incarnation.0.to_le_bytes());
    blob.extend(encode(&(guard, control)));
    blob
}

/// The mark of a memory that is whole, as a blob.
pub(super) fn memory_blob(memory: MemoryId) -> Vec<u8> {
    [&[MEMORY_VERSION][..], &memory.0.to_le_bytes()].concat()
}

/// The blob's memory.
pub(super) fn memory_of(blob: &[u8]) -> Result<MemoryId, FormatError> {
    let number = versioned(blob, MEMORY_VERSION)?.try_into().map_err(|_| malformed_control())?;
    Ok(MemoryId(u64::from_le_bytes(number)))
}

/// The blob's incarnation, guard and control record.
pub(super) fn guarded_life_of(blob: &[u8]) -> Result<(Incarnation, Option<Guard>, Control), FormatError> {
    let rest = versioned(blob, GUARDED_LIFE_VERSION)?;
    let (incarnation, rest) = rest.split_first_chunk().ok_or_else(malformed_control)?;
    match postcard::take_from_bytes(rest) {
        Ok(((guard, control), [])) => Ok((Incarnation(u128::from_le_bytes(*incarnation)), guard, control)),
        _ => Err(malformed_control()),
    }
}

/// The blob's incarnation and control record.
pub(super) fn life_of(blob: &[u8]) -> Result<(Incarnation, Control), FormatError> {
    let rest = versioned(blob, LIFE_VERSION)?;
    let (incarnation, rest) = rest.split_first_chunk().ok_or_else(malformed_control)?;
    Ok((Incarnation(u128::from_le_bytes(*incarnation)), decode_control(rest)?))
}

/// The blob's control record.
pub(super) fn control_of(blob: &[u8]) -> Result<Control, FormatError> {
    decode_control(versioned(blob, CONTROL_VERSION)?)
}

/// What follows the version, if that is the one.
fn versioned(blob: &[u8], known: u8) -> Result<&[u8], FormatError> {
    let (version, rest) = blob.split_first().ok_or_else(malformed_control)?;
    match *version {
        version if version == known => Ok(rest),
        CONTROL_VERSION | LIFE_VERSION | GUARDED_LIFE_VERSION | MEMORY_VERSION => Err(FormatError::Mode),
        version => {
            Err(FormatError::Version { what: "control record", found: u64::from(version), known: u64::from(known) })
        }
    }
}

fn decode_control(bytes: &[u8]) -> Result<Control, FormatError> {
    match postcard::take_from_bytes(bytes) {
        Ok((control, [])) => Ok(control),
        _ => Err(malformed_control()),
    }
}

fn malformed_control() -> FormatError {
    FormatError::Malformed { what: "control record".into() }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("writing to memory, of types whose lengths are known")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterId, Incarnation, Kind, MemberId, Slot, Standing, View};

    fn stamp(view: u64, op: u64) -> Viewstamp {
        Viewstamp { view, op }
    }

    fn batch(commands: &[&[u8]]) -> Entry {
        let commands: Vec<_> = commands.iter().map(|command| command.to_vec()).collect();
        Entry {
            viewstamp: stamp(3, 7 + commands.len() as u64),
            previous: stamp(2, 7),
            payload: Payload::Batch(commands),
        }
    }

    #[test]
    fn a_batch_has_these_bytes_for_ever() {
        let frame = frame_of(&batch(&[b"ab", b"", b"c"]));
        assert_eq!((frame.kind, frame.view, frame.first_op, frame.count, frame.previous), (0, 3, 8, 3, (2, 7)));
        assert_eq!(frame.body, [3, 2, b'a', b'b', 0, 1, b'c']);
        assert_eq!(entry_of(&frame), Ok(batch(&[b"ab", b"", b"c"])));
    }

    #[test]
    fn a_batch_is_plain_postcard() {
        let commands = vec![vec![0, 255, 128], vec![7; 300], Vec::new()];
        assert_eq!(encode(&Commands(&commands)), postcard::to_stdvec(&commands).expect("encodes"));
    }

    #[test]
    fn a_barrier_has_these_bytes_for_ever() {
        let barrier = Entry { viewstamp: stamp(3, 8), previous: stamp(2, 7), payload: Payload::Barrier };
        let frame = frame_of(&barrier);
        assert_eq!((frame.kind, frame.view, frame.first_op, frame.count, frame.previous), (1, 3, 8, 1, (2, 7)));
        assert!(frame.body.is_empty());
        assert_eq!(entry_of(&frame), Ok(barrier));
    }

    #[test]
    fn a_frame_cut_by_a_truncation_is_read_up_to_the_cut() {
        let mut frame = frame_of(&batch(&[b"ab", b"", b"c"]));
        frame.count = 2;
        assert_eq!(entry_of(&frame), Ok(batch(&[b"ab", b""])));
    }

    #[test]
    fn a_frame_that_is_no_entry_is_refused() {
        let good = frame_of(&batch(&[b"ab"]));
        let bad = [
            Frame { kind: 9, ..good.clone() },
            Frame { kind: BARRIER, ..good.clone() },
            Frame { count: 2, ..good.clone() },
            Frame { body: vec![1, 200], ..good.clone() },
            Frame { body: vec![1, 1, 5, 6], ..good.clone() },
            Frame { body: vec![255, 255, 255, 255, 255, 255, 255, 255, 255, 1], ..good.clone() },
            Frame { previous: (9, 7), ..good.clone() },
            Frame { previous: (2, 5), ..good },
        ];
        for frame in bad {
            let error = entry_of(&frame).expect_err("refused").to_string();
            assert!(error.starts_with("the log entry at op 8 is malformed"), "{error}");
        }
    }

    fn control() -> Control {
        let slot = Slot {
            member: MemberId(1),
            incarnation: Incarnation(5),
            address: "a:1".into(),
            kind: Kind::Replica,
            standing: Standing::InSync,
        };
        let view = View { number: 1, parent: 0, cluster: ClusterId(9), primary: MemberId(1), slots: vec![slot] };
        Control { founding: Some(view), config: None }
    }

    #[test]
    fn a_control_record_has_these_bytes_for_ever() {
        let golden = [1, 1, 1, 0, 9, 1, 1, 1, 5, 3, b'a', b':', b'1', 0, 0, 0];
        assert_eq!(control_blob(&control()), golden);
        assert_eq!(control_of(&golden), Ok(control()));
        assert_eq!(control_blob(&Control::default()), [1, 0, 0]);
    }

    #[test]
    fn a_control_record_of_another_version_or_shape_is_refused_in_words() {
        let error = control_of(&[9, 0, 0]).expect_err("refused").to_string();
        assert_eq!(error, "the control record has format 9, this program knows 1: use the program that wrote it");
        for blob in [&[][..], &[1], &[1, 0], &[1, 0, 0, 0], &[1, 7, 7]] {
            assert!(matches!(control_of(blob), Err(FormatError::Malformed { .. })), "{blob:?}");
        }
    }

    #[test]
    fn a_life_of_a_member_without_memory_has_these_bytes_for_ever() {
        let golden = [&[2][..], &5u128.to_le_bytes(), &[1, 1, 0, 9, 1, 1, 1, 5, 3, b'a', b':', b'1', 0, 0, 0]].concat();
        assert_eq!(life_blob(Incarnation(5), &control()), golden);
        assert_eq!(life_of(&golden), Ok((Incarnation(5), control())));
        for blob in [&[][..], &[2], &golden[..17], &golden[..20], &[golden.as_slice(), &[0]].concat()] {
            assert!(matches!(life_of(blob), Err(FormatError::Malformed { .. })), "{blob:?}");
        }
    }

    #[test]
    fn a_life_of_a_member_whose_memory_is_guarded_has_these_bytes_for_ever() {
        let guard = Some(Guard { member: crate::MemberId(7), memory: MemoryId(9) });
        let rest = [1, 1, 0, 9, 1, 1, 1, 5, 3, b'a', b':', b'1', 0, 0, 0];
        for (guard, middle) in [(guard, &[1, 7, 9][..]), (None, &[0])] {
            let golden = [&[3][..], &5u128.to_le_bytes(), middle, &rest].concat();
            assert_eq!(guarded_life_blob(Incarnation(5), guard, &control()), golden);
            assert_eq!(guarded_life_of(&golden), Ok((Incarnation(5), guard, control())));
            for blob in [&golden[..17], &golden[..19], &[golden.as_slice(), &[0]].concat()] {
                assert!(matches!(guarded_life_of(blob), Err(FormatError::Malformed { .. })), "{blob:?}");
            }
        }
    }

    #[test]
    fn the_mark_of_a_memory_has_these_bytes_for_ever() {
        let golden = [4, 2, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(memory_blob(MemoryId(0x102)), golden);
        assert_eq!(memory_of(&golden), Ok(MemoryId(0x102)));
        assert!(matches!(memory_of(&golden[..8]), Err(FormatError::Malformed { .. })));
    }

    #[test]
    fn a_store_of_one_durability_mode_is_refused_in_another() {
        let guarded = guarded_life_blob(Incarnation(5), None, &control());
        for blob in [&life_blob(Incarnation(5), &control()), &guarded] {
            assert_eq!(control_of(blob), Err(FormatError::Mode));
        }
        for blob in [&control_blob(&control()), &guarded] {
            assert_eq!(life_of(blob), Err(FormatError::Mode));
        }
        for blob in [&control_blob(&control()), &life_blob(Incarnation(5), &control())] {
            assert_eq!(guarded_life_of(blob), Err(FormatError::Mode));
        }
    }
}
