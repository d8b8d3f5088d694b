//! What a query is answered is what is so: a page has each lock once, in order, and none is left out; a lock has its holders and waiters.

use lock_protocol::{Answer, ForcedTenure, LockEntry, LockName, Query, SessionId};

use super::lock_truth::Seen;
use super::{Check, Invariants, Violation};

impl Invariants {
    pub(super) fn query_answered(&mut self, seen: &Seen<'_>, query: &Query, answer: &Answer) -> Check {
        let is_right = match (query, answer) {
            (Query::Locks { prefix, after, limit }, Answer::Locks { entries, more }) => {
                self.counters.add("entries on pages", entries.len() as u64);
                self.is_page(prefix, after.as_ref(), *limit, entries, *more)
            }
            (Query::Inspect { name }, Answer::Inspect(entry)) => entry.name == *name && self.is_entry(entry),
            (Query::Forced { name }, Answer::Forced(forced)) => self.are_forced(name, forced),
            (Query::Kept { after, limit }, Answer::Kept { entries, more }) => {
                self.is_page_of_the_dead(*after, *limit, entries, *more)
            }
            _ => false,
        };
        if is_right {
            return Ok(());
        }
        let detail = format!("op {}: {query:?} is answered {answer:?}", seen.op);
        Err(Violation::new("a query is answered with what is so", detail))
    }

    /// Locks of dead sessions may stand there too, until they are swept.
    fn is_page(&self, prefix: &str, after: Option<&LockName>, limit: u32, entries: &[LockEntry], more: bool) -> bool {
        let ascends = entries.is_sorted_by(|one, next| one.name < next.name);
        let fits = |name: &LockName| name.as_str().starts_with(prefix) && after.is_none_or(|after| name > after);
        let is_left_out = |name: &LockName| !entries.iter().any(|entry| entry.name == *name);
        let is_covered = |name: &LockName| !more || entries.last().is_some_and(|last| *name <= last.name);
        let mut known = self.locks.tenures.held.keys().filter(|name| fits(name) && is_covered(name));
        ascends
            && entries.len() <= limit.max(1) as usize
            && entries.iter().all(|entry| fits(&entry.name) && self.is_entry(entry))
            && !known.any(is_left_out)
    }

    fn is_entry(&self, entry: &LockEntry) -> bool {
        let lives = |session: &SessionId| self.locks.sessions.contains_key(session);
        let holders = entry.holders.iter().filter(|holder| lives(&holder.session));
        let mut shown: Vec<_> = holders.map(|holder| (holder.session, holder.token, holder.mode)).collect();
        shown.sort_by_key(|(session, ..)| *session);
        let held = self.locks.tenures.held.get(&entry.name).into_iter().flatten();
        let waiters = entry.waiters.iter().map(|waiter| waiter.session).filter(lives);
        let queue = self.locks.queues.get(&entry.name).into_iter().flatten();
        shown.into_iter().eq(held.map(|(session, tenure)| (*session, tenure.token, tenure.mode)))
            && waiters.eq(queue.map(|waiting| waiting.session))
    }

    fn are_forced(&self, name: &LockName, forced: &[ForcedTenure]) -> bool {
        let held = self.locks.tenures.held.get(name).into_iter().flatten();
        let withheld = held.filter(|(_, tenure)| tenure.withheld_until_us.is_some()).map(|(session, _)| *session);
        withheld.eq(forced.iter().map(|tenure| tenure.session)) && forced.iter().all(|it| it.withheld_ms.is_some())
    }
}
