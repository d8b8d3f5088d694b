//! A medium goes bad: bits flip, blocks read as zeros or as rubbish. In a place or two at a time: the format keeps two
//! copies of what must be whole, and promises to notice the rest.

use nvm_log::sim::SimDisk;

use super::dice::Dice;

/// Superblocks, witness lines and control slots lie below this on the store's medium; the ring above.
const RING_BEGIN: usize = 0x1_8000;
/// Where nothing was ever written there is little to damage: a place that holds something is looked for so often.
const TRIES: usize = 32;
const LINE: usize = 64;
/// Bits that flip together, at most.
const FLIPS_MAX: u64 = 4;

/// What became of some bytes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Single bits.
    Flip,
    /// A block of zeros.
    Zero,
    /// A block of rubbish, from this number.
    Rubbish(u64),
}

/// Damages a place or two. Says where, for people.
pub(crate) fn damage(disk: &SimDisk, dice: &mut Dice) -> String {
    let places = if dice.chance(300_000) { 2 } else { 1 };
    let told: Vec<String> = (0..places).filter_map(|_| damage_one(disk, dice)).collect();
    told.join(", and ")
}

/// Damages one place; none if there is nothing to damage.
fn damage_one(disk: &SimDisk, dice: &mut Dice) -> Option<String> {
    let kind = match dice.index(4) {
        0 => Kind::Zero,
        1 => Kind::Rubbish(dice.number()),
        _ => Kind::Flip,
    };
    let which = [0, 0, 0, 0, 1, 2][dice.index(6)];
    let size = disk.size(which);
    let (begin, end) = match (which, dice.index(2)) {
        (0, 0) => (0, RING_BEGIN.min(size)),
        (0, _) => (RING_BEGIN.min(size), size),
        _ => (0, size),
    };
    if begin == end {
        return None;
    }
    let visible = disk.visible();
    let used = |at: &usize| {
        visible[which][*at / LINE * LINE..(*at / LINE * LINE + LINE).min(size)].iter().any(|byte| *byte != 0)
    };
    let at = (0..TRIES).map(|_| begin + dice.index(end - begin)).find(used)?;
    match kind {
        Kind::Flip => {
            for _ in 0..dice.between((1, FLIPS_MAX)) {
                let bit = dice.below(8);
                let near = (at + dice.index(64)).min(end - 1);
                disk.damage(which, near..near + 1, |bytes| bytes[0] ^= 1 << bit);
            }
        }
        Kind::Zero | Kind::Rubbish(_) => {
            let block = *dice.pick(&[64, 512, 4096]);
            let start = at / block * block;
            disk.damage(which, start..(start + block).min(size), |bytes| fill(kind, bytes));
        }
    }
    Some(format!("{kind:?} at {at} of medium {which}"))
}

fn fill(kind: Kind, bytes: &mut [u8]) {
    match kind {
        Kind::Rubbish(number) => {
            let mut dice = Dice::new(number);
            bytes.iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
        }
        Kind::Flip | Kind::Zero => bytes.fill(0),
    }
}
