//! What happened: as one hash always, as lines when asked for.
//!
//! Runs are deterministic, so a failing one is simply run again with lines on.

use std::collections::VecDeque;
use std::fmt::Write as _;

use rsm::{Message, Record};

use super::workload::register::fold;

/// The story of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    /// The last lines, where wanted; at most so many.
    lines: Option<(VecDeque<String>, usize)>,
}

impl Trace {
    /// `lines`: how many of the last to keep; 0 keeps none and costs nothing.
    pub(crate) fn new(lines: usize) -> Self {
        Trace { hash: 0, lines: (lines > 0).then(|| (VecDeque::new(), lines)) }
    }

    /// Takes an event in: numbers for the hash, a line for people.
    pub(crate) fn note(&mut self, now: u64, numbers: [u64; 3], line: impl FnOnce() -> String) {
        let [a, b, c] = numbers;
        self.hash = [now, a, b, c].iter().fold(self.hash, |hash, number| fold(hash, &number.to_le_bytes()));
        if let Some((lines, most)) = &mut self.lines {
            if lines.len() == *most {
                lines.pop_front();
            }
            lines.push_back(format!("{:>4}.{:06} {}", now / 1_000_000, now % 1_000_000, line()));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.map(|(lines, _)| lines.into()).unwrap_or_default()
    }
}

/// A message in a few words: entries by their viewstamps only.
pub(crate) fn brief(message: &Message) -> String {
    let mut text = String::new();
    let written = match message {
        Message::Append { view, previous, entries, commit } => {
            let last = entries.last().map_or(*previous, |entry| entry.viewstamp);
            let count = entries.len();
            write!(text, "Append v{view} {previous}..{last} ({count} entries) commit {commit}")
        }
        Message::Entries { view, previous, entries, .. } => {
            let last = entries.last().map_or(*previous, |entry| entry.viewstamp);
            write!(text, "Entries v{view} {previous}..{last} ({})", entries.len())
        }
        Message::Chunk { view, viewstamp, offset, bytes } => {
            write!(text, "Chunk v{view} {viewstamp} {offset}+{}", bytes.len())
        }
        Message::Paxos(message) => write!(text, "{}", brief_paxos(message)),
        Message::Found { view } => write!(text, "Found {}", brief_view(view)),
        Message::Ask(_) => write!(text, "Ask"),
        Message::Standing(_) => write!(text, "Standing"),
        other => write!(text, "{other:?}"),
    };
    written.expect("a string takes everything");
    text.replace("Viewstamp ", "")
}

fn brief_paxos(message: &paxos::Message<rsm::View>) -> String {
    use paxos::Message as Paxos;
    let at = |ballot: &paxos::Ballot| format!("b{}.{}", ballot.round, ballot.proposer);
    match message {
        Paxos::Prepare { instance, ballot, .. } => format!("Prepare i{instance} {}", at(ballot)),
        Paxos::Promise { instance, ballot, vote, .. } => {
            let vote = vote.as_ref().map(|vote| format!("{} {}", at(&vote.ballot), brief_view(&vote.value)));
            format!("Promise i{instance} {} vote {vote:?}", at(ballot))
        }
        Paxos::Refused { instance, ballot, promised, .. } => {
            format!("Refused i{instance} {} promised {}", at(ballot), at(promised))
        }
        Paxos::Accept { instance, ballot, value, .. } => {
            format!("Accept i{instance} {} {}", at(ballot), brief_view(value))
        }
        Paxos::Accepted { instance, ballot, .. } => format!("Accepted i{instance} {}", at(ballot)),
        Paxos::Decided { value } => format!("Decided {}", brief_view(value)),
        Paxos::Fetch { above } => format!("FetchView above {above}"),
    }
}

/// A view in a few words: `V3 primary 2 [1=ab12cd34 2=.. 3=..(syncing)]`.
pub(crate) fn brief_view(view: &rsm::View) -> String {
    let slots = view.slots.iter().map(|slot| {
        let syncing = match slot.standing {
            rsm::Standing::InSync => "",
            rsm::Standing::Syncing => "(syncing)",
            rsm::Standing::Learner => "(learner)",
        };
        format!("{}={}{syncing}", slot.member, slot.incarnation)
    });
    format!("V{} primary {} [{}]", view.number, view.primary, slots.collect::<Vec<_>>().join(" "))
}

/// A record in a few words.
pub(crate) fn brief_record(record: &Record) -> String {
    match record {
        Record::Control(control) => match (&control.config, &control.founding) {
            (Some(config), _) => {
                let promised = config.promised.map(|ballot| (ballot.round, ballot.proposer));
                let vote = config.vote.as_ref().map(|vote| vote.ballot.round);
                format!("Control {} promised {promised:?} voted {vote:?}", brief_view(&config.last))
            }
            (None, Some(view)) => format!("Control founding {}", brief_view(view)),
            (None, None) => "Control empty".to_owned(),
        },
        Record::Append(entry) => format!("Append {} after {}", entry.viewstamp, entry.previous),
        Record::TruncateAfter { op } => format!("TruncateAfter {op}"),
        Record::SnapshotPart { viewstamp, offset, bytes } => {
            format!("SnapshotPart {viewstamp} from {offset}, {} bytes", bytes.len())
        }
        Record::Snapshot { image, release } => format!("Snapshot {} release {release}", image.viewstamp),
        Record::Install { image, keep_suffix, .. } => format!("Install {} keep {keep_suffix}", image.viewstamp),
        Record::Repair { entries } => format!("Repair {} entries", entries.len()),
    }
}
