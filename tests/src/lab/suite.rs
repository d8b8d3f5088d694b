//! The list of scenarios, and how they are run.
//!
//! Why a failure is to be believed: what a standstill of the machine excuses ([`Failure::Disturbed`]) is excused only if
//! this process itself stood still meanwhile, and then the scenario is run again. What is wrong is never excused.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::cluster::{Blow, last_words};
use super::failure::{Checked, Failure};
use super::stage::{Programs, Way};
use super::{beyond, load, quiet};

/// Ticks of the watch on the machine.
const WATCH_TICK: Duration = Duration::from_millis(10);
/// A standstill so long excuses what it can: members suspect each other after 250 ms.
const STANDSTILL: Duration = Duration::from_millis(100);
/// How often a scenario is run at most.
const ATTEMPTS: u32 = 4;

type Run = fn(Programs, Way) -> Pin<Box<dyn Future<Output = Checked<()>>>>;

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// 0 to 16 as in the labs, then our own.
    pub number: u32,
    /// What happens, and what comes of it.
    pub name: &'static str,
    /// It is run once in each of these ways.
    pub ways: &'static [Way],
    run: Run,
}

const PAUSE: Duration = Duration::from_millis(600);
const TERM: Way = Way { blow: Blow::Term, pause: PAUSE };
const TERM_AT_ONCE: Way = Way { blow: Blow::Term, pause: Duration::ZERO };
const KILL: Way = Way { blow: Blow::Kill, pause: PAUSE };
const KILL_AT_ONCE: Way = Way { blow: Blow::Kill, pause: Duration::ZERO };
/// Nobody is stopped by the scenario, or only at a break point.
const ONCE: &[Way] = &[TERM];
const BOTH: &[Way] = &[TERM, KILL_AT_ONCE];
const ALL: &[Way] = &[TERM, TERM_AT_ONCE, KILL, KILL_AT_ONCE];

macro_rules! scenario {
    ($number:literal, $name:literal, $ways:expr, $run:path) => {
        Scenario { number: $number, name: $name, ways: $ways, run: |programs, way| Box::pin($run(programs, way)) }
    };
}

/// All scenarios, by number.
pub const SCENARIOS: [Scenario; 23] = [
    scenario!(0, "three members found a cluster", ONCE, quiet::founding),
    scenario!(1, "a backup dies, no view changes", BOTH, quiet::backup_dies),
    scenario!(2, "the primary dies, another follows", BOTH, quiet::primary_dies),
    scenario!(3, "a backup dies and comes back, no view changes", ALL, quiet::backup_returns),
    scenario!(4, "without a majority nothing is committed, twice", BOTH, quiet::majority_is_lost_twice),
    scenario!(5, "a proposer dies between prepare and accept", BOTH, quiet::proposer_dies_after_prepare),
    scenario!(
        6,
        "a proposer dies between accept and decide, its value is decided",
        BOTH,
        quiet::proposer_dies_after_accept
    ),
    scenario!(7, "voters restart after the vote, the same value is decided", BOTH, quiet::voters_restart_after_accept),
    scenario!(8, "load, nobody dies", ONCE, load::nobody_dies),
    scenario!(9, "load, a backup dies", BOTH, load::backup_dies),
    scenario!(10, "load, a backup dies and comes back", ALL, load::backup_returns),
    scenario!(11, "load, the primary dies", BOTH, load::primary_dies),
    scenario!(12, "load, the primary dies after the first acknowledgement", BOTH, load::primary_dies_after_first_ack),
    scenario!(13, "load, a backup dies before it acknowledges", BOTH, load::backup_dies_before_ack),
    scenario!(14, "load, a backup dies when it enters the next view", BOTH, load::backup_dies_entering),
    scenario!(15, "load, the next primary dies when it enters its view", BOTH, load::next_primary_dies_entering),
    scenario!(16, "load, the primary is cut off amid requests", ONCE, load::primary_is_cut_off),
    scenario!(
        17,
        "a primary restarted at once never serves from an empty table",
        &[KILL_AT_ONCE, TERM_AT_ONCE],
        beyond::primary_restarts_at_once
    ),
    scenario!(
        18,
        "a backup restarted at once never wedges the group",
        &[KILL_AT_ONCE, TERM_AT_ONCE],
        beyond::backup_restarts_at_once
    ),
    scenario!(19, "a revoke that is lost with the primary is sent again", &[KILL_AT_ONCE], beyond::revoke_is_lost),
    scenario!(20, "all restart and remember who holds what", &[KILL_AT_ONCE, TERM], beyond::all_restart),
    scenario!(21, "a dead client's lock is granted after its lease and not before", ONCE, beyond::client_dies),
    scenario!(22, "a member that lost its store catches up and is primary", BOTH, beyond::lost_store_is_replaced),
];

/// A scenario in one way, run.
#[derive(Debug)]
pub struct Verdict {
    /// What went wrong.
    pub failure: Option<Failure>,
    /// How often it was run.
    pub attempts: u32,
    /// How long all of it took.
    pub took: Duration,
    /// The ends of the members' logs, where something went wrong.
    pub last_words: String,
}

impl Scenario {
    /// Runs it in this way, in a runtime of its own; again where the machine stood still.
    pub fn run(&self, programs: &Programs, way: Way) -> Verdict {
        let started = now();
        for attempt in 1.. {
            let watch = Standstill::since_now();
            let failure = self.run_once(programs, way).err();
            let excused = matches!(failure, Some(Failure::Disturbed(_))) && watch.longest() >= STANDSTILL;
            if !excused || attempt >= ATTEMPTS {
                let last_words = if failure.is_some() { last_words() } else { String::new() };
                return Verdict { failure, attempts: attempt, took: started.elapsed(), last_words };
            }
        }
        unreachable!("the loop ends by its return")
    }

    fn run_once(&self, programs: &Programs, way: Way) -> Checked<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on((self.run)(programs.clone(), way))
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let blow = if self.blow == Blow::Term { "TERM" } else { "kill -9" };
        let pause = if self.pause.is_zero() { "at once" } else { "after a pause" };
        write!(f, "{blow}, restart {pause}")
    }
}

/// The longest time for which this process did not get to run although it wanted to.
struct Standstill {
    longest_us: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Standstill {
    fn since_now() -> Self {
        let (longest_us, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (longest, end) = (Arc::clone(&longest_us), Arc::clone(&over));
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let before = now();
                std::thread::sleep(WATCH_TICK);
                let late = before.elapsed().saturating_sub(WATCH_TICK);
                longest.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Standstill { longest_us, over }
    }

    fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn now() -> Instant {
    Instant::now()
}
