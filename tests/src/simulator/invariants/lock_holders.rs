//! A lock has one exclusive holder, or shared ones: in the table, and as the clients' valid guards see it, in true time.
//! And no guard is valid past its session.

use lock_client::cores::Grant;
use lock_protocol::{Answer, LockName, Mode, Query, SessionId};

use super::lock_truth::Seen;
use super::{Check, Invariants, Violation};
use crate::simulator::workload::locks::users::User;
use crate::simulator::world::World;

impl Invariants {
    /// In the table.
    pub(super) fn holders_agree(&self, seen: &Seen<'_>, name: &LockName) -> Check {
        let Answer::Inspect(entry) = seen.machine.on_read(&Query::Inspect { name: name.clone() }) else {
            return Ok(());
        };
        if entry.holders.len() > 1 && entry.holders.iter().any(|holder| holder.mode == Mode::Exclusive) {
            return Err(Violation::new("a lock has at most one exclusive holder", format!("{entry:?}")));
        }
        Ok(())
    }
}

impl World {
    /// The guards of a lock that are valid now, by their own clients' clocks: client, user, what they have. Not those of tenures that
    /// an operator ended without waiting for the holder: only the token tells them apart, and what the lock guards looks at it.
    fn valid_guards<'a>(&'a self, name: &'a LockName) -> impl Iterator<Item = (usize, usize, Grant)> + 'a {
        self.locks.clients.iter().enumerate().flat_map(move |(client, it)| {
            let clocks = it.clock.read(self.now);
            let session = it.opened().map(|opened| &opened.session);
            it.users.iter().enumerate().filter_map(move |(user, state)| {
                let (_, grant) = state.guards().find(|(held, _)| *held == name)?;
                let session = session?;
                let valid = !session.valid_for(name, grant, clocks).is_zero();
                let voided = self.invariants.locks.tenures.is_voided(session.id(), name, grant.token);
                (valid && !voided).then_some((client, user, grant))
            })
        })
    }

    /// At every moment at most one holder of an exclusive guard, and then none of a shared one. To be asked whenever a guard begins,
    /// or may have become valid again.
    pub(crate) fn check_guards(&self, name: &LockName) -> Check {
        let mut exclusive = None;
        let mut count = 0;
        for guard in self.valid_guards(name) {
            count += 1;
            if guard.2.mode == Mode::Exclusive {
                exclusive = Some(guard);
            }
        }
        if count > 1 && exclusive.is_some() {
            let guards: Vec<_> = self.valid_guards(name).collect();
            let detail = format!("{name}: (client, user, guard) {guards:?} are valid at once");
            return Err(Violation::new("an exclusive guard is alone", detail));
        }
        Ok(())
    }

    /// The same for all locks of a client.
    pub(crate) fn check_guards_of(&self, client: usize) -> Check {
        let mut held = self.locks.clients[client].users.iter().flat_map(User::guards);
        held.try_for_each(|(name, _)| self.check_guards(name))
    }

    /// Sessions ended in the log at this moment: none of their guards is valid.
    pub(crate) fn check_ended_sessions(&mut self) -> Check {
        for session in std::mem::take(&mut self.invariants.locks.ended) {
            self.no_guard_of(session)?;
        }
        Ok(())
    }

    fn no_guard_of(&self, session: SessionId) -> Check {
        let Some(client) = self.locks.clients.iter().position(|client| client.session() == Some(session)) else {
            return Ok(());
        };
        for name in &self.locks.names {
            if let Some((_, user, grant)) = self.valid_guards(name).find(|(holder, ..)| *holder == client) {
                let detail =
                    format!("session {session} has ended; user {user} of client {client} has {name}: {grant:?}");
                return Err(Violation::new("no guard is valid past its session", detail));
            }
        }
        Ok(())
    }
}
