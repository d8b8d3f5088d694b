//! Two minutes of the campaign, with a fresh seed each time; `tests/campaign` runs it for longer.

use std::process::Command;

#[test]
fn no_lock_is_held_twice_and_no_update_is_lost_whatever_the_nemesis_does() {
    let program = env!("CARGO_BIN_EXE_campaign");
    let evidence = concat!(env!("CARGO_TARGET_TMPDIR"), "/campaign-failures");
    let mut command = Command::new(program);
    command.args(["--minutes=2", "--round-seconds=24", "--server", env!("CARGO_BIN_EXE_lock-server-under-test")]);
    command.args(["--evidence", evidence]);
    let output = command.output().expect("the campaign is started");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("nothing is violated"), "{told}");
}
