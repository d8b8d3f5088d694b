//! The lock server with break points, for the lab; see [`lock_server::command_line`].

use std::process::ExitCode;

fn main() -> ExitCode {
    lock_server::command_line()
}
