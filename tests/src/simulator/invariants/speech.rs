//! A member says nothing of a view other than the one it entered; it acknowledges and reports what is durable and part of
//! the view's log; equal viewstamps are equal bytes.

use rsm::{Identity, Message};

use super::{Check, Invariants, Violation};

impl Invariants {
    /// A member says nothing of a view other than the one it entered. `entered`: the view before this
    /// group of inputs, and after it.
    pub(crate) fn emitted(&self, who: Identity, entered: (u64, u64), message: &Message) -> Check {
        let view = match message {
            Message::Append { view, .. }
            | Message::Ack { view, .. }
            | Message::Heartbeat { view, .. }
            | Message::Report { view, .. } => *view,
            _ => return Ok(()),
        };
        if view < entered.0 || view > entered.1 {
            let detail = format!("member {} entered {entered:?} and sends {message:?}", who.member);
            return Err(Violation::new("a member speaks of the view it entered only", detail));
        }
        Ok(())
    }

    /// A message leaves: equal viewstamps, equal bytes; an acknowledgement names what is durable and part of the view's log, a report a durable log.
    pub(crate) fn leaves(&mut self, who: Identity, message: &Message) -> Check {
        self.counters.sent(message);
        let wrong = |rule, what: String| Err(Violation::new(rule, format!("member {}: {what}", who.member)));
        match message {
            Message::Ack { view, verified, .. } => {
                if !self.ledger.held(who.incarnation, *verified) {
                    return wrong("acknowledged means durable", format!("{verified} in view {view}"));
                }
                let old = verified.view < *view && !self.ledger.is_committed(*verified);
                let strange = |barrier| old && !self.ledger.is_below(*verified, barrier);
                if self.ledger.barrier(*view).is_some_and(strange) || verified.view > *view {
                    return wrong("acknowledged means part of the view's log", format!("{verified} in view {view}"));
                }
                Ok(())
            }
            Message::Append { entries, .. } | Message::Entries { entries, .. } => {
                entries.iter().try_for_each(|entry| self.ledger.see(entry))
            }
            Message::Paxos(paxos::Message::Decided { value }) => self.decided(value),
            Message::Report { view, last, .. } if !self.ledger.held(who.incarnation, *last) => {
                wrong("reported means durable", format!("{last} in view {view}"))
            }
            _ => Ok(()),
        }
    }
}
