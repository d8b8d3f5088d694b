//! Whether there is such a command, before anything is locked for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::failure::{Failure, exit};

/// Looks for the command as the kernel and `execvp` will.
pub(crate) fn check(command: &OsStr) -> Result<(), Failure> {
    let path = std::env::var_os("PATH");
    check_in(command, path.as_deref())
}

fn check_in(command: &OsStr, path: Option<&OsStr>) -> Result<(), Failure> {
    if command.as_bytes().contains(&b'/') {
        return match verdict(Path::new(command)) {
            Verdict::Executable => Ok(()),
            Verdict::NotExecutable => Err(not_executable(command)),
            Verdict::Absent => Err(not_found(command, "there is no such file")),
        };
    }
    // Without PATH the system has a default of its own: let it find out.
    let Some(path) = path else { return Ok(()) };
    let places: Vec<PathBuf> = std::env::split_paths(path).map(|place| place.join(command)).collect();
    let verdicts: Vec<Verdict> = places.iter().map(|place| verdict(place)).collect();
    if command.is_empty() {
        Err(not_found(command, "its name is empty"))
    } else if verdicts.contains(&Verdict::Executable) {
        Ok(())
    } else if verdicts.contains(&Verdict::NotExecutable) {
        Err(not_executable(command))
    } else {
        Err(not_found(command, "it is in no directory of PATH"))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Executable,
    NotExecutable,
    Absent,
}

fn verdict(file: &Path) -> Verdict {
    match std::fs::metadata(file) {
        Ok(about) if about.is_file() && access(file, Access::EXEC_OK).is_ok() => Verdict::Executable,
        Ok(_) => Verdict::NotExecutable,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Verdict::NotExecutable,
        Err(_) => Verdict::Absent,
    }
}

fn not_found(command: &OsStr, why: &str) -> Failure {
    Failure::new(exit::NOT_FOUND, format!("{}: command not found: {why}", command.display()))
}

fn not_executable(command: &OsStr) -> Failure {
    Failure::new(
        exit::NOT_EXECUTABLE,
        format!("{}: not executable: chmod +x, or name its interpreter", command.display()),
    )
}

/// Why it could not be executed after all.
pub(crate) fn exec_failed(command: &OsStr, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE };
    Failure::new(exit, format!("{}: {error}", command.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn commands_are_found_refused_and_missed_as_a_shell_does() {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, mode) in [("good", 0o755), ("bad", 0o644)] {
            let file = directory.path().join(name);
            std::fs::write(&file, "#!/bin/sh\n").expect("a file in it");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a file in it");
        }
        let path = directory.path().as_os_str();
        let exit_of = |command: &OsStr| check_in(command, Some(path)).err().map(|failure| failure.exit);
        assert_eq!(exit_of("good".as_ref()), None);
        assert_eq!(exit_of("bad".as_ref()), Some(126));
        assert_eq!(exit_of("none".as_ref()), Some(127));
        assert_eq!(exit_of("".as_ref()), Some(127));
        assert_eq!(exit_of(directory.path().join("good").as_ref()), None);
        assert_eq!(exit_of(directory.path().join("bad").as_ref()), Some(126));
        assert_eq!(exit_of(directory.path().join("none").as_ref()), Some(127));
        assert_eq!(exit_of(path), Some(126), "a directory");
    }
}
