//! A few rounds of the kill loops; `tests/kill-loops` runs them a hundred times.

use std::process::Command;

#[test]
fn in_each_durability_mode_replicas_are_killed_and_nothing_acknowledged_is_lost() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kill-loops"));
    command.args(["--kills=5", "--at-once=2", "--together"]);
    command.args(["--server", env!("CARGO_BIN_EXE_lock-server-under-test")]);
    let output = command.output().expect("the loops are started");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("nothing that was acknowledged is lost"), "{told}");
}
