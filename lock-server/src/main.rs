//! The lock server's program; see [`lock_server::command_line`].

use std::process::ExitCode;

fn main() -> ExitCode {
    lock_server::command_line()
}
