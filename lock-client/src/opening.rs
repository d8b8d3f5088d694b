//! Opening a session: a core without clock or IO.
//!
//! The nonce stays the same over all servers and repetitions, so an open whose answer was lost is answered with the same session;
//! the lease counts from the first transmission. If the answer comes so late that this lease is over, a new nonce is drawn;
//! the old session, if there is one, ends by itself. Whoever answered so is primary, and is asked again at once: with a short lease
//! the way back to it, past servers that do not answer, would make the next open too late as well, for ever.
//!
//! A nonce is not sent later than makes sense by what it counts from. After all of its lease any answer would be too late; so a client that goes
//! round past servers that do not answer draws a new one before it asks again. Who is busy has opened nothing, and may be busy for
//! long (a cluster that was restored opens no session for a while, or all places are taken): after a quarter of the lease it
//! is asked under a new nonce, so that it does not at last open a session of whose lease little is left.

use lock_protocol::{Open, Opened, Refusal};

use crate::clock::Clocks;
use crate::session::Session;

/// The search for a session.
#[derive(Debug)]
pub struct Opening {
    open: Open,
    first_sent: Option<Clocks>,
    /// The last answer says that there is no session under this nonce.
    is_refused: bool,
    /// What the nonce opened, if anything, cannot be used.
    is_spent: bool,
}

/// What an answer to an open came to.
#[derive(Debug)]
pub enum OpenStep {
    /// The session, and its nonce, which the callback connection must show.
    Opened(Session, u128),
    /// The next server is to be tried.
    Again {
        /// What this one said, for people.
        answer: String,
        /// Whom it takes for the primary.
        hint: Option<String>,
    },
    /// This server serves, but what it was asked was too old: the same one is to be asked anew.
    Anew {
        /// What it said, for people.
        answer: String,
    },
    /// The request itself is found wrong; one line says why.
    Refused(String),
}

impl Opening {
    /// `open` carries a random nonce.
    pub fn new(open: Open) -> Self {
        Opening { open, first_sent: None, is_refused: false, is_spent: false }
    }

    /// The message, which is sent now; `fresh_nonce` is random, and used where the old one cannot serve any longer.
    pub fn transmit(&mut self, now: Clocks, fresh_nonce: u128) -> Open {
        if self.is_spent || self.has_aged(now) {
            self.open.nonce = fresh_nonce;
            self.first_sent = None;
        }
        (self.is_spent, self.is_refused) = (false, false);
        self.first_sent.get_or_insert(now);
        self.open.clone()
    }

    /// An answer to what was transmitted last.
    pub fn on_answer(&mut self, answer: Result<Opened, Refusal>, now: Clocks) -> OpenStep {
        match answer {
            Ok(opened) => match self.session_of(opened, now) {
                Ok(session) => OpenStep::Opened(session, self.open.nonce),
                Err(answer) => {
                    self.is_spent = true;
                    OpenStep::Anew { answer }
                }
            },
            Err(Refusal::Invalid(answer) | Refusal::Denied(answer)) => OpenStep::Refused(answer),
            Err(Refusal::SessionGone) => {
                self.is_spent = true;
                OpenStep::Anew { answer: Refusal::SessionGone.to_string() }
            }
            Err(refusal) => {
                self.is_refused = matches!(refusal, Refusal::Busy(_));
                let answer = refusal.to_string();
                let hint = if let Refusal::NotPrimary { hint } = refusal { hint } else { None };
                OpenStep::Again { answer, hint }
            }
        }
    }

    /// Whether too little would be left of a lease that counts from the first transmission.
    fn has_aged(&self, now: Clocks) -> bool {
        let age_ns = self.first_sent.map_or(0, |first| now.boot_ns.saturating_sub(first.boot_ns));
        let most_ms = if self.is_refused { self.open.lease_ms / 4 } else { self.open.lease_ms };
        age_ns / 1_000_000 > most_ms
    }

    /// The session of an answer, where it makes sense and is still in force.
    fn session_of(&self, opened: Opened, now: Clocks) -> Result<Session, String> {
        let Some(first_sent) = self.first_sent else { return Err("it answered what was not asked".to_owned()) };
        let Some(session) = Session::opened(opened, first_sent) else {
            return Err(format!("it opened a session with a lease of {} ms", opened.lease_ms));
        };
        if session.deadline_ns() <= now.boot_ns {
            return Err("it opened the session after its lease had run out".to_owned());
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use lock_protocol::{ClientIdentity, SessionId};

    use super::*;

    fn opening() -> Opening {
        Opening::new(Open { nonce: 1, lease_ms: 1000, identity: ClientIdentity::default() })
    }

    fn at(ms: u64) -> Clocks {
        Clocks { boot_ns: ms * 1_000_000, real_ns: ms * 1_000_000 }
    }

    #[test]
    fn m3_an_open_that_is_sent_again_has_the_same_nonce_and_its_lease_counts_from_the_first_transmission() {
        let mut opening = opening();
        let first = opening.transmit(at(100), 2);
        assert!(matches!(opening.on_answer(Err(Refusal::ViewChanging), at(200)), OpenStep::Again { .. }));
        assert_eq!(opening.transmit(at(600), 2), first);
        let opened = Opened { session: SessionId(7), lease_ms: 1000 };
        let OpenStep::Opened(session, nonce) = opening.on_answer(Ok(opened), at(700)) else { panic!() };
        assert_eq!((session.deadline_ns(), nonce), (1_000_000_000, 1), "100 ms + 1000 ms - the margin of 100 ms");
    }

    #[test]
    fn m3_a_server_that_was_busy_for_long_opens_a_session_with_all_of_its_lease() {
        let busy = || Err(Refusal::Busy("restored".to_owned()));
        let mut opening = opening();
        let first = opening.transmit(at(100), 2);
        assert!(matches!(opening.on_answer(busy(), at(110)), OpenStep::Again { .. }));
        assert_eq!(opening.transmit(at(350), 2), first, "a quarter of the lease has not passed");
        assert!(matches!(opening.on_answer(busy(), at(352)), OpenStep::Again { .. }));
        assert_eq!(opening.transmit(at(800), 2).nonce, 2);
        let opened = Opened { session: SessionId(7), lease_ms: 1000 };
        let OpenStep::Opened(session, nonce) = opening.on_answer(Ok(opened), at(900)) else { panic!() };
        assert_eq!((session.deadline_ns(), nonce), (1_700_000_000, 2));
    }

    #[test]
    fn m3_a_client_that_comes_back_after_a_lease_without_answers_asks_under_a_new_nonce() {
        let mut opening = opening();
        let first = opening.transmit(at(100), 2);
        assert_eq!(opening.transmit(at(1100), 2), first);
        assert_eq!(opening.transmit(at(1101), 3).nonce, 3);
        let opened = Opened { session: SessionId(7), lease_ms: 1000 };
        assert!(matches!(opening.on_answer(Ok(opened), at(1102)), OpenStep::Opened(_, 3)));
    }

    #[test]
    fn m3_an_answer_after_the_lease_of_the_first_transmission_is_not_used_but_a_new_session_opened() {
        let mut opening = opening();
        opening.transmit(at(100), 2);
        let opened = Opened { session: SessionId(7), lease_ms: 1000 };
        assert!(matches!(opening.on_answer(Ok(opened), at(1000)), OpenStep::Anew { .. }));
        assert_eq!(opening.transmit(at(1100), 3).nonce, 3);
        let opened = Opened { session: SessionId(8), lease_ms: 1000 };
        let OpenStep::Opened(session, nonce) = opening.on_answer(Ok(opened), at(1200)) else { panic!() };
        assert_eq!((session.deadline_ns(), nonce), (2_000_000_000, 3));
    }
}
