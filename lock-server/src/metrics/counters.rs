//! What is counted outside of the replica and the machine: connections, requests, refusals, calls back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_protocol::{Command, Outcome, Refusal};
use parking_lot::Mutex;

use crate::machine::Durations;

/// A label's values, and their names on the page.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($value,)* }

        impl $name {
            const NAMES: &'static [&'static str] = &[$($text),*];
        }
    };
}

label! {
    /// What is asked.
    Request {
        Open = "open",
        Acquire = "acquire",
        Release = "release",
        Cancel = "cancel",
        Downgrade = "downgrade",
        Upgrade = "upgrade",
        KeepAlive = "keep_alive",
        Close = "close",
        Query = "query",
        ForceRelease = "force_release",
        Recovery = "recovery",
        Status = "status",
        ChangeMembers = "change_members",
        Backup = "backup",
        AcquireAll = "acquire_all",
    }
}

label! {
    /// Why a request was refused.
    Reason {
        NotPrimary = "not_primary",
        ViewChanging = "view_changing",
        Busy = "busy",
        Unknown = "unknown",
        SessionGone = "session_gone",
        Invalid = "invalid",
        LimitReached = "limit_reached",
        Denied = "denied",
    }
}

label! {
    /// Who is connected.
    Peer {
        Member = "member",
        Client = "client",
        Callback = "callback",
    }
}

label! {
    /// Why a connection was turned away or closed by this side.
    TurnedAway {
        Silent = "silent",
        Malformed = "malformed",
        Version = "version",
        Full = "full",
        OtherCluster = "other_cluster",
        NotServing = "not_serving",
        OtherSession = "other_session",
        Member = "member",
        NotReading = "not_reading",
        Tls = "tls",
    }
}

label! {
    /// What became of a call back to a client.
    Callback {
        Acknowledged = "acknowledged",
        Failed = "failed",
        NotConnected = "not_connected",
    }
}

/// A number for each value of a label.
#[derive(Debug)]
pub(crate) struct Labelled {
    names: &'static [&'static str],
    values: Vec<AtomicU64>,
}

impl Labelled {
    fn new(names: &'static [&'static str]) -> Self {
        Labelled { names, values: names.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    fn add(&self, index: usize, count: u64) {
        self.values[index].fetch_add(count, Ordering::Relaxed);
    }

    fn subtract(&self, index: usize) {
        self.values[index].fetch_sub(1, Ordering::Relaxed);
    }

    /// Each value's name, and its number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.names.iter().copied().zip(self.values.iter().map(|value| value.load(Ordering::Relaxed)))
    }
}

/// All that is counted.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(super) requests: Labelled,
    pub(super) refusals: Labelled,
    pub(super) connections: Labelled,
    pub(super) turned_away: Labelled,
    pub(super) callbacks: Labelled,
    /// Tenures that holders were to give up.
    revokes: AtomicU64,
    /// From reading an acquire to answering it. Uncontended but for a scrape.
    acquires: Mutex<Durations>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            requests: Labelled::new(Request::NAMES),
            refusals: Labelled::new(Reason::NAMES),
            connections: Labelled::new(Peer::NAMES),
            turned_away: Labelled::new(TurnedAway::NAMES),
            callbacks: Labelled::new(Callback::NAMES),
            revokes: AtomicU64::new(0),
            acquires: Mutex::default(),
        }
    }
}

impl Counters {
    pub(crate) fn request(&self, request: Request) {
        self.requests.add(request as usize, 1);
    }

    /// The requests of one submission; returns how many acquires are among them.
    pub(crate) fn commands<'a>(&self, commands: impl Iterator<Item = &'a Command>) -> u64 {
        let mut counts = [0; Request::NAMES.len()];
        for command in commands {
            let request = match command {
                Command::Acquire { .. } => Request::Acquire,
                Command::Cancel { .. } => Request::Cancel,
                Command::Release { .. } => Request::Release,
                Command::Downgrade { .. } => Request::Downgrade,
                Command::Upgrade { .. } => Request::Upgrade,
                Command::AcquireAll { .. } => Request::AcquireAll,
            };
            counts[request as usize] += 1;
        }
        for (index, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.requests.add(index, count);
        }
        counts[Request::Acquire as usize] + counts[Request::AcquireAll as usize]
    }

    /// Acquires were answered, so long after they had been read.
    pub(crate) fn acquired(&self, count: u64, after: Duration) {
        if count > 0 {
            let us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
            self.acquires.lock().record_many(us, count);
        }
    }

    pub(super) fn acquires(&self) -> Durations {
        *self.acquires.lock()
    }

    /// Looks whether the request was refused.
    pub(crate) fn answer<T>(&self, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &answer {
            let reason = match refusal {
                Refusal::NotPrimary { .. } => Reason::NotPrimary,
                Refusal::ViewChanging => Reason::ViewChanging,
                Refusal::Busy(_) => Reason::Busy,
                Refusal::Unknown => Reason::Unknown,
                Refusal::SessionGone => Reason::SessionGone,
                Refusal::Invalid(_) => Reason::Invalid,
                Refusal::Denied(_) => Reason::Denied,
            };
            self.refusals.add(reason as usize, 1);
        }
        answer
    }

    /// Looks which of a submission's requests were refused.
    pub(crate) fn outcomes(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Outcome::SessionGone => self.refusals.add(Reason::SessionGone as usize, 1),
                Outcome::LimitReached { .. } => self.refusals.add(Reason::LimitReached as usize, 1),
                Outcome::Denied { .. } => self.refusals.add(Reason::Denied as usize, 1),
                _ => {}
            }
        }
    }

    pub(crate) fn turned_away(&self, reason: TurnedAway) {
        self.turned_away.add(reason as usize, 1);
    }

    pub(crate) fn callback(&self, callback: Callback) {
        self.callbacks.add(callback as usize, 1);
    }

    pub(crate) fn revokes(&self, count: usize) {
        self.revokes.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn revoke_count(&self) -> u64 {
        self.revokes.load(Ordering::Relaxed)
    }
}

/// Somebody is connected, as long as this lives.
pub(crate) struct Connected(Arc<Counters>, Peer);

impl Connected {
    pub(crate) fn new(counters: &Arc<Counters>, peer: Peer) -> Self {
        counters.connections.add(peer as usize, 1);
        Connected(Arc::clone(counters), peer)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.subtract(self.1 as usize);
    }
}

#[cfg(test)]
mod tests {
    use lock_protocol::{LockName, Mode, RequestNumber};

    use super::*;

    fn of(labelled: &Labelled, name: &str) -> u64 {
        labelled.iter().find(|(other, _)| *other == name).expect("it is there").1
    }

    #[test]
    fn the_commands_of_a_submission_are_counted_by_kind() {
        let counters = Counters::default();
        let name = LockName::new("a").expect("a name");
        let acquire = Command::Acquire { name: name.clone(), mode: Mode::Shared };
        let cancel = Command::Cancel { name, acquire: RequestNumber(1) };
        assert_eq!(counters.commands([&acquire, &cancel, &acquire].into_iter()), 2);
        let counts = ["acquire", "cancel", "upgrade"].map(|kind| of(&counters.requests, kind));
        assert_eq!(counts, [2, 1, 0]);
    }

    #[test]
    fn who_is_connected_is_counted_until_he_is_gone() {
        let counters = Arc::new(Counters::default());
        let (first, second) = (Connected::new(&counters, Peer::Client), Connected::new(&counters, Peer::Client));
        assert_eq!((of(&counters.connections, "client"), of(&counters.connections, "member")), (2, 0));
        drop((first, second));
        assert_eq!(of(&counters.connections, "client"), 0);
    }
}
