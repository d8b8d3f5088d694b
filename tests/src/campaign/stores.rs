//! Two stores outside the service, which locks are there to guard: counters that clients read, and write one greater.
//!
//! Why a lost update proves a fault of the service. The *fenced* store takes a request only under a token that is not below any
//! it has seen for the lock; clients write to it whether their guards are valid or not. If tokens of later tenures are greater, nobody
//! else has read or written between the read and the write of one tenure. The *timed* store knows no tokens; it takes a request
//! only before the time until which the guard said that it is valid, read on the same clock. If no two guards are valid at a time, the
//! same holds. So in both a write must find the value that its writer read.

use std::collections::BTreeMap;

use super::diary::Ask;

/// Who wrote last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counter {
    value: u64,
    greatest_token: u64,
    /// Client and its op.
    writer: Option<(u64, u64)>,
}

/// Both stores, a counter for each lock in each.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    counters: BTreeMap<(bool, u64), Counter>,
    /// Writes that were taken.
    pub(crate) written: u64,
    /// Requests of clients that were too late, or whose token was.
    pub(crate) refused: u64,
}

impl Stores {
    /// The value after the request; none if it is refused.
    ///
    /// # Errors
    /// What the service did wrong.
    pub(crate) fn serve(&mut self, client: u64, ask: &Ask, now: u64) -> Result<Option<u64>, String> {
        let counter = self.counters.entry((ask.fenced, ask.lock)).or_default();
        let late = if ask.fenced { ask.token < counter.greatest_token } else { now >= ask.until };
        if late {
            self.refused += 1;
            return Ok(None);
        }
        counter.greatest_token = counter.greatest_token.max(ask.token);
        let Some(read) = ask.replace else { return Ok(Some(counter.value)) };
        if counter.value != read {
            let (other, op) = counter.writer.unwrap_or_default();
            return Err(format!(
                "an update is lost in the {} store: client {client} op {} read {read} and writes {} under token {}, but client {other} op {op} \
                 has made it {} meanwhile: lock campaign/{} guarded nothing",
                if ask.fenced { "fenced" } else { "timed" },
                ask.op,
                read + 1,
                ask.token,
                counter.value,
                ask.lock
            ));
        }
        counter.value += 1;
        counter.writer = Some((client, ask.op));
        self.written += 1;
        Ok(Some(counter.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(fenced: bool, token: u64, until: u64, replace: Option<u64>) -> Ask {
        Ask { op: token, lock: 0, token, until, fenced, replace }
    }

    #[test]
    fn the_fenced_store_refuses_the_write_of_an_earlier_tenure() {
        let mut stores = Stores::default();
        assert_eq!(stores.serve(1, &ask(true, 5, 0, None), 9), Ok(Some(0)));
        assert_eq!(stores.serve(2, &ask(true, 7, 0, None), 9), Ok(Some(0)));
        assert_eq!(stores.serve(1, &ask(true, 5, 0, Some(0)), 9), Ok(None));
        assert_eq!(stores.serve(2, &ask(true, 7, 0, Some(0)), 9), Ok(Some(1)));
    }

    #[test]
    fn two_tenures_under_one_token_lose_an_update_and_are_found() {
        let mut stores = Stores::default();
        for client in [1, 2] {
            assert_eq!(stores.serve(client, &ask(true, 5, 0, None), 9), Ok(Some(0)));
        }
        assert_eq!(stores.serve(1, &ask(true, 5, 0, Some(0)), 9), Ok(Some(1)));
        assert!(stores.serve(2, &ask(true, 5, 0, Some(0)), 9).is_err());
    }

    #[test]
    fn the_timed_store_refuses_who_is_late_and_finds_two_who_are_in_time() {
        let mut stores = Stores::default();
        assert_eq!(stores.serve(1, &ask(false, 5, 20, None), 9), Ok(Some(0)));
        assert_eq!(stores.serve(2, &ask(false, 7, 40, None), 19), Ok(Some(0)));
        assert_eq!(stores.serve(2, &ask(false, 7, 40, Some(0)), 20), Ok(Some(1)));
        assert_eq!(stores.serve(1, &ask(false, 5, 20, Some(0)), 20), Ok(None));
        assert!(stores.serve(1, &ask(false, 5, 22, Some(0)), 21).is_err());
    }
}
