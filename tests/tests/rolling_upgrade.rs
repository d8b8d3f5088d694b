//! The steps of a rolling upgrade, with this release in both roles; `tests/rolling-upgrade` takes a former one.

use std::process::Command;

#[test]
fn members_are_upgraded_one_after_the_other_and_back_and_no_lock_is_lost() {
    let server = env!("CARGO_BIN_EXE_lock-server-under-test");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rolling-upgrade"));
    let output = command.args(["--former", server, "--new", server]).output().expect("it is started");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("the new release sends it a snapshot"), "{told}");
}
