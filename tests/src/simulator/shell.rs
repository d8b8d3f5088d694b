//! What a shell does with a core's output, in the order of the contract: persist, send, answer. And what is checked on
//! the way.

use rsm::{Input, Message, Output, Token};

use super::invariants::{Check, Run, Violation};
use super::member::Member;
use super::plan::Workload;
use super::trace::{brief, brief_record};
use super::world::{Event, World};

/// Inputs taken in by one group of steps.
const GROUP_MAX_INPUTS: usize = 256;
/// The core's own view of its store is compared with the store once in so many groups.
const COMPARE_ONE_IN: u64 = 32;

impl World {
    /// The core takes in what waits, and its output is carried out.
    pub(crate) fn on_wake(&mut self, index: usize, run: Run) -> Check {
        let group = GROUP_MAX_INPUTS;
        let Member { process, pair, store, .. } = &mut self.members[index];
        let Some(process) = process.as_mut().filter(|process| process.run == run) else { return Ok(()) };
        let pause = process.paused_until.saturating_sub(self.now);
        if pause > 0 {
            self.schedule(pause, Event::Wake(index, run));
            return Ok(());
        }
        process.wakes = false;
        let inputs: Vec<Input> = process.inbox.drain(..process.inbox.len().min(group)).collect();
        if !process.inbox.is_empty() {
            process.wakes = true;
        }
        let (more, count) = (process.wakes, inputs.len());
        let clock = process.read_clock(self.now);
        let mut out = Output::default();
        for input in inputs {
            self.trace.note(self.now, [2, index as u64, input_code(&input)], || {
                format!("  {} <- {}", index + 1, input_brief(&input))
            });
            process.take_in(clock, input, pair, &mut out);
        }
        process.replica.settle(clock, &mut out);
        if out.persist.is_empty() && store.is_durable(store.last_token()) {
            process.tend_ring(clock, pair, &mut out);
        }
        if more {
            self.schedule(1, Event::Wake(index, run));
        }
        self.note_output(index, &out);
        for (tag, answer) in std::mem::take(&mut out.changes) {
            self.on_change_answered(tag, &answer);
        }
        if out.fault.is_some() && self.is_dismissed(index) {
            return self.dismiss(index);
        }
        self.check_output(index, count, &mut out)?;
        self.carry_out(index, out)
    }

    fn note_output(&mut self, index: usize, out: &Output) {
        let Some(process) = &self.members[index].process else { return };
        let commit = process.replica.commit();
        let sizes = (out.persist.len() << 32 | out.send.len() << 16 | out.answers.len()) as u64;
        self.trace.note(self.now, [3, sizes, commit.op << 20 ^ process.replica.machine().op()], || {
            let records =
                out.persist.iter().map(|record| format!("\n        {} persist {}", index + 1, brief_record(record)));
            let sends = out.send.iter().map(|send| {
                format!("\n        {} -> {} (after {}) {}", index + 1, send.to, send.after, brief(&send.message))
            });
            let answers = out.answers.iter().map(|(tag, answer)| {
                format!("\n        {} answers {tag}: {}", index + 1, if answer.is_ok() { "ok" } else { "refused" })
            });
            let serving = out.serving.map(|serving| format!("\n        {} serving: {serving}", index + 1));
            let lines: String = records.chain(sends).chain(answers).chain(serving).collect();
            format!("  {} commit {commit} executed {}{lines}", index + 1, process.replica.machine().op())
        });
    }

    /// All that can be checked before anything of the output happens; asks the store for the records.
    fn check_output(&mut self, index: usize, inputs: usize, out: &mut Output) -> Check {
        let member = &mut self.members[index];
        let identity = member.store.identity;
        if let Some(line) = out.fault.take() {
            return Err(Violation::new("no fault without cause", format!("member {}: {line}", identity.member)));
        }
        self.invariants.bounded(inputs, out)?;
        let Some(process) = &mut member.process else { return Ok(()) };
        let before = member.store.asked.control.config.as_ref().map(|config| &config.last);
        let before = before.filter(|view| view.lists(identity.member, identity.incarnation));
        self.invariants.committed(identity, process.run, before, process.replica.commit())?;
        let entered_before = before.map_or(0, |view| view.number);
        let (fresh, disorder) = process.replica.machine_mut().take_fresh();
        self.invariants.in_order(identity, disorder)?;
        fresh.into_iter().try_for_each(|executed| self.invariants.executed(identity, executed))?;
        self.invariants.parted(identity, process.replica.machine_mut().take_parted())?;
        // In a view that does not list it a member says nothing; what it said before, also of views that it entered and
        // left among these very inputs, may leave with the same output.
        let mut entered = entered_before;
        for record in out.persist.drain(..) {
            self.invariants.record(&member.store.asked, &record)?;
            let wrong = |line| Violation::new("a record fits the store", format!("member {}: {line}", identity.member));
            member.store.ask(record).map_err(wrong)?;
            entered = member.entered().map_or(entered, |view| view.number);
        }
        for send in &out.send {
            self.invariants.emitted(identity, (entered_before, entered), &send.message)?;
        }
        self.check_serving(index, out.serving)?;
        if self.events.is_multiple_of(COMPARE_ONE_IN) { self.compare(index) } else { Ok(()) }
    }

    fn check_serving(&mut self, index: usize, serving: Option<bool>) -> Check {
        let member = &mut self.members[index];
        let Some(process) = &mut member.process else { return Ok(()) };
        let Some(serving) = serving else { return Ok(()) };
        process.serving = serving;
        if !serving {
            return Ok(());
        }
        let (run, executed) = (process.run, process.replica.status().executed_op);
        let member = &self.members[index];
        let asked = &member.store.asked;
        self.invariants.serves(member.store.identity, run, member.entered(), asked, executed)
    }

    /// What the core believes to be in its store is what it asked the store to hold.
    fn compare(&self, index: usize) -> Check {
        let member = &self.members[index];
        let Some(process) = &member.process else { return Ok(()) };
        let compared = member.store.compare(&process.replica.control(), &process.replica.log_viewstamps());
        let name = member.store.identity.member;
        compared.map_err(|line| Violation::new("memory and store agree", format!("member {name}: {line}")))
    }

    /// A core that has just started stands somewhere in the one history.
    pub(crate) fn check_start(&mut self, index: usize) -> Check {
        let member = &mut self.members[index];
        let identity = member.store.identity;
        let Some(process) = &mut member.process else { return Ok(()) };
        let (_, disorder) = process.replica.machine_mut().take_fresh();
        self.invariants.in_order(identity, disorder)?;
        let status = process.replica.status();
        if self.plan.kind_of(index) == rsm::Kind::Replica {
            let executed = super::machine::Executed { op: status.executed_op, hash: status.state_hash };
            self.invariants.executed(identity, executed)?;
        }
        self.compare(index)
    }

    fn carry_out(&mut self, index: usize, out: Output) -> Check {
        let dies = self.unsafe_now && self.dice.chance(self.plan.store.crash_in_output);
        let cut = if dies { self.dice.index(out.send.len() + 1) } else { usize::MAX };
        for send in out.send.into_iter().take(cut) {
            let member = &mut self.members[index];
            if member.store.is_durable(send.after) {
                self.transmit(index, send)?;
            } else if let Some(process) = &mut member.process {
                let last = member.store.last_token();
                if send.after > last {
                    let detail = format!("{} after record {}, the last is {last}", brief(&send.message), send.after);
                    return Err(Violation::new("a message waits for a record that exists", detail));
                }
                process.held.push(send);
            }
        }
        if dies {
            self.crash_and_return(index)?;
            if self.members[index].process.is_none() {
                self.invariants.counters.hit("crashes in the midst of an output");
                return Ok(());
            }
        }
        if self.plan.workload == Workload::Locks {
            self.edge_after_step(index, out.serving);
            self.check_ended_sessions()?;
        }
        for (tag, answer) in out.answers {
            if self.plan.workload == Workload::Locks {
                self.on_command_answered(index, tag, answer)?;
                continue;
            }
            let Some((client, wish)) = self.asking.attempts.close(tag) else {
                return Err(Violation::new("a command is answered once", format!("tag {tag} by member {}", index + 1)));
            };
            match &answer {
                Ok(bytes) => {
                    self.invariants.counters.hit("answers ok");
                    self.check_answer(&wish, bytes)?;
                }
                Err(rsm::Rejection::Unknown) => self.invariants.counters.hit("answers unknown"),
                Err(rsm::Rejection::Busy) => self.invariants.counters.hit("answers busy"),
                Err(_) => {}
            }
            if let [Some(delay), _] = self.network.client_fate(&mut self.dice) {
                self.schedule(delay, Event::Answer { client, tag, answer });
            }
        }
        self.flush(index);
        Ok(())
    }

    fn transmit(&mut self, index: usize, send: rsm::Send) -> Check {
        let member = &self.members[index];
        let (identity, cluster) = (member.store.identity, member.cluster());
        assert!(member.store.is_durable(send.after), "no message leaves before its record is durable");
        let to = (send.to.0 as usize).wrapping_sub(1);
        if to >= self.members.len() || to == index {
            let detail = format!("member {} sends {} to {}", index + 1, brief(&send.message), send.to);
            return Err(Violation::new("messages go to other members", detail));
        }
        self.invariants.leaves(identity, &send.message)?;
        if let Some(guard) = self.guards_log(index) {
            self.invariants.is_guarded(identity, &send.message, guard)?;
        }
        let [first, second] = self.network.fate(&mut self.dice, index, to);
        if let Some(delay) = second {
            let message: Message = send.message.clone();
            self.schedule(delay, Event::Arrive { to, cluster, from: identity, message });
        }
        if let Some(delay) = first {
            self.schedule(delay, Event::Arrive { to, cluster, from: identity, message: send.message });
        }
        Ok(())
    }

    /// Sets the store to work, if it has any: all that waits at this moment becomes durable together (group commit).
    fn flush(&mut self, index: usize) {
        let member = &mut self.members[index];
        let token = member.store.last_token();
        let slow = member.flush_is_slow;
        let Some(process) = &mut member.process else { return };
        if process.flushing || member.store.is_durable(token) {
            return;
        }
        process.flushing = true;
        let run = process.run;
        let range = if slow { self.plan.store.slow_flush_us } else { self.plan.store.flush_us };
        let delay = self.dice.between(range);
        self.schedule(delay, Event::Flushed(index, run, token));
    }

    pub(crate) fn on_flushed(&mut self, index: usize, run: Run, token: Token) -> Check {
        let member = &mut self.members[index];
        let Some(process) = member.process.as_mut().filter(|process| process.run == run) else { return Ok(()) };
        let pause = process.paused_until.saturating_sub(self.now);
        if pause > 0 {
            self.schedule(pause, Event::Flushed(index, run, token));
            return Ok(());
        }
        process.flushing = false;
        if self.unsafe_now && self.media_dice.chance(self.plan.medium.crash_in_flush) {
            self.crash_and_return(index)?;
            if !self.is_running(index, run) {
                self.invariants.counters.hit("crashes in the midst of a flush");
                return Ok(());
            }
        }
        let member = &mut self.members[index];
        self.trace.note(self.now, [4, index as u64, token], || format!("  {} durable to {token}", index + 1));
        let holder = member.store.identity.incarnation;
        let records = match member.store.flush(token) {
            Ok(records) => records,
            Err(error) => return self.medium_failed(index, &error),
        };
        records.iter().try_for_each(|record| self.invariants.durable(holder, record))?;
        if self.unsafe_now && self.dice.chance(self.plan.store.crash_at_flush) {
            self.crash_and_return(index)?;
            if !self.is_running(index, run) {
                self.invariants.counters.hit("crashes between flush and send");
                return Ok(());
            }
        }
        let member = &mut self.members[index];
        let Some(process) = &mut member.process else { return Ok(()) };
        let free = process.release(|after| member.store.is_durable(after));
        free.into_iter().try_for_each(|send| self.transmit(index, send))?;
        let delay = self.dice.between(self.plan.store.report_us);
        self.schedule(delay, Event::Input(index, run, Input::Durable { token }));
        self.flush(index);
        Ok(())
    }
}

fn input_code(input: &Input) -> u64 {
    match input {
        Input::Tick => 0,
        Input::Message { from, message, .. } => from.member.0 << 32 | message_code(message),
        Input::Submit { tag, .. } => 1 << 40 | tag,
        Input::Durable { token } => 2 << 40 | token,
        Input::Unreachable { member, .. } => 3 << 40 | member.0,
        Input::HandOver { to } => 4 << 40 | to.map_or(0, |to| to.0),
        Input::Change { tag, .. } => 5 << 40 | tag,
        Input::Damaged { .. } => 6 << 40,
        Input::Guarded { upto } => 7 << 40 | upto.map_or(0, |upto| upto.op),
    }
}

/// The first bytes of a message's name would do; its size class says more at the same cost.
fn message_code(message: &Message) -> u64 {
    match message {
        Message::Append { view, entries, commit, .. } => 1 << 24 ^ view << 16 ^ commit.op ^ entries.len() as u64,
        Message::Ack { view, verified, .. } => 2 << 24 ^ view << 16 ^ verified.op,
        Message::Heartbeat { view, commit, .. } => 3 << 24 ^ view << 16 ^ commit.op,
        Message::Paxos(message) => {
            4 << 24 ^ message.place().map_or(0, |(instance, _, ballot)| instance << 8 ^ ballot.round)
        }
        Message::Report { view, last, .. } => 5 << 24 ^ view << 16 ^ last.op,
        Message::PreVote { view } => 6 << 24 ^ view,
        Message::PreVoteAnswer { view, yes, .. } => 7 << 24 ^ view << 1 ^ u64::from(*yes),
        _ => 8 << 24,
    }
}

fn input_brief(input: &Input) -> String {
    match input {
        Input::Tick => "tick".to_owned(),
        Input::Message { from, message, .. } => {
            format!("{} ({}): {}", from.member, from.incarnation, brief(message))
        }
        Input::Submit { tag, .. } => format!("submit {tag}"),
        Input::Durable { token } => format!("durable {token}"),
        Input::Unreachable { member, .. } => format!("unreachable {member}"),
        Input::HandOver { to } => format!("hand over to {to:?}"),
        Input::Change { tag, change } => format!("change {tag}: {change:?}"),
        Input::Damaged { damage } => format!("damaged: {damage:?}"),
        Input::Guarded { upto } => format!("guarded {upto:?}"),
    }
}
