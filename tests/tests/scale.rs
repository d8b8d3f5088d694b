//! A small run of the scale benchmark; `tests/scale-bench` has the figures.

use std::process::Command;

#[test]
fn a_small_crowd_is_measured_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let page = dir.path().join("page.md");
    std::fs::write(&page, "above\n<!-- scale -->\n<!-- end of scale -->\nbelow\n").expect("a page");
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-bench"));
    command.args(["--sessions=8", "--locks-each=100", "--doomed-locks=2000", "--lease-seconds=60", "--log-mib=4"]);
    command.args(["--watch-seconds=1", "--hand-overs=1", "--kills=1", "--page"]).arg(&page);
    command.args(["--server", env!("CARGO_BIN_EXE_lock-server-under-test")]);
    let output = command.output().expect("it is started");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(&page).expect("the page");
    assert!(page.starts_with("above\n<!-- scale -->\n") && page.ends_with("<!-- end of scale -->\nbelow\n"), "{page}");
    for what in [
        "CPU of the primary, 8 idle sessions with all their locks",
        "for each of 800 held locks",
        "acquires under load while",
        "expiry of a session with 2000 locks",
        "hand-over by command, gap of service, one client",
        "rolling restart), gap of service, 8 sessions",
        "SIGKILL of the primary, until each of the sessions was granted a lock",
    ] {
        assert!(page.contains(what), "no figure for '{what}': {page}");
    }
}
