//! What a seed's media are like, and what goes wrong with them and with machines.
//!
//! Drawn from dice of their own: a seed's other choices stay what they were before there were media.

use super::dice::Dice;
use super::plan::Fault;

/// What a member's store survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Everything that was flushed survives.
    Durable,
    /// The end of the process is survived, that of the machine is not: memory of the host.
    Memory,
    /// Nothing survives the process: each start is that of a new incarnation.
    Process,
    /// As `Memory`; what the host forgets, the memory of another member's host holds.
    Ring,
}

impl std::str::FromStr for Durability {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "durable" => Ok(Durability::Durable),
            "memory" => Ok(Durability::Memory),
            "process" => Ok(Durability::Process),
            "ring" => Ok(Durability::Ring),
            _ => Err(format!("{name} is none of durable, memory, process, ring")),
        }
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Durability::Durable => "durable",
            Durability::Memory => "memory",
            Durability::Process => "process",
            Durability::Ring => "ring",
        })
    }
}

/// How media are made, and how they fare. Chances per million.
#[derive(Clone, Debug)]
pub(crate) struct MediumPlan {
    pub(crate) durability: Durability,
    /// What the medium keeps or loses in one piece: a word, a cache line, a sector, a page.
    pub(crate) unit_bytes: usize,
    /// The witness line is flushed at once, so that damage is never taken for a torn tail.
    pub(crate) witness_is_sync: bool,
    pub(crate) ring_bytes: u64,
    /// Chance that with a process its machine dies.
    pub(crate) machine_dies: u64,
    /// Chance, at each flush, that the process dies in the midst of it.
    pub(crate) crash_in_flush: u64,
    /// Chance that a recovery is cut short.
    pub(crate) interrupt: u64,
    /// Chance that a planned stop is in good order.
    pub(crate) stops_clean: u64,
    /// How long a process or a machine may stand still, µs.
    pub(crate) still_us: (u64, u64),
    /// How far a clock jumps, µs.
    pub(crate) jump_us: (u64, u64),
}

/// The smallest and the largest ring, bytes: small, so that it is soon full and soon read.
const RING_BYTES: (usize, usize) = (64 << 10, 256 << 10);
const LATER_FAULTS: [Fault; 6] =
    [Fault::Damage, Fault::StoreFails, Fault::RollingRestart, Fault::LongPause, Fault::Suspend, Fault::ClockJump];

impl MediumPlan {
    /// The dice for all of this, in a seed's run.
    pub(crate) fn dice(seed: u64) -> Dice {
        Dice::new(seed.rotate_left(32) ^ 0x6d65_6469_756d)
    }

    fn ring_dice(seed: u64) -> Dice {
        Dice::new(seed.rotate_left(32) ^ 0x7269_6e67)
    }

    pub(crate) fn draw(dice: &mut Dice, seed: u64, durability: Option<Durability>) -> MediumPlan {
        use Durability::{Durable, Memory, Process, Ring};
        let mut drawn = *dice.pick(&[Durable, Durable, Durable, Durable, Durable, Durable, Memory, Process]);
        if drawn == Memory && Self::ring_dice(seed).chance(500_000) {
            drawn = Ring;
        }
        let durability = durability.unwrap_or(drawn);
        let units: &[usize] = if durability == Durable { &[8, 64, 512, 4096] } else { &[8] };
        MediumPlan {
            durability,
            unit_bytes: *dice.pick(units),
            witness_is_sync: dice.chance(300_000),
            ring_bytes: RING_BYTES.0 as u64,
            machine_dies: *dice.pick(&[0, 300_000, 800_000]),
            crash_in_flush: if dice.chance(500_000) { dice.spread((300, 20_000)) } else { 0 },
            interrupt: *dice.pick(&[0, 100_000, 400_000]),
            stops_clean: 500_000,
            still_us: (300_000, dice.spread((1_000_000, 20_000_000))),
            jump_us: (1_000, dice.spread((10_000, 60_000_000))),
        }
    }

    /// Makes the ring about as large as this. Returns its size, bytes.
    pub(crate) fn make_ring(&mut self, about_bytes: usize) -> usize {
        let bytes = about_bytes.next_multiple_of(4096).clamp(RING_BYTES.0, RING_BYTES.1);
        self.ring_bytes = bytes as u64;
        bytes
    }

    /// The faults of media, clocks and machines that a seed has.
    pub(crate) fn draw_faults(dice: &mut Dice) -> Vec<Fault> {
        let share = *dice.pick(&[0, 200_000, 500_000]);
        LATER_FAULTS.into_iter().filter(|_| dice.chance(share)).collect()
    }

    /// A durable medium with which nothing goes wrong.
    #[cfg(test)]
    pub(crate) fn quiet() -> MediumPlan {
        MediumPlan {
            durability: Durability::Durable,
            unit_bytes: 512,
            witness_is_sync: false,
            ring_bytes: RING_BYTES.0 as u64,
            machine_dies: 0,
            crash_in_flush: 0,
            interrupt: 0,
            stops_clean: 0,
            still_us: (1, 1),
            jump_us: (1, 1),
        }
    }
}
