//! The key-value example's lines, as operations on registers.

use super::register::{Action, Answer};

/// The request of an operation on a key.
pub fn request(key: u64, action: &Action<String>) -> String {
    match action {
        Action::Get => format!("get {key}"),
        Action::Put(Some(value)) => format!("put {key} {value}"),
        Action::Put(None) => format!("delete {key}"),
        Action::Cas { expected, value } => {
            let expected = expected.as_deref().unwrap_or_default();
            format!("cas {key} {expected} {}", value.as_deref().unwrap_or_default())
        }
    }
}

/// What the line says of such an operation; none if it is no answer to it.
pub fn answer(action: &Action<String>, line: &str) -> Option<Answer<String>> {
    let (word, value) = line.split_once(' ').unwrap_or((line, ""));
    match (action, word) {
        (Action::Get, "none") => Some(Answer::Holds(None)),
        (Action::Get, "value") => Some(Answer::Holds(Some(value.to_owned()))),
        (Action::Cas { .. }, "differs" | "none") => Some(Answer::Differs),
        (Action::Put(None), "none") | (Action::Put(_) | Action::Cas { .. }, "ok") => Some(Answer::Done),
        _ => None,
    }
}
