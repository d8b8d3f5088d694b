//! The replicated map: commands are lines of words, and so are the answers; `main.rs` says which.
use rsm::StateMachine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state machine: nothing in it but what the executed commands gave.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kv {
    values: BTreeMap<String, String>,
    hash: u64,
}

impl Kv {
    fn execute(&mut self, words: &[&str]) -> String {
        let found = words.get(1).and_then(|key| self.values.get(*key));
        match words {
            ["get", _] => found.map_or("none".into(), |value| format!("value {value}")),
            ["cas", _, old @ .., _] if old.len() <= 1 && found.map(String::as_str) != old.first().copied() => {
                found.map_or("none".into(), |value| format!("differs {value}"))
            }
            ["put", key, value] | ["cas", key, value] | ["cas", key, _, value] => {
                self.values.insert((*key).into(), (*value).into());
                "ok".into()
            }
            ["delete", key] => self.values.remove(*key).map_or("none", |_| "ok").into(),
            _ => "error write: put KEY VALUE, get KEY, cas KEY [OLD] NEW, or delete KEY".into(),
        }
    }
}

impl StateMachine for Kv {
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8> {
        let bytes = op.to_le_bytes().into_iter().chain(command.iter().copied());
        self.hash = bytes.fold(self.hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        self.execute(&String::from_utf8_lossy(command).split_whitespace().collect::<Vec<_>>()).into_bytes()
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("strings and a number always encode")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        postcard::from_bytes(snapshot).map(|kv| *self = kv).map_err(|error| error.to_string())
    }

    fn hash(&self) -> u64 {
        self.hash
    }
}
