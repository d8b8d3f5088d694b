//! Where a search begins: clusters that came about by running the same cores on a table, message by message.

use std::collections::VecDeque;

use rsm::{Change, Input, Kind, MemberId, Message, Micros, Settings};

use super::facts::Fact;
use super::member::{Heard, Member, NOW, Rank, Rules, Said};
use super::protocol::Item;
use super::views::incarnation;

/// A beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// View 1 serves, everybody has its barrier.
    Serving {
        /// So many members.
        members: usize,
    },
    /// The same with three members, the last a witness, and snapshots.
    Witness,
    /// The last of three members lost its store; view 2 lists the new one as syncing and serves, and nothing of it has reached
    /// the newcomer.
    Rejoining,
    /// Member 2 lost its store. Only member 1 still holds the last entry committed in view 1; view 2, which lists the new store, is
    /// decided, and only its primary, member 1, knows.
    Relisted,
    /// Three members and a learner, who lacks the barrier of its view.
    Growing,
}

impl Scene {
    /// What each member stores.
    pub fn kinds(&self) -> Vec<Kind> {
        match self {
            Scene::Serving { members } => vec![Kind::Replica; *members],
            Scene::Witness => vec![Kind::Replica, Kind::Replica, Kind::Witness],
            Scene::Rejoining | Scene::Relisted | Scene::Growing => vec![Kind::Replica; 3],
        }
    }
}

/// So long a scene may take.
const PATIENCE: Micros = 20_000_000;
const TICK: Micros = 10_000;

struct Table {
    members: Vec<Member>,
    now: Micros,
    flight: VecDeque<(MemberId, Said)>,
    heard: Heard,
    /// What is not delivered, but kept for later.
    keeps: fn(MemberId, &Message) -> bool,
    kept: Vec<(MemberId, Said)>,
}

/// The members and the soup of a scene.
pub(super) fn begin(scene: Scene, settings: &Settings, rules: Rules) -> (Vec<Member>, Vec<Item<Said, Fact>>) {
    // The scene is set by sound members: the bug came with an update, or strikes now.
    let sound = Rules::strict();
    let count = scene.kinds().len() as u64;
    let members = (1..=count).map(|id| Member::new(incarnation(MemberId(id), 0), settings, sound)).collect();
    let mut table = Table {
        members,
        now: NOW,
        flight: VecDeque::new(),
        heard: Heard::default(),
        keeps: |_, _| false,
        kept: Vec::new(),
    };
    table.run_until("view 1 serves", |table| table.serves(1));
    table.run_until("all know it", |table| table.members.iter().all(|member| member.commit_op() == 1));
    match scene {
        Scene::Serving { .. } | Scene::Witness => {}
        Scene::Rejoining => table.rejoin(settings),
        Scene::Relisted => table.relist(settings),
        Scene::Growing => table.grow(settings, sound),
    }
    table.finish(rules)
}

const LAST: MemberId = MemberId(3);

fn is_decided(message: &Message) -> bool {
    matches!(message, Message::Paxos(paxos::Message::Decided { value }) if value.number > 1)
}

impl Table {
    fn rejoin(&mut self, settings: &Settings) {
        self.members[2].lose_store(incarnation(LAST, 1), settings);
        self.run_until("the newcomer knows view 1", |table| table.members[2].knows_a_view());
        self.keeps = |to, _| to == LAST;
        self.run_until("view 2 serves", |table| table.serves(2));
        self.run_until("all others know it", |table| table.members[..2].iter().all(|member| member.commit_op() == 2));
    }

    fn relist(&mut self, settings: &Settings) {
        self.keeps = |to, message| is_decided(message) || to == LAST && matches!(message, Message::Append { .. });
        let command = Input::Submit { tag: 100, command: vec![100], urgent: false };
        self.members[0].feed(self.now, command, &mut self.heard);
        self.members[0].write_all(&mut self.heard);
        self.run_until("the command is committed", |table| table.members[0].commit_op() == 2);
        self.kept.clear();
        self.members[1].lose_store(incarnation(MemberId(2), 1), settings);
        self.run_until("view 2 is decided", |table| table.members[0].knows_view(2));
    }

    fn grow(&mut self, settings: &Settings, rules: Rules) {
        let (member, kind) = (MemberId(4), Kind::Replica);
        let change = Change::Add { member, address: "m4".into(), kind };
        self.members[0].feed(self.now, Input::Change { tag: 100, change }, &mut self.heard);
        self.members[0].write_all(&mut self.heard);
        self.run_until("the learner is awaited", |table| table.serves(2));
        self.members.push(Member::new(incarnation(member, 0), settings, rules));
        self.run_until("it knows the cluster", |table| table.members[3].knows_a_view());
        self.keeps = |to, _| to == MemberId(4);
        self.run_until("it is listed", |table| table.serves(3));
        self.run_until("all others know it", |table| table.members[..3].iter().all(|member| member.commit_op() == 3));
    }

    fn run_until(&mut self, what: &str, condition: impl Fn(&Table) -> bool) {
        let end = self.now + PATIENCE;
        while !condition(self) {
            assert!(self.now < end, "the scene is never set: {what}");
            self.now += TICK;
            for member in &mut self.members {
                member.feed(self.now, Input::Tick, &mut self.heard);
                member.write_all(&mut self.heard);
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        self.flight.extend(self.heard.said.drain(..));
        while let Some((to, said)) = self.flight.pop_front() {
            if (self.keeps)(to, &said.message) {
                self.kept.push((to, said));
                continue;
            }
            let Some(member) = self.members.iter_mut().find(|member| member.identity.member == to) else { continue };
            let input = Input::Message { cluster: said.cluster, from: said.from, message: said.message };
            member.feed(self.now, input, &mut self.heard);
            member.write_all(&mut self.heard);
            self.flight.extend(self.heard.said.drain(..));
        }
    }

    fn serves(&self, view: u64) -> bool {
        let serves = |fact: &Fact| matches!(fact, Fact::Serves { view: served, .. } if *served == view);
        self.heard.facts.iter().any(serves)
    }

    /// Everybody as of now, under the rules of the search; what was kept from somebody may still arrive.
    fn finish(mut self, rules: Rules) -> (Vec<Member>, Vec<Item<Said, Fact>>) {
        assert_eq!(self.heard.violation, None, "the scene is set by sound members");
        for member in &mut self.members {
            member.settle();
            member.take_rules(rules);
            assert!(member.rank != Rank::Gone && member.waiting.is_empty(), "everybody is there");
        }
        let may_matter = |said: &Said| {
            matches!(
                said.message,
                Message::Paxos(paxos::Message::Decided { .. }) | Message::Append { .. } | Message::Join { .. }
            )
        };
        let kept = self.kept.into_iter().filter(|(_, said)| may_matter(said));
        let messages = kept.map(|(to, message)| Item::Message { to: to.0 as usize - 1, message });
        (self.members, messages.chain(self.heard.facts.into_iter().map(Item::Fact)).collect())
    }
}
