//! Runs seeds of the simulator, and tells of each that failed.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use plumeria_tests::simulator::{Counters, Options, Workload, mutants, report, run};

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
    /// Runs one seed only, and prints its whole story.
    #[arg(long, value_name = "SEED")]
    trace: Option<u64>,
    /// Puts a known bug back; every seed that fails then is a good sign.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Stops after so many failures.
    #[arg(long, default_value_t = 5)]
    failures: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(name) = &arguments.mutant
        && !mutants().contains(&name.as_str())
    {
        eprintln!("no known bug is called {name}; with --features mutants these are: {}", mutants().join(", "));
        return ExitCode::from(2);
    }
    let options = Options {
        members: arguments.members,
        workload: arguments.workload,
        mutant: arguments.mutant.clone(),
        trace_lines: 0,
    };
    match arguments.trace {
        Some(seed) => tell(seed, &options),
        None => run_all(&arguments, &options),
    }
}

fn tell(seed: u64, options: &Options) -> ExitCode {
    let outcome = run(seed, &Options { trace_lines: usize::MAX, ..options.clone() });
    for line in &outcome.trace {
        println!("{line}");
    }
    match outcome.failure {
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
    println!(
        "{runs} runs, {failures} failed; {events} events in {seconds:.1} s, {:.0} a second; {:.0} s were simulated",
        events as f64 / seconds,
        simulated_us as f64 / 1e6
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
