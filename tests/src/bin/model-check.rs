//! Checks models within larger bounds than the tests have time for, and prints what was found.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use plumeria_tests::model::protocol::Protocol;
use plumeria_tests::model::search::{Bounds, Report, explore};
use plumeria_tests::model::{Grain, PaxosBounds, PaxosModel, Scene, ViewBounds, ViewModel};

/// Checks every schedule within bounds.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to check.
    #[arg(value_enum)]
    model: Model,
    /// Steps from the start.
    #[arg(long, default_value_t = usize::MAX)]
    depth: usize,
    /// States; a million take some 300 MB.
    #[arg(long, default_value_t = 10_000_000)]
    states: usize,
    /// Members, or acceptors.
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// The highest view; instances of Paxos.
    #[arg(long)]
    views: Option<u64>,
    /// The highest round of a ballot.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Proposers of Paxos.
    #[arg(long, default_value_t = 2)]
    proposers: usize,
    /// Commands.
    #[arg(long, default_value_t = 1)]
    commands: u8,
    /// Crashes of processes.
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    /// Losses of stores.
    #[arg(long, default_value_t = 0)]
    losses: u8,
    /// Writes put off.
    #[arg(long, default_value_t = 0)]
    holds: u8,
    /// Times that all timers are due at once.
    #[arg(long, default_value_t = 0)]
    longs: u8,
    /// Hand-overs that somebody asks for.
    #[arg(long, default_value_t = 0)]
    hand_overs: u8,
    /// What is done at one stroke: 0 prevotes, 1 the decision of a view too, 2 the choice of its log too.
    #[arg(long, default_value_t = 1)]
    grain: u8,
    /// Where it begins.
    #[arg(long, value_enum, default_value_t = Begin::Serving)]
    scene: Begin,
    /// Members taken away by an operator.
    #[arg(long, default_value_t = 0)]
    removals: u8,
    /// Members whose stores an operator declares lost.
    #[arg(long, default_value_t = 0)]
    replacements: u8,
    /// The only members that crash, put writes off or lose their stores; all of them, where none is named.
    #[arg(long, value_delimiter = ',')]
    frail: Vec<u16>,
    /// Leaves heartbeats out.
    #[arg(long)]
    quiet: bool,
    /// A known bug to put back.
    #[arg(long)]
    mutant: Option<String>,
    /// Checks only what is true of all members, not each one's own words.
    #[arg(long)]
    lenient: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Model {
    Paxos,
    Views,
    Quorums,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Begin {
    /// View 1 serves.
    Serving,
    /// The last of three is a witness.
    Witness,
    /// A newcomer is syncing.
    Rejoining,
    /// A newcomer is listed in a view that has not begun.
    Relisted,
    /// A learner is listed.
    Growing,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bounds = Bounds { depth: arguments.depth, states: arguments.states };
    let report = match arguments.model {
        Model::Quorums => return quorums(arguments.members),
        Model::Paxos => explore(&PaxosModel { bounds: paxos(&arguments) }, bounds),
        Model::Views => {
            let model = ViewModel::new(views(&arguments));
            for member in model.start().0 {
                println!("start: {}", model.describe(&member));
            }
            explore(&model, bounds)
        }
    };
    tell(&report);
    if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn quorums(most: usize) -> ExitCode {
    use plumeria_tests::model::{Without, check_quorums};
    for without in
        [Without::Nothing, Without::CommittedBarrier, Without::BarrierHeld, Without::InSyncAcks, Without::VotersOnly]
    {
        let found = check_quorums(3.min(most), most, without);
        println!("without {without:?}: {} rows, {} successions", found.rows, found.successions);
        for line in found.violation.into_iter().flatten() {
            println!("    {line}");
        }
    }
    ExitCode::SUCCESS
}

fn paxos(arguments: &Arguments) -> PaxosBounds {
    PaxosBounds {
        nodes: arguments.members,
        proposers: arguments.proposers,
        rounds: arguments.rounds,
        instances: arguments.views.unwrap_or(1),
        crashes: arguments.crashes,
        losses: arguments.losses,
        holds: arguments.holds,
        is_strict: !arguments.lenient,
        #[cfg(feature = "mutants")]
        mutant: arguments.mutant.as_ref().map(|name| paxos_mutant(name)),
    }
}

#[cfg(feature = "mutants")]
fn paxos_mutant(name: &str) -> plumeria_tests::model::PaxosMutant {
    use plumeria_tests::model::PaxosMutant as M;
    let all = [
        M::AnswersBeforePersist,
        M::VotesFinishedInstanceAgain,
        M::ReusesBallotAfterRebirth,
        M::IgnoresIncarnations,
        M::ChoosesFreely,
        M::QuorumOfOne,
    ];
    all.into_iter().find(|mutant| format!("{mutant:?}") == name).expect("one of paxos::mutant")
}

fn views(arguments: &Arguments) -> ViewBounds {
    let mut bounds = ViewBounds {
        scene: match arguments.scene {
            Begin::Serving => Scene::Serving { members: arguments.members },
            Begin::Witness => Scene::Witness,
            Begin::Rejoining => Scene::Rejoining,
            Begin::Relisted => Scene::Relisted,
            Begin::Growing => Scene::Growing,
        },
        views: arguments.views.unwrap_or(3),
        rounds: arguments.rounds,
        grain: [Grain::Fine, Grain::Election, Grain::Start][usize::from(arguments.grain.min(2))],
        commands: arguments.commands,
        crashes: arguments.crashes,
        losses: arguments.losses,
        holds: arguments.holds,
        longs: arguments.longs,
        hand_overs: arguments.hand_overs,
        removals: arguments.removals,
        replacements: arguments.replacements,
        frail: if arguments.frail.is_empty() {
            u16::MAX
        } else {
            arguments.frail.iter().fold(0, |set, member| set | 1 << (member - 1))
        },
        beats: !arguments.quiet,
        ..ViewBounds::default()
    };
    bounds.rules.is_strict = !arguments.lenient;
    #[cfg(feature = "mutants")]
    if let Some(name) = &arguments.mutant {
        let known = rsm::mutant::MUTANTS.iter().chain(&rsm::mutant::MORE_MUTANTS).find(|(known, _)| known == name);
        bounds.rules.mutant = Some(known.expect("one of rsm::mutant").1);
    }
    bounds
}

fn tell(report: &Report) {
    println!(
        "{} states, {} steps, depth {}, {} local states, {} messages and facts, {:.1} s, {} MB{}",
        report.states,
        report.transitions,
        report.depth,
        report.locals,
        report.items,
        report.seconds,
        memory_mb(),
        if report.is_exhaustive { "; all states within the bounds" } else { "; cut short" }
    );
    if let Some((rule, trace)) = &report.violation {
        println!("VIOLATED: {rule}");
        for line in trace {
            println!("{line}");
        }
    }
}

/// The most memory that this process ever had.
fn memory_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
