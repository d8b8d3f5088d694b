//! Known bugs, put back one at a time: a net that catches none of them would catch no others either.
//!
//! They stand in the crates whose rules they break. The machine beside the cluster has the bug, too: a machine that is wrong
//! on all members alike has to be caught by what it does.

use super::medium_plan::Durability;
use super::plan::Workload;

#[cfg(not(feature = "mutants"))]
pub(crate) use absent::Mutation;
#[cfg(feature = "mutants")]
pub(crate) use present::Mutation;

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name on the command line.
    pub name: &'static str,
    /// The crate that has it.
    pub of: &'static str,
    /// The workload that can show it; none for any.
    pub workload: Option<Workload>,
    /// The durability mode that can show it; none for what a seed draws.
    pub durability: Option<Durability>,
}

/// All known bugs that this build can put back.
pub fn mutants() -> Vec<Known> {
    #[cfg(feature = "mutants")]
    return present::all();
    #[cfg(not(feature = "mutants"))]
    Vec::new()
}

#[cfg(feature = "mutants")]
mod present {
    use lock_server::machine::Machine;
    use lock_server::primary::{Revoker, Ticker};
    use rsm::{Replica, RingMember};

    use super::{Durability, Known, Workload};
    use crate::simulator::machine::Replicated;

    /// Bugs that this simulator does not show: each with the file of its crate, and the test there, that catches it.
    const ELSEWHERE: [(&str, &str, &str); 3] = [
        // The primary of a view that has not started has to be asked for a change just then, and twice.
        (
            "changes-before-barrier",
            "rsm/src/replica/tests/membership.rs",
            "m4_n_shrinks_from_five_to_three_only_through_views_that_started",
        ),
        // Waits until others take over: a moment later a primary is found that lacks less.
        (
            "witness-log-alone",
            "rsm/src/replica/tests/witness.rs",
            "s13_a_new_primary_takes_a_replicas_log_before_the_witnesss",
        ),
        // It takes coincidences that the crash images bring about: here hundreds of seeds.
        ("log-believe-unflushed", "nvm-log/src/crash_tests/mod.rs", "every_known_bug_is_caught"),
    ];

    /// A store that says it is damaged is used all the same.
    const ACCEPTS_DAMAGE: &str = "accepts-damage";

    /// The bug that is put back. Bugs of the log are put into all stores of the thread at once.
    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Mutation {
        replica: Option<rsm::mutant::Mutant>,
        server: Option<lock_server::mutant::Mutant>,
        client: Option<lock_client::mutant::Mutant>,
        accepts_damage: bool,
    }

    /// Those that this simulator shows.
    pub(super) fn all() -> Vec<Known> {
        known().filter(|known| !ELSEWHERE.iter().any(|(name, ..)| *name == known.name)).collect()
    }

    fn known() -> impl Iterator<Item = Known> {
        let any = |name, of| Known { name, of, workload: None, durability: None };
        let locks = move |name, of| Known { workload: Some(Workload::Locks), ..any(name, of) };
        let ring = move |name| Known { durability: Some(Durability::Ring), ..any(name, "rsm") };
        let replica = rsm::mutant::MUTANTS.iter().chain(&rsm::mutant::MORE_MUTANTS);
        let replica = replica.map(move |(name, _)| any(name, "rsm")).chain([any(ACCEPTS_DAMAGE, "rsm")]);
        let rings = rsm::mutant::RING_MUTANTS.iter().map(move |(name, _)| ring(name));
        let log = nvm_log::mutation::MUTANTS.iter().map(move |(name, _)| any(name, "nvm-log"));
        let server = lock_server::mutant::MUTANTS.iter().map(move |(name, _)| locks(name, "lock-server"));
        let client = lock_client::mutant::MUTANTS.iter().map(move |(name, _)| locks(name, "lock-client"));
        replica.chain(rings).chain(log).chain(server).chain(client)
    }

    impl Mutation {
        /// The bug of that name; none if there is no such bug.
        pub(crate) fn named(name: Option<&str>) -> Mutation {
            let replica = rsm::mutant::MUTANTS.iter().chain(&rsm::mutant::MORE_MUTANTS);
            let mut replica = replica.chain(&rsm::mutant::RING_MUTANTS);
            let mut server = lock_server::mutant::MUTANTS.iter();
            let mut client = lock_client::mutant::MUTANTS.iter();
            let mut log = nvm_log::mutation::MUTANTS.iter();
            nvm_log::mutation::put_back(log.find(|(known, _)| Some(*known) == name).map(|(_, mutation)| *mutation));
            Mutation {
                replica: replica.find(|(known, _)| Some(*known) == name).map(|(_, mutant)| *mutant),
                server: server.find(|(known, _)| Some(*known) == name).map(|(_, mutant)| *mutant),
                client: client.find(|(known, _)| Some(*known) == name).map(|(_, mutant)| *mutant),
                accepts_damage: name == Some(ACCEPTS_DAMAGE),
            }
        }

        pub(crate) fn put_into(self, replica: Replica<Replicated>) -> Replica<Replicated> {
            replica.with_mutant(self.replica)
        }

        pub(crate) fn put_into_ring(self, ring: RingMember) -> RingMember {
            ring.with_mutant(self.replica)
        }

        pub(crate) fn put_into_machine(self, machine: Machine) -> Machine {
            machine.with_mutant(self.server)
        }

        pub(crate) fn put_into_revoker(self, revoker: Revoker) -> Revoker {
            revoker.with_mutant(self.server)
        }

        pub(crate) fn put_into_ticker<A>(self, ticker: Ticker<A>) -> Ticker<A> {
            ticker.with_mutant(self.server)
        }

        /// All clients of this thread have the bug from now on, or none.
        pub(crate) fn switch_clients(self) {
            lock_client::mutant::switch_on(self.client);
        }

        /// A store that lost its memory keeps its incarnation.
        pub(crate) fn is_amnesia(self) -> bool {
            self.replica == Some(rsm::mutant::Mutant::Amnesia)
        }

        pub(crate) fn accepts_damage(self) -> bool {
            self.accepts_damage
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_the_simulator_does_not_show_is_a_known_bug_that_a_test_of_its_crate_catches() {
            for (name, file, test) in ELSEWHERE {
                assert!(
                    known().any(|known| known.name == name && file.starts_with(known.of)),
                    "{name} is no known bug"
                );
                let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
                let text = std::fs::read_to_string(&path).expect("the file of the test that is named");
                assert!(text.contains(&format!("#[test]\nfn {test}()")), "{file} has no test {test}, for {name}");
            }
        }
    }
}

#[cfg(not(feature = "mutants"))]
mod absent {
    use lock_server::machine::Machine;
    use lock_server::primary::{Revoker, Ticker};
    use rsm::{Replica, RingMember};

    use crate::simulator::machine::Replicated;

    /// Nothing, in a normal build.
    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Mutation {}

    impl Mutation {
        pub(crate) fn named(_: Option<&str>) -> Mutation {
            Mutation {}
        }

        pub(crate) fn put_into(self, replica: Replica<Replicated>) -> Replica<Replicated> {
            replica
        }

        pub(crate) fn put_into_ring(self, ring: RingMember) -> RingMember {
            ring
        }

        pub(crate) fn put_into_machine(self, machine: Machine) -> Machine {
            machine
        }

        pub(crate) fn put_into_revoker(self, revoker: Revoker) -> Revoker {
            revoker
        }

        pub(crate) fn put_into_ticker<A>(self, ticker: Ticker<A>) -> Ticker<A> {
            ticker
        }

        pub(crate) fn switch_clients(self) {}

        pub(crate) fn is_amnesia(self) -> bool {
            false
        }

        pub(crate) fn accepts_damage(self) -> bool {
            false
        }
    }
}
