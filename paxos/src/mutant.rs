//! Rules that can be broken on purpose, to prove that the tests notice. In a normal build none can be.

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "mutants")), allow(unreachable_pub))]
pub enum Mutant {
    /// An acceptor answers before its promise or vote is stored.
    AnswersBeforePersist,
    /// A node promises and votes in an instance that it knows to be decided.
    VotesFinishedInstanceAgain,
    /// Ballots are (round, proposer) alone, anybody may propose, and acceptors do not compare values of one ballot.
    ReusesBallotAfterRebirth,
    /// A node id is enough to take part and to be counted, whatever the incarnation.
    IgnoresIncarnations,
    /// A proposer puts its own value forward, whatever was voted for.
    ChoosesFreely,
    /// One promise and one vote are enough.
    QuorumOfOne,
}

#[cfg(test)]
#[allow(clippy::let_underscore_must_use, reason = "scenes are set up by messages whose effects do not matter")]
mod tests {
    use super::Mutant;
    use crate::plan::Plan;
    use crate::{Decree, Durable, Effects, Message, Node, NodeId, Sender, world};

    /// Seeds tried per cluster size: those that tests/simulation.rs runs.
    const SEEDS: u64 = 10_000;

    fn assert_caught(mutant: Mutant, make: world::Make) {
        let caught = (0..SEEDS).find_map(|seed| {
            [3, 5].into_iter().find_map(|nodes| world::run(seed, nodes, make).err().map(|broken| (seed, nodes, broken)))
        });
        let (seed, nodes, broken) = caught.unwrap_or_else(|| panic!("{mutant:?} is not caught"));
        println!("{mutant:?}: seed {seed}, {nodes} nodes: {broken}");
    }

    macro_rules! mutants {
        ($($name:ident: $mutant:ident,)*) => {$(
            #[test]
            fn $name() {
                fn make(node: NodeId, incarnation: u128, durable: Durable<Plan>) -> Node<Plan> {
                    Node::new(node, incarnation, durable).with_mutant(Some(Mutant::$mutant))
                }
                assert_caught(Mutant::$mutant, make);
            }
        )*};
    }

    mutants! {
        answering_before_the_record_is_stored_is_caught: AnswersBeforePersist,
        voting_in_a_finished_instance_again_is_caught: VotesFinishedInstanceAgain,
        taking_part_without_the_listed_incarnation_is_caught: IgnoresIncarnations,
        putting_forward_a_free_choice_is_caught: ChoosesFreely,
        deciding_with_a_quorum_of_one_is_caught: QuorumOfOne,
    }

    const A: usize = 0;
    const B: usize = 1;
    const C: usize = 2;
    const D: usize = 3;
    const E: usize = 4;

    fn sender(index: usize, rebirths: u128) -> Sender {
        let node = index as u64 + 1;
        Sender { node, incarnation: u128::from(node) * 100 + rebirths }
    }

    /// The message to the node with this index.
    fn message_to(effects: &Effects<Plan>, index: usize) -> Option<Message<Plan>> {
        effects.send.iter().find(|(to, _)| *to == index as u64 + 1).map(|(_, message)| message.clone())
    }

    /// Hands what `from` asks of `to` over, and the answer back; what `from` then does.
    fn exchange(nodes: &mut [Node<Plan>], from: Sender, to: usize, asked: &Effects<Plan>) -> Option<Effects<Plan>> {
        let answer = nodes[to].on_message(from, message_to(asked, to)?);
        let (_, message) = answer.send.into_iter().next()?;
        Some(nodes[from.node as usize - 1].on_message(sender(to, 0), message))
    }

    /// C uses its first ballot for v with A and B; A votes, B's Accept is late. C loses its store and starts again in
    /// the same round for w with B, D and E. Then the late
    /// Accept arrives, and A asks B and D what was voted. Returns what was decided.
    fn reborn_proposer(mutant: Option<Mutant>) -> Option<Vec<Plan>> {
        let founding = Plan::founding(5);
        let make = |index, rebirths| {
            let Sender { node, incarnation } = sender(index, rebirths);
            Node::new(node, incarnation, Node::first(founding.clone())).with_mutant(mutant)
        };
        let mut nodes: Vec<_> = (A..=E).map(|index| make(index, 0)).collect();
        let (first_life, second_life) = (sender(C, 0), sender(C, 1));
        let prepare = nodes[C].propose(founding.child(100)).ok()?;
        let _ = exchange(&mut nodes, first_life, A, &prepare)?;
        let late = exchange(&mut nodes, first_life, B, &prepare)?;
        let _ = exchange(&mut nodes, first_life, A, &late)?;

        nodes[C] = make(C, 1);
        let prepare = nodes[C].propose(founding.child(200)).ok()?;
        let _ = exchange(&mut nodes, second_life, B, &prepare)?;
        let _ = exchange(&mut nodes, second_life, D, &prepare)?;
        let accept = exchange(&mut nodes, second_life, E, &prepare)?;
        let _ = exchange(&mut nodes, second_life, B, &accept)?;
        let _ = exchange(&mut nodes, second_life, D, &accept)?;
        let mut decided = exchange(&mut nodes, second_life, E, &accept)?.decided;

        let _ = nodes[B].on_message(first_life, message_to(&late, B)?);
        let prepare = nodes[A].propose(founding.child(300)).ok()?;
        let _ = exchange(&mut nodes, sender(A, 0), B, &prepare)?;
        let accept = exchange(&mut nodes, sender(A, 0), D, &prepare)?;
        match message_to(&accept, B)? {
            Message::Accept { value, .. } if value.number() == 2 => decided.push(value),
            _ => {}
        }
        Some(decided)
    }

    #[test]
    fn reusing_a_ballot_after_a_rebirth_is_caught() {
        assert_eq!(reborn_proposer(None), None, "the reborn proposer is no acceptor and proposes nothing");
        let decided = reborn_proposer(Some(Mutant::ReusesBallotAfterRebirth)).expect("the mutant plays the scene");
        let tags: Vec<u64> = decided.iter().map(|plan| plan.tag).collect();
        assert_eq!(tags, [200, 100], "w is decided, and then v is put forward in a higher ballot");
    }
}
