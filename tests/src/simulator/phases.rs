//! A run: faults for some seconds, then none, and everything has to come back.

use rsm::Standing;

use super::atlas;
use super::invariants::{Check, Violation};
use super::member::Member;
use super::plan::Workload;
use super::world::{Event, World};

/// Within this time of the last fault a primary serves, and again within this time all are in sync and equal, µs.
const RECOVERY_BOUND_US: u64 = 20_000_000;
/// A healthy cluster is watched for so long: its primary stays, µs.
const CALM_US: u64 = 1_500_000;
/// What was under way when the faults ended (a slow flush, a late message, a hand-over) is over by then, µs.
const SETTLE_US: u64 = 6_000_000;
/// New commands that must be answered for a cluster to count as serving.
const PROOF_ANSWERS: u64 = 3;
/// What a delay is at most once the faults are over, µs: timers are made for such.
const CALM_DELAY_US: u64 = 5_000;

impl World {
    /// The whole run.
    pub(crate) fn run(&mut self) -> Check {
        self.trace.note(0, [0; 3], || format!("{:?}", self.plan));
        for index in 0..self.plan.members {
            let wait = self.dice.spread((1, 400_000));
            self.members[index].starts = true;
            self.schedule(wait, Event::Start(index));
        }
        for client in 0..self.asking.clients.len() {
            let wait = self.dice.between(self.plan.think_us);
            self.schedule(wait, Event::Ask(client));
        }
        if self.plan.workload == Workload::Locks {
            self.begin_locks();
        }
        if self.plan.founded_in_peace {
            self.expect("a founded cluster serves", |world| world.invariants.has_served())?;
        }
        self.unsafe_now = true;
        let wait = self.dice.spread(self.plan.fault_every_us);
        self.schedule(wait, Event::Fault);
        if self.plan.workload == Workload::Locks {
            self.begin_unsafe_locks();
        }
        self.safe_at = self.now + self.plan.unsafe_us;
        self.run_until(self.safe_at, |_| false)?;
        self.make_safe();
        let safe_at = self.now;
        if self.plan.majority_first {
            self.come_back_with_a_majority()?;
        }
        self.come_back_whole(safe_at)
    }

    fn expect(&mut self, what: &'static str, done: impl Fn(&World) -> bool) -> Check {
        if self.run_until(self.now + RECOVERY_BOUND_US, done)? {
            return Ok(());
        }
        Err(Violation::new(what, self.describe()))
    }

    /// No fault happens from here on.
    fn make_safe(&mut self) {
        self.unsafe_now = false;
        self.network.calm();
        self.plan.network.delay_us.1 = self.plan.network.delay_us.1.min(CALM_DELAY_US);
        self.plan.store.flush_us.0 = self.plan.store.flush_us.0.min(CALM_DELAY_US);
        self.plan.store.flush_us.1 = self.plan.store.flush_us.1.min(CALM_DELAY_US);
        for member in &mut self.members {
            member.flush_is_slow = false;
            member.store.disk().mend();
            if let Some(process) = &mut member.process {
                process.paused_until = 0;
            }
        }
        self.make_clients_safe();
        self.trace.note(self.now, [8, 0, 0], || "the faults are over".to_owned());
    }

    /// Up to f members stay away, and the rest serves.
    fn come_back_with_a_majority(&mut self) -> Check {
        let Some(away) = self.draw_away() else { return Ok(()) };
        self.invariants.counters.hit("recoveries of a bare majority");
        for (index, away) in away.iter().enumerate() {
            if *away {
                self.crash(index)?;
                self.members[index].starts = true;
            }
        }
        self.start_all(&away);
        let answers = self.answers_ok;
        self.expect("a majority of the right stores serves", |world| {
            world.serving().is_some() && world.answers_ok >= answers + PROOF_ANSWERS
        })
    }

    /// Who may stay away: a majority of in-sync stores is up, and one of them knows the last view.
    fn draw_away(&mut self) -> Option<Vec<bool>> {
        let last = self.invariants.last_view()?.clone();
        let count = self.members.len();
        let mut away = vec![false; count];
        let listed = |index: usize| last.voters().any(|slot| slot.member.0 == index as u64 + 1);
        for _ in 0..last.bearable() {
            away[self.dice.index(count)] = true;
        }
        let up = || self.members.iter().zip(&away).filter(|(_, away)| !**away).map(|(member, _)| member);
        let in_sync = up().filter(|member| atlas::is_whole(member, Some(&last))).count();
        let known = up().any(|member| member.store.durable.view() == last.number);
        let voters_away = (0..count).filter(|index| away[*index] && listed(*index)).count();
        let bearable = voters_away > 0 && voters_away <= last.bearable() && !self.is_changing();
        (bearable && in_sync >= last.majority() && known).then_some(away)
    }

    /// An empty store that asks those who were members once is started anew with those who are. One that the first view lists and
    /// that has not heard so is not empty: what would be lost with it counts.
    fn renew_configurations(&mut self) {
        if self.plan.spares == 0 || self.invariants.last_view().is_none() {
            return;
        }
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let is_counted = atlas::is_whole(member, self.invariants.last_view());
            if member.store.durable.view() == 0 && member.process.is_some() && !is_counted {
                self.end_empty(index);
            }
        }
    }

    fn start_all(&mut self, away: &[bool]) {
        for (index, away) in away.iter().enumerate() {
            let member = rsm::MemberId(index as u64 + 1);
            let listed = match self.invariants.last_view() {
                None => index < self.plan.members,
                Some(view) => view.slot(member).is_some(),
            };
            if !away && listed && self.members[index].process.is_none() {
                self.members[index].starts = true;
                let wait = self.dice.spread((1, 300_000));
                self.schedule(wait, Event::Start(index));
            }
        }
    }

    /// Everybody is back: a primary serves, all are in sync and equal, and it stays so.
    fn come_back_whole(&mut self, safe_at: u64) -> Check {
        self.renew_configurations();
        self.start_all(&vec![false; self.members.len()]);
        let answers = self.answers_ok;
        self.expect("after the faults all serve and are in sync", |world| {
            world.answers_ok >= answers + PROOF_ANSWERS && world.is_in_order()
        })?;
        if self.plan.workload == Workload::Locks {
            self.locks_come_to_rest()?;
        }
        self.clients_rest = true;
        self.expect("all members come to the same state", |world| world.is_in_order() && world.is_equal())?;
        self.run_until((safe_at + SETTLE_US).max(self.now), |_| false)?;
        self.expect("all members stay in the same state", |world| world.is_in_order() && world.is_equal())?;
        let view = self.invariants.last_view().map(|view| view.number);
        self.run_until(self.now + CALM_US, |_| false)?;
        if self.invariants.last_view().map(|view| view.number) != view {
            return Err(Violation::new("a healthy cluster keeps its primary", self.describe()));
        }
        // A command that was very late on its way may have come just now.
        self.expect("all members end in the same state", World::is_equal)?;
        if !self.asking.book.judge()? {
            self.invariants.counters.hit("histories too long to judge");
        }
        self.invariants.counters.hit("healed runs");
        Ok(())
    }

    /// One serves, all run, know the same view and are in sync in it.
    fn is_in_order(&self) -> bool {
        let Some(last) = self.invariants.last_view() else { return false };
        // A learner that may not be counted in, such as a witness beside one replica, stays what it is.
        let stays = |slot: &rsm::Slot| {
            slot.standing == Standing::Learner && !last.with_learner_promoted(slot.member).is_well_formed()
        };
        let all_in_sync = last.slots.iter().all(|slot| slot.standing == Standing::InSync || stays(slot));
        let serving =
            self.members.iter().filter(|member| member.process.as_ref().is_some_and(|process| process.serving));
        all_in_sync
            && serving.count() == 1
            && self.listed().all(|(_, member)| {
                let learns = last.slot(member.store.identity.member).is_some_and(stays);
                member.process.is_some()
                    && member.entered() == Some(last)
                    && (learns || atlas::is_whole(member, Some(last)))
            })
    }

    /// The members that the last view lists.
    fn listed(&self) -> impl Iterator<Item = (usize, &Member)> {
        let last = self.invariants.last_view();
        self.members
            .iter()
            .enumerate()
            .filter(move |(_, member)| last.is_some_and(|view| view.slot(member.store.identity.member).is_some()))
    }

    /// All executed all that is committed; a witness executes nothing.
    fn is_equal(&self) -> bool {
        let top = self.invariants.ledger.top().op;
        let hash = self.invariants.ledger.op(top).map(|op| op.hash);
        self.listed().all(|(index, member)| {
            member.process.as_ref().is_some_and(|process| {
                let status = process.replica.status();
                let is_witness = self.plan.kind_of(index) == rsm::Kind::Witness;
                is_witness || (status.executed_op == top && Some(status.state_hash) == hash)
            })
        })
    }

    /// Where everybody stands, for people.
    pub(crate) fn describe(&self) -> String {
        let committed = self.invariants.ledger.top();
        let lines = self.members.iter().map(|member| {
            let name = member.store.identity.member;
            match &member.process {
                None => format!("\n  member {name}: down"),
                Some(process) => {
                    let status = process.replica.status();
                    let view = status.view.as_ref().map_or("no view".to_owned(), super::trace::brief_view);
                    format!(
                        "\n  member {name} ({}): {view}, log to {}, committed {}, executed {}, serving {}, waits for {:?}",
                        member.store.identity.incarnation,
                        status.last,
                        status.commit_op,
                        status.executed_op,
                        process.serving,
                        status.waits_for
                    )
                }
            }
        });
        format!("committed to {committed}{}", lines.collect::<String>())
    }
}
