//! The Plumeria command line; everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lockctl::main(std::env::args_os())
}
