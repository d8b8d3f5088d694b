//! What a seed's run is like: which faults are on, and how strong.
//!
//! Each seed draws its own selection ("swarm testing", Groce et al., 2012): a run with every fault on rarely gets far
//! enough to reach the deep states, and one fault often hides what another would show.

use rsm::{Kind, Timing};

use super::Options;
use super::dice::{Dice, MILLION};
use super::medium_plan::{Durability, MediumPlan};
use super::workload::locks::LockPlan;

/// What is replicated, and what clients do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A register that remembers everything.
    Register,
    /// The key-value example.
    Kv,
    /// The lock service.
    Locks,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 3] = [Workload::Register, Workload::Kv, Workload::Locks];
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Workload::Register => "register",
            Workload::Kv => "kv",
            Workload::Locks => "locks",
        })
    }
}

impl std::str::FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Workload::ALL.into_iter().find(|workload| workload.to_string() == name);
        found.ok_or_else(|| format!("{name} is none of register, kv, locks"))
    }
}

/// Something that can go wrong, or be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A member's process dies and is started again.
    Crash,
    /// The same, of whoever serves.
    CrashPrimary,
    /// All processes die at once.
    PowerFailure,
    /// A member dies and comes back with an empty store.
    Wipe,
    /// A process stands still for a while.
    Pause,
    /// One member hears and reaches nobody.
    Isolate,
    /// Some links carry nothing in one direction.
    OneWay,
    /// Two groups that do not reach each other.
    Split,
    /// Each member reaches only its neighbours.
    Chain,
    /// One link comes and goes.
    Flap,
    /// All links are whole again.
    Heal,
    /// The primary is asked to let another take over.
    HandOver,
    /// The primary is asked to, and its process ends a little later.
    PlannedStop,
    /// A store becomes slow, or fast again.
    SlowStore,
    /// A member dies and finds its medium damaged in one place.
    Damage,
    /// A medium takes nothing more: it is full, or broken. The process ends by it.
    StoreFails,
    /// All members are restarted, one after the other.
    RollingRestart,
    /// A process stands still for far longer than any timer, and its clock goes on.
    LongPause,
    /// A machine sleeps, and the member's clock with it.
    Suspend,
    /// A member's clock goes ahead at once.
    ClockJump,
    /// An operator adds a member.
    Add,
    /// An operator takes one off the list.
    Remove,
    /// A member loses its store, and an operator says so.
    Replace,
}

const ALL_FAULTS: [Fault; 14] = [
    Fault::Crash,
    Fault::CrashPrimary,
    Fault::PowerFailure,
    Fault::Wipe,
    Fault::Pause,
    Fault::Isolate,
    Fault::OneWay,
    Fault::Split,
    Fault::Chain,
    Fault::Flap,
    Fault::Heal,
    Fault::HandOver,
    Fault::PlannedStop,
    Fault::SlowStore,
];

/// How messages fare. Times in µs, chances per million.
#[derive(Clone, Debug)]
pub(crate) struct NetworkPlan {
    pub(crate) delay_us: (u64, u64),
    pub(crate) loss: u64,
    pub(crate) duplicate: u64,
    /// Chance that a message, or its double, comes very late: after views have changed.
    pub(crate) late: u64,
    pub(crate) late_us: (u64, u64),
    /// Chance that the others are told at once that a process is gone.
    pub(crate) unreachable: u64,
}

/// How stores fare.
#[derive(Clone, Debug)]
pub(crate) struct StorePlan {
    pub(crate) flush_us: (u64, u64),
    pub(crate) slow_flush_us: (u64, u64),
    /// Between a record's being durable and the core's hearing of it.
    pub(crate) report_us: (u64, u64),
    /// Chance, at each flush, that the process dies right after it, before anything that waited for it is sent.
    pub(crate) crash_at_flush: u64,
    /// Chance, at each output, that the process dies in the midst of carrying it out.
    pub(crate) crash_in_output: u64,
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) workload: Workload,
    /// For the lock service.
    pub(crate) locks: LockPlan,
    /// Those that found the cluster.
    pub(crate) members: usize,
    /// Machines that may become members.
    pub(crate) spares: usize,
    /// The last of the founders, and of the spares, hold the log's tail only.
    pub(crate) witness: (bool, bool),
    pub(crate) clients: usize,
    /// How long faults happen, µs.
    pub(crate) unsafe_us: u64,
    /// Nothing goes wrong before a primary serves.
    pub(crate) founded_in_peace: bool,
    pub(crate) timing: Timing,
    pub(crate) snapshot_every_bytes: usize,
    pub(crate) log_capacity_bytes: usize,
    /// Makes snapshots larger than one chunk.
    pub(crate) ballast_bytes: usize,
    /// Parts of snapshots are no larger.
    pub(crate) part_bytes: usize,
    pub(crate) command_bytes: (u64, u64),
    pub(crate) think_us: (u64, u64),
    pub(crate) network: NetworkPlan,
    pub(crate) store: StorePlan,
    pub(crate) medium: MediumPlan,
    /// Between faults, µs.
    pub(crate) fault_every_us: (u64, u64),
    /// What is drawn from; a fault that stands there twice is twice as likely.
    pub(crate) faults: Vec<Fault>,
    /// How long a crashed process stays away, µs.
    pub(crate) down_us: (u64, u64),
    /// Local clocks run at this, parts per million of true time.
    pub(crate) clock_rate: (u64, u64),
    /// Between an input's arrival and its step, µs: what arrives in that time is taken in together.
    pub(crate) group_us: (u64, u64),
    /// After the faults, first only a majority is brought back, and has to serve.
    pub(crate) majority_first: bool,
}

/// A large snapshot has no more parts than this, or it would never be done.
const PARTS_OF_BALLAST: usize = 64;

impl Plan {
    /// All machines: founders and spares.
    pub(crate) fn machines(&self) -> usize {
        self.members + self.spares
    }

    /// What a machine's member stores.
    pub(crate) fn kind_of(&self, index: usize) -> Kind {
        let (founder, spare) = self.witness;
        let is_witness =
            (founder && index + 1 == self.members) || (spare && index + 1 == self.machines() && self.spares > 0);
        if is_witness { Kind::Witness } else { Kind::Replica }
    }

    /// What the seed says; the options overrule it. What was not drawn from the beginning is drawn from dice of its own, so
    /// that a seed's other choices stay what they were.
    pub(crate) fn draw(dice: &mut Dice, seed: u64, options: &Options) -> Plan {
        let (mut later, mut media) = (Dice::new(!seed), MediumPlan::dice(seed));
        let workload = *later.pick(&[Workload::Register, Workload::Kv, Workload::Locks, Workload::Locks]);
        let workload = options.workload.unwrap_or(workload);
        let locks = LockPlan::draw(&mut later, seed);
        let members = options.members;
        let drawn = [3, 3, 3, 3, 3, 3, 5, 5, 5, 1][dice.index(10)];
        let snapshot_every_bytes = dice.spread((2 << 10, 256 << 10)) as usize;
        let mut plan = Plan {
            workload,
            locks,
            members: members.unwrap_or(drawn),
            spares: 0,
            witness: (false, false),
            clients: dice.between((1, 5)) as usize,
            unsafe_us: dice.between((2_000_000, 12_000_000)),
            founded_in_peace: dice.chance(700_000),
            timing: Self::draw_timing(dice),
            snapshot_every_bytes,
            log_capacity_bytes: snapshot_every_bytes * dice.between((6, 20)) as usize,
            ballast_bytes: if dice.chance(60_000) { 600 << 10 } else { 0 },
            part_bytes: 0,
            command_bytes: (16, dice.spread((16, 600))),
            think_us: (0, dice.spread((200, 100_000))),
            network: Self::draw_network(dice),
            store: Self::draw_store(dice),
            medium: MediumPlan::draw(&mut media, seed, options.durability),
            fault_every_us: (1_000, dice.spread((20_000, 1_500_000))),
            faults: Self::draw_faults(dice),
            down_us: (1_000, dice.spread((20_000, 3_000_000))),
            clock_rate: if dice.chance(500_000) { (900_000, 1_100_000) } else { (MILLION, MILLION) },
            group_us: (0, dice.spread((1, 2_000))),
            majority_first: dice.chance(500_000),
        };
        plan.log_capacity_bytes = plan.medium.make_ring(plan.log_capacity_bytes);
        plan.faults.extend(MediumPlan::draw_faults(&mut media));
        if later.chance(300_000) {
            let times = later.between((1, 4)) as usize;
            plan.faults.extend([Fault::Add, Fault::Remove, Fault::Replace].repeat(times));
            plan.spares = later.between((1, 2)) as usize;
            plan.unsafe_us *= 2;
        }
        plan.witness = (plan.members >= 3 && later.chance(150_000), later.chance(300_000));
        if workload == Workload::Locks {
            plan.clock_rate = plan.locks.clock_rate;
            plan.ballast_bytes = 0;
            // Leases promise something while clocks run at about the right rate.
            plan.faults.retain(|fault| *fault != Fault::ClockJump);
        }
        plan.part_bytes = later.spread((64, 64 << 10)) as usize + plan.ballast_bytes / PARTS_OF_BALLAST;
        // Where a restart costs the store, a round of restarts seldom comes to its end among other faults.
        let is_volatile = plan.medium.durability != Durability::Durable;
        if is_volatile && plan.faults.contains(&Fault::RollingRestart) && media.chance(500_000) {
            plan.faults = vec![Fault::RollingRestart];
        }
        plan
    }

    fn draw_timing(dice: &mut Dice) -> Timing {
        let usual = Timing::default();
        if dice.chance(700_000) {
            return usual;
        }
        Timing {
            tick: dice.between((2_000, 20_000)),
            heartbeat: dice.between((20_000, 60_000)),
            suspect: dice.between((150_000, 500_000)),
            step_down: dice.between((300_000, 1_000_000)),
            stall: dice.between((800_000, 2_000_000)),
            retransmit: dice.between((30_000, 200_000)),
            ..usual
        }
    }

    fn draw_network(dice: &mut Dice) -> NetworkPlan {
        let fast = dice.spread((20, 2_000));
        let sometimes = |dice: &mut Dice, most: u64| if dice.chance(500_000) { dice.spread((1_000, most)) } else { 0 };
        NetworkPlan {
            delay_us: (fast, fast * dice.spread((1, 16)) + 1),
            loss: sometimes(dice, 200_000),
            duplicate: sometimes(dice, 200_000),
            late: sometimes(dice, 50_000),
            late_us: (10_000, dice.spread((20_000, 5_000_000))),
            unreachable: *dice.pick(&[0, 500_000, MILLION]),
        }
    }

    fn draw_store(dice: &mut Dice) -> StorePlan {
        let fast = dice.spread((2, 2_000));
        let seldom = |dice: &mut Dice| if dice.chance(300_000) { dice.spread((30, 3_000)) } else { 0 };
        StorePlan {
            flush_us: (fast, fast * dice.spread((1, 32)) + 1),
            slow_flush_us: (1_000, dice.spread((20_000, 4_000_000))),
            report_us: (0, dice.spread((1, 3_000))),
            crash_at_flush: {
                // Once drawn for something else: seeds keep their meaning.
                dice.number();
                seldom(dice)
            },
            crash_in_output: seldom(dice),
        }
    }

    fn draw_faults(dice: &mut Dice) -> Vec<Fault> {
        let share = *dice.pick(&[150_000, 350_000, 600_000, MILLION]);
        let mut faults = Vec::new();
        for fault in ALL_FAULTS {
            if dice.chance(share) {
                let times = dice.between((1, 3)) as usize;
                faults.extend(std::iter::repeat_n(fault, times));
            }
        }
        let breaks_links =
            [Fault::Isolate, Fault::OneWay, Fault::Split, Fault::Chain].iter().any(|fault| faults.contains(fault));
        if breaks_links {
            faults.extend([Fault::Heal, Fault::Heal]);
        }
        faults
    }
}
