//! Clients of register and map: each has one command under way, asks whom it believes to be the primary, and believes what
//! it is told.

use std::collections::BTreeMap;

use rsm::{Input, Rejection, Tag};

use super::kv::{Book, Call};
use super::register::{CommandId, encode_command};
use crate::simulator::invariants::Check;
use crate::simulator::plan::Workload;
use crate::simulator::world::{Event, World};

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another command, after thinking.
    Another,
    /// The same command again: it was surely not executed.
    Again,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// A command of the register, asked for first when clients knew of so many ops.
    Write { command: CommandId, length_bytes: usize, horizon: u64 },
    /// An operation of the map.
    Call(Call),
}

/// A command under way.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    wish: Wish,
    /// The attempt that is under way.
    tag: Option<Tag>,
}

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    /// The member it asks, by index.
    pub(crate) believed: usize,
    request: Option<Request>,
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
    format!("member-{}:1", index + 1)
}

/// Whose address it is.
pub(crate) fn index_of(address: &str) -> Option<usize> {
    address.strip_prefix("member-")?.strip_suffix(":1")?.parse::<usize>().ok()?.checked_sub(1)
}

/// Attempts under way, by tag.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    last: Tag,
    open: BTreeMap<Tag, (usize, Wish)>,
}

impl Attempts {
    /// Names a command.
    pub(crate) fn next_tag(&mut self) -> Tag {
        self.last += 1;
        self.last
    }

    fn open(&mut self, client: usize, wish: Wish) -> Tag {
        let tag = self.next_tag();
        self.open.insert(tag, (client, wish));
        tag
    }

    /// A core answers it; none if it was answered before.
    pub(crate) fn close(&mut self, tag: Tag) -> Option<(usize, Wish)> {
        self.open.remove(&tag)
    }
}

/// Clients of one run, and what they tell.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    pub(crate) clients: Vec<Client>,
    pub(crate) attempts: Attempts,
    pub(crate) book: Book,
}

/// The map has so many keys: few, so that clients meet.
const KEYS: u64 = 3;

impl World {
    pub(crate) fn on_ask(&mut self, index: usize) {
        if self.clients_rest {
            return;
        }
        let length_bytes = self.dice.between(self.plan.command_bytes) as usize;
        let horizon = self.invariants.horizon();
        let Asking { clients, attempts, book } = &mut self.asking;
        let client = &mut clients[index];
        if client.request.is_none() {
            let wish = match self.plan.workload {
                Workload::Kv => Wish::Call(book.call(&mut self.dice, KEYS)),
                _ => Wish::Write { command: client.name(), length_bytes, horizon },
            };
            client.request = Some(Request { wish, tag: None });
        }
        let Some(request) = &mut client.request else { return };
        let tag = attempts.open(index, request.wish.clone());
        request.tag = Some(tag);
        let to = client.believed;
        if let [Some(delay), _] = self.network.client_fate(&mut self.dice) {
            self.schedule(delay, Event::Request { to, client: index, tag });
        }
        self.schedule(TIMEOUT_US, Event::Timeout { client: index, tag });
    }

    pub(crate) fn on_request(&mut self, to: usize, client: usize, tag: Tag) {
        if self.members[to].process.is_none() {
            let answer = Err(Rejection::NotPrimary { hint: None });
            self.schedule(1_000, Event::Answer { client, tag, answer });
            return;
        }
        let Some((_, wish)) = self.asking.attempts.open.get(&tag) else { return };
        let command = match wish {
            Wish::Write { command, length_bytes, .. } => encode_command(*command, *length_bytes),
            Wish::Call(call) => call.command(),
        };
        let urgent = self.dice.chance(50_000);
        self.deliver(to, Input::Submit { tag, command, urgent });
    }

    /// A core answers: what it says is true, whether or not the client hears it.
    pub(crate) fn check_answer(&self, wish: &Wish, answer: &[u8]) -> Check {
        match wish {
            Wish::Write { command, horizon, .. } => self.invariants.answered(*command, *horizon, answer),
            Wish::Call(_) => Ok(()),
        }
    }

    pub(crate) fn on_answer(&mut self, index: usize, tag: Tag, answer: Result<Vec<u8>, Rejection>) -> Check {
        if let Ok(bytes) = &answer {
            self.answers_ok += 1;
            self.invariants.heard(bytes);
        }
        let other = self.dice.index(self.members.len());
        let client = &mut self.asking.clients[index];
        let Some(request) = client.request.as_mut().filter(|request| request.tag == Some(tag)) else { return Ok(()) };
        request.tag = None;
        let next = match &answer {
            Ok(_) => Next::Another,
            Err(rejection) => client.refused(rejection, self.members.len(), other),
        };
        let wait = match next {
            Next::Another => {
                let request = client.request.take();
                let wait = self.dice.between(self.plan.think_us);
                match (request.map(|request| request.wish), &answer) {
                    (Some(Wish::Call(call)), Ok(bytes)) => self.asking.book.returned(call, bytes)?,
                    (Some(Wish::Call(call)), Err(_)) => self.asking.book.unknown(call),
                    _ => {}
                }
                wait
            }
            Next::Again => self.dice.between(RETRY_US),
        };
        self.schedule(wait, Event::Ask(index));
        Ok(())
    }

    /// The command may or may not be executed, now or later: the client leaves it at that.
    pub(crate) fn on_timeout(&mut self, index: usize, tag: Tag) {
        let other = self.dice.index(self.members.len());
        let client = &mut self.asking.clients[index];
        if client.request.as_ref().is_some_and(|request| request.tag == Some(tag)) {
            if let Some(Request { wish: Wish::Call(call), .. }) = client.request.take() {
                self.asking.book.unknown(call);
            }
            client.believed = other;
            self.invariants.counters.hit("client timeouts");
            self.schedule(0, Event::Ask(index));
        }
    }
}
