//! What the nemesis can do, and what its partitions look like.

use clap::ValueEnum;
use rsm::Durability;

use super::network::{Link, Shape};
use crate::simulator::dice::{Dice, MILLION};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// A member is killed (SIGKILL), and started again after a while.
    Kill,
    /// The primary is.
    KillPrimary,
    /// All members are, at once.
    KillAll,
    /// A member is killed, and what its host had in memory is gone.
    KillHost,
    /// A member is stopped (SIGSTOP) for longer than the clients' lease, and goes on.
    Stop,
    /// The primary is.
    StopPrimary,
    /// A client is.
    StopClient,
    /// A client is killed, and another takes its place.
    KillClient,
    /// A client is cut off for longer than its lease.
    CutClient,
    /// A member is cut off.
    Isolate,
    /// The primary is.
    IsolatePrimary,
    /// Members and clients fall into two parts.
    Split,
    /// A member is heard by nobody, or hears nobody.
    OneWay,
    /// Members are a chain, each linked to its neighbours only.
    Chain,
    /// Some links, in one direction each, are cut and healed several times a second.
    Flap,
    /// Links are slow and narrow.
    Slow,
    /// Packets are lost everywhere.
    Loss,
    /// Packets arrive twice everywhere.
    Duplicate,
    /// Packets are overtaken by later ones everywhere.
    Reorder,
    /// A member's disk is full.
    FullDisk,
    /// One member after the other is stopped in good order (SIGTERM), and started again.
    RollingRestart,
    /// A member is killed, and comes back with an empty directory.
    LostStore,
    /// A spare is added to the list of members, its process started before or after.
    AddMember,
    /// A member is taken off the list, whether it runs or not; when it has ended its store is emptied, and it is a spare.
    RemoveMember,
    /// A member that runs, or was killed and has lost its store, is declared lost, and comes back with an empty directory.
    ReplaceMember,
}

impl Fault {
    /// Whether it is one of the network.
    pub(crate) fn is_of_network(self) -> bool {
        use Fault::*;
        matches!(
            self,
            CutClient | Isolate | IsolatePrimary | Split | OneWay | Chain | Flap | Slow | Loss | Duplicate | Reorder
        )
    }

    /// Whether it is about who is a member, with which store: one such at a time.
    pub(crate) fn is_of_stores(self) -> bool {
        use Fault::*;
        matches!(self, LostStore | AddMember | RemoveMember | ReplaceMember)
    }

    /// Whether it changes the list of members.
    pub(crate) fn is_of_list(self) -> bool {
        self.is_of_stores() && self != Fault::LostStore
    }

    /// Whether what the log of a member is on is lost with it.
    pub(crate) fn forgets(self, mode: Durability) -> bool {
        use Fault::*;
        match mode {
            Durability::Nvm | Durability::FullSs => matches!(self, LostStore | ReplaceMember),
            Durability::Ring => matches!(self, LostStore | ReplaceMember | KillHost),
            // A member on a full disk, or off the list, ends by itself.
            Durability::EpochSs => {
                matches!(self, LostStore | ReplaceMember | RemoveMember | Kill | KillPrimary | FullDisk)
            }
        }
    }

    /// Whether it makes sense with so many members in this mode.
    pub(crate) fn suits(self, members: usize, mode: Durability) -> bool {
        match self {
            Fault::KillAll => mode != Durability::EpochSs,
            Fault::KillHost => mode == Durability::Ring && members >= 3,
            Fault::Chain | Fault::LostStore | Fault::ReplaceMember => members >= 3,
            Fault::RollingRestart | Fault::Split | Fault::RemoveMember => members > 1,
            _ => true,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("?", |value| value.get_name()))
    }
}

/// The nodes of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nodes<'a> {
    pub(crate) members: &'a [u8],
    pub(crate) clients: &'a [u8],
}

impl Nodes<'_> {
    fn links(&self) -> impl Iterator<Item = (u8, u8)> {
        let all: Vec<u8> = self.members.iter().chain(self.clients).copied().collect();
        let froms = all.clone();
        froms
            .into_iter()
            .flat_map(move |from| all.clone().into_iter().map(move |to| (from, to)))
            .filter(|(a, b)| a != b)
    }

    fn with(&self, link: Link, is_hit: impl Fn(u8, u8) -> bool) -> Shape {
        self.links().filter(|(from, to)| is_hit(*from, *to)).map(|ends| (ends, link)).collect()
    }
}

/// The links of a fault of the network; `victim` is the node that it is about, where it is about one.
pub(crate) fn shape(fault: Fault, nodes: Nodes<'_>, victim: u8, dice: &mut Dice) -> Shape {
    let cut = Link { cut: true, ..Link::default() };
    match fault {
        Fault::Split => {
            let mut here: Vec<u8> = nodes.clients.iter().copied().filter(|_| dice.chance(MILLION / 2)).collect();
            // One member at least on either side.
            let first = dice.index(nodes.members.len());
            let count = 1 + dice.index(nodes.members.len() - 1);
            here.extend(nodes.members.iter().cycle().skip(first).take(count));
            nodes.with(cut, |from, to| here.contains(&from) != here.contains(&to))
        }
        Fault::OneWay => {
            let (mute, clients_too) = (dice.chance(MILLION / 2), dice.chance(MILLION / 2));
            let counts = |node: u8| clients_too || nodes.members.contains(&node);
            nodes.with(cut, |from, to| counts(from) && counts(to) && victim == if mute { from } else { to })
        }
        Fault::Chain => {
            let first = dice.index(nodes.members.len());
            let chain: Vec<u8> = nodes.members.iter().cycle().skip(first).take(nodes.members.len()).copied().collect();
            let place = |node: u8| chain.iter().position(|other| *other == node);
            let is_far = |a: Option<usize>, b: Option<usize>| a.zip(b).is_some_and(|(a, b)| a.abs_diff(b) > 1);
            nodes.with(cut, |from, to| is_far(place(from), place(to)))
        }
        Fault::Flap => nodes.links().filter(|_| dice.chance(MILLION / 3)).map(|ends| (ends, cut)).collect(),
        Fault::Slow => {
            let low = dice.between((5, 100));
            let rate = if dice.chance(MILLION / 2) { dice.spread((10_000, 200_000)) } else { 0 };
            let link = Link { delay_ms: (low, low + dice.between((0, 100))), rate, ..Link::default() };
            let everywhere = dice.chance(MILLION / 2);
            nodes.with(link, |from, to| everywhere || from == victim || to == victim)
        }
        Fault::Loss => {
            let link = Link { loss: dice.between((MILLION / 50, MILLION / 4)), ..Link::default() };
            nodes.with(link, |_, _| true)
        }
        Fault::Duplicate => {
            let link = Link { twice: dice.between((MILLION / 50, MILLION / 2)), ..Link::default() };
            nodes.with(link, |_, _| true)
        }
        Fault::Reorder => {
            let link = Link { overtaken: dice.between((MILLION / 50, MILLION / 2)), ..Link::default() };
            nodes.with(link, |_, _| true)
        }
        _ => nodes.with(cut, |from, to| from == victim || to == victim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: Nodes<'static> = Nodes { members: &[1, 2, 3], clients: &[101] };

    fn cuts(fault: Fault, seed: u64) -> Vec<(u8, u8)> {
        shape(fault, NODES, 2, &mut Dice::new(seed)).into_keys().collect()
    }

    #[test]
    fn an_isolated_node_has_no_link_and_the_others_have_theirs() {
        assert_eq!(cuts(Fault::Isolate, 1), [(1, 2), (2, 1), (2, 3), (2, 101), (3, 2), (101, 2)]);
    }

    #[test]
    fn a_one_way_partition_leaves_the_other_way() {
        for seed in 0..20 {
            let cuts = cuts(Fault::OneWay, seed);
            assert!(cuts.contains(&(1, 2)) != cuts.contains(&(2, 1)) && !cuts.contains(&(1, 3)), "{seed}: {cuts:?}");
        }
    }

    #[test]
    fn a_split_has_a_member_on_either_side_and_a_chain_has_two_ends() {
        for seed in 0..20 {
            let between = |cuts: Vec<(u8, u8)>| cuts.into_iter().filter(|(from, to)| *from < 100 && *to < 100).count();
            assert_eq!(between(cuts(Fault::Split, seed)), 4, "{seed}");
            assert_eq!(between(cuts(Fault::Chain, seed)), 2, "{seed}");
        }
    }
}
