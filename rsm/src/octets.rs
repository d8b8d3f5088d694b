//! Strings of bytes for serde: as one string rather than a sequence of numbers. The bytes on the wire and on the medium are
//! the same (postcard); a snapshot's chunk or a batch takes a fraction of the time.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

struct Given<'a>(&'a [u8]);

impl Serialize for Given<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

struct Taken(Vec<u8>);

impl<'de> Deserialize<'de> for Taken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(Reader).map(Taken)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string of bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

/// One string.
pub(crate) mod one {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        super::Given(bytes).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        super::Taken::deserialize(deserializer).map(|taken| taken.0)
    }
}

/// A list of strings.
pub(crate) mod many {
    use super::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(strings: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(strings.iter().map(|bytes| super::Given(bytes)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<super::Taken>::deserialize(deserializer).map(|strings| strings.into_iter().map(|taken| taken.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::Payload;

    #[test]
    fn a_batch_has_the_same_bytes_as_a_list_of_lists_of_numbers() {
        let commands = vec![vec![1u8, 2, 3], vec![], vec![255; 200]];
        let bytes = postcard::to_stdvec(&Payload::Batch(commands.clone())).expect("in memory");
        assert_eq!(bytes[1..], postcard::to_stdvec(&commands).expect("in memory"));
        assert_eq!(postcard::from_bytes::<Payload>(&bytes).expect("as written"), Payload::Batch(commands));
        assert!(postcard::from_bytes::<Payload>(&bytes[..20]).is_err(), "cut short");
    }
}
