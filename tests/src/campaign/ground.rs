//! Where members and clients of a campaign run: in namespaces behind a network of ours, or simply on loopback.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::network::{HUB, Network, address, namespace};
use super::space::{Space, entrance, mount_disk, older, suspended, unmount_disk};
use crate::lab::{Checked, Cluster, Place};
use crate::simulator::dice::{Dice, MILLION};

/// The most members of a cluster.
pub(crate) const MEMBERS_MAX: u8 = 5;
/// Who can be added to it.
pub(crate) const SPARES: u8 = 2;
/// Client processes of a round.
pub(crate) const CLIENTS: u8 = 4;
const FIRST_CLIENT: u8 = 101;
/// Three machines in four have been up for another time than this one, at most for so long.
const OLDER_MAX_S: u64 = 10_000_000;
/// For the log of 4 MiB and two snapshots, and not for much more.
const DISK_MIB: u64 = 24;

/// See the module.
#[derive(Debug)]
pub enum Ground {
    /// Each member and each client has a network of its own.
    Namespaces {
        /// What they offer.
        space: Space,
        /// Between them.
        network: Network,
    },
    /// All have this machine's.
    Loopback,
}

/// What a round's members have for disks. Dropped before the cluster, whose directory they are in.
#[derive(Debug)]
pub(crate) struct Disks {
    mounted: Vec<PathBuf>,
    /// For people.
    pub(crate) kind: &'static str,
}

impl Drop for Disks {
    fn drop(&mut self) {
        for at in &self.mounted {
            // What cannot be unmounted goes with the namespace.
            drop(unmount_disk(at));
        }
    }
}

/// The node of a member, or of a client counted from 0.
pub(crate) fn member_node(id: u64) -> u8 {
    u8::try_from(id).unwrap_or(MEMBERS_MAX + SPARES)
}

pub(crate) fn client_node(slot: usize) -> u8 {
    FIRST_CLIENT + u8::try_from(slot).unwrap_or(CLIENTS)
}

impl Ground {
    /// Makes all nodes of a campaign.
    ///
    /// # Errors
    /// The system refuses something.
    pub fn in_namespaces(space: Space, seed: u64) -> Checked<Ground> {
        let clients = FIRST_CLIENT..FIRST_CLIENT + CLIENTS;
        let nodes: Vec<u8> = (1..=MEMBERS_MAX + SPARES).chain(clients).chain([HUB]).collect();
        Ok(Ground::Namespaces { space, network: Network::start(&nodes, seed)? })
    }

    pub(crate) fn network(&self) -> Option<&Network> {
        match self {
            Ground::Namespaces { network, .. } => Some(network),
            Ground::Loopback => None,
        }
    }

    /// For so many members, of which the last may be a witness, and for spares.
    pub(crate) fn places(&self, size: u64, witness: bool, dice: &mut Dice) -> Checked<BTreeMap<u64, Place>> {
        let all = size + u64::from(SPARES);
        let mut places = match self {
            Ground::Loopback => Cluster::loopback(all)?,
            Ground::Namespaces { .. } => (1..=all).filter_map(|id| Some((id, self.place(id, dice)?))).collect(),
        };
        if let Some(last) = places.get_mut(&size) {
            last.witness = witness;
        }
        Ok(places)
    }

    /// Where a member is to be started: the clocks there are drawn anew. None: where it was.
    pub(crate) fn place(&self, id: u64, dice: &mut Dice) -> Option<Place> {
        let Ground::Namespaces { space, .. } = self else { return None };
        let mut through = entrance(&namespace(member_node(id)));
        let seconds = dice.below(OLDER_MAX_S);
        if dice.chance(MILLION / 4 * 3) && space.clocks {
            through.extend(older(seconds));
        }
        Some(Place { host: address(member_node(id)), through, witness: false })
    }

    /// Where a client is to be started; its monotonic clock is this machine's, which its diary is dated by.
    pub(crate) fn client_entrance(&self, slot: usize, dice: &mut Dice) -> Vec<String> {
        let Ground::Namespaces { space, .. } = self else { return Vec::new() };
        let mut through = entrance(&namespace(client_node(slot)));
        let seconds = dice.below(OLDER_MAX_S);
        if space.clocks {
            through.extend(suspended(seconds));
        }
        through
    }

    /// Gives each member a small disk of its own, in two rounds of three.
    pub(crate) fn disks(&self, cluster: &Cluster, dice: &mut Dice) -> Checked<Disks> {
        let drawn = dice.below(3);
        let Ground::Namespaces { space, .. } = self else { return Ok(Disks::none()) };
        let (durable, kind) = match drawn {
            0 => return Ok(Disks::none()),
            1 if space.loops => (true, "small file systems"),
            _ => (false, "small disks in memory"),
        };
        let mut disks = Disks { mounted: Vec::new(), kind };
        for id in cluster.places().keys() {
            mount_disk(&cluster.disk(*id), DISK_MIB, durable)?;
            disks.mounted.push(cluster.disk(*id));
        }
        Ok(disks)
    }
}

impl Disks {
    fn none() -> Disks {
        Disks { mounted: Vec::new(), kind: "directories" }
    }

    /// Whether one can be filled without filling this machine's.
    pub(crate) fn are_small(&self) -> bool {
        !self.mounted.is_empty()
    }
}
