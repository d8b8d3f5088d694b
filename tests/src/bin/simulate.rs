//! Runs seeds of the simulator, and tells of each that failed.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use plumeria_tests::simulator::{Counters, Durability, Known, Options, Workload, mutants, report, run};

/// Runs whole clusters, one seed each.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Members of the cluster, instead of what each seed draws.
    #[arg(long)]
    members: Option<usize>,
    /// What is replicated, instead of what each seed draws: register, kv or locks.
    #[arg(long)]
    workload: Option<Workload>,
    /// What stores survive, instead of what each seed draws: durable, memory (the process), process (nothing) or ring (memory
    /// of the host, and of a guard's).
    #[arg(long, value_name = "MODE")]
    durability: Option<Durability>,
    /// Runs one seed only, and prints its whole story.
    #[arg(long, value_name = "SEED")]
    trace: Option<u64>,
    /// Puts a known bug back; every seed that fails then is a good sign.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Puts each known bug back, and prints a table of how long it takes to be caught.
    #[arg(long)]
    mutants: bool,
    /// Starting points for each known bug; the median is printed.
    #[arg(long, default_value_t = 3)]
    starts: u64,
    /// Seeds that a known bug may take to be caught before it counts as escaped.
    #[arg(long, default_value_t = 3_000)]
    patience: u64,
    /// Stops after so many failures.
    #[arg(long, default_value_t = 5)]
    failures: u64,
}

/// Between the seeds at which the searches for a known bug start.
const START_STEP: u64 = 1_000_000;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.mutants {
        return table(arguments.starts.max(1), arguments.patience);
    }
    let known = arguments.mutant.as_ref().map(|name| (name, mutants().into_iter().find(|known| known.name == name)));
    if let Some((name, None)) = known {
        let names: Vec<&str> = mutants().iter().map(|known| known.name).collect();
        match names.is_empty() {
            true => eprintln!("there are no known bugs in this build: leave out --no-default-features"),
            false => eprintln!("no known bug is called {name}; these are: {}", names.join(", ")),
        }
        return ExitCode::from(2);
    }
    let options = Options {
        members: arguments.members,
        workload: arguments.workload.or(known.and_then(|(_, known)| known).and_then(|known| known.workload)),
        durability: arguments.durability,
        mutant: arguments.mutant.clone(),
        trace_lines: 0,
    };
    match arguments.trace {
        Some(seed) => tell(seed, &options),
        None => run_all(&arguments, &options),
    }
}

/// How long each known bug goes unnoticed.
fn table(starts: u64, patience: u64) -> ExitCode {
    println!("| known bug | of | seeds | seconds | caught as |\n|---|---|---|---|---|");
    let mut escaped = 0;
    for known in mutants() {
        let mut hunts: Vec<_> = (0..starts).map(|start| hunt(&known, 1 + start * START_STEP, patience)).collect();
        hunts.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        let median = &hunts[hunts.len() / 2];
        let Known { name, of, .. } = known;
        match &median.rule {
            Some(rule) => println!("| `{name}` | {of} | {} | {:.1} | {rule} |", median.seeds, median.seconds),
            None => {
                escaped += 1;
                println!("| `{name}` | {of} | more than {} | {:.1} | |", median.seeds, median.seconds);
            }
        }
    }
    if escaped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a search came to.
struct Hunt {
    seeds: u64,
    seconds: f64,
    rule: Option<&'static str>,
}

#[expect(clippy::disallowed_methods, reason = "the time to detection is measured")]
fn hunt(known: &Known, start: u64, patience: u64) -> Hunt {
    let started = Instant::now();
    let Known { name, workload, durability, .. } = *known;
    let options = Options { mutant: Some(name.to_owned()), workload, durability, ..Options::default() };
    let caught = (start..start + patience).find_map(|seed| Some((seed, run(seed, &options).failure?)));
    let seeds = caught.as_ref().map_or(patience, |(seed, _)| seed + 1 - start);
    Hunt { seeds, seconds: started.elapsed().as_secs_f64(), rule: caught.map(|(_, violation)| violation.rule) }
}

fn tell(seed: u64, options: &Options) -> ExitCode {
    let outcome = run(seed, &Options { trace_lines: usize::MAX, ..options.clone() });
    let mut out = std::io::stdout().lock();
    // Whoever reads only the beginning has seen what they wanted.
    let is_read = outcome.trace.iter().all(|line| writeln!(out, "{line}").is_ok());
    drop(out);
    match outcome.failure {
        Some(_) if !is_read => ExitCode::FAILURE,
        None if !is_read => ExitCode::SUCCESS,
        Some(violation) => {
            println!("VIOLATED: {}: {}", violation.rule, violation.detail);
            ExitCode::FAILURE
        }
        None => {
            println!("nothing was violated in {} events", outcome.events);
            ExitCode::SUCCESS
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the speed of the simulator itself is measured")]
fn run_all(arguments: &Arguments, options: &Options) -> ExitCode {
    let (started, mut counters, mut events, mut simulated_us, mut failures) =
        (Instant::now(), Counters::default(), 0, 0, 0);
    let mut runs = 0;
    for seed in arguments.first..arguments.first.saturating_add(arguments.seeds) {
        let outcome = run(seed, options);
        counters.merge(&outcome.counters);
        events += outcome.events;
        simulated_us += outcome.simulated_us;
        runs += 1;
        if outcome.failure.is_some() {
            failures += 1;
            println!(
                "seed {seed} ({}, {} members): {}\n",
                outcome.workload,
                outcome.members,
                report(&outcome, options)
            );
            if failures >= arguments.failures {
                break;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    for (name, times) in counters.iter() {
        println!("{times:>12} {name}");
    }
    for name in counters.missed() {
        println!("       never {name}");
    }
    let hours = simulated_us as f64 / 3.6e9;
    println!(
        "{runs} seeds, {failures} failed; {events} events in {seconds:.1} s, {:.0} a second; {hours:.2} hours were simulated, {:.0} in \
         an hour of one core",
        events as f64 / seconds,
        hours * 3600.0 / seconds
    );
    let count = |name: &str| counters.get(name);
    println!(
        "{} crashes, {} view changes, {} snapshots, {} changes of members; {} sessions, {} expiries, {} grants, {} hand-overs of locks",
        count("crashes"),
        count("view changes"),
        count("snapshots"),
        count("members added") + count("members removed"),
        count("sessions opened"),
        count("expiries"),
        count("grants"),
        count("hand-overs of locks"),
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
