//! All locks of a set are granted by one op, and while it waits none of them is held by who waits.

use lock_protocol::{Command, LockName, LockSet, Mode, Outcome, RequestNumber, SessionId};

use super::lock_truth::{Granted, Seen, Waiting};
use super::{Check, Invariants, Violation};

impl Invariants {
    /// A set was asked for: what its session had of the locks, or waited for, has ended in this op.
    pub(super) fn note_set(
        &mut self,
        seen: &Seen<'_>,
        session: SessionId,
        acquire: RequestNumber,
        command: &Command,
        outcome: &Outcome,
        granted: &mut Vec<Granted>,
    ) -> Check {
        let Command::AcquireAll { set } = command else { return Ok(()) };
        let token = match outcome {
            Outcome::Granted { token, .. } if token.0 == seen.op => Some(*token),
            Outcome::Queued if !self.locks.sets.contains_key(&(session, acquire)) => None,
            _ => return Ok(()),
        };
        self.locks.sets.insert((session, acquire), set.clone());
        for (name, _) in set.iter() {
            self.locks.tenures.is_let_go(session, name);
            let queue = self.locks.queues.get(name).into_iter().flatten();
            let waits = queue.filter(|waiting| waiting.session == session).map(|waiting| waiting.acquire);
            for acquire in waits.collect::<Vec<_>>() {
                self.locks.leaves_all_queues(session, acquire);
            }
        }
        match token {
            Some(token) => {
                self.counters.hit("sets granted at once");
                let grants =
                    set.iter().map(|(name, mode)| Granted { session, acquire, name: name.clone(), token, mode });
                granted.extend(grants);
                Ok(())
            }
            None => {
                for (name, mode) in set.iter() {
                    let queue = self.locks.queues.entry(name.clone()).or_default();
                    queue.push(Waiting { session, acquire, mode, is_set: true });
                }
                self.waiting_set_holds_nothing(seen, session, set)
            }
        }
    }

    fn waiting_set_holds_nothing(&self, seen: &Seen<'_>, session: SessionId, set: &LockSet) -> Check {
        match set.iter().find(|(name, _)| seen.machine.holders_of(name).contains(&session)) {
            Some((name, _)) => {
                let detail = format!("session {session} holds {name} and waits for {set:?}");
                Err(Violation::new("none of a set is held while it waits", detail))
            }
            None => Ok(()),
        }
    }

    /// Whoever is granted a lock of a set is granted all of them; and nobody is granted one of which it waits for as part of another.
    pub(super) fn sets_are_whole(&mut self, granted: &[Granted]) -> Check {
        for grant in granted {
            let queue = self.locks.queues.get(&grant.name).into_iter().flatten();
            if let Some(waiting) =
                queue.filter(|it| it.acquire != grant.acquire).find(|it| it.session == grant.session && it.is_set)
            {
                let detail = format!("{grant:?}, and {waiting:?}");
                return Err(Violation::new("none of a set is held while it waits", detail));
            }
            let Some(set) = self.locks.sets.get(&(grant.session, grant.acquire)) else { continue };
            let is_of = |it: &&Granted| (it.session, it.acquire) == (grant.session, grant.acquire);
            let own = granted.iter().filter(is_of);
            let is_left_out =
                |(name, mode): (&LockName, Mode)| !own.clone().any(|it| it.name == *name && it.mode == mode);
            if let Some((name, mode)) = set.iter().find(|part| is_left_out(*part)) {
                let detail = format!("{grant:?}, and {name} ({mode:?}) of {set:?} is not");
                return Err(Violation::new("all locks of a set are granted by one op", detail));
            }
        }
        for grant in granted {
            self.locks.sets.remove(&(grant.session, grant.acquire));
        }
        Ok(())
    }
}
