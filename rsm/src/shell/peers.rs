//! Who the other members are, and where they listen: the configured ones, and those that views list.
//!
//! Why it is right: a member is known by its number, and a link believes an address only when the member that answers there says
//! that number. So an address that is out of date does no harm while another is known; which of the configured and the listed
//! one is newer need not be decided. A member that was once known stays known, so that one that is removed can still ask, and be
//! told; each was named by an operator, so they are few.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use wire::Endpoint;

use crate::MemberId;

/// Addresses of one member that are tried; the oldest goes when another is told.
const ENDPOINTS_MAX: usize = 3;

/// What is known of the other members.
#[derive(Default)]
pub(super) struct Peers(Mutex<BTreeMap<MemberId, Arc<Peer>>>);

/// Another member.
#[derive(Default)]
pub(super) struct Peer {
    /// It was heard of: dial now.
    pub(super) wake: Notify,
    /// Where it may listen, the newest first.
    endpoints: Mutex<Vec<Endpoint>>,
}

impl Peers {
    /// Whether anybody has named this member.
    pub(super) fn knows(&self, member: MemberId) -> bool {
        self.0.lock().contains_key(&member)
    }

    /// This member may listen there. Returns it if it is new.
    pub(super) fn add(&self, member: MemberId, endpoint: Endpoint) -> Option<Arc<Peer>> {
        let mut peers = self.0.lock();
        let is_new = !peers.contains_key(&member);
        let peer = peers.entry(member).or_default();
        let mut endpoints = peer.endpoints.lock();
        if !endpoints.contains(&endpoint) {
            endpoints.insert(0, endpoint);
            endpoints.truncate(ENDPOINTS_MAX);
        }
        is_new.then(|| Arc::clone(peer))
    }

    /// The link to this member dials without waiting.
    pub(super) fn wake(&self, member: MemberId) {
        if let Some(peer) = self.0.lock().get(&member) {
            peer.wake.notify_one();
        }
    }
}

impl Peer {
    /// The address to try at the nth attempt, and how many there are.
    pub(super) fn endpoint(&self, attempt: usize) -> (Endpoint, usize) {
        let endpoints = self.endpoints.lock();
        (endpoints[attempt % endpoints.len()].clone(), endpoints.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Endpoint {
        format!("127.0.0.1:{port}").parse().expect("an address")
    }

    #[test]
    fn a_member_is_new_once_and_its_addresses_are_tried_in_turn_the_newest_first() {
        let peers = Peers::default();
        let peer = peers.add(MemberId(2), at(1)).expect("it is new");
        assert!(peers.add(MemberId(2), at(2)).is_none() && peers.add(MemberId(2), at(1)).is_none());
        assert_eq!([0, 1, 2].map(|attempt| peer.endpoint(attempt)), [(at(2), 2), (at(1), 2), (at(2), 2)]);
        for port in 3..9 {
            assert!(peers.add(MemberId(2), at(port)).is_none());
        }
        assert_eq!(peer.endpoint(0), (at(8), ENDPOINTS_MAX));
        assert!(peers.knows(MemberId(2)) && !peers.knows(MemberId(3)));
    }
}
