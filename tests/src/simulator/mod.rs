//! A whole cluster in one thread: cores, stores, clocks, network and clients, all driven by one seed.
//!
//! A run has two halves. In the first, faults happen: processes die and pause, stores are lost, links break in every
//! way, messages are lost, doubled and come late, clocks run at different rates and jump, machines sleep. In the second nothing goes wrong any
//! more, and the cluster has to come back: a primary serves, all members are in sync and hold the same state, and it
//! stays so. All the time, `invariants` says what must hold. What is replicated, and what its clients do, is drawn too: `workload`.
//!
//! What a process leaves behind is real: its records go through the log writer's code into the real log on a simulated
//! medium; a crash keeps any part of what was not flushed, media fail and go bad, and the real recovery has to make of it
//! what was promised (`store.rs`, `restarts.rs`). In `ring` hosts lose their memory, and members theirs with it (`ring.rs`).
//!
//! Each seed draws which faults it has (`plan.rs`). A seed that failed once goes into `tests/seeds.txt` and is run for
//! ever.
//!
//! # Limits of this implementation
//!
//! Damage is a place or two at a time, and comes while a member is down; the system's own caches are not simulated beyond
//! what [`nvm_log::medium`] promises. A store that was repaired is not used on here; the log's own crash tests do that.

mod atlas;
mod changes;
mod counters;
mod damage;
pub(crate) mod dice;
mod faults;
mod image;
mod invariants;
mod ledger;
mod machine;
mod medium_plan;
mod member;
mod mutation;
mod network;
mod phases;
mod plan;
mod restarts;
mod ring;
mod shell;
mod store;
mod survival;
mod trace;
mod workload;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

pub use counters::{Counters, MUST_BE_REACHED};
pub use invariants::Violation;
pub use medium_plan::Durability;
pub use mutation::{Known, mutants};
pub use plan::Workload;
use world::World;

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// So many members, instead of what the seed draws.
    pub members: Option<usize>,
    /// This workload, instead of what the seed draws.
    pub workload: Option<Workload>,
    /// What stores survive, instead of what the seed draws.
    pub durability: Option<Durability>,
    /// The name of a known bug to put back; see [`mutants`].
    pub mutant: Option<String>,
    /// Lines of the story to keep, the last ones; 0 for none.
    pub trace_lines: usize,
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What its clients did.
    pub workload: Workload,
    /// How many members it had.
    pub members: usize,
    /// Events that happened.
    pub events: u64,
    /// Simulated time, µs.
    pub simulated_us: u64,
    /// A hash over the whole story: equal for equal seeds.
    pub trace_hash: u64,
    /// Rare branches.
    pub counters: Counters,
    /// What did not hold.
    pub failure: Option<Violation>,
    /// The story's last lines, where asked for.
    pub trace: Vec<String>,
}

thread_local! {
    /// The message of a panic in this thread's simulation; none outside of one.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a seed. A panic of the core is a violation like others.
pub fn run(seed: u64, options: &Options) -> Outcome {
    catch_panics();
    let mut world = World::new(seed, options);
    world.mutation.switch_clients();
    PANIC.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let panic = PANIC.take().unwrap_or_default();
    mutation::Mutation::default().switch_clients();
    let failure = match result {
        Ok(check) => check.err(),
        Err(_) => Some(Violation { rule: "no assertion fails", detail: panic }),
    };
    Outcome {
        seed,
        workload: world.plan.workload,
        members: world.plan.members,
        events: world.events,
        simulated_us: world.now,
        trace_hash: world.trace.hash(),
        counters: world.invariants.counters,
        failure,
        trace: world.trace.into_lines(),
    }
}

/// The report of a failed run: what was violated, the command that repeats it, and the end of the story.
pub fn report(outcome: &Outcome, options: &Options) -> String {
    const LINES: usize = 60;
    let Some(Violation { rule, detail }) = &outcome.failure else { return String::new() };
    let told = run(outcome.seed, &Options { trace_lines: LINES, ..options.clone() });
    let members = options.members.map(|members| format!(" --members {members}")).unwrap_or_default();
    let workload = options.workload.map(|workload| format!(" --workload {workload}")).unwrap_or_default();
    let durability = options.durability.map(|mode| format!(" --durability {mode}")).unwrap_or_default();
    let mutant = options.mutant.as_ref().map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
    format!(
        "VIOLATED: {rule}: {detail}\nrepeat: cargo run -p plumeria-tests --bin simulate -- --trace {}{members}{workload}{durability}{mutant}\n{}",
        outcome.seed,
        told.trace.join("\n")
    )
}

/// Keeps the message of a panic inside a simulation, instead of printing it.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept =
                PANIC.with_borrow_mut(|slot| slot.as_mut().map(|text| *text = info.to_string().replace('\n', " ")));
            if kept.is_none() {
                usual(info);
            }
        }));
    });
}
