//! Damaged stores and those that they ask, as scripts.

use super::*;
use crate::{ClusterId, Incarnation, Kind, Payload, Slot, Standing};

const RETRANSMIT: Micros = 100_000;

fn at(view: u64, op: u64) -> Viewstamp {
    Viewstamp { view, op }
}

fn entry(previous: Viewstamp, viewstamp: Viewstamp) -> Entry {
    let ops = usize::try_from(viewstamp.op - previous.op).expect("few");
    let text = format!("{previous} {viewstamp}").into_bytes();
    Entry { viewstamp, previous, payload: Payload::Batch(vec![text; ops]) }
}

/// A log of these viewstamps, from the beginning.
fn log(viewstamps: &[Viewstamp]) -> Vec<Entry> {
    let mut previous = Viewstamp::default();
    viewstamps.iter().map(|viewstamp| entry(std::mem::replace(&mut previous, *viewstamp), *viewstamp)).collect()
}

/// Ops 1 to 9 of view 1, an entry each.
fn nine() -> Vec<Entry> {
    log(&(1..=9).map(|op| at(1, op)).collect::<Vec<_>>())
}

fn identity(member: u64) -> Identity {
    Identity { member: MemberId(member), incarnation: Incarnation(u128::from(member)) }
}

/// A store with these entries, whose last lost op is this one.
fn damaged(member: u64, entries: Vec<Entry>, last_lost: u64) -> Damaged {
    let slot = |member| Slot {
        member: MemberId(member),
        incarnation: Incarnation(u128::from(member)),
        address: format!("m{member}"),
        kind: Kind::Replica,
        standing: Standing::InSync,
    };
    let slots = (1..=3).map(slot).collect();
    let view = View { number: 1, parent: 0, cluster: ClusterId(7), primary: MemberId(1), slots };
    let control = Control { founding: None, config: Some(paxos::Durable::after(view)) };
    let recovered = Recovered { identity: identity(member), control, snapshot: None, entries, dead_bytes: 0 };
    Damaged { recovered, ops: "some".into(), last_lost }
}

fn without(entries: &[Entry], lost: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    entries.iter().filter(|entry| !lost.contains(&entry.viewstamp.op)).cloned().collect()
}

fn repair(damaged: Damaged) -> Repair {
    Repair::new(damaged, &[], Timing { retransmit: RETRANSMIT, ..Timing::default() })
}

/// What it asks at this moment, and whom.
fn asked(repair: &mut Repair, now: Micros) -> Option<(MemberId, Viewstamp, Option<Viewstamp>)> {
    let mut out = Output::default();
    repair.on_tick(now, &mut out);
    let sent = out.send.pop()?;
    match sent.message {
        Message::FetchLost { after, upto } => Some((sent.to, after, upto)),
        _ => None,
    }
}

fn told(repair: &mut Repair, from: u64, message: Message) -> Option<Message> {
    let mut out = Output::default();
    repair.on_message(0, identity(from), message, &mut out);
    out.send.pop().map(|sent| sent.message)
}

fn kept(upto: Viewstamp, previous: Viewstamp, entries: &[Entry], serves: bool) -> Message {
    let entries = entries.iter().cloned().map(Arc::new).collect();
    Message::Kept { upto: Some(upto), previous, entries, serves }
}

fn is_given_up(repair: &mut Repair) -> bool {
    repair.take_verdict() == Some(Verdict::GivenUp)
}

#[test]
fn a_hole_is_filled_piece_by_piece_and_the_log_is_stored_from_the_first_lost_entry_on() {
    let nine = nine();
    let mut repair = repair(damaged(1, without(&nine, 4..=6), 6));
    assert_eq!(asked(&mut repair, 0), Some((MemberId(2), at(1, 3), Some(at(1, 6)))));
    let next = told(&mut repair, 2, kept(at(1, 6), at(1, 3), &nine[3..5], false));
    assert_eq!(next, Some(Message::FetchLost { after: at(1, 5), upto: Some(at(1, 6)) }), "goes on with him at once");
    assert_eq!(repair.take_verdict(), None);
    told(&mut repair, 2, kept(at(1, 6), at(1, 5), &nine[5..6], false));
    let expected: Vec<_> = nine[3..].iter().cloned().map(Arc::new).collect();
    assert_eq!(repair.take_verdict(), Some(Verdict::Whole(expected)));
    assert_eq!(repair.fetched_ops(), &BTreeMap::from([(MemberId(2), 3)]));
    assert_eq!(repair.into_recovered().entries, nine);
}

#[test]
fn all_others_are_asked_in_turn() {
    let mut repair = repair(damaged(2, without(&nine(), 4..=6), 6));
    let whom: Vec<_> = (0..6).filter_map(|turn| asked(&mut repair, turn * RETRANSMIT / 2)).map(|(to, ..)| to).collect();
    assert_eq!(whom, [MemberId(1), MemberId(3), MemberId(1)]);
}

#[test]
fn what_does_not_form_a_chain_into_the_hole_is_not_taken() {
    let nine = nine();
    let mut repair = repair(damaged(1, without(&nine, 4..=6), 6));
    asked(&mut repair, 0);
    let other = entry(at(1, 3), at(2, 4));
    let beyond = log(&[at(1, 3), at(1, 7)]);
    let wrong = [
        kept(at(1, 6), at(1, 4), &nine[4..6], false),
        kept(at(1, 6), at(1, 3), &nine[4..6], false),
        kept(at(1, 6), at(1, 3), &[nine[3].clone(), nine[5].clone()], false),
        kept(at(1, 7), at(1, 3), &nine[3..6], false),
        kept(at(1, 6), at(1, 3), &beyond[1..], false),
        kept(at(1, 6), at(1, 3), &[other], false),
        kept(at(1, 6), at(1, 3), &[], false),
    ];
    for message in wrong {
        assert_eq!(told(&mut repair, 2, message.clone()), None, "{message:?}");
        assert_eq!(repair.hole(), Some((at(1, 3), at(1, 6))), "{message:?}");
    }
}

#[test]
fn where_a_truncation_was_lost_with_the_hole_the_others_chain_replaces_what_it_had_dropped() {
    // It had 1 to 5 of view 1, dropped 4 and 5, and took 4 to 9 of view 2; of that 4 to 7 are lost, the truncation too.
    let old = log(&[at(1, 1), at(1, 2), at(1, 3), at(1, 4), at(1, 5)]);
    let new = log(&[at(1, 1), at(1, 2), at(1, 3), at(2, 4), at(2, 5), at(2, 6), at(2, 7), at(2, 8), at(2, 9)]);
    let mut repair = repair(damaged(1, [&old[..], &new[7..]].concat(), 7));
    assert_eq!(asked(&mut repair, 0), Some((MemberId(2), at(1, 5), Some(at(2, 7)))));
    told(&mut repair, 2, kept(at(2, 7), at(1, 3), &new[3..7], false));
    let expected: Vec<_> = new[3..].iter().cloned().map(Arc::new).collect();
    assert_eq!(repair.take_verdict(), Some(Verdict::Whole(expected)));
    assert_eq!(repair.into_recovered().entries, new);
}

#[test]
fn two_that_are_damaged_repair_each_other_where_their_holes_do_not_overlap() {
    let nine = nine();
    let mut one = repair(damaged(1, without(&nine, 3..=5), 5));
    let mut two = repair(damaged(2, without(&nine, 5..=7), 7));
    // What both have lost, 5, nobody has.
    asked(&mut one, 0);
    let answer = told(&mut two, 1, Message::FetchLost { after: at(1, 2), upto: Some(at(1, 5)) }).expect("an answer");
    let again = told(&mut one, 2, answer).expect("it goes on");
    assert_eq!(again, Message::FetchLost { after: at(1, 4), upto: Some(at(1, 5)) });
    let answer = told(&mut two, 1, again).expect("an answer");
    assert!(matches!(&answer, Message::Kept { entries, serves: false, .. } if entries.is_empty()), "{answer:?}");
    assert_eq!((told(&mut one, 2, answer), one.take_verdict()), (None, None));
    // A third one has it.
    told(&mut one, 3, kept(at(1, 5), at(1, 4), &nine[4..5], false));
    assert!(matches!(one.take_verdict(), Some(Verdict::Whole(_))));
    let question = Message::FetchLost { after: at(1, 4), upto: Some(at(1, 7)) };
    asked(&mut two, 0);
    let answer = told(&mut one, 2, question).expect("an answer");
    told(&mut two, 1, answer);
    assert!(matches!(two.take_verdict(), Some(Verdict::Whole(_))));
    assert_eq!((one.into_recovered().entries, two.into_recovered().entries), (nine.clone(), nine));
}

#[test]
fn a_log_whose_end_is_lost_is_given_up_only_when_a_majority_serves_without_it() {
    let with_a_hole = without(&nine()[..7], 3..=4);
    for (entries, last_lost) in [(nine()[..6].to_vec(), 9), (Vec::new(), 9), (nine(), 9), (with_a_hole, 9)] {
        let mut repair = repair(damaged(1, entries, last_lost));
        for turn in 0..20 {
            let (to, _, upto) = asked(&mut repair, turn * RETRANSMIT).expect("it asks for ever");
            assert_eq!(upto, None, "nobody can know what it was");
            let answer = Message::Kept { upto, previous: at(1, 6), entries: Vec::new(), serves: false };
            told(&mut repair, to.0, answer);
            assert_eq!(repair.take_verdict(), None);
        }
        let answer = Message::Kept { upto: None, previous: at(1, 6), entries: Vec::new(), serves: true };
        told(&mut repair, 2, answer);
        assert!(is_given_up(&mut repair));
    }
}

#[test]
fn a_hole_that_nobody_can_fill_is_given_up_after_all_were_asked_often_and_a_majority_serves() {
    let mut repair = repair(damaged(1, without(&nine(), 4..=6), 6));
    let nothing = |serves| kept(at(1, 6), at(1, 3), &[], serves);
    for turn in 0..u64::from(ROUNDS_IN_VAIN) * 2 {
        let (to, ..) = asked(&mut repair, turn * RETRANSMIT).expect("it asks in turn");
        told(&mut repair, to.0, nothing(to == MemberId(2)));
        assert_eq!(repair.take_verdict(), None, "turn {turn}");
    }
    asked(&mut repair, 1_000 * RETRANSMIT);
    told(&mut repair, 3, nothing(false));
    assert_eq!(repair.take_verdict(), None);
    told(&mut repair, 2, nothing(true));
    assert!(is_given_up(&mut repair));
}

#[test]
fn where_the_logs_beginning_is_lost_the_snapshot_is_what_it_goes_on_from() {
    let nine = nine();
    let mut broken = damaged(1, without(&nine, 1..=6), 6);
    broken.recovered.snapshot = Some(Arc::new(SnapshotImage::new(at(1, 4))));
    let mut repair = repair(broken);
    assert_eq!(asked(&mut repair, 0), Some((MemberId(2), at(1, 4), Some(at(1, 6)))));
    told(&mut repair, 2, kept(at(1, 6), at(1, 4), &nine[4..6], false));
    assert!(matches!(repair.take_verdict(), Some(Verdict::Whole(entries)) if entries.len() == 5));
}
