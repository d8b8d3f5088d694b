//! Namespaces of the campaign's own: a network, mounts and processes that nobody else on the machine sees.
//!
//! Why nothing is left behind: the whole campaign runs inside, as the first process of a process namespace. When it ends, in
//! whatever way, the kernel kills every process in there and drops the interfaces and mounts with the namespaces. Only files in
//! the temporary directory can outlive a `kill -9`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::geteuid;
use tokio_tun::Tun;

use crate::lab::{Checked, Failure, has_shared_memory};

/// Set inside, to what was asked for.
const INSIDE: &str = "PLUMERIA_CAMPAIGN_INSIDE";
const PROBING: &str = "probe";
const RUNNING: &str = "run";

/// What the namespaces offer.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// A process can be given clocks that differ from the machine's by a constant.
    pub clocks: bool,
    /// A file can be mounted as a disk.
    pub loops: bool,
}

/// Where this process finds itself.
#[derive(Debug)]
pub enum Entered {
    /// Inside.
    Inside(Space),
    /// Outside, and it stays there: why.
    Impossible(String),
}

/// Begins this process anew inside namespaces, if they can be made; to be called first thing in `main`.
pub fn enter() -> Entered {
    match std::env::var(INSIDE).as_deref() {
        Ok(PROBING) => match settle() {
            Ok(_) => std::process::exit(0),
            Err(failure) => {
                eprintln!("{failure}");
                std::process::exit(1);
            }
        },
        Ok(_) => settle().map_or_else(|failure| Entered::Impossible(failure.to_string()), Entered::Inside),
        Err(_) => Entered::Impossible(leave_for_inside()),
    }
}

/// Does not return where it succeeds.
fn leave_for_inside() -> String {
    let again = |what: &str| -> std::io::Result<Command> {
        let mut command = Command::new("unshare");
        if !geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, what);
        Ok(command)
    };
    let probed = again(PROBING).and_then(|mut probe| probe.stdin(Stdio::null()).output());
    match probed {
        Ok(output) if output.status.success() => match again(RUNNING) {
            Ok(mut command) => format!("unshare: {}", command.exec()),
            Err(error) => error.to_string(),
        },
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            words.lines().last().unwrap_or("unshare fails and does not say why").to_owned()
        }
        Err(error) => format!("unshare: {error}"),
    }
}

/// Makes the new namespaces habitable, and finds out what works in them.
fn settle() -> Checked<Space> {
    run("mount", &["-t", "tmpfs", "none", "/run"])?;
    if has_shared_memory() {
        run("mount", &["-t", "tmpfs", "none", "/dev/shm"])?;
    }
    run("ip", &["link", "set", "lo", "up"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tried = runtime.block_on(async { Tun::builder().name("trial").build() });
    drop(tried.map_err(|error| Failure::Wrong(format!("/dev/net/tun: {error}")))?);
    let clocks = run("unshare", &["--time", "--boottime", "1000", "--monotonic", "1000", "true"]).is_ok();
    let loops = Path::new("/dev/loop-control").exists() && run("mkfs.ext4", &["-V"]).is_ok();
    Ok(Space { clocks, loops })
}

/// Moves an interface to a new network namespace, where it gets the address.
pub(crate) fn house(name: &str, interface: &str, address: &str) -> Checked<()> {
    run("ip", &["netns", "add", name])?;
    run("ip", &["link", "set", interface, "netns", name])?;
    run("ip", &["-n", name, "addr", "add", address, "dev", interface])?;
    run("ip", &["-n", name, "link", "set", interface, "up"])?;
    run("ip", &["-n", name, "link", "set", "lo", "up"])
}

/// Begins a command line that runs a program in a network namespace.
pub(crate) fn entrance(name: &str) -> Vec<String> {
    ["nsenter".to_owned(), format!("--net=/run/netns/{name}"), "--".to_owned()].into()
}

/// Goes on with a command line whose program believes that the machine started so many seconds earlier.
pub(crate) fn older(seconds: u64) -> Vec<String> {
    let seconds = seconds.to_string();
    ["unshare", "--time", "--boottime", &seconds, "--monotonic", &seconds, "--"].map(str::to_owned).into()
}

/// The same, for so many seconds of suspension: only the clock that counts those is ahead.
pub(crate) fn suspended(seconds: u64) -> Vec<String> {
    ["unshare", "--time", "--boottime", &seconds.to_string(), "--"].map(str::to_owned).into()
}

/// A disk of this size in a directory: on a medium that a power cut would not empty, or in memory.
pub(crate) fn mount_disk(at: &Path, size_mib: u64, durable: bool) -> Checked<()> {
    let size = format!("{size_mib}M");
    let at_text = at.display().to_string();
    if !durable {
        return run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "none", &at_text]);
    }
    let image = format!("{at_text}.image");
    std::fs::File::create(&image)?.set_len(size_mib << 20)?;
    run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?;
    run("mount", &["-o", "loop", &image, &at_text])
}

/// Unmounts it.
pub(crate) fn unmount_disk(at: &Path) -> Checked<()> {
    run("umount", &["-l", &at.display().to_string()])
}

fn run(program: &str, arguments: &[&str]) -> Checked<()> {
    let told = |why: &str| Failure::Wrong(format!("{program} {}: {}", arguments.join(" "), why.trim()));
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| told(&error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(told(&String::from_utf8_lossy(&output.stderr))),
    }
}
