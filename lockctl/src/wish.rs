//! Getting the locks of a run, and holding them together.
//!
//! Names are taken in sorted order by every run, so a circle of runs that wait for each other cannot form. All of them
//! hang on one session: its lease ends for all at the same moment, so a set that was not held together from its last
//! acquire on (the lease ran out between two of them) is given up and taken anew.

use std::time::Duration;

use futures::future::{FutureExt, select_all};
use lock_client::{AcquireError, LockClient, LockGuard, LockName, Mode, TRY_WAIT};

use crate::arguments::Common;
use crate::dispatch;
use crate::failure::{Failure, exit, seconds};
use crate::signals::Requests;
use crate::waiting::{Waiting, obstacle};

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Forever,
    For(Duration),
    Try,
}

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    /// As typed.
    pub(crate) names: &'a [LockName],
    pub(crate) mode: Mode,
    pub(crate) lease: Duration,
    pub(crate) patience: Patience,
}

/// All locks of a wish, held.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) client: LockClient,
    /// In the order of the wish.
    guards: Vec<LockGuard>,
    /// From the first wish to the last grant.
    pub(crate) waited: Duration,
}

impl Held {
    /// How long all of them are certainly held.
    pub(crate) fn valid_for(&self) -> Duration {
        self.guards.iter().map(LockGuard::valid_for).min().unwrap_or_default()
    }

    /// Resolves when one of them is lost.
    pub(crate) async fn lost(&self) {
        if !self.guards.is_empty() {
            select_all(self.guards.iter().map(|guard| guard.lost().boxed())).await;
        }
    }

    /// In the order of the wish.
    pub(crate) fn tokens(&self) -> Vec<u64> {
        self.guards.iter().map(|guard| guard.token().0).collect()
    }

    /// Gives them back, and ends the session.
    pub(crate) async fn release(self) {
        drop(self.guards);
        dispatch::close(&self.client).await;
    }
}

/// Why one of them was not had.
enum Obstacle {
    /// A new session is needed.
    SessionLost,
    Failed(Failure),
}

/// Takes all, or none.
pub(crate) async fn fulfil(wish: &Wish<'_>, common: &Common, requests: &mut Requests) -> Result<Held, Failure> {
    let mut waiting = Waiting::new();
    loop {
        let client = tokio::select! {
            client = dispatch::connect(common, wish.lease, common.connect_timeout) => client?,
            signal = requests.next() => return Err(Failure::signal(signal.as_raw())),
        };
        let taken = tokio::select! {
            taken = take_all(wish, &client, &mut waiting) => taken,
            signal = requests.next() => Err(Obstacle::Failed(Failure::signal(signal.as_raw()))),
        };
        waiting.clear();
        match taken {
            Ok(guards) => return Ok(Held { client, guards, waited: waiting.elapsed() }),
            Err(Obstacle::SessionLost) => client.abandon(),
            Err(Obstacle::Failed(failure)) => {
                dispatch::close(&client).await;
                return Err(failure);
            }
        }
    }
}

async fn take_all(wish: &Wish<'_>, client: &LockClient, waiting: &mut Waiting) -> Result<Vec<LockGuard>, Obstacle> {
    let mut sorted: Vec<(usize, &LockName)> = wish.names.iter().enumerate().collect();
    sorted.sort_by_key(|(_, name)| *name);
    loop {
        let mut guards = Vec::new();
        for (place, name) in &sorted {
            let taken = tokio::select! {
                taken = take(wish, client, name, waiting.elapsed()) => taken,
                never = waiting.tell(client, name) => match never {},
            };
            match taken {
                Ok(guard) => guards.push((*place, guard)),
                Err(AcquireError::SessionLost) => return Err(Obstacle::SessionLost),
                Err(error) => return Err(Obstacle::Failed(not_had(error, client, name, waiting.elapsed()).await)),
            }
        }
        if guards.iter().all(|(_, guard)| guard.is_valid()) {
            guards.sort_by_key(|(place, _)| *place);
            return Ok(guards.into_iter().map(|(_, guard)| guard).collect());
        }
    }
}

async fn take(
    wish: &Wish<'_>,
    client: &LockClient,
    name: &LockName,
    waited: Duration,
) -> Result<LockGuard, AcquireError> {
    match wish.patience {
        Patience::Forever => client.acquire(name.as_str(), wish.mode).await,
        Patience::For(limit) => client.acquire_timeout(name.as_str(), wish.mode, limit.saturating_sub(waited)).await,
        Patience::Try => client.acquire_timeout(name.as_str(), wish.mode, TRY_WAIT).await,
    }
}

async fn not_had(error: AcquireError, client: &LockClient, name: &LockName, waited: Duration) -> Failure {
    let AcquireError::Timeout { reason, .. } = error else { return error.into() };
    let obstacle = obstacle(client, name).await.unwrap_or_else(|| reason.to_owned());
    Failure::new(exit::NOT_HAD, format!("{name} was not had within {}: {obstacle}", seconds(waited)))
}
