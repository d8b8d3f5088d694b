//! What a lock guards never takes an older tenure's write after a newer one's; and it refuses only what has ended.

use lock_protocol::{Answer, FencingToken, LockName, Query, SessionId};

use super::{Check, Invariants, Violation};

impl Invariants {
    /// The store refused a token: its tenure has ended.
    pub(crate) fn refused_token(&self, session: SessionId, name: &LockName, token: FencingToken) -> Check {
        let Some(machine) = self.ledger.reference().locks() else { return Ok(()) };
        let Answer::Inspect(entry) = machine.on_read(&Query::Inspect { name: name.clone() }) else { return Ok(()) };
        if entry.holders.iter().any(|holder| holder.session == session && holder.token == token) {
            let detail =
                format!("{name}: session {session} holds it with token {token:?}, and another has shown a greater one");
            return Err(Violation::new("a tenure's token is the greatest while it lasts", detail));
        }
        Ok(())
    }

    /// The store took a write: nobody has written since the writer read.
    pub(crate) fn accepted_write(&self, name: &LockName, token: FencingToken, value: u64, written: u64) -> Check {
        if written == value + 1 {
            return Ok(());
        }
        let detail = format!("{name}: {written} is written with token {token:?} over {value}");
        Err(Violation::new("no write is lost under a lock and its token", detail))
    }
}
