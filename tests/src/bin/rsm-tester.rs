//! Runs the lab's scenarios against real server processes, and prints a line for each.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use plumeria_tests::lab::{Programs, SCENARIOS};
use plumeria_tests::program;

/// Kills lock servers in every way, and looks at what comes of it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which scenarios, by number; all if none is named.
    numbers: Vec<u32>,
    /// Prints the scenarios, and runs none.
    #[arg(long)]
    list: bool,
    /// Runs each so many times.
    #[arg(long, default_value_t = 1)]
    times: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        SCENARIOS.iter().for_each(|scenario| println!("{:>2} {}", scenario.number, scenario.name));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) =
        arguments.numbers.iter().find(|number| SCENARIOS.iter().all(|scenario| scenario.number != **number))
    {
        eprintln!("rsm-tester: there is no scenario {unknown}: choose 0 to {}", SCENARIOS.len() - 1);
        return ExitCode::from(2);
    }
    let programs = match programs() {
        Ok(programs) => programs,
        Err(line) => {
            eprintln!("rsm-tester: {line}");
            return ExitCode::from(2);
        }
    };
    let chosen = |number: u32| arguments.numbers.is_empty() || arguments.numbers.contains(&number);
    let mut failed = 0;
    for _ in 0..arguments.times {
        for scenario in SCENARIOS.iter().filter(|scenario| chosen(scenario.number)) {
            for way in scenario.ways {
                let what = format!("{} ({way})", scenario.name);
                print!("{:>2} {what:<95} ", scenario.number);
                // A terminal that is gone is no reason to stop.
                drop(std::io::stdout().flush());
                let verdict = scenario.run(&programs, *way);
                let outcome = if verdict.failure.is_none() { "ok" } else { "FAILED" };
                let again = if verdict.attempts > 1 { format!(", run {}", verdict.attempts) } else { String::new() };
                println!("{outcome:<6} {:.1} s{again}", verdict.took.as_secs_f64());
                if let Some(failure) = verdict.failure {
                    failed += 1;
                    println!("   {failure}\n{}", verdict.last_words);
                }
            }
        }
    }
    if failed > 0 {
        println!("{failed} failed");
        return ExitCode::FAILURE;
    }
    println!("all passed");
    ExitCode::SUCCESS
}

fn programs() -> Result<Programs, String> {
    Ok(Programs { server: program::server(None)?, lock_tester: program::beside("lock-tester")? })
}
