//! One client that acquires one lock after the other, and times each: what everybody else feels of what is done meanwhile.
//!
//! Why it is right: it has a thread of its own and waits for nothing but the service, and a window ends only when an acquire that began
//! within it or after it has been answered. So no stall is missed because nobody asked at that moment, nor because it had not ended yet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lock_client::Mode;
use lock_client::blocking::LockClient;

use crate::lab::{Checked, Failure};

/// Longer than anything that is measured.
const LEASE: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// No acquire takes longer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The others are given back.
const KEPT: usize = 64;

/// The client.
#[derive(Debug)]
pub(super) struct Probe {
    shared: Arc<Shared>,
    thread: JoinHandle<Checked<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Of each acquire.
    latencies: Mutex<Vec<Duration>>,
}

impl Probe {
    /// Connects, and begins.
    pub(super) fn start(endpoints: &[String]) -> Checked<Probe> {
        let builder = LockClient::builder(endpoints).name("probe").lease(LEASE).connect_timeout(CONNECT_MAX);
        let client = LockClient::connect(builder.cache(KEPT, LEASE))?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("probe".into()).spawn(move || of_thread.run(&client))?;
        Ok(Probe { shared, thread })
    }

    /// A window begins here, to be given to [`Probe::since`].
    pub(super) fn mark(&self) -> usize {
        self.shared.count()
    }

    /// The window ends here: its latencies, with that of the acquire that is under way, and of one more.
    pub(super) async fn since(&self, mark: usize) -> Checked<Latencies> {
        let (enough, until) = (self.shared.count() + 2, Instant::now() + ANSWER_MAX);
        while self.shared.count() < enough {
            if self.thread.is_finished() || Instant::now() > until {
                return Err(Failure::Wrong(format!("the probe was not granted a lock within {ANSWER_MAX:?}")));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Latencies::new(self.shared.latencies()[mark..].to_vec()))
    }

    /// Ends it.
    pub(super) fn stop(self) -> Checked<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Failure::Wrong("the probe's thread panicked".into()))?
    }
}

impl Shared {
    fn run(&self, client: &LockClient) -> Checked<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            drop(client.acquire_timeout(format!("probe/{}", self.count()), Mode::Exclusive, ANSWER_MAX)?);
            self.latencies().push(began.elapsed());
        }
        Ok(client.close()?)
    }

    fn latencies(&self) -> std::sync::MutexGuard<'_, Vec<Duration>> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        self.latencies().len()
    }
}

/// Times of something, ascending.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(super) fn new(mut times: Vec<Duration>) -> Latencies {
        times.sort_unstable();
        Latencies(times)
    }

    /// Below which so much of all lies; zero where there are none.
    pub(super) fn at(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get(((self.0.len() as f64 * share) as usize).min(last)).copied().unwrap_or_default()
    }

    pub(super) fn longest(&self) -> Duration {
        self.at(1.0)
    }

    /// Of all of an acquire.
    pub(super) fn tail(&self) -> String {
        let [middle, most, longest] = [self.at(0.5), self.at(0.99), self.longest()].map(ms);
        format!("p50 {middle}, p99 {most}, longest {longest} of {}", self.0.len())
    }

    /// Of few.
    pub(super) fn middle_and_worst(&self) -> String {
        format!("median {}, worst {} of {}", ms(self.at(0.5)), ms(self.longest()), self.0.len())
    }
}

/// In words.
pub(super) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_times_is_one_of_them_and_of_none_it_is_nothing() {
        let times = Latencies::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(
            [times.at(0.0), times.at(0.5), times.at(0.99), times.longest()].map(|time| time.as_millis()),
            [1, 51, 100, 100]
        );
        assert_eq!(Latencies::new(Vec::new()).longest(), Duration::ZERO);
        assert_eq!(times.middle_and_worst(), "median 51 ms, worst 100 ms of 100");
    }
}
