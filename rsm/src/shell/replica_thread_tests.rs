//! The replica thread round by round, with the log writer's side in the test's hands.

use super::super::link::{Link, LinkContext};
use super::super::log_writer;
use super::super::peers::Peers;
use super::*;
use crate::{
    ClusterId, Control, Entry, Founding, Identity, Incarnation, Kind, Payload, Recovered, Settings, Slot, Standing,
    StateMachine, Timing, View,
};

/// Notes what it is told.
#[derive(Default)]
struct Listener(Vec<&'static str>);

impl StateMachine for Listener {
    fn apply(&mut self, _: u64, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }
    fn restore(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn hash(&self) -> u64 {
        0
    }
}

impl Application for Listener {
    fn serving(&mut self) {
        self.0.push("serving");
    }
    fn stopped_serving(&mut self) {
        self.0.push("stopped");
    }
    fn executed(&mut self) {
        self.0.push("executed");
    }
}

fn identity(member: u64) -> Identity {
    Identity { member: MemberId(member), incarnation: Incarnation(u128::from(member)) }
}

struct Bench {
    thread: ReplicaThread<Listener, nvm_log::Store>,
    groups: Receiver<Vec<Record>>,
    link: Link,
}

/// Member 2 of members 1 and 2, with a fresh store; its link to member 1 is not connected.
fn bench() -> Bench {
    let (inbox, requests) = Inbox::new();
    let inbox = Arc::new(inbox);
    let break_points = Arc::new(BreakPoints::default());
    let context = LinkContext {
        identity: parking_lot::Mutex::new(identity(2)),
        cluster: parking_lot::Mutex::new(ClusterId(0)),
        inbox: Arc::clone(&inbox),
        break_points: Arc::clone(&break_points),
        peers: Peers::default(),
        tls: None,
    };
    let (spawn, spawned) = crossbeam_channel::unbounded();
    let mut links = Links::new(Arc::new(context), Box::new(move |link| drop(spawn.send(link))));
    links.add(MemberId(1), "127.0.0.1:1".parse().expect("an address"));
    let link = spawned.recv().expect("it is new");
    let members = slots().into_iter().map(|slot| (slot.member, slot.address, slot.kind)).collect();
    let settings = Settings {
        founding: Founding { name: "test".into(), members, mode: "nvm".into() },
        address: "a:2".into(),
        timing: Timing::default(),
        snapshot_every_bytes: 1 << 20,
        log_capacity_bytes: 16 << 20,
    };
    let recovered = Recovered {
        identity: identity(2),
        control: Control::default(),
        snapshot: None,
        entries: vec![],
        dead_bytes: 0,
    };
    let replica = Replica::new(settings, recovered, Listener::default(), 1, 0).expect("a replica");
    let (writer, groups) = log_writer::queue();
    let thread = ReplicaThread {
        status: watch::channel(Arc::new(replica.status())).0,
        replica,
        clock: Clock::start(),
        tick: Timing::default().tick,
        requests,
        inbox,
        writer: Writer::Thread(writer),
        links,
        break_points,
        rejoin: Rejoin::new(Instant::now(), 0),
        ring: None,
        state: ThreadState::default(),
    };
    Bench { thread, groups, link }
}

fn slots() -> Vec<Slot> {
    let slot = |member| Slot {
        member: MemberId(member),
        incarnation: Incarnation(u128::from(member)),
        address: format!("a:{member}"),
        kind: Kind::Replica,
        standing: Standing::InSync,
    };
    vec![slot(1), slot(2)]
}

fn view() -> View {
    View { number: 1, parent: 0, cluster: ClusterId(5), primary: MemberId(1), slots: slots() }
}

impl Bench {
    fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            assert!(self.thread.round(), "the member goes on");
        }
    }

    fn found_stored_was_sent(&mut self) -> bool {
        self.link.waiting().iter().any(|message| matches!(message, Message::FoundStored { .. }))
    }
}

#[test]
fn a_promise_leaves_only_after_its_record_is_durable() {
    let mut bench = bench();
    bench.thread.inbox.message(ClusterId(0), identity(1), Message::Found { view: view() });
    bench.rounds(3);
    let records = bench.groups.try_recv().expect("records");
    assert!(matches!(&records[..], [Record::Control(Control { founding: Some(_), .. })]), "{records:?}");
    assert!(!bench.found_stored_was_sent());
    bench.thread.inbox.set_durable(1);
    bench.rounds(1);
    assert!(bench.found_stored_was_sent());
}

#[test]
fn what_rests_on_no_record_leaves_at_once_and_before_the_records() {
    let mut bench = bench();
    let send = |after| Send { to: MemberId(1), after, message: Message::StepDown { view: after } };
    let output = Output { send: vec![send(2), send(0), send(1)], ..Output::default() };
    bench.thread.state.durable = 1;
    assert!(bench.thread.carry_out(output));
    assert_eq!(bench.link.waiting(), [Message::StepDown { view: 0 }, Message::StepDown { view: 1 }]);
}

#[test]
fn nothing_of_a_step_that_ended_in_a_fault_gets_out() {
    let mut bench = bench();
    let entry = Entry { viewstamp: Viewstamp::default(), previous: Viewstamp::default(), payload: Payload::Barrier };
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    let tag = bench.thread.state.waiters.one(reply);
    let output = Output {
        persist: vec![Record::Append(Arc::new(entry))],
        send: vec![Send { to: MemberId(1), after: 0, message: Message::StepDown { view: 1 } }],
        answers: vec![(tag, Ok(vec![1]))],
        changes: Vec::new(),
        serving: Some(true),
        executed_ops: 1,
        fault: Some("the state differs".into()),
    };
    bench.thread.state.output = output;
    assert!(!bench.thread.settle());
    assert!(bench.groups.is_empty() && bench.link.waiting().is_empty() && answer.try_recv().is_err());
    assert!(bench.thread.replica.machine().0.is_empty());
    assert_eq!(bench.thread.inbox.fault().as_deref(), Some("the state differs"));
    assert!(!bench.thread.round());
}

#[test]
fn the_application_hears_of_its_ops_only_while_it_serves() {
    let mut bench = bench();
    let told = [(None, 1), (Some(true), 2), (None, 1), (Some(true), 1), (Some(false), 1), (None, 1), (Some(false), 0)];
    for (serving, executed_ops) in told {
        bench.thread.tell_application(serving, executed_ops);
    }
    assert_eq!(bench.thread.replica.machine().0, ["serving", "executed", "stopped", "serving", "stopped"]);
}

#[test]
fn a_clean_end_carries_out_what_was_asked_for_and_an_abrupt_one_does_not() {
    for (ending, records) in [(Ending::Clean, 1), (Ending::Abrupt, 0)] {
        let mut bench = bench();
        bench.thread.inbox.message(ClusterId(0), identity(1), Message::Found { view: view() });
        bench.thread.inbox.end(ending);
        assert!(!bench.thread.round());
        assert_eq!(bench.groups.len(), records, "{ending:?}");
    }
}

#[test]
fn a_message_is_held_until_its_record_is_durable() {
    let mut held = Held::default();
    for (after, view) in [(3, 30), (1, 10), (2, 20), (3, 31)] {
        held.hold(after, MemberId(2), Message::StepDown { view });
    }
    let views = |released: Vec<(MemberId, Message)>| -> Vec<u64> {
        let view = |message| match message {
            Message::StepDown { view } => view,
            other => panic!("{other:?}"),
        };
        released.into_iter().map(|(_, message)| view(message)).collect()
    };
    assert_eq!(views(held.release(0)), [0; 0]);
    assert_eq!(views(held.release(2)), [10, 20]);
    assert_eq!(views(held.release(3)), [30, 31]);
    assert_eq!(held.count, 0);
}

#[test]
fn a_stalled_medium_does_not_make_held_messages_grow_without_bound() {
    let mut held = Held::default();
    for _ in 0..2 * HELD_MAX_MESSAGES {
        held.hold(1, MemberId(2), Message::StepDown { view: 1 });
    }
    assert_eq!(held.release(1).len(), HELD_MAX_MESSAGES);
}
