//! Clients: each has one command under way, asks whom it believes to be the primary, and believes what it is told.

use std::collections::BTreeMap;

use rsm::{Rejection, Tag};

use super::ledger::CommandId;

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another command, after thinking.
    Another,
    /// The same command again: it was surely not executed.
    Again,
}

/// A command under way.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) command: CommandId,
    pub(crate) length_bytes: usize,
    /// The highest op that any client knew of when this was asked first.
    pub(crate) horizon: u64,
    /// The attempt that is under way.
    pub(crate) tag: Option<Tag>,
}

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    /// The member it asks, by index.
    pub(crate) believed: usize,
    pub(crate) request: Option<Request>,
    next_number: u64,
}

/// An answer that gives up is waited for this long, µs.
pub(crate) const TIMEOUT_US: u64 = 1_000_000;
/// Before asking again after a refusal, µs.
pub(crate) const RETRY_US: (u64, u64) = (1_000, 60_000);

impl Client {
    pub(crate) fn new(id: u64) -> Self {
        Client { id, believed: 0, request: None, next_number: 1 }
    }

    /// The next command's name: never used before.
    pub(crate) fn name(&mut self) -> CommandId {
        let number = self.next_number;
        self.next_number += 1;
        (self.id, number)
    }

    /// What a refusal says: whom to ask, and whether the command is surely not executed.
    pub(crate) fn refused(&mut self, rejection: &Rejection, members: usize, other: usize) -> Next {
        match rejection {
            Rejection::NotPrimary { hint } => {
                self.believed = hint.as_deref().and_then(index_of).filter(|index| *index < members).unwrap_or(other);
                Next::Again
            }
            Rejection::ViewChanging => {
                self.believed = other;
                Next::Again
            }
            Rejection::Busy => Next::Again,
            Rejection::Unknown => Next::Another,
        }
    }
}

/// A member's address in the simulator.
pub(crate) fn address_of(index: usize) -> String {
    format!("member-{}", index + 1)
}

fn index_of(address: &str) -> Option<usize> {
    address.strip_prefix("member-")?.parse::<usize>().ok()?.checked_sub(1)
}

/// An attempt under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) client: usize,
    pub(crate) command: CommandId,
    pub(crate) length_bytes: usize,
    pub(crate) horizon: u64,
}

/// Attempts under way, by tag.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    last: Tag,
    open: BTreeMap<Tag, Attempt>,
}

impl Attempts {
    pub(crate) fn open(&mut self, client: usize, command: CommandId, length_bytes: usize, horizon: u64) -> Tag {
        self.last += 1;
        self.open.insert(self.last, Attempt { client, command, length_bytes, horizon });
        self.last
    }

    pub(crate) fn get(&self, tag: Tag) -> Option<Attempt> {
        self.open.get(&tag).copied()
    }

    /// A core answers it; none if it was answered before.
    pub(crate) fn close(&mut self, tag: Tag) -> Option<Attempt> {
        self.open.remove(&tag)
    }
}
