//! Known bugs, put back one at a time: a net that catches none of them would catch no others either.

use rsm::Replica;

use super::machine::Replicated;

/// The bug that is put back; none in a normal build.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mutation {
    #[cfg(feature = "mutants")]
    mutant: Option<rsm::mutant::Mutant>,
}

/// The names of all known bugs that this build can put back.
pub fn mutants() -> Vec<&'static str> {
    #[cfg(feature = "mutants")]
    return rsm::mutant::MUTANTS.iter().map(|(name, _)| *name).collect();
    #[cfg(not(feature = "mutants"))]
    Vec::new()
}

#[cfg(feature = "mutants")]
impl Mutation {
    /// The bug of that name; none if there is no such bug.
    pub(crate) fn named(name: Option<&str>) -> Mutation {
        let found = rsm::mutant::MUTANTS.iter().find(|(known, _)| Some(*known) == name);
        Mutation { mutant: found.map(|(_, mutant)| *mutant) }
    }

    pub(crate) fn put_into(self, replica: Replica<Replicated>) -> Replica<Replicated> {
        replica.with_mutant(self.mutant)
    }

    /// A store that lost its memory keeps its incarnation.
    pub(crate) fn is_amnesia(self) -> bool {
        self.mutant == Some(rsm::mutant::Mutant::Amnesia)
    }
}

#[cfg(not(feature = "mutants"))]
impl Mutation {
    pub(crate) fn named(_: Option<&str>) -> Mutation {
        Mutation {}
    }

    pub(crate) fn put_into(self, replica: Replica<Replicated>) -> Replica<Replicated> {
        replica
    }

    pub(crate) fn is_amnesia(self) -> bool {
        false
    }
}
